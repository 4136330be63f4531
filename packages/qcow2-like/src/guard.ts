import { fatalCorrupt } from './corruption.ts';
import { hostOffsetOf } from './entries.ts';
import type { ImageFile } from './image-file.ts';
import { autoclearBitmaps } from './layout.ts';
import type { SnapshotTable } from './snapshot-table.ts';

/*
 * The overlap check: what is about to be written must not lie on metadata, as far as they are known in memory. On an
 * image whose counts are right it never finds anything; on a damaged one it keeps a small damage from becoming a large one.
 *
 *   level      what is guarded (QEMU's overlap-check)
 *   none       nothing
 *   constant   header, active L1 table, refcount table, snapshot table, bitmap directory
 *   cached     and active L2 tables, refcount blocks, L1 tables of snapshots: no I/O, their places are in memory
 *   all        and L2 tables of snapshots: their L1 tables are read at open and after each snapshot operation
 *
 * Asked before every write of metadata, for every allocation, and for every extent that a guest may overwrite in place. So
 * it has to be cheap: tables of one cluster lie in one sorted list, larger structures in another; beside the last
 * answer stands the gap between the two structures around it, and who stays in that gap pays two comparisons.
 */

export type OverlapLevel = 'none' | 'constant' | 'cached' | 'all';

export const overlapLevels: readonly OverlapLevel[] = ['none', 'constant', 'cached', 'all'];

const tables = ['active L2 table', 'refcount block', 'L2 table of a snapshot'] as const;
export type TableKind = (typeof tables)[number];
export type Structure =
  | TableKind
  | 'header'
  | 'active L1 table'
  | 'refcount table'
  | 'snapshot table'
  | 'bitmap directory'
  | 'L1 table of a snapshot';

const constant: readonly Structure[] = [
  'header',
  'active L1 table',
  'refcount table',
  'snapshot table',
  'bitmap directory',
];
const cached: readonly Structure[] = [
  ...constant,
  'active L2 table',
  'refcount block',
  'L1 table of a snapshot',
];
const guarded: Readonly<Record<OverlapLevel, readonly Structure[]>> = {
  none: [],
  constant,
  cached,
  all: [...cached, 'L2 table of a snapshot'],
};

/** Where the guard learns what lies where. */
export interface Known {
  readonly l1: DataView;
  readonly refcountTable: DataView;
  readonly snapshots: SnapshotTable;
}

interface Range {
  readonly structure: Structure;
  readonly from: number;
  readonly to: number;
}

const none: readonly Structure[] = [];

export class Guard {
  readonly #file: ImageFile;
  readonly #known: () => Known;
  readonly #structures: ReadonlySet<Structure>;
  /** Tables of one cluster: their cluster's number times four, plus their place in `tables`. */
  #tables: number[] = [];
  #ranges: readonly Range[] = [];
  /** How far the ranges up to each one reach. */
  #reaches: readonly number[] = [];
  #inactiveTables: readonly number[] = [];
  #knowsTables = false;
  #knowsRanges = false;
  #gapFrom = 0;
  #gapTo = 0;

  constructor(file: ImageFile, level: OverlapLevel, known: () => Known) {
    this.#file = file;
    this.#known = known;
    this.#structures = new Set(guarded[level]);
  }

  get residentBytes(): number {
    return this.#tables.length * 8 + this.#ranges.length * 32;
  }

  get wantsInactiveTables(): boolean {
    return this.#structures.has('L2 table of a snapshot');
  }

  /** Whether these bytes may be overwritten. */
  isFree(offset: number, bytes: number): boolean {
    if (offset >= this.#gapFrom && offset + bytes <= this.#gapTo) return true;
    if (this.#conflict(offset, bytes, none) !== undefined) return false;
    this.#noteGap(offset);
    return true;
  }

  /** Throws `ERR_CORRUPT`, which marks the image, when the bytes lie on a structure that is none of `own`. */
  assertFree(offset: number, bytes: number, own: readonly Structure[] = none): void {
    const hit = this.#conflict(offset, bytes, own);
    if (hit === undefined) return;
    const problem = `a write of ${bytes} bytes at ${offset} would hit it; nothing was written`;
    throw fatalCorrupt(this.#file.name, hit.structure, problem, { offset: hit.from, value: offset });
  }

  /** A table has come to lie somewhere else; 0 stands for nowhere. */
  moveTable(kind: TableKind, from: number, to: number): void {
    if (!this.#knowsTables || !this.#structures.has(kind)) return;
    const at = from === 0 ? -1 : this.#indexOf(this.#code(kind, from));
    if (at >= 0 && this.#tables[at] === this.#code(kind, from)) this.#tables.splice(at, 1);
    if (to !== 0) this.#tables.splice(this.#indexOf(this.#code(kind, to)), 0, this.#code(kind, to));
    this.#forgetGap();
  }

  /** The L1 or refcount table was replaced. */
  tablesChanged(): void {
    this.#knowsTables = false;
    this.#forgetGap();
  }

  /** The header, the list of snapshots or that of bitmaps was replaced. */
  rangesChanged(): void {
    this.#knowsRanges = false;
    this.#forgetGap();
  }

  /** Where the L2 tables of snapshots are. */
  setInactiveTables(offsets: readonly number[]): void {
    this.#inactiveTables = offsets;
    this.tablesChanged();
  }

  #code(kind: TableKind, offset: number): number {
    return (offset / this.#file.geometry.clusterBytes) * 4 + tables.indexOf(kind);
  }

  /** Index of the first table that is not before `code`. */
  #indexOf(code: number): number {
    let low = 0;
    let high = this.#tables.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#tables[middle]! < code) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Index of the first range that starts at `offset` or after it. */
  #rangeFrom(offset: number): number {
    let low = 0;
    let high = this.#ranges.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#ranges[middle]!.from < offset) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** The structure that lies on clusters of these bytes and is none of `own`. */
  #conflict(offset: number, bytes: number, own: readonly Structure[]): Range | undefined {
    this.#learn();
    const { clusterBytes } = this.#file.geometry;
    const first = Math.floor(offset / clusterBytes);
    const end = Math.ceil((offset + bytes) / clusterBytes);
    for (let at = this.#indexOf(first * 4); at < this.#tables.length; at += 1) {
      const code = this.#tables[at]!;
      if (code >= end * 4) break;
      const structure = tables[code % 4]!;
      const from = Math.floor(code / 4) * clusterBytes;
      if (!own.includes(structure)) return { structure, from, to: from + clusterBytes };
    }
    for (let at = this.#rangeFrom(end * clusterBytes) - 1; at >= 0; at -= 1) {
      if (this.#reaches[at]! <= first * clusterBytes) break;
      const range = this.#ranges[at]!;
      if (range.to > first * clusterBytes && !own.includes(range.structure)) return range;
    }
    return undefined;
  }

  /** Remembers the space between the structures before and after an offset that lies on none. */
  #noteGap(offset: number): void {
    const { clusterBytes } = this.#file.geometry;
    const nextTable = this.#indexOf(Math.floor(offset / clusterBytes) * 4);
    const nextRange = this.#rangeFrom(offset);
    const start = (code: number | undefined): number | undefined =>
      code === undefined ? undefined : Math.floor(code / 4) * clusterBytes;
    const before = start(this.#tables[nextTable - 1]);
    this.#gapFrom = Math.max(
      before === undefined ? 0 : before + clusterBytes,
      this.#reaches[nextRange - 1] ?? 0,
    );
    this.#gapTo = Math.min(
      start(this.#tables[nextTable]) ?? Infinity,
      this.#ranges[nextRange]?.from ?? Infinity,
    );
  }

  #forgetGap(): void {
    this.#gapFrom = 0;
    this.#gapTo = 0;
  }

  #learn(): void {
    if (!this.#knowsTables) this.#learnTables();
    if (!this.#knowsRanges) this.#learnRanges();
  }

  #learnTables(): void {
    const { l1, refcountTable } = this.#known();
    const codes: number[] = [];
    const take = (kind: TableKind, view: DataView): void => {
      if (!this.#structures.has(kind)) return;
      for (let at = 0; at + 8 <= view.byteLength; at += 8) {
        const offset = hostOffsetOf(view.getUint32(at), view.getUint32(at + 4));
        if (offset !== 0 && this.#isCluster(offset)) codes.push(this.#code(kind, offset));
      }
    };
    take('active L2 table', l1);
    take('refcount block', refcountTable);
    for (const offset of this.#inactiveTables)
      if (this.#isCluster(offset)) codes.push(this.#code('L2 table of a snapshot', offset));
    this.#tables = Array.from(Float64Array.from(codes).toSorted());
    this.#knowsTables = true;
  }

  /** Entries that point elsewhere are refused when they are used. */
  #isCluster(offset: number): boolean {
    return offset % this.#file.geometry.clusterBytes === 0 && offset <= Number.MAX_SAFE_INTEGER / 4;
  }

  #learnRanges(): void {
    const { header, geometry } = this.#file;
    const ranges: Range[] = [];
    const take = (structure: Structure, from: number, bytes: number): void => {
      if (bytes > 0 && this.#structures.has(structure)) ranges.push({ structure, from, to: from + bytes });
    };
    take('header', 0, geometry.clusterBytes);
    take('active L1 table', header.l1Offset, header.l1EntryCount * 8);
    take('refcount table', header.refcountTableOffset, header.refcountTableClusters * geometry.clusterBytes);
    const { snapshots, bytes } = this.#known().snapshots;
    if (header.snapshotCount > 0) take('snapshot table', header.snapshotTableOffset, bytes);
    const { bitmaps, autoclear } = header;
    if (bitmaps !== undefined && (autoclear & autoclearBitmaps) !== 0n)
      take('bitmap directory', bitmaps.directoryOffset, bitmaps.directoryBytes);
    for (const { l1Offset, l1EntryCount } of snapshots)
      take('L1 table of a snapshot', l1Offset, l1EntryCount * 8);
    this.#ranges = ranges.toSorted((a, b) => a.from - b.from);
    let reach = 0;
    this.#reaches = this.#ranges.map(({ to }) => (reach = Math.max(reach, to)));
    this.#knowsRanges = true;
  }
}
