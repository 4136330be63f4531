import type { Awaitable, Extent, ReadSource, Storage } from '@cowlab/core';
import type { Part, PartPlacement } from './part.ts';

/** A part that takes nothing of what is written to it, and says why. */
export abstract class ReadOnlyPart implements Part {
  readonly start: number;
  readonly size: number;
  readonly storage: Storage | undefined;
  readonly crowded = false;

  constructor({ start, size, storage }: Pick<Part, 'start' | 'size' | 'storage'>) {
    this.start = start;
    this.size = size;
    this.storage = storage;
  }

  abstract map(
    offset: number,
    length: number,
    below: ReadSource | undefined,
    owned: boolean,
  ): Awaitable<Extent>;
  abstract freeze(): void;
  abstract get residentBytes(): number;

  protected abstract refuse(): never;

  reserve(): PartPlacement {
    return this.refuse();
  }

  commit(): void {
    this.refuse();
  }

  abort(): void {
    // Nothing was set aside.
  }

  async unmap(_offset: number, _end: number): Promise<number> {
    return this.refuse();
  }

  flush(): void {
    // Nothing was written.
  }

  async trim(): Promise<void> {
    // Nothing was written.
  }
}
