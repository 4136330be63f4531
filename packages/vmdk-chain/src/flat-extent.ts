import type { Awaitable, Extent, ReadSource, Storage } from '@cowlab/core';
import type { Part, PartPlacement } from './part.ts';

/** Bytes of the disk as they are, from `hostStart` of a file on. Nothing is ever allocated, and no parent shows through. */
export class FlatExtent implements Part {
  readonly start: number;
  readonly size: number;
  readonly storage: Storage;
  readonly crowded = false;
  readonly residentBytes = 0;
  /** First byte in the file. */
  readonly hostStart: number;
  readonly #shift: number;

  constructor(storage: Storage, start: number, size: number, hostStart: number) {
    this.storage = storage;
    this.start = start;
    this.size = size;
    this.hostStart = hostStart;
    this.#shift = hostStart - start;
  }

  map(offset: number, length: number, _below: ReadSource | undefined, owned: boolean): Extent {
    return { kind: 'data', length, storage: this.storage, hostOffset: offset + this.#shift, owned };
  }

  /** The first write after an open comes here; it goes in place as the others do. */
  reserve(offset: number, length: number): PartPlacement {
    return {
      part: this,
      storage: this.storage,
      guestOffset: offset,
      length,
      hostOffset: offset + this.#shift,
      head: 0,
      tail: 0,
      fresh: false,
    };
  }

  commit(): void {
    // The bytes are where they belong.
  }

  abort(): void {
    // Nothing was set aside.
  }

  async unmap(offset: number, end: number): Promise<number> {
    await this.storage.zero(offset + this.#shift, end - offset);
    return end;
  }

  flush(): Awaitable<void> {
    return this.storage.flush();
  }

  async trim(): Promise<void> {
    // The file has the length that the descriptor says.
  }

  freeze(): void {
    // Nothing is kept in memory.
  }
}
