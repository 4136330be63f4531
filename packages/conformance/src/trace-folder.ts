import type { Awaitable } from '@cowlab/core';
import { InterceptedFolder, type StorageCall } from './intercepted-folder.ts';

/** A folder that writes down every call, in the order they are made. */
export class TraceFolder extends InterceptedFolder {
  readonly calls: StorageCall[] = [];

  override intercept<T>(call: StorageCall, run: () => Awaitable<T>): Awaitable<T> {
    this.calls.push(call);
    return run();
  }

  /** Files with a change (write, zero, truncate) that no flush of the same file has followed. */
  unflushed(): string[] {
    const dirty = new Set<string>();
    for (const { method, file } of this.calls) {
      if (method === 'write' || method === 'zero' || method === 'truncate') dirty.add(file);
      else if (method === 'flush') dirty.delete(file);
    }
    return [...dirty];
  }
}
