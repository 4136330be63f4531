import { type Awaitable, andThen, corrupt, type Placement } from '@cowlab/core';
import { compressedFlag, copiedFlag, hostOffsetOf, setEntryAt } from './entries.ts';
import { writeAround } from './fill.ts';
import { subclusterCount } from './layout.ts';
import type { ClusterRun } from './refcounts.ts';
import { type PlacedRun, type Request, Reservations } from './reservations.ts';
import {
  allocatedAt,
  allSubclusters,
  bitsBetween,
  extendedEntryBytes,
  hasCluster,
  isThere,
  onesBelow,
  onesFrom,
  requireSoundEntry,
  setBitmap,
  zerosAt,
} from './subclusters.ts';
import type { Table } from './table-cache.ts';

/*
 * Changes of the active mapping where L2 entries are extended: as reservations.ts, by subcluster.
 *
 *   cluster before      write goes to                   copied around the new bytes
 *   owned               its place                       the rest of subclusters that are not allocated yet
 *   none                a new cluster                   the rest of the subclusters
 *   shared              a new cluster                   that, and the allocated subclusters: those beside the new
 *                                                       bytes in one write with them, others by themselves
 *   COMPRESSED          a new cluster                   all of the cluster
 *
 *   unmap 'zero' sets the zero bits, and keeps a cluster that is owned. 'discard' clears the allocated bits; zero bits
 *   only where a backing shows through. A cluster without an allocated subcluster is given back then. Of a compressed
 *   cluster a part cannot be unmapped: it is replaced by a plain one, with zeros in it.
 *
 * A request holds whole clusters (`reserveBytes`), so between reserve and commit nobody else changes the entry.
 */

/** Subclusters of a cluster that is replaced, on their way to the new one. */
interface Copy {
  readonly from: number;
  readonly to: number;
  readonly length: number;
}

interface SubclusterPlacement extends PlacedRun {
  readonly copies?: readonly Copy[];
}

/** What an entry becomes. */
interface Cleared {
  readonly at: number;
  readonly zeros: number;
  readonly allocated: number;
  readonly givesBack: boolean;
}

export class SubclusterReservations extends Reservations {
  override reserve(offset: number, length: number): Awaitable<Placement> {
    return andThen(super.reserve(offset, length), (placement) => {
      const { copies } = placement as SubclusterPlacement;
      return copies === undefined || copies.length === 0 ? placement : this.#copy(placement, copies);
    });
  }

  async #copy(placement: Placement, copies: readonly Copy[]): Promise<Placement> {
    const { storage } = placement;
    try {
      for (const { from, to, length } of copies) {
        const bytes = new Uint8Array(length);
        await storage.read(from, bytes);
        await storage.write(to, bytes);
      }
    } catch (error) {
      this.abort(placement);
      throw error;
    }
    return placement;
  }

  protected override placeIn(table: Table, offset: number, length: number): Awaitable<Placement> {
    const { view } = table;
    const { clusterBytes } = this.metadata.file.geometry;
    const cluster = Math.floor(offset / clusterBytes);
    const request = { offset, length, within: offset - cluster * clusterBytes };
    const at = this.placeOf(table, cluster);
    const wanted = Math.min(
      (view.byteLength - at) / extendedEntryBytes,
      Math.ceil((request.within + length) / clusterBytes),
    );
    this.#requireThere(view, at / extendedEntryBytes);
    if (isOwned(view, at)) return this.#inPlace(view, at, request, wanted);
    let count = 1;
    for (; count < wanted && !isOwned(view, at + count * extendedEntryBytes); count += 1)
      this.#requireThere(view, at / extendedEntryBytes + count);
    return andThen(this.metadata.refcounts.allocate(count), (run) => this.#inNew(view, at, request, run));
  }

  /** Where in its L2 table the entry of a guest cluster is. */
  protected placeOf(table: Table, cluster: number): number {
    return (cluster - table.index * this.metadata.file.geometry.l2EntryCount) * extendedEntryBytes;
  }

  /** An entry that is about to be changed must say something. */
  override requireSound(view: DataView, index: number): void {
    const { file } = this.metadata;
    const at = index * extendedEntryBytes;
    requireSoundEntry(view, at, file);
    if (!isOwned(view, at) || hasCluster(view, at, file.hasDataFile)) return;
    throw corrupt(file.name, 'l2_table.entry', 'COPIED is set without a cluster', { index });
  }

  /** As `requireSound`, of an entry whose cluster will be written to, or copied. */
  #requireThere(view: DataView, index: number): void {
    this.requireSound(view, index);
    const { file } = this.metadata;
    const at = index * extendedEntryBytes;
    const offset = hostOffsetAt(view, at);
    if ((view.getUint32(at) & compressedFlag) !== 0 || offset < file.storage.size()) return;
    const problem = `data at ${offset} lies past the end of the file`;
    throw corrupt(file.name, 'l2_table.entry', problem, { index, offset });
  }

  /** In the clusters that the entries have, as far as they lie together. */
  #inPlace(view: DataView, at: number, request: Request, wanted: number): SubclusterPlacement {
    const { clusterBytes } = this.metadata.file.geometry;
    const hostOffset = hostOffsetAt(view, at);
    let count = 1;
    for (; count < wanted; count += 1) {
      const next = at + count * extendedEntryBytes;
      if (!isOwned(view, next) || hostOffsetAt(view, next) !== hostOffset + count * clusterBytes) break;
      this.#requireThere(view, next / extendedEntryBytes);
    }
    // Who lies on metadata is refused here: nothing else goes in its place.
    this.metadata.file.guard?.assertFree(hostOffset, count * clusterBytes);
    const run = { first: hostOffset / clusterBytes, count };
    const { first, stop, before, behind } = this.reachOf(request, count);
    const last = at + (count - 1) * extendedEntryBytes;
    return this.#placement(request, run, {
      head: isThere(view, at, first) ? 0 : before,
      tail: isThere(view, last, stop - 1) ? 0 : behind,
      kept: true,
      copies: [],
    });
  }

  #inNew(view: DataView, at: number, request: Request, run: ClusterRun): SubclusterPlacement {
    const { clusterBytes, unitBytes } = this.metadata.file.geometry;
    const last = at + (run.count - 1) * extendedEntryBytes;
    const { first, stop, before, behind } = this.reachOf(request, run.count);
    const low = first - onesBelow(presentAt(view, at), first);
    const high = stop + onesFrom(presentAt(view, last), stop);
    const newOffset = run.first * clusterBytes;
    const newLast = newOffset + (run.count - 1) * clusterBytes;
    return this.#placement(request, run, {
      head: (first - low) * unitBytes + before,
      tail: (high - stop) * unitBytes + behind,
      kept: false,
      copies: [
        ...this.#copies(view, at, bitsBetween(0, low), newOffset),
        ...this.#copies(view, last, bitsBetween(high, subclusterCount), newLast),
      ],
    });
  }

  /**
   * The subclusters that a request of `count` clusters fills: from `first` of the first cluster, up to `stop` of the last
   * one; and the bytes of them that it leaves alone.
   */
  protected reachOf(
    { length, within }: Request,
    count: number,
  ): { readonly first: number; readonly stop: number; readonly before: number; readonly behind: number } {
    const { clusterBytes, unitBytes } = this.metadata.file.geometry;
    const first = Math.floor(within / unitBytes);
    const end = Math.min(clusterBytes, within + length - (count - 1) * clusterBytes);
    const stop = Math.ceil(end / unitBytes);
    return { first, stop, before: within - first * unitBytes, behind: stop * unitBytes - end };
  }

  #placement(
    { offset, length, within }: Request,
    run: ClusterRun,
    around: Pick<SubclusterPlacement, 'head' | 'tail' | 'kept' | 'copies'>,
  ): SubclusterPlacement {
    const { storage, geometry } = this.metadata.file;
    const hostOffset = run.first * geometry.clusterBytes + within;
    return {
      storage,
      guestOffset: offset,
      length: Math.min(length, run.count * geometry.clusterBytes - within),
      hostOffset,
      fresh: hostOffset - around.head >= storage.size(),
      run,
      ...around,
    };
  }

  /** The allocated subclusters among `bits` that are to go from their cluster into the one at `newOffset`. */
  *#copies(view: DataView, at: number, bits: number, newOffset: number): Generator<Copy> {
    const { unitBytes } = this.metadata.file.geometry;
    const oldOffset = hostOffsetAt(view, at);
    const present = presentAt(view, at) & bits;
    for (let first = 0; first < subclusterCount; first += 1) {
      const count = onesFrom(present, first);
      if (count === 0) continue;
      const from = first * unitBytes;
      yield { from: oldOffset + from, to: newOffset + from, length: count * unitBytes };
      first += count;
    }
  }

  protected override enter(table: Table, placement: PlacedRun): void {
    const { guestOffset, length, head, tail, run, kept } = placement;
    const { view } = table;
    const { clusterBytes, unitBytes } = this.metadata.file.geometry;
    const cluster = Math.floor(guestOffset / clusterBytes);
    const from = this.placeOf(table, cluster);
    for (let nth = 0; nth < run.count; nth += 1) {
      const at = from + nth * extendedEntryBytes;
      const start = (cluster + nth) * clusterBytes;
      const first = Math.max(0, Math.floor((guestOffset - head - start) / unitBytes));
      const stop = Math.min(subclusterCount, Math.ceil((guestOffset + length + tail - start) / unitBytes));
      const written = bitsBetween(first, stop);
      const present = presentAt(view, at);
      // An overwrite, which a dirty bitmap had to know of.
      if (kept && (written & ~present) === 0) continue;
      if (!kept) {
        this.metadata.releaseEntry(view.getUint32(at), view.getUint32(at + 4), false);
        setEntryAt(view, at, (run.first + nth) * clusterBytes, copiedFlag, 0);
      }
      setBitmap(view, at, zerosAt(view, at) & ~written, present | written);
      this.metadata.mapping.tables.markDirty(table, at, at + extendedEntryBytes);
    }
  }

  /** As `commit`, but the subclusters stay as they are: new clusters are set aside for those to come. */
  setAside(placement: Placement): Awaitable<void> {
    const { guestOffset, run } = placement as SubclusterPlacement;
    const { clusterBytes } = this.metadata.file.geometry;
    return this.inTableOf(placement, (table) => {
      const from = this.placeOf(table, Math.floor(guestOffset / clusterBytes));
      for (let nth = 0; nth < run.count; nth += 1) {
        const at = from + nth * extendedEntryBytes;
        setEntryAt(table.view, at, (run.first + nth) * clusterBytes, copiedFlag, 0);
        this.metadata.mapping.tables.markDirty(table, at, at + extendedEntryBytes);
      }
    });
  }

  protected override async unmapInTable(
    l1Index: number,
    from: number,
    to: number,
    mode: 'discard' | 'zero',
  ): Promise<void> {
    const { clusterBytes, unitBytes, l2SpanBytes } = this.metadata.file.geometry;
    const present = await this.metadata.mapping.table(l1Index);
    if (present === undefined && !this.showsBacking(from)) return;
    const view = present?.view ?? new DataView(new ArrayBuffer(clusterBytes));
    const changes: Cleared[] = [];
    const parts: [offset: number, length: number][] = [];
    for (let start = from - (from % clusterBytes); start < to; start += clusterBytes) {
      const at = ((start - l1Index * l2SpanBytes) / clusterBytes) * extendedEntryBytes;
      const first = Math.max(0, (from - start) / unitBytes);
      const stop = this.#stopOf(to, start);
      this.requireSound(view, at / extendedEntryBytes);
      if ((view.getUint32(at) & compressedFlag) !== 0 && stop - first < subclusterCount) {
        parts.push([start + first * unitBytes, (stop - first) * unitBytes]);
        continue;
      }
      const shows = this.showsBacking(start + first * unitBytes);
      const change = cleared(view, at, bitsBetween(first, stop), { shows, mode });
      if (change !== undefined) changes.push(change);
    }
    if (changes.length > 0) {
      // The range is held by this request: no entry in it has changed since.
      await this.metadata.turns.take(() =>
        this.metadata.withOwnTable(l1Index, (table) => {
          for (const change of changes) this.#replace(table, change, mode);
          return this.metadata.settle();
        }),
      );
    }
    for (const [offset, length] of parts)
      await writeAround(this, this.extents, offset, new Uint8Array(length));
  }

  /** The subcluster behind the last one of a range; past the end of the disk there is nothing that would have to stay. */
  #stopOf(to: number, start: number): number {
    const { geometry, header } = this.metadata.file;
    if (to >= header.size) return subclusterCount;
    return Math.min(subclusterCount, Math.ceil((to - start) / geometry.unitBytes));
  }

  #replace(table: Table, { at, zeros, allocated, givesBack }: Cleared, mode: 'discard' | 'zero'): void {
    const { view } = table;
    if (givesBack) {
      this.metadata.releaseEntry(view.getUint32(at), view.getUint32(at + 4), mode === 'discard');
      setEntryAt(view, at, 0, 0, 0);
    }
    setBitmap(view, at, zeros, allocated);
    this.metadata.mapping.tables.markDirty(table, at, at + extendedEntryBytes);
  }
}

/** What an entry becomes when the subclusters `bits` are to read as zeros; undefined when it stays. */
function cleared(
  view: DataView,
  at: number,
  bits: number,
  { shows, mode }: { readonly shows: boolean; readonly mode: 'discard' | 'zero' },
): Cleared | undefined {
  const hasEntry = view.getUint32(at) !== 0 || view.getUint32(at + 4) !== 0;
  const oldZeros = zerosAt(view, at);
  const oldAllocated = allocatedAt(view, at);
  const allocated = (oldAllocated & ~bits) >>> 0;
  const keeps = allocated !== 0 || (mode === 'zero' && isOwned(view, at));
  const isMarked = shows || (mode === 'zero' && keeps);
  const zeros = (isMarked ? oldZeros | bits : mode === 'zero' ? oldZeros : oldZeros & ~bits) >>> 0;
  const givesBack = hasEntry && !keeps;
  if (zeros === oldZeros && allocated === oldAllocated && !givesBack) return undefined;
  return { at, zeros, allocated, givesBack };
}

export function isOwned(view: DataView, at: number): boolean {
  return (view.getUint32(at) & (copiedFlag | compressedFlag)) >>> 0 === copiedFlag;
}

function hostOffsetAt(view: DataView, at: number): number {
  return hostOffsetOf(view.getUint32(at), view.getUint32(at + 4));
}

/** The subclusters whose bytes an entry has, compressed or not. */
function presentAt(view: DataView, at: number): number {
  return (view.getUint32(at) & compressedFlag) !== 0 ? allSubclusters : allocatedAt(view, at);
}
