import { type Awaitable, andThen, type Backing, corrupt, type Extent } from '@cowlab/core';
import type { CompressedClusters } from './compressed.ts';
import { fatalCorrupt, malformedEntry } from './corruption.ts';
import { compressedElsewhere, requireOwnPlace } from './data-file.ts';
import {
  compressedFlag,
  compressedPlace,
  copiedFlag,
  hostOffsetOf,
  isMalformed,
  zeroFlag,
} from './entries.ts';
import type { ImageFile } from './image-file.ts';
import type { Mapping } from './mapping.ts';
import type { Table } from './table-cache.ts';

/** What answers for clusters without a place. One for an image and the views of its snapshots: it can be released. */
export interface BackingSlot {
  current: Backing | undefined;
}

/*
 * From a guest offset to an extent: the hot path of every read and overwrite.
 *
 *   L2 entry                     extent
 *   none, or no L2 table         backing, or zero (not allocated) without one
 *   ZERO (version 3)             zero (allocated)
 *   COMPRESSED                   encoded, one cluster
 *   host offset                  data; owned when COPIED is set and the image is writable
 *   COPIED (external data file)  data at the guest offset, which is the host offset, and may be 0
 *
 * Neighbouring clusters with the same answer (for data: the next host cluster) join, up to the table's end.
 */
export class Extents {
  protected readonly file: ImageFile;
  protected readonly ownFlag: number;
  readonly #mapping: Mapping;
  readonly #compressed: CompressedClusters;
  readonly #backing: BackingSlot;
  readonly #clusterBytes: number;
  readonly #spanBytes: number;
  readonly #zeroFlag: number;
  /** Host offsets below are known to lie in the file; the file is asked anew for others. */
  #knownEnd = 0;

  constructor(
    file: ImageFile,
    mapping: Mapping,
    compressed: CompressedClusters,
    backing: BackingSlot,
    writable: boolean,
  ) {
    this.file = file;
    this.#mapping = mapping;
    this.#compressed = compressed;
    this.#backing = backing;
    this.ownFlag = writable ? copiedFlag : 0;
    this.#clusterBytes = file.geometry.clusterBytes;
    this.#spanBytes = file.geometry.l2SpanBytes;
    this.#zeroFlag = file.header.version === 3 ? zeroFlag : 0;
  }

  /** The extent at `offset`, at most `length` bytes of it. Throws `ERR_CORRUPT`. */
  at(offset: number, length: number): Awaitable<Extent> {
    const l1Index = Math.floor(offset / this.#spanBytes);
    const table = this.#mapping.tables.peek(l1Index);
    if (table !== undefined) return this.inTable(table, offset, length);
    const loaded = this.#mapping.table(l1Index);
    return andThen(loaded, (there) =>
      there === undefined ? this.#withoutTable(l1Index, offset, length) : this.inTable(there, offset, length),
    );
  }

  #withoutTable(l1Index: number, offset: number, length: number): Extent {
    const end = offset + length;
    let next = l1Index + 1;
    while (next * this.#spanBytes < end && this.#mapping.tableOffset(next) === 0) next += 1;
    return this.unallocated(offset, Math.min(length, next * this.#spanBytes - offset));
  }

  protected unallocated(offset: number, length: number): Extent {
    const source = this.#backing.current;
    if (source === undefined) return { kind: 'zero', length, allocated: false };
    return { kind: 'backing', length, source, offset };
  }

  protected inTable(table: Table, offset: number, length: number): Extent {
    const { view } = table;
    const cluster = Math.floor(offset / this.#clusterBytes);
    const within = offset - cluster * this.#clusterBytes;
    const index = cluster - table.index * (this.#clusterBytes / 8);
    const hi = view.getUint32(index * 8);
    const lo = view.getUint32(index * 8 + 4);
    const inCluster = this.#clusterBytes - within;
    if ((hi & compressedFlag) !== 0) return this.encoded(hi, lo, within, Math.min(length, inCluster));
    this.#check(hi, lo, index);
    const rest = length - inCluster;
    if ((lo & this.#zeroFlag) !== 0) {
      const more = this.#endOfZeros(view, index, rest) - index - 1;
      return {
        kind: 'zero',
        length: Math.min(length, inCluster + more * this.#clusterBytes),
        allocated: true,
      };
    }
    const hostOffset = hostOffsetOf(hi, lo);
    if (hostOffset === 0 && !(this.file.hasDataFile && (hi & copiedFlag) !== 0)) {
      const more = this.#endOfNone(view, index, rest) - index - 1;
      return this.unallocated(offset, Math.min(length, inCluster + more * this.#clusterBytes));
    }
    if (this.file.hasDataFile) requireOwnPlace(this.file.name, hostOffset, offset - within);
    const more = rest <= 0 ? 0 : this.#endOfData(view, index, hi, hostOffset, rest) - index - 1;
    this.requireInside(hostOffset + more * this.#clusterBytes, index);
    const place = hostOffset + within;
    const mapped = Math.min(length, inCluster + more * this.#clusterBytes);
    return {
      kind: 'data',
      length: mapped,
      storage: this.file.dataStorage,
      hostOffset: place,
      owned: (hi & this.ownFlag) !== 0 && this.file.mayOverwrite(place, mapped, offset),
    };
  }

  /** One past the last entry that could matter for `rest` bytes after the first cluster. */
  #limit(view: DataView, index: number, rest: number): number {
    return Math.min(view.byteLength / 8, index + 1 + Math.max(0, Math.ceil(rest / this.#clusterBytes)));
  }

  #endOfData(view: DataView, index: number, hi: number, hostOffset: number, rest: number): number {
    const limit = this.#limit(view, index, rest);
    let expected = hostOffset + this.#clusterBytes;
    let next = index + 1;
    for (; next < limit; next += 1, expected += this.#clusterBytes) {
      const nextHi = view.getUint32(next * 8);
      const nextLo = view.getUint32(next * 8 + 4);
      if ((nextHi & compressedFlag) !== 0 || ((nextHi ^ hi) & copiedFlag) !== 0) break;
      if (hostOffsetOf(nextHi, nextLo) !== expected || isMalformed(nextHi, nextLo, this.#clusterBytes, 0))
        break;
    }
    return next;
  }

  #endOfZeros(view: DataView, index: number, rest: number): number {
    const limit = this.#limit(view, index, rest);
    let next = index + 1;
    while (
      next < limit &&
      (view.getUint32(next * 8) & compressedFlag) === 0 &&
      (view.getUint32(next * 8 + 4) & this.#zeroFlag) !== 0
    ) {
      next += 1;
    }
    return next;
  }

  #endOfNone(view: DataView, index: number, rest: number): number {
    const limit = this.#limit(view, index, rest);
    let next = index + 1;
    while (next < limit && view.getUint32(next * 8) === 0 && view.getUint32(next * 8 + 4) === 0) next += 1;
    return next;
  }

  protected encoded(hi: number, lo: number, within: number, length: number): Extent {
    if (this.file.hasDataFile) throw compressedElsewhere(this.file.name);
    const { offset } = compressedPlace(hi, lo, this.file.header.clusterBits);
    if (offset >= this.file.storage.size()) {
      const problem = 'compressed data past the end of the file';
      throw corrupt(this.file.name, 'l2_table.entry', problem, { offset });
    }
    return { kind: 'encoded', length, read: (target) => this.#compressed.read(hi, lo, within, target) };
  }

  #check(hi: number, lo: number, index: number): void {
    if (isMalformed(hi, lo, this.#clusterBytes, this.#zeroFlag)) {
      if (this.#zeroFlag === 0 && (lo & zeroFlag) !== 0) {
        const problem = 'ZERO is set, which version 2 does not have';
        throw fatalCorrupt(this.file.name, 'l2_table.entry', problem, { index });
      }
      throw malformedEntry(this.file.name, 'l2_table.entry', hi, lo, this.#clusterBytes, index);
    }
  }

  protected requireInside(hostOffset: number, index: number): void {
    if (hostOffset < this.#knownEnd) return;
    this.#knownEnd = this.file.dataStorage.size();
    if (hostOffset < this.#knownEnd) return;
    throw corrupt(this.file.name, 'l2_table.entry', `data at ${hostOffset} lies past the end of the file`, {
      index,
      offset: hostOffset,
    });
  }
}
