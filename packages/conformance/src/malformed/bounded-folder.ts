import type { Awaitable, StorageFolder } from '@cowlab/core';
import { InterceptedFolder, type StorageCall } from '../intercepted-folder.ts';

/** What the use of one damaged image may cost. */
export interface Bounds {
  readonly calls: number;
  /** Bytes read and written in total. */
  readonly bytes: number;
  /** Bytes of the largest single read or write: what a driver has allocated. */
  readonly piece: number;
}

/** A bound was overstepped: not an error of the image, but of the driver. */
export class BoundExceeded extends Error {
  override name = 'BoundExceeded';
}

/** A folder that ends a run which does not end by itself. Remembers it, so that nobody can swallow the error. */
export class BoundedFolder extends InterceptedFolder {
  exceeded: BoundExceeded | undefined;
  readonly #bounds: Bounds;
  #calls = 0;
  #bytes = 0;

  constructor(inner: StorageFolder, bounds: Bounds) {
    super(inner);
    this.#bounds = bounds;
  }

  override intercept<T>(call: StorageCall, run: () => Awaitable<T>): Awaitable<T> {
    if (call.method === 'close') return run();
    this.#calls += 1;
    const moved = call.method === 'read' || call.method === 'write' ? call.length : 0;
    this.#bytes += moved;
    if (this.#calls > this.#bounds.calls) this.#stop(`more than ${this.#bounds.calls} storage calls`);
    if (this.#bytes > this.#bounds.bytes)
      this.#stop(`more than ${this.#bounds.bytes} bytes read and written`);
    if (moved > this.#bounds.piece) this.#stop(`${moved} bytes in one ${call.method} of ${call.file}`);
    return run();
  }

  #stop(problem: string): never {
    this.exceeded ??= new BoundExceeded(problem);
    throw this.exceeded;
  }
}
