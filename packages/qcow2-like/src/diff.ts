import { type DiffBatch, type DiffExtent, viewOf } from '@cowlab/core';
import { compressedFlag, copiedFlag, zeroFlag } from './entries.ts';
import type { ImageFile } from './image-file.ts';
import { subclusterCount } from './layout.ts';
import { type Mapping, tableOffsetIn } from './mapping.ts';
import { allocatedAt, allSubclusters, extendedEntryBytes, zerosAt } from './subclusters.ts';

/*
 * Where two states differ, by L1 and L2 tables alone. What two states refer to is never changed in place (COPIED is
 * off), so the same place means the same content, for clusters as for L2 tables:
 *
 *   L2 tables of a span          then
 *   at one place, or none        nothing differs
 *   else                         both are read, and their entries compared; COPIED does not matter, and zero is
 *                                zero, whatever is set aside for it; extended entries, by subcluster
 */

/** An L1 table; `mapping` for the active state, whose L2 tables may be newer in memory than in the file. */
export interface Side {
  readonly l1: DataView;
  readonly mapping?: Mapping;
}

export interface Comparison {
  readonly file: ImageFile;
  /** What is not allocated is the backing's; without one it reads as zeros. */
  readonly hasBacking: boolean;
  readonly sides: readonly [Side, Side];
}

/** A batch ends with the span in which it comes to so many pairs of tables read, or extents. */
const ENOUGH_SPANS = 64;
const ENOUGH_EXTENTS = 16_384;

/** The extents between `offset` and `end`, or as many of them as some dozens of L2 tables tell. Throws `ERR_CORRUPT`. */
export async function diffStates(comparison: Comparison, offset: number, end: number): Promise<DiffBatch> {
  const { file, sides } = comparison;
  const { l2SpanBytes, unitBytes } = file.geometry;
  const compare = file.header.extendedL2 ? compareSubclusters : compareTables;
  const extents: DiffExtent[] = [];
  let read = 0;
  let l1Index = Math.floor(offset / l2SpanBytes);
  for (; l1Index * l2SpanBytes < end; l1Index += 1) {
    if (read === ENOUGH_SPANS || extents.length >= ENOUGH_EXTENTS) break;
    const [one, other] = sides.map(({ l1 }) => tableOffsetIn(file, l1, l1Index)) as [number, number];
    if (one === other) continue;
    read += 1;
    const tables = [
      await tableOf(file, sides[0], l1Index, one),
      await tableOf(file, sides[1], l1Index, other),
    ];
    const start = l1Index * l2SpanBytes;
    compare(comparison, tables[0], tables[1], (first, count) => {
      push(
        extents,
        Math.max(offset, start + first * unitBytes),
        Math.min(end, start + (first + count) * unitBytes),
      );
    });
  }
  return { extents, end: Math.min(end, l1Index * l2SpanBytes) };
}

function push(extents: DiffExtent[], start: number, end: number): void {
  if (start < end) extents.push({ offset: start, length: end - start });
}

/** The bytes of an L2 table; undefined where there is none. */
async function tableOf(
  file: ImageFile,
  { mapping }: Side,
  l1Index: number,
  hostOffset: number,
): Promise<DataView | undefined> {
  if (hostOffset === 0) return undefined;
  const cached = mapping?.tables.peek(l1Index);
  if (cached !== undefined) return cached.view;
  const bytes = new Uint8Array(file.geometry.clusterBytes);
  await file.readCluster(hostOffset, bytes, 'l1_table.entry');
  return viewOf(bytes);
}

/** Visits the runs of units that a table says different things of. */
type Compare = (
  comparison: Comparison,
  one: DataView | undefined,
  other: DataView | undefined,
  visit: (first: number, count: number) => void,
) => void;

const compareTables: Compare = ({ file, hasBacking }, one, other, visit) => {
  const zeros = file.header.version === 3 ? zeroFlag : 0;
  const differsAt = (index: number): boolean => {
    const at = index * 8;
    const [oneHi, oneLo] = one === undefined ? [0, 0] : [one.getUint32(at), one.getUint32(at + 4)];
    const [otherHi, otherLo] = other === undefined ? [0, 0] : [other.getUint32(at), other.getUint32(at + 4)];
    if (((oneHi ^ otherHi) & ~copiedFlag) === 0 && oneLo === otherLo) return false;
    return !(readsZero(oneHi, oneLo) && readsZero(otherHi, otherLo));
  };
  const readsZero = (hi: number, lo: number): boolean => {
    if ((hi & compressedFlag) !== 0) return false;
    return (lo & zeros) !== 0 || (!hasBacking && hi === 0 && lo === 0);
  };
  const entryCount = file.geometry.clusterBytes / 8;
  for (let index = 0; index < entryCount; ) {
    const first = index;
    while (index < entryCount && differsAt(index)) index += 1;
    if (index > first) visit(first, index - first);
    else index += 1;
  }
};

const compareSubclusters: Compare = ({ file, hasBacking }, one, other, visit) => {
  const none = new DataView(new ArrayBuffer(extendedEntryBytes));
  const { l2EntryCount } = file.geometry;
  let first = 0;
  let count = 0;
  for (let index = 0; index < l2EntryCount; index += 1) {
    const at = index * extendedEntryBytes;
    const differing = differingSubclusters(
      one === undefined ? subclustersAt(none, 0, hasBacking) : subclustersAt(one, at, hasBacking),
      other === undefined ? subclustersAt(none, 0, hasBacking) : subclustersAt(other, at, hasBacking),
    );
    if (differing === 0 && count === 0) continue;
    for (let subcluster = 0; subcluster < subclusterCount; subcluster += 1) {
      if (((differing >>> subcluster) & 1) !== 0) {
        if (count === 0) first = index * subclusterCount + subcluster;
        count += 1;
      } else if (count > 0) {
        visit(first, count);
        count = 0;
      }
    }
  }
  if (count > 0) visit(first, count);
};

/** What an extended entry says of its subclusters, a bit for each. */
interface Subclusters {
  readonly hi: number;
  readonly lo: number;
  readonly allocated: number;
  /** Those that read as zeros, for one reason or another. */
  readonly zeros: number;
}

function subclustersAt(view: DataView, at: number, hasBacking: boolean): Subclusters {
  const hi = view.getUint32(at) & ~copiedFlag;
  const isCompressed = (hi & compressedFlag) !== 0;
  const allocated = isCompressed ? allSubclusters : allocatedAt(view, at);
  const zeros = hasBacking ? zerosAt(view, at) : ~allocated;
  return { hi, lo: view.getUint32(at + 4), allocated, zeros };
}

/** The same place means the same content; so do zeros, and the backing on both sides. */
function differingSubclusters(one: Subclusters, other: Subclusters): number {
  const isSamePlace = one.hi === other.hi && one.lo === other.lo;
  const same =
    (isSamePlace ? one.allocated & other.allocated : 0) |
    (one.zeros & other.zeros) |
    ~(one.allocated | one.zeros | other.allocated | other.zeros);
  return ~same;
}
