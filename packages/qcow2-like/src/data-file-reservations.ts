import type { Awaitable, Placement } from '@cowlab/core';
import { DataFileSpace, zeroInside } from './data-file-space.ts';
import { copiedFlag, setEntry, zeroFlag } from './entries.ts';
import type { BackingSlot, Extents } from './extents.ts';
import type { Metadata } from './metadata.ts';
import type { ClusterRun } from './refcounts.ts';
import { InPlace, isOwned, type Request, Reservations } from './reservations.ts';
import type { Table } from './table-cache.ts';

/*
 * Changes of an image with an external data file: a write goes to the guest offset, whatever the entry says
 * (data-file-space.ts), and a cluster that the entry did not show is written whole.
 */
export class DataFileReservations extends Reservations {
  readonly #clusterBytes: number;
  readonly #spanBytes: number;
  readonly #space: DataFileSpace;

  constructor(metadata: Metadata, backing: BackingSlot, extents: Extents) {
    super(metadata, backing, extents);
    const { clusterBytes, l2SpanBytes } = metadata.file.geometry;
    this.#clusterBytes = clusterBytes;
    this.#spanBytes = l2SpanBytes;
    this.#space = new DataFileSpace(metadata, (table, end) => this.#mapAll(table, end));
  }

  protected override placeIn(table: Table, offset: number, length: number): Awaitable<Placement> {
    const { view } = table;
    const first = Math.floor(offset / this.#clusterBytes);
    const index = first - table.index * (this.#clusterBytes / 8);
    const within = offset - first * this.#clusterBytes;
    const wanted = Math.min(view.byteLength / 8 - index, Math.ceil((within + length) / this.#clusterBytes));
    this.requireSound(view, index);
    const mapped = isMapped(view, index);
    let count = 1;
    while (count < wanted && isMapped(view, index + count) === mapped) {
      this.requireSound(view, index + count);
      count += 1;
    }
    const request = { offset, length, within };
    if (mapped) return this.#inPlace({ first, count }, request);
    if (!this.#space.isRaw) return this.#place({ first, count }, request);
    return this.#space.mapFirst(table).then(() => this.#inPlace({ first, count: wanted }, request));
  }

  #inPlace(run: ClusterRun, request: Request): Placement {
    return new InPlace(this.metadata.file.dataStorage, this.#clusterBytes, run, request);
  }

  /** Nothing is written past the end of the disk: the file is no longer than that. */
  #place(run: ClusterRun, { offset, length, within }: Request): Awaitable<Placement> {
    const start = offset - within;
    const diskEnd = Math.max(this.metadata.file.header.size, offset + length);
    const end = Math.min(start + run.count * this.#clusterBytes, diskEnd);
    const placed = Math.min(length, end - offset);
    const tail = end - offset - placed;
    return this.#space.place(run, { guestOffset: offset, length: placed, head: within, tail });
  }

  /** Gives every cluster of an L2 table, up to `end` on the disk, its entry, and zeros where it had none. */
  async #mapAll(table: Table, end: number): Promise<void> {
    const { view } = table;
    const base = table.index * this.#spanBytes;
    const entryCount = Math.min(view.byteLength / 8, Math.ceil((end - base) / this.#clusterBytes));
    for (let index = 0; index < entryCount; ) {
      const first = index;
      while (index < entryCount && !isMapped(view, index)) this.requireSound(view, index++);
      const offset = base + first * this.#clusterBytes;
      const stop = Math.min(base + index * this.#clusterBytes, end);
      await zeroInside(this.metadata.file.dataStorage, offset, stop - offset);
      for (let at = first; at < index; at += 1) {
        setEntry(view, at, base + at * this.#clusterBytes, copiedFlag, 0);
      }
      if (index > first) this.metadata.mapping.tables.markDirty(table, first * 8, index * 8);
      else index += 1;
    }
  }

  override abort(): void {
    // Nothing was taken.
  }

  override unmap(offset: number, length: number, mode: 'discard' | 'zero'): Awaitable<void> {
    return this.#space.isRaw ? this.#space.zero(offset, length) : super.unmap(offset, length, mode);
  }

  override include(from: number, to: number): Promise<void> {
    return this.#space.isRaw ? this.#space.include(from, to) : super.include(from, to);
  }

  protected override async unmapInTable(
    l1Index: number,
    from: number,
    to: number,
    mode: 'discard' | 'zero',
  ): Promise<void> {
    if (mode === 'discard') await this.#empty(l1Index, from, to);
    await super.unmapInTable(l1Index, from, to, mode);
  }

  /** Gives the space in the data file back, of clusters that have some there. */
  async #empty(l1Index: number, from: number, to: number): Promise<void> {
    const view = (await this.metadata.mapping.table(l1Index))?.view;
    if (view === undefined) return;
    const base = l1Index * this.#spanBytes;
    const stop = Math.ceil((to - base) / this.#clusterBytes);
    for (let index = Math.floor((from - base) / this.#clusterBytes); index < stop; index += 1) {
      const first = index;
      while (index < stop && isOwned(view, index)) index += 1;
      const bytes = (index - first) * this.#clusterBytes;
      await zeroInside(this.metadata.file.dataStorage, base + first * this.#clusterBytes, bytes);
    }
  }
}

/** Whether an entry has its cluster in the data file, and shows it. */
function isMapped(view: DataView, index: number): boolean {
  return isOwned(view, index) && (view.getUint32(index * 8 + 4) & zeroFlag) === 0;
}
