import type { Awaitable, LockMode, Purpose, Storage, StorageStatus } from '@cowlab/core';

/**
 * A storage that flushes only when something was written since: a disk of a thousand files asks each of them to, and
 * most have nothing to say. Writes that are on their way count when they begin and when they end, so that a flush
 * between leaves the second for the next one.
 */
export class DirtyStorage implements Storage {
  readonly #inner: Storage;
  #isDirty = false;

  constructor(inner: Storage) {
    this.#inner = inner;
  }

  get name(): string {
    return this.#inner.name;
  }

  get readOnly(): boolean {
    return this.#inner.readOnly;
  }

  get fixedSize(): boolean {
    return this.#inner.fixedSize === true;
  }

  size(): number {
    return this.#inner.size();
  }

  read(offset: number, target: Uint8Array, purpose?: Purpose): Awaitable<void> {
    return this.#inner.read(offset, target, purpose);
  }

  write(offset: number, source: Uint8Array, purpose?: Purpose): Awaitable<void> {
    return this.#change(() => this.#inner.write(offset, source, purpose));
  }

  zero(offset: number, length: number, purpose?: Purpose): Awaitable<void> {
    return this.#change(() => this.#inner.zero(offset, length, purpose));
  }

  discard(offset: number, length: number, purpose?: Purpose): Awaitable<void> {
    return this.#change(() => this.#inner.discard(offset, length, purpose));
  }

  allocate(offset: number, length: number, purpose?: Purpose): Awaitable<void> {
    return this.#change(() => this.#inner.allocate(offset, length, purpose));
  }

  truncate(length: number): Awaitable<void> {
    return this.#change(() => this.#inner.truncate(length));
  }

  flush(): Awaitable<void> {
    if (!this.#isDirty) return;
    this.#isDirty = false;
    try {
      const flushed = this.#inner.flush();
      if (flushed instanceof Promise) return flushed.catch((error: unknown) => this.#failed(error));
    } catch (error) {
      this.#failed(error);
    }
  }

  status(offset: number, length: number): Awaitable<StorageStatus> {
    return this.#inner.status(offset, length);
  }

  lock(mode: LockMode): Awaitable<void> {
    return this.#inner.lock(mode);
  }

  close(): Awaitable<void> {
    return this.#inner.close();
  }

  /** What was to be durable is not: the next flush must not say so. */
  #failed(error: unknown): never {
    this.#isDirty = true;
    throw error;
  }

  #change(run: () => Awaitable<void>): Awaitable<void> {
    this.#isDirty = true;
    const done = run();
    if (!(done instanceof Promise)) return;
    return done.finally(() => {
      this.#isDirty = true;
    });
  }
}
