import type { Awaitable } from '@cowlab/core';
import { InterceptedFolder, type StorageCall } from './intercepted-folder.ts';

const changing: ReadonlySet<StorageCall['method']> = new Set(['write', 'zero', 'allocate', 'truncate']);

/** A folder that writes down every call, in the order they are made. */
export class TraceFolder extends InterceptedFolder {
  readonly calls: StorageCall[] = [];

  override intercept<T>(call: StorageCall, run: () => Awaitable<T>): Awaitable<T> {
    this.calls.push(call);
    return run();
  }

  /** Files with a change (of bytes, or of the length) that no flush of the same file has followed. */
  unflushed(): string[] {
    const dirty = new Set<string>();
    for (const { method, file } of this.calls) {
      if (changing.has(method)) dirty.add(file);
      else if (method === 'flush') dirty.delete(file);
    }
    return [...dirty];
  }
}
