import { type DiffBatch, type DiffExtent, viewOf } from '@cowlab/core';
import { compressedFlag, copiedFlag, zeroFlag } from './entries.ts';
import type { ImageFile } from './image-file.ts';
import { type Mapping, tableOffsetIn } from './mapping.ts';

/*
 * Where two states differ, by L1 and L2 tables alone. What two states refer to is never changed in place (COPIED is
 * off), so the same place means the same content, for clusters as for L2 tables:
 *
 *   L2 tables of a span          then
 *   at one place, or none        nothing differs
 *   else                         both are read, and their entries compared; COPIED does not matter, and zero is
 *                                zero, whatever is set aside for it
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
  const { l2SpanBytes, clusterBytes } = file.geometry;
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
    compareTables(comparison, tables[0], tables[1], (first, count) => {
      push(
        extents,
        Math.max(offset, start + first * clusterBytes),
        Math.min(end, start + (first + count) * clusterBytes),
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

/** Visits the runs of entries that say different things. */
function compareTables(
  { file, hasBacking }: Comparison,
  one: DataView | undefined,
  other: DataView | undefined,
  visit: (first: number, count: number) => void,
): void {
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
}
