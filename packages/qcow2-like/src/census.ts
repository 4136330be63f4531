import { type LongCallOptions, viewOf } from '@cowlab/core';
import { visitBitmaps } from './bitmap-directory.ts';
import {
  compressedFlag,
  compressedPlace,
  copiedFlag,
  hostOffsetOf,
  isMalformed,
  zeroFlag,
} from './entries.ts';
import type { ImageFile } from './image-file.ts';
import { type L1Place, readL1 } from './mapping.ts';
import { abortError } from './metadata.ts';
import { References, withCopied, withoutCopied } from './references.ts';
import { readRefcountTable } from './refcount-table.ts';
import type { SnapshotTable } from './snapshot-table.ts';
import { bitmapProblem, extendedEntryBytes, isMendable } from './subclusters.ts';
import { type TableAt, walkTables } from './walk.ts';

/*
 * The census: everything that the header reaches is walked once, and every cluster counted as often as it is
 * reached. What it finds is what the refcounts have to say.
 *
 *   header → refcount table → refcount blocks          header → bitmap directory → bitmap tables → bitmaps
 *          → snapshot table → L1 tables ─┐
 *          → active L1 table ────────────┴→ L2 tables → data and compressed clusters
 *
 * Snapshots share L2 tables: a table is read once, and counted as often as L1 tables point to it. A terabyte in clusters
 * of 64 KiB is sixteen million entries, so they are taken in runs whose host clusters lie side by side. The COPIED flags
 * of the disk's own entries are noted with the counts: no table has to be read again to tell that all of them are right.
 */

/** A structure that points where nothing can be. */
export interface Problem {
  readonly structure: string;
  readonly message: string;
  readonly hostOffset?: number;
  /** It is a bitmap that can be mended. */
  readonly isMendable?: true;
}

export interface Census {
  readonly references: References;
  readonly problems: readonly Problem[];
  readonly tablesInPlace: readonly TableInPlace[];
  /** L2 tables with bitmaps of subclusters that are wrong, and can be mended. */
  readonly mendable: readonly TableAt[];
  /** Guest bytes with a cluster of their own in the active state. */
  readonly allocatedBytes: number;
}

export const maxProblems: number = 1000;
export const liesOnAnother = 'lies on another structure';
const activeL1 = 'L1 table';
/** What an extended L2 entry says of subclusters; what it says is wrong, but no pointer is. */
export const subclusterBitmap = 'subcluster bitmap';

export async function takeCensus(
  file: ImageFile,
  snapshots: SnapshotTable,
  options: LongCallOptions,
): Promise<Census> {
  const census = new Counting(file);
  await census.countFixed(snapshots);
  const { l1Offset, l1EntryCount } = file.header;
  await census.countL1({ offset: l1Offset, entryCount: l1EntryCount }, activeL1);
  const active = census.takeTables();
  for (const { l1Offset: offset, l1EntryCount: entryCount, name, size } of snapshots.snapshots) {
    await census.countL1({ offset, entryCount }, `L1 table of snapshot ${JSON.stringify(name)}`, size);
  }
  const shared = census.takeTables();
  await census.countL2(active, shared, options);
  census.findOverlaps();
  return census;
}

/** A table that is changed where it is, so that nothing else may lie there. */
export interface TableInPlace {
  readonly structure: string;
  readonly offset: number;
  readonly bytes: number;
  /** How many ways lead to it as what it is. */
  readonly uses: number;
}

type TableUses = Map<number, { readonly at: TableAt; times: number }>;

class Counting implements Census {
  readonly references: References = new References();
  readonly problems: Problem[] = [];
  readonly mendable: TableAt[] = [];
  allocatedBytes = 0;
  readonly #file: ImageFile;
  #tables: TableUses = new Map();
  readonly tablesInPlace: TableInPlace[] = [];

  constructor(file: ImageFile) {
    this.#file = file;
  }

  /** The L2 tables counted since the last call, by host offset. */
  takeTables(): TableUses {
    const tables = this.#tables;
    this.#tables = new Map();
    return tables;
  }

  async countFixed(snapshots: SnapshotTable): Promise<void> {
    const { header } = this.#file;
    this.references.add(0, 1);
    await this.#countRefcounts();
    if (header.snapshotCount > 0)
      this.#structure('snapshot table', header.snapshotTableOffset, snapshots.bytes);
    await visitBitmaps(this.#file, (structure, offset, bytes) => this.#structure(structure, offset, bytes));
  }

  async #countRefcounts(): Promise<void> {
    const { header, geometry } = this.#file;
    const { refcountTableOffset: offset, refcountTableClusters: clusters } = header;
    this.references.add(offset / geometry.clusterBytes, clusters);
    this.tablesInPlace.push({
      structure: 'refcount table',
      offset,
      bytes: clusters * geometry.clusterBytes,
      uses: 1,
    });
    const table = viewOf(await readRefcountTable(this.#file));
    for (let at = 0; at < table.byteLength; at += 8) {
      const hi = table.getUint32(at);
      const lo = table.getUint32(at + 4);
      if (hi === 0 && lo === 0) continue;
      const block = hi * 2 ** 32 + lo;
      if (this.#structure('refcount block', block, geometry.clusterBytes))
        this.tablesInPlace.push({
          structure: 'refcount block',
          offset: block,
          bytes: geometry.clusterBytes,
          uses: 1,
        });
    }
  }

  /** Counts the L1 table of a disk of `size` bytes, and the L2 tables that it points to. */
  async countL1(place: L1Place, structure: string, size = 0): Promise<void> {
    if (place.entryCount < Math.ceil(size / this.#file.geometry.l2SpanBytes))
      this.#problem(structure, 'is too small for the size of the snapshot', place.offset);
    if (place.entryCount === 0) return;
    if (!this.#structure(structure, place.offset, place.entryCount * 8)) return;
    if (structure === activeL1)
      this.tablesInPlace.push({ structure, offset: place.offset, bytes: place.entryCount * 8, uses: 1 });
    const l1 = viewOf(await readL1(this.#file, place, 'l1_table_offset'));
    const { clusterBytes } = this.#file.geometry;
    for (let l1Index = 0; l1Index < place.entryCount; l1Index += 1) {
      const hi = l1.getUint32(l1Index * 8);
      const lo = l1.getUint32(l1Index * 8 + 4);
      const hostOffset = hostOffsetOf(hi, lo);
      if (isMalformed(hi, lo, clusterBytes, 0) || (hi & compressedFlag) !== 0) {
        this.#problem(structure, `entry ${l1Index} has reserved bits set`);
      } else if (hostOffset !== 0 && this.#structure('L2 table', hostOffset, clusterBytes)) {
        if (structure === activeL1) this.references.add(hostOffset / clusterBytes, 1, 0, flagOf(hi));
        const known = this.#tables.get(hostOffset);
        // Clusters in a data file have one guest offset each, so their table has one place.
        if (known !== undefined && this.#file.hasDataFile)
          this.#problem(structure, `entry ${l1Index} points to the L2 table of entry ${known.at.l1Index}`);
        if (known !== undefined) known.times += 1;
        else this.#tables.set(hostOffset, { at: { hostOffset, l1Index }, times: 1 });
      }
    }
  }

  async countL2(active: TableUses, shared: TableUses, options: LongCallOptions): Promise<void> {
    const uses = new Map<number, TableAt>();
    for (const each of [active, shared]) for (const [offset, { at }] of each) uses.set(offset, at);
    let done = 0;
    await walkTables(this.#file, [...uses.values()], (at, view) => {
      if (options.signal?.aborted) throw abortError(this.#file.name);
      const inActive = active.get(at.hostOffset)?.times ?? 0;
      const times = inActive + (shared.get(at.hostOffset)?.times ?? 0);
      const { clusterBytes: bytes } = this.#file.geometry;
      this.tablesInPlace.push({ structure: 'L2 table', offset: at.hostOffset, bytes, uses: times });
      const clusters = this.#file.hasDataFile
        ? this.#countInDataFile(view, at.l1Index)
        : this.#countEntries(view, times, inActive > 0);
      if (this.#file.header.extendedL2) this.#checkBitmaps(at, view);
      this.allocatedBytes += inActive * clusters * this.#file.geometry.clusterBytes;
      done += 1;
      options.onProgress?.({ done, total: uses.size });
      return false;
    });
  }

  /** Counts the clusters of one L2 table; how many entries have some. */
  #countEntries(view: DataView, times: number, inActive: boolean): number {
    const { clusterBytes, l2EntryBytes } = this.#file.geometry;
    const { version, extendedL2 } = this.#file.header;
    const flags = version === 3 && !extendedL2 ? zeroFlag : 0;
    const fileBytes = this.#file.storage.size();
    let mapped = 0;
    for (let at = 0; at < view.byteLength; ) {
      const hi = view.getUint32(at);
      const lo = view.getUint32(at + 4);
      let count = 1;
      if (hi !== 0 || lo !== 0) {
        const hostOffset = hostOffsetOf(hi, lo);
        const isPlain = (hi & compressedFlag) === 0 && !isMalformed(hi, lo, clusterBytes, flags);
        if (isPlain && hostOffset !== 0 && hostOffset < fileBytes) {
          const most = Math.ceil((fileBytes - hostOffset) / clusterBytes);
          count = runLength(view, at, { clusterBytes, l2EntryBytes, flags, most });
          this.references.add(hostOffset / clusterBytes, count, times, inActive ? flagOf(hi) : 0);
          mapped += count;
        } else if (!isPlain || hostOffset !== 0) mapped += this.#countOdd(hi, lo, at / l2EntryBytes, times);
      }
      at += count * l2EntryBytes;
    }
    return mapped;
  }

  /** An entry of a compressed cluster, or one that points where nothing can be; 1 when it has a cluster. */
  #countOdd(hi: number, lo: number, index: number, times: number): 0 | 1 {
    const { clusterBytes } = this.#file.geometry;
    const hostOffset = hostOffsetOf(hi, lo);
    if ((hi & compressedFlag) === 0) {
      const problem =
        hostOffset >= this.#file.storage.size() ? 'points past the end of the file' : 'has reserved bits set';
      this.#problem('L2 table', `entry ${index} ${problem}`, hostOffset);
      return 0;
    }
    const { offset, end } = compressedPlace(hi, lo, this.#file.header.clusterBits);
    if (offset >= this.#file.storage.size()) {
      this.#problem('L2 table', 'compressed data past the end of the file', offset);
      return 0;
    }
    const first = Math.floor(offset / clusterBytes);
    this.references.add(first, Math.ceil(end / clusterBytes) - first, times);
    return 1;
  }

  /** Clusters in a data file have no counts; each lies at its guest offset. How many entries have one. */
  #countInDataFile(view: DataView, l1Index: number): number {
    const { clusterBytes, l2EntryBytes, l2EntryCount } = this.#file.geometry;
    const { size, extendedL2 } = this.#file.header;
    const flags = extendedL2 ? 0 : zeroFlag;
    let mapped = 0;
    for (let at = 0; at < view.byteLength; at += l2EntryBytes) {
      const hi = view.getUint32(at);
      const lo = view.getUint32(at + 4);
      const hostOffset = hostOffsetOf(hi, lo);
      const offset = (l1Index * l2EntryCount + at / l2EntryBytes) * clusterBytes;
      const isSound = !isMalformed(hi, lo, clusterBytes, flags);
      if ((hi & (copiedFlag | compressedFlag)) === 0 && hostOffset === 0 && isSound) continue;
      const problem =
        (hi & compressedFlag) !== 0
          ? 'is of a compressed cluster, with an external data file'
          : !isSound
            ? 'has reserved bits set'
            : hostOffset !== offset
              ? 'points elsewhere than to its guest offset'
              : offset < size && offset >= this.#file.dataStorage.size()
                ? 'points past the end of the data file'
                : undefined;
      if (problem === undefined) mapped += 1;
      else this.#problem('L2 table', `entry ${at / l2EntryBytes} ${problem}`, hostOffset);
    }
    return mapped;
  }

  #checkBitmaps(table: TableAt, view: DataView): void {
    let canMend = false;
    for (let at = 0; at < view.byteLength; at += extendedEntryBytes) {
      const problem = bitmapProblem(view, at, this.#file.hasDataFile);
      if (problem === undefined) continue;
      const message = `entry ${at / extendedEntryBytes}: ${problem}`;
      const found = { structure: subclusterBitmap, message, hostOffset: table.hostOffset + at };
      this.#note(isMendable(view, at, this.#file.hasDataFile) ? { ...found, isMendable: true } : found);
      canMend ||= isMendable(view, at, this.#file.hasDataFile);
    }
    if (canMend) this.mendable.push(table);
  }

  /** Tables that are changed where they are, on clusters that something else refers to as well. */
  findOverlaps(): void {
    const { clusterBytes } = this.#file.geometry;
    for (const { structure, offset, bytes, uses } of this.tablesInPlace) {
      const end = Math.ceil((offset + bytes) / clusterBytes);
      let cluster = offset / clusterBytes;
      while (cluster < end && this.references.get(cluster) <= uses) cluster += 1;
      if (cluster < end) this.#problem(structure, liesOnAnother, offset);
    }
  }

  /** Counts a structure of its own clusters; false when it lies where it cannot. */
  #structure(structure: string, offset: number, bytes: number): boolean {
    const { clusterBytes } = this.#file.geometry;
    const problem =
      offset % clusterBytes !== 0
        ? 'is not aligned to clusters'
        : offset === 0
          ? 'lies on the header'
          : offset + bytes > this.#file.storage.size()
            ? 'reaches past the end of the file'
            : undefined;
    if (problem !== undefined) {
      this.#problem(structure, problem, offset);
      return false;
    }
    this.references.add(offset / clusterBytes, Math.ceil(bytes / clusterBytes));
    return true;
  }

  #problem(structure: string, message: string, hostOffset?: number): void {
    this.#note({ structure, message, ...(hostOffset === undefined ? {} : { hostOffset }) });
  }

  #note(problem: Problem): void {
    if (this.problems.length < maxProblems) this.problems.push(problem);
  }
}

function flagOf(hi: number): number {
  return (hi & copiedFlag) === 0 ? withoutCopied : withCopied;
}

/** What makes the entries of a table a run. */
interface RunRule {
  readonly clusterBytes: number;
  readonly l2EntryBytes: number;
  /** Bits of the lower half that do not matter. */
  readonly flags: number;
  readonly most: number;
}

/** How many entries from `at` on name host clusters that follow each other. Whole halves are compared, so what is sound of the first is of all. */
function runLength(view: DataView, at: number, { clusterBytes, l2EntryBytes, flags, most }: RunRule): number {
  let expectedHi = view.getUint32(at);
  let expectedLo = (view.getUint32(at + 4) & ~flags) >>> 0;
  const end = Math.min(view.byteLength, at + most * l2EntryBytes);
  let next = at + l2EntryBytes;
  for (; next < end; next += l2EntryBytes) {
    expectedLo += clusterBytes;
    if (expectedLo > 0xffff_ffff) {
      expectedLo -= 2 ** 32;
      expectedHi += 1;
    }
    if (view.getUint32(next) !== expectedHi) break;
    if ((view.getUint32(next + 4) & ~flags) >>> 0 !== expectedLo) break;
  }
  return (next - at) / l2EntryBytes;
}
