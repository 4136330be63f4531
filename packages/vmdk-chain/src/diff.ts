import type { DiffBatch, DiffExtent } from '@cowlab/core';
import type { SparseExtent } from './extent.ts';
import type { VmdkImage } from './image.ts';
import { GRAIN_TABLE_ENTRIES, ZEROED_GRAIN } from './layout.ts';
import { assertSameShape } from './merge.ts';

/*
 * Where two states differ, by grain tables alone. Two chains meet at a file, or never; below it they are one. What
 * lies above it on either side says of a grain, the first entry from the top down:
 *
 *   on one side    on the other    then the grain
 *   nothing        nothing         is the same: both ask below
 *   zeros          zeros           is the same
 *   nothing        zeros           is the same where there is nothing below, else may differ
 *   a grain        anything        may differ: the other side does not have that file
 */

type Side = readonly SparseExtent[];

/** A batch ends with the table in which it has come to so many tables read, or extents. */
const ENOUGH_TABLES = 4096;
const ENOUGH_EXTENTS = 16_384;

/** The extents between `offset` and `end`, or as many of them as some thousand grain tables tell. */
export async function diffChains(
  one: readonly VmdkImage[],
  other: readonly VmdkImage[],
  offset: number,
  end: number,
): Promise<DiffBatch> {
  const { sides, meet } = apart(one, other);
  const shape = one[0]!.extent;
  for (const extent of sides.flat()) assertSameShape(shape, extent);
  const { grainBytes } = shape.header;
  const tableBytes = GRAIN_TABLE_ENTRIES * grainBytes;
  const extents: DiffExtent[] = [];
  let index = Math.floor(offset / tableBytes);
  if (sides.every((side) => side.length === 0)) return { extents, end };
  for (let read = 0; index * tableBytes < end; index++, read += sides.flat().length) {
    if (read >= ENOUGH_TABLES || extents.length >= ENOUGH_EXTENTS) break;
    const [a, b] = [await answersOf(sides[0], index), await answersOf(sides[1], index)];
    const differsAt = (grain: number): boolean => {
      if (a[grain]! > ZEROED_GRAIN || b[grain]! > ZEROED_GRAIN) return true;
      return meet && a[grain] !== b[grain];
    };
    eachRun(differsAt, (first, count) => {
      const start = Math.max(offset, index * tableBytes + first * grainBytes);
      const stop = Math.min(end, index * tableBytes + (first + count) * grainBytes);
      if (start < stop) extents.push({ offset: start, length: stop - start });
    });
  }
  return { extents, end: Math.min(end, index * tableBytes) };
}

/** The links that only one of two chains has, and whether there are others below them. */
function apart(
  one: readonly VmdkImage[],
  other: readonly VmdkImage[],
): { sides: readonly [Side, Side]; meet: boolean } {
  const places = new Map(other.map(({ file }, index) => [file, index]));
  const meetsAt = one.findIndex(({ file }) => places.has(file));
  const meet = meetsAt !== -1;
  const extentsOf = (images: readonly VmdkImage[]): Side => images.map(({ extent }) => extent);
  if (!meet) return { sides: [extentsOf(one), extentsOf(other)], meet };
  const above = other.slice(0, places.get(one[meetsAt]!.file));
  return { sides: [extentsOf(one.slice(0, meetsAt)), extentsOf(above)], meet };
}

/** What a side says of the grains of one table: the topmost entry of each, 0 where no link has one. */
async function answersOf(side: Side, index: number): Promise<Uint32Array> {
  const answers = new Uint32Array(GRAIN_TABLE_ENTRIES);
  for (const { tables } of side) {
    const { entries } = await tables.load(index);
    for (let grain = 0; grain < GRAIN_TABLE_ENTRIES; grain++) {
      if (answers[grain] === 0) answers[grain] = entries[grain]!;
    }
  }
  return answers;
}

function eachRun(differsAt: (grain: number) => boolean, visit: (first: number, count: number) => void): void {
  for (let grain = 0; grain < GRAIN_TABLE_ENTRIES; ) {
    const first = grain;
    while (grain < GRAIN_TABLE_ENTRIES && differsAt(grain)) grain++;
    if (grain > first) visit(first, grain - first);
    else grain++;
  }
}
