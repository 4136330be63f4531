import { type Awaitable, CowlabError, type Extent, type ReadSource, unsupported } from '@cowlab/core';
import type { Part } from './part.ts';
import { ReadOnlyPart } from './read-only-part.ts';

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
abstract class FilelessExtent extends ReadOnlyPart {
  readonly #place: PlaceInDisk;

  constructor(place: PlaceInDisk) {
    super({ start: place.start, size: place.size, storage: undefined });
    this.#place = place;
  }

  protected override refuse(problem = 'takes no data'): never {
    throw unsupported(this.#place.file, this.#place.field, problem);
  }

  override freeze(): void {
    // Nothing is kept.
  }

  override get residentBytes(): number {
    return 0;
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
export class GuardedExtent extends ReadOnlyPart {
  readonly inner: Part;
  readonly #place: PlaceInDisk;

  constructor(inner: Part, place: PlaceInDisk) {
    super(inner);
    this.inner = inner;
    this.#place = place;
  }

  override map(offset: number, length: number, below: ReadSource | undefined): Awaitable<Extent> {
    return this.inner.map(offset, length, below, false);
  }

  protected override refuse(): never {
    const { file, field } = this.#place;
    throw new CowlabError('ERR_READ_ONLY', `${file}: ${field}: its access is RDONLY`, { file, field });
  }

  override freeze(): void {
    this.inner.freeze();
  }

  override get residentBytes(): number {
    return this.inner.residentBytes;
  }
}
