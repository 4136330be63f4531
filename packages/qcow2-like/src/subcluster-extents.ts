import type { Extent } from '@cowlab/core';
import { requireOwnPlace } from './data-file.ts';
import { compressedFlag, copiedFlag, hostOffsetOf, isMalformed } from './entries.ts';
import { Extents } from './extents.ts';
import { subclusterCount } from './layout.ts';
import {
  allocatedAt,
  bitmapProblem,
  extendedEntryBytes,
  onesFrom,
  requireSoundEntry,
  zerosAt,
} from './subclusters.ts';
import type { Table } from './table-cache.ts';

/*
 * From a guest offset to an extent where L2 entries are extended: as extents.ts, by subcluster.
 *
 *   subcluster               extent
 *   allocated                data; owned when COPIED is set and the image is writable
 *   zeros                    zero (allocated)
 *   neither                  backing, or zero (not allocated) without one
 *   of a COMPRESSED cluster  encoded, as far as the cluster goes
 *
 * A run goes on into the next cluster where its own one is all alike from there on; data, where the host clusters are
 * neighbours too.
 */
export class SubclusterExtents extends Extents {
  protected override inTable(table: Table, offset: number, length: number): Extent {
    const { view } = table;
    const { clusterBytes, unitBytes, l2EntryCount } = this.file.geometry;
    const cluster = Math.floor(offset / clusterBytes);
    const within = offset - cluster * clusterBytes;
    const at = (cluster - table.index * l2EntryCount) * extendedEntryBytes;
    requireSoundEntry(view, at, this.file);
    const hi = view.getUint32(at);
    const lo = view.getUint32(at + 4);
    if ((hi & compressedFlag) !== 0)
      return this.encoded(hi, lo, within, Math.min(length, clusterBytes - within));
    const first = Math.floor(within / unitBytes);
    const wanted = Math.ceil((within + length) / unitBytes) - first;
    const bytesOf = (units: number): number => Math.min(length, (first + units) * unitBytes - within);
    const allocated = allocatedAt(view, at);
    if (((zerosAt(view, at) >>> first) & 1) !== 0)
      return { kind: 'zero', length: bytesOf(this.#runOf(zero, view, at, first, wanted)), allocated: true };
    if (((allocated >>> first) & 1) === 0)
      return this.unallocated(offset, bytesOf(this.#runOf(neither, view, at, first, wanted)));
    const hostOffset = hostOffsetOf(hi, lo);
    if (this.file.hasDataFile) requireOwnPlace(this.file.name, hostOffset, offset - within);
    let units = onesFrom(allocated, first);
    if (units < wanted && first + units === subclusterCount)
      units += this.#dataBehind(view, at, hostOffset, wanted - units);
    const clusters = Math.floor((first + units - 1) / subclusterCount);
    this.requireInside(hostOffset + clusters * clusterBytes, at / extendedEntryBytes);
    const place = hostOffset + within;
    const mapped = bytesOf(units);
    return {
      kind: 'data',
      length: mapped,
      storage: this.file.dataStorage,
      hostOffset: place,
      owned: (hi & this.ownFlag) !== 0 && this.file.mayOverwrite(place, mapped, offset),
    };
  }

  /** How many subclusters of a kind follow each other from `first` on, at least as far as `wanted` when they do. */
  #runOf(kind: Kind, view: DataView, at: number, first: number, wanted: number): number {
    let units = onesFrom(kind(zerosAt(view, at), allocatedAt(view, at)), first);
    if (first + units < subclusterCount) return units;
    for (let next = at + extendedEntryBytes; units < wanted && next < view.byteLength; ) {
      if (!this.#isPlain(view, next)) break;
      const more = onesFrom(kind(zerosAt(view, next), allocatedAt(view, next)), 0);
      units += more;
      if (more < subclusterCount) break;
      next += extendedEntryBytes;
    }
    return units;
  }

  /** Whether an entry is one of a standard cluster, or of none, and sound. */
  #isPlain(view: DataView, at: number): boolean {
    const hi = view.getUint32(at);
    return (
      (hi & compressedFlag) === 0 &&
      !isMalformed(hi, view.getUint32(at + 4), this.file.geometry.clusterBytes, 0) &&
      bitmapProblem(view, at, this.file.hasDataFile) === undefined
    );
  }

  /** How many subclusters behind the entry at `at` go on with its data. */
  #dataBehind(view: DataView, at: number, hostOffset: number, wanted: number): number {
    const { clusterBytes } = this.file.geometry;
    const copied = view.getUint32(at) & copiedFlag;
    let expected = hostOffset;
    let units = 0;
    for (let next = at + extendedEntryBytes; next < view.byteLength; next += extendedEntryBytes) {
      const hi = view.getUint32(next);
      expected += clusterBytes;
      if (!this.#isPlain(view, next) || (hi & copiedFlag) !== copied) break;
      if (hostOffsetOf(hi, view.getUint32(next + 4)) !== expected) break;
      const more = onesFrom(allocatedAt(view, next), 0);
      units += more;
      if (more < subclusterCount || units >= wanted) break;
    }
    return units;
  }
}

/** The subclusters that are of a kind. */
type Kind = (zeros: number, allocated: number) => number;

const zero: Kind = (zeros) => zeros;
const neither: Kind = (zeros, allocated) => ~(zeros | allocated);
