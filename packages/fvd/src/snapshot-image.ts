import type { CheckReport, DriverImage, Extent, ImageInfo, ImageStats, Placement } from '@cowlab/core';
import type { FvdImage } from './image.ts';
import { mapState } from './mapping.ts';
import type { State } from './tree.ts';

/** A snapshot as a read-only image: its own table over the storage of the image that it is part of. */
export class SnapshotImage implements DriverImage {
  readonly size: number;
  readonly unitBytes: number;
  readonly #image: FvdImage;
  readonly #state: State;

  constructor(image: FvdImage, state: State) {
    this.#image = image;
    this.#state = state;
    this.size = state.size;
    this.unitBytes = image.unitBytes;
  }

  map(offset: number, length: number): Extent {
    return mapState(this.#state.table, this.#image.storage, this.#image.base, () => false, offset, length);
  }

  reserve(): Placement {
    throw new TypeError('a snapshot is never written');
  }

  commit(): void {
    throw new TypeError('a snapshot is never written');
  }

  abort(): void {
    throw new TypeError('a snapshot is never written');
  }

  unmap(): void {
    throw new TypeError('a snapshot is never written');
  }

  flush(): void {
    // Nothing of a snapshot ever changes.
  }

  check(): Promise<CheckReport> {
    return this.#image.check({});
  }

  async info(): Promise<ImageInfo> {
    return { ...(await this.#image.info()), size: this.size };
  }

  stats(): ImageStats {
    const { table, pages, fulls } = this.#state;
    const places = [pages, fulls].reduce(
      (sum, { offsets, bytes }) => sum + offsets.byteLength + bytes.byteLength,
      0,
    );
    return { residentMetadataBytes: table.residentBytes + places };
  }

  async close(): Promise<void> {
    // Storage and base belong to the image.
  }
}
