import type { Awaitable, Placement } from '@cowlab/core';
import { compressedElsewhere, requireOwnPlace } from './data-file.ts';
import { DataFileSpace, zeroInside } from './data-file-space.ts';
import { compressedFlag, copiedFlag, hostOffsetOf, setEntryAt } from './entries.ts';
import type { ClusterRun } from './refcounts.ts';
import { InPlace, type PlacedRun, type Request } from './reservations.ts';
import { isOwned, SubclusterReservations } from './subcluster-reservations.ts';
import {
  allocatedAt,
  allSubclusters,
  extendedEntryBytes,
  hasCluster,
  isThere,
  onesFrom,
  setBitmap,
} from './subclusters.ts';
import type { Table } from './table-cache.ts';

/*
 * Changes of an image with an external data file and extended L2 entries: places as in data-file-space.ts, the
 * guest offset and nothing else; what is filled in around a write, and what zeros do to an entry, as in
 * subcluster-reservations.ts. The entries of a raw data file have all their subclusters.
 */
export class DataFileSubclusters extends SubclusterReservations {
  readonly #space: DataFileSpace = new DataFileSpace(this.metadata, (table, end) => this.#mapAll(table, end));

  protected override placeIn(table: Table, offset: number, length: number): Awaitable<Placement> {
    const { file } = this.metadata;
    const { clusterBytes, l2EntryCount } = file.geometry;
    const first = Math.floor(offset / clusterBytes);
    const within = offset - first * clusterBytes;
    const index = first - table.index * l2EntryCount;
    const count = Math.min(l2EntryCount - index, Math.ceil((within + length) / clusterBytes));
    for (let nth = 0; nth < count; nth += 1)
      this.#requireOwn(table.view, index + nth, (first + nth) * clusterBytes);
    const run = { first, count };
    const request = { offset, length, within };
    if (!this.#space.isRaw) return this.#place(table.view, index, run, request);
    const inPlace = (): Placement => new InPlace(file.dataStorage, clusterBytes, run, request);
    for (let nth = 0; nth < count; nth += 1) {
      if (!isMapped(table.view, (index + nth) * extendedEntryBytes))
        return this.#space.mapFirst(table).then(inPlace);
    }
    return inPlace();
  }

  #requireOwn(view: DataView, index: number, guestOffset: number): void {
    const { name } = this.metadata.file;
    const at = index * extendedEntryBytes;
    this.requireSound(view, index);
    if ((view.getUint32(at) & compressedFlag) !== 0) throw compressedElsewhere(name);
    if (!hasCluster(view, at, true)) return;
    requireOwnPlace(name, hostOffsetOf(view.getUint32(at), view.getUint32(at + 4)), guestOffset);
  }

  /** Nothing is written past the end of the disk: the file is no longer than that. */
  #place(view: DataView, index: number, run: ClusterRun, request: Request): Awaitable<Placement> {
    const { header, geometry } = this.metadata.file;
    const { offset, within } = request;
    const { first, stop, before, behind } = this.reachOf(request, run.count);
    const at = index * extendedEntryBytes;
    const last = at + (run.count - 1) * extendedEntryBytes;
    const length = Math.min(request.length, run.count * geometry.clusterBytes - within);
    const inSight = Math.max(0, header.size - (offset + length));
    const head = isThere(view, at, first) ? 0 : before;
    const tail = isThere(view, last, stop - 1) ? 0 : Math.min(behind, inSight);
    return this.#space.place(run, { guestOffset: offset, length, head, tail });
  }

  protected override enter(table: Table, placement: PlacedRun): void {
    const { first, count } = placement.run;
    const { clusterBytes } = this.metadata.file.geometry;
    for (let cluster = first; cluster < first + count; cluster += 1) {
      const at = this.placeOf(table, cluster);
      if (!isOwned(table.view, at)) setEntryAt(table.view, at, cluster * clusterBytes, copiedFlag, 0);
    }
    super.enter(table, placement);
  }

  override abort(): void {
    // Nothing was taken.
  }

  /** Gives every cluster of an L2 table, up to `end` on the disk, all its subclusters, with zeros where it had none. */
  async #mapAll(table: Table, end: number): Promise<void> {
    const { view } = table;
    const { dataStorage, geometry } = this.metadata.file;
    const { clusterBytes, l2EntryCount, l2SpanBytes } = geometry;
    const base = table.index * l2SpanBytes;
    const entryCount = Math.min(l2EntryCount, Math.ceil((end - base) / clusterBytes));
    for (let index = 0; index < entryCount; index += 1) {
      const at = index * extendedEntryBytes;
      if (isMapped(view, at)) continue;
      const start = base + index * clusterBytes;
      this.#requireOwn(view, index, start);
      for (const [from, to] of this.#runs(~allocatedAt(view, at))) {
        await zeroInside(dataStorage, start + from, Math.min(start + to, end) - (start + from));
      }
      setEntryAt(view, at, start, copiedFlag, 0);
      setBitmap(view, at, 0, allSubclusters);
      this.metadata.mapping.tables.markDirty(table, at, at + extendedEntryBytes);
    }
  }

  /** Runs of set bits, as bytes of a cluster. */
  *#runs(bits: number): Generator<[from: number, to: number]> {
    const { unitBytes, clusterBytes } = this.metadata.file.geometry;
    for (let first = 0; first * unitBytes < clusterBytes; first += 1) {
      const count = onesFrom(bits, first);
      if (count > 0) yield [first * unitBytes, (first + count) * unitBytes];
      first += count;
    }
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

  /** Gives the space in the data file back, of subclusters that have some there. */
  async #empty(l1Index: number, from: number, to: number): Promise<void> {
    const { dataStorage, geometry } = this.metadata.file;
    const { clusterBytes, l2SpanBytes } = geometry;
    const view = (await this.metadata.mapping.table(l1Index))?.view;
    if (view === undefined) return;
    for (let start = from - (from % clusterBytes); start < to; start += clusterBytes) {
      const at = ((start - l1Index * l2SpanBytes) / clusterBytes) * extendedEntryBytes;
      if (!isOwned(view, at)) continue;
      for (const [first, stop] of this.#runs(allocatedAt(view, at))) {
        const offset = Math.max(from, start + first);
        await zeroInside(dataStorage, offset, Math.min(to, start + stop) - offset);
      }
    }
  }
}

/** Whether an entry has its cluster in the data file, and shows all of it. */
function isMapped(view: DataView, at: number): boolean {
  return isOwned(view, at) && allocatedAt(view, at) === allSubclusters;
}
