import {
  type Awaitable,
  CowlabError,
  type Extent,
  type ReadSource,
  type Storage,
  unsupported,
} from '@cowlab/core';
import type { Part, PartPlacement } from './part.ts';

/* Extents that do not take what is written to them: ZERO, NOACCESS and RDONLY. */

/** Where an extent lies in its disk. */
export interface PlaceInDisk {
  readonly start: number;
  readonly size: number;
  /** Who refuses: the disk's file, and the extent as errors name it. */
  readonly file: string;
  readonly field: string;
}

/** An extent without a file. */
abstract class FilelessExtent implements Part {
  readonly start: number;
  readonly size: number;
  readonly storage = undefined;
  readonly crowded = false;
  readonly residentBytes = 0;
  readonly #place: PlaceInDisk;

  constructor(place: PlaceInDisk) {
    this.start = place.start;
    this.size = place.size;
    this.#place = place;
  }

  abstract map(offset: number, length: number): Extent;
  abstract unmap(offset: number, end: number): Promise<number>;

  protected refuse(problem: string): never {
    throw unsupported(this.#place.file, this.#place.field, problem);
  }

  reserve(): PartPlacement {
    return this.refuse('takes no data');
  }

  commit(): void {
    this.refuse('takes no data');
  }

  abort(): void {
    // Nothing was set aside.
  }

  flush(): void {
    // Nothing is kept.
  }

  async trim(): Promise<void> {
    // There is no file.
  }

  freeze(): void {
    // Nothing is kept.
  }
}

/** Zeros that no file has, and that stay. */
export class ZeroExtent extends FilelessExtent {
  override map(_offset: number, length: number): Extent {
    return { kind: 'zero', length, allocated: true };
  }

  override async unmap(_offset: number, end: number): Promise<number> {
    return end;
  }
}

/** A part of the disk that nobody may look at; its file is not even opened. */
export class NoAccessExtent extends FilelessExtent {
  override map(): Extent {
    return this.refuse('its access is NOACCESS');
  }

  override async unmap(): Promise<number> {
    return this.refuse('its access is NOACCESS');
  }
}

/** An extent that may only be read, before the part that it is. */
export class GuardedExtent implements Part {
  readonly start: number;
  readonly size: number;
  readonly storage: Storage | undefined;
  readonly crowded = false;
  readonly inner: Part;
  readonly #place: PlaceInDisk;

  constructor(inner: Part, place: PlaceInDisk) {
    this.start = inner.start;
    this.size = inner.size;
    this.storage = inner.storage;
    this.inner = inner;
    this.#place = place;
  }

  map(offset: number, length: number, below: ReadSource | undefined): Awaitable<Extent> {
    return this.inner.map(offset, length, below, false);
  }

  reserve(): PartPlacement {
    return this.#refuse();
  }

  commit(): void {
    this.#refuse();
  }

  abort(): void {
    // Nothing was set aside.
  }

  async unmap(): Promise<number> {
    return this.#refuse();
  }

  flush(): void {
    // Nothing was written.
  }

  async trim(): Promise<void> {
    // Nothing was written.
  }

  freeze(): void {
    this.inner.freeze();
  }

  get residentBytes(): number {
    return this.inner.residentBytes;
  }

  #refuse(): never {
    const { file, field } = this.#place;
    throw new CowlabError('ERR_READ_ONLY', `${file}: ${field}: its access is RDONLY`, { file, field });
  }
}
