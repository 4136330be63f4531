import { type Awaitable, andThen, type Placement, type Storage } from '@cowlab/core';
import { malformedEntry } from './corruption.ts';
import { compressedFlag, copiedFlag, hostOffsetOf, isMalformed, setEntry, zeroFlag } from './entries.ts';
import type { BackingSlot, Extents } from './extents.ts';
import type { Metadata } from './metadata.ts';
import type { ClusterRun } from './refcounts.ts';
import type { Table } from './table-cache.ts';

/*
 * Changes of the active mapping: where new data goes, and what becomes of the old.
 *
 *   L2 entry before              write goes to              unmap 'zero' leaves        unmap 'discard' leaves
 *   owned data                   its place (core)           ZERO, cluster kept         ZERO¹
 *   ZERO, cluster kept, owned    its cluster again          as it is                   ZERO¹
 *   anything else                new clusters together      ZERO¹                      ZERO¹
 *
 *   ¹ without a cluster; no entry at all where no backing shows through. Version 2 has no ZERO: where a
 *     backing shows through, real zeros are written.
 */

/** Space for a write: the clusters of `run` take the place of those of the L2 entries. */
export interface PlacedRun extends Placement {
  readonly run: ClusterRun;
  /** The clusters belong to these entries already. */
  readonly kept: boolean;
}

class Qcow2Placement implements PlacedRun {
  readonly storage: Storage;
  readonly guestOffset: number;
  readonly length: number;
  readonly hostOffset: number;
  readonly head: number;
  readonly tail: number;
  readonly fresh: boolean;
  readonly run: ClusterRun;
  readonly kept: boolean;

  constructor(storage: Storage, clusterBytes: number, run: ClusterRun, request: Request, kept: boolean) {
    const { offset, within, length } = request;
    this.storage = storage;
    this.guestOffset = offset;
    this.length = Math.min(length, run.count * clusterBytes - within);
    this.hostOffset = run.first * clusterBytes + within;
    this.head = within;
    this.tail = run.count * clusterBytes - within - this.length;
    this.fresh = !kept && run.first * clusterBytes >= storage.size();
    this.run = run;
    this.kept = kept;
  }
}

/** Space that the guest has already; nothing around what is written has to be filled in. */
export class InPlace implements Placement {
  readonly storage: Storage;
  readonly guestOffset: number;
  readonly length: number;
  readonly hostOffset: number;
  readonly head = 0;
  readonly tail = 0;
  readonly fresh = false;

  constructor(storage: Storage, clusterBytes: number, run: ClusterRun, { offset, within, length }: Request) {
    this.storage = storage;
    this.guestOffset = offset;
    this.length = Math.min(length, run.count * clusterBytes - within);
    this.hostOffset = run.first * clusterBytes + within;
  }
}

export interface Request {
  readonly offset: number;
  readonly length: number;
  /** Bytes from the start of the first cluster. */
  readonly within: number;
}

export class Reservations {
  protected readonly metadata: Metadata;
  protected readonly extents: Extents;
  readonly #backing: BackingSlot;
  readonly #clusterBytes: number;
  readonly #spanBytes: number;
  readonly #hasZeroFlag: boolean;

  constructor(metadata: Metadata, backing: BackingSlot, extents: Extents) {
    const { geometry, header } = metadata.file;
    this.metadata = metadata;
    this.#backing = backing;
    this.extents = extents;
    this.#clusterBytes = geometry.clusterBytes;
    this.#spanBytes = geometry.l2SpanBytes;
    this.#hasZeroFlag = header.version === 3;
  }

  reserve(offset: number, length: number): Awaitable<Placement> {
    this.metadata.assertUsable();
    const l1Index = Math.floor(offset / this.#spanBytes);
    return this.metadata.turns.take(() =>
      this.metadata.withOwnTable(l1Index, (table) => this.placeIn(table, offset, length)),
    );
  }

  protected placeIn(table: Table, offset: number, length: number): Awaitable<Placement> {
    const { storage } = this.metadata.file;
    const cluster = Math.floor(offset / this.#clusterBytes);
    const within = offset - cluster * this.#clusterBytes;
    const index = cluster - table.index * (this.#clusterBytes / 8);
    const request = { offset, length, within };
    const wanted = Math.min(
      table.view.byteLength / 8 - index,
      Math.ceil((within + length) / this.#clusterBytes),
    );
    const kept = keptRun(table.view, index, wanted, this.#clusterBytes);
    if (kept !== undefined) {
      this.metadata.file.guard?.assertFree(kept.first * this.#clusterBytes, kept.count * this.#clusterBytes);
      return new Qcow2Placement(storage, this.#clusterBytes, kept, request, true);
    }
    this.requireSound(table.view, index);
    const owned = this.#ownedRun(table.view, index, wanted);
    if (owned !== undefined) return new InPlace(storage, this.#clusterBytes, owned, request);
    let count = 1;
    while (count < wanted && !isOwned(table.view, index + count)) {
      this.requireSound(table.view, index + count);
      count += 1;
    }
    return andThen(
      this.metadata.refcounts.allocate(count),
      (run) => new Qcow2Placement(storage, this.#clusterBytes, run, request, false),
    );
  }

  /**
   * Owned clusters are overwritten where they are. Who asks all the same does so because they lie on metadata, which is
   * refused, or because a dirty bitmap has to know.
   */
  #ownedRun(view: DataView, index: number, wanted: number): ClusterRun | undefined {
    const place = (at: number): number => hostOffsetOf(view.getUint32(at * 8), view.getUint32(at * 8 + 4));
    if (!isOwned(view, index) || place(index) === 0) return undefined;
    let count = 1;
    while (
      count < wanted &&
      isOwned(view, index + count) &&
      place(index + count) === place(index) + count * this.#clusterBytes
    )
      count += 1;
    this.metadata.file.guard?.assertFree(place(index), count * this.#clusterBytes);
    return { first: place(index) / this.#clusterBytes, count };
  }

  /** An entry that is about to be replaced must name clusters that can be given back. Throws `ERR_CORRUPT`. */
  requireSound(view: DataView, index: number): void {
    const hi = view.getUint32(index * 8);
    if (
      (hi & compressedFlag) !== 0 ||
      !isMalformed(hi, view.getUint32(index * 8 + 4), this.#clusterBytes, zeroFlag)
    )
      return;
    const lo = view.getUint32(index * 8 + 4);
    throw malformedEntry(this.metadata.file.name, 'l2_table.entry', hi, lo, this.#clusterBytes, index);
  }

  commit(placement: Placement): Awaitable<void> {
    if (placement instanceof InPlace) return;
    return this.inTableOf(placement, (table) => this.enter(table, placement as PlacedRun));
  }

  /** A turn in which the table of a placement is changed. */
  protected inTableOf({ guestOffset }: Placement, change: (table: Table) => void): Awaitable<void> {
    const l1Index = Math.floor(guestOffset / this.#spanBytes);
    return this.metadata.turns.take(() => {
      this.metadata.assertUsable();
      return this.metadata.withOwnTable(l1Index, (table) => {
        change(table);
        return this.metadata.settle();
      });
    });
  }

  protected enter(table: Table, { guestOffset, run, kept }: PlacedRun): void {
    const { view } = table;
    const index = Math.floor(guestOffset / this.#clusterBytes) - table.index * (this.#clusterBytes / 8);
    for (let nth = 0; nth < run.count; nth += 1) {
      const at = (index + nth) * 8;
      if (!kept) this.metadata.releaseEntry(view.getUint32(at), view.getUint32(at + 4), false);
      setEntry(view, index + nth, (run.first + nth) * this.#clusterBytes, copiedFlag, 0);
    }
    this.metadata.mapping.tables.markDirty(table, index * 8, (index + run.count) * 8);
  }

  abort(placement: Placement): void {
    if (placement instanceof InPlace) return;
    const { run, kept } = placement as PlacedRun;
    if (!kept) this.metadata.refcounts.release(run.first, run.count, false);
  }

  /** Makes whole clusters read as zeros; the range may end with the disk. */
  unmap(offset: number, length: number, mode: 'discard' | 'zero'): Awaitable<void> {
    return this.clearEntries(offset, length, mode);
  }

  /** What lies between becomes a part of the disk, which grows: it reads as zeros. */
  async include(from: number, to: number): Promise<void> {
    if (from < to) await this.clearEntries(from, to - from, 'discard');
  }

  /** As `unmap`, by entries. */
  async clearEntries(offset: number, length: number, mode: 'discard' | 'zero'): Promise<void> {
    this.metadata.assertUsable();
    const end = offset + length;
    const last = this.metadata.mapping.l1EntryCount;
    for (let l1Index = Math.floor(offset / this.#spanBytes); l1Index < last; l1Index += 1) {
      const from = Math.max(offset, l1Index * this.#spanBytes);
      const to = Math.min(end, (l1Index + 1) * this.#spanBytes);
      if (from >= to) break;
      await this.unmapInTable(l1Index, from, to, mode);
    }
  }

  protected async unmapInTable(
    l1Index: number,
    from: number,
    to: number,
    mode: 'discard' | 'zero',
  ): Promise<void> {
    const base = l1Index * (this.#clusterBytes / 8);
    const first = Math.floor(from / this.#clusterBytes) - base;
    const stop = Math.ceil(to / this.#clusterBytes) - base;
    const present = await this.metadata.mapping.table(l1Index);
    if (present === undefined && !this.showsBacking(from)) return;
    const toWrite: number[] = [];
    const changes: [index: number, entry: Exclude<ZeroedEntry, 'write zeros'>][] = [];
    for (let index = first; index < stop; index += 1) {
      const guestOffset = (base + index) * this.#clusterBytes;
      const entry = this.#cleared(present?.view, index, guestOffset, mode);
      if (entry === 'write zeros') toWrite.push(guestOffset);
      else if (entry !== undefined) changes.push([index, entry]);
    }
    if (changes.length > 0) {
      // The range is held by this request: no entry in it has changed since.
      await this.metadata.turns.take(() =>
        this.metadata.withOwnTable(l1Index, (table) => {
          for (const [index, entry] of changes) this.#replace(table, index, entry, mode);
          return this.metadata.settle();
        }),
      );
    }
    for (const guestOffset of toWrite) await this.#writeZeros(guestOffset);
  }

  protected showsBacking(guestOffset: number): boolean {
    const backing = this.#backing.current;
    return backing !== undefined && guestOffset < backing.size;
  }

  /** What an entry becomes; undefined when it stays. */
  #cleared(
    view: DataView | undefined,
    index: number,
    guestOffset: number,
    mode: 'discard' | 'zero',
  ): ZeroedEntry | undefined {
    if (view !== undefined) this.requireSound(view, index);
    const hi = view?.getUint32(index * 8) ?? 0;
    const lo = view?.getUint32(index * 8 + 4) ?? 0;
    const shows = this.showsBacking(guestOffset);
    const isNone = hi === 0 && lo === 0;
    if (!this.#hasZeroFlag) return shows ? 'write zeros' : isNone ? undefined : 'none';
    const isZero = (hi & compressedFlag) === 0 && (lo & zeroFlag) !== 0;
    const hasCluster = (hi & (compressedFlag | copiedFlag)) !== 0 || hostOffsetOf(hi, lo) !== 0;
    if (isNone && !shows) return undefined;
    if (isZero && (mode === 'zero' || (!hasCluster && shows))) return undefined;
    if (mode === 'zero' && (hi & copiedFlag) !== 0) return 'zero, cluster kept';
    return shows ? 'zero' : 'none';
  }

  #replace(
    table: Table,
    index: number,
    entry: Exclude<ZeroedEntry, 'write zeros'>,
    mode: 'discard' | 'zero',
  ): void {
    const { view } = table;
    const hi = view.getUint32(index * 8);
    const lo = view.getUint32(index * 8 + 4);
    if (entry === 'zero, cluster kept') setEntry(view, index, hostOffsetOf(hi, lo), copiedFlag, zeroFlag);
    else {
      this.metadata.releaseEntry(hi, lo, mode === 'discard');
      setEntry(view, index, 0, 0, entry === 'zero' ? zeroFlag : 0);
    }
    this.metadata.mapping.tables.markDirty(table, index * 8, index * 8 + 8);
  }

  /** One cluster of real zeros, in place or in a new cluster. */
  async #writeZeros(guestOffset: number): Promise<void> {
    const extent = await this.extents.at(guestOffset, this.#clusterBytes);
    if (extent.kind === 'data' && extent.owned) {
      await extent.storage.zero(extent.hostOffset, this.#clusterBytes);
      return;
    }
    const placement = await this.reserve(guestOffset, this.#clusterBytes);
    try {
      await placement.storage.zero(placement.hostOffset, this.#clusterBytes);
    } catch (error) {
      this.abort(placement);
      throw error;
    }
    await this.commit(placement);
  }
}

type ZeroedEntry = 'none' | 'zero' | 'zero, cluster kept' | 'write zeros';

export function isOwned(view: DataView, index: number): boolean {
  return (view.getUint32(index * 8) & (copiedFlag | compressedFlag)) >>> 0 === copiedFlag;
}

/** The clusters that owned ZERO entries from `index` on have kept, as far as they lie together. */
function keptRun(
  view: DataView,
  index: number,
  wanted: number,
  clusterBytes: number,
): ClusterRun | undefined {
  const isKept = (at: number): boolean => isOwned(view, at) && (view.getUint32(at * 8 + 4) & zeroFlag) !== 0;
  const hostOffset = (at: number): number => hostOffsetOf(view.getUint32(at * 8), view.getUint32(at * 8 + 4));
  if (!isKept(index)) return undefined;
  const start = hostOffset(index);
  // No entry has kept the header.
  if (start === 0) return undefined;
  let count = 1;
  while (
    count < wanted &&
    isKept(index + count) &&
    hostOffset(index + count) === start + count * clusterBytes
  )
    count += 1;
  return { first: start / clusterBytes, count };
}
