import type { Awaitable, DiffBatch, DiffExtent } from '@cowlab/core';
import type { ChainFile } from './chain-file.ts';
import type { VmdkImage } from './image.ts';
import { GRAIN_TABLE_ENTRIES, ZEROED_GRAIN } from './layout.ts';
import { assertSameDisk } from './merge-parts.ts';
import { TableStream, WINDOW_BYTES } from './table-stream.ts';
import { NO_ENTRIES } from './tables.ts';

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

type Side = readonly ChainFile[];

/** A batch ends with the table in which it has come to so many tables read, or extents. */
const ENOUGH_TABLES = 4096;
const ENOUGH_EXTENTS = 16_384;

/**
 * The extents between `offset` and `end`, which lie in the disk that `own` is of, or as many of them as some thousand
 * grain tables tell. Throws `ERR_UNSUPPORTED` when a state, or a file that only one of them has, is of another shape.
 */
export async function diffChains(
  own: ChainFile,
  one: readonly VmdkImage[],
  other: readonly VmdkImage[],
  offset: number,
  end: number,
): Promise<DiffBatch> {
  const { sides, meet } = apart(one, other);
  const files = sides.flat();
  // A snapshot is listed with the size of the disk, whatever its own file says.
  assertOneShape([own, one[0]!.own, other[0]!.own, ...files]);
  const { grainBytes } = (files.find((file) => file.grainBytes !== undefined) ?? own).childGrains;
  const streams = streamsOf(sides, grainBytes);
  const tableBytes = GRAIN_TABLE_ENTRIES * grainBytes;
  const extents: DiffExtent[] = [];
  let index = Math.floor(offset / tableBytes);
  if (sides.every((side) => side.length === 0)) return { extents, end };
  for (let read = 0; index * tableBytes < end; index++, read += files.length) {
    if (read >= ENOUGH_TABLES || extents.length >= ENOUGH_EXTENTS) break;
    const [a, b] = [await answersOf(streams[0], index), await answersOf(streams[1], index)];
    if (a === NO_ENTRIES && b === NO_ENTRIES) continue;
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

/** All of the size of the first, and of the grains of the first that has some. */
function assertOneShape(files: readonly ChainFile[]): void {
  const [first] = files;
  const withGrains = files.find((file) => file.grainBytes !== undefined);
  for (const file of files) {
    assertSameDisk(first!, file);
    if (withGrains !== undefined) assertSameDisk(withGrains, file);
  }
}

/** The links that only one of two chains has, and whether there are others below them. */
function apart(
  one: readonly VmdkImage[],
  other: readonly VmdkImage[],
): { sides: readonly [Side, Side]; meet: boolean } {
  const places = new Map(other.map(({ file }, index) => [file, index]));
  const meetsAt = one.findIndex(({ file }) => places.has(file));
  const meet = meetsAt !== -1;
  const filesOf = (images: readonly VmdkImage[]): Side => images.map(({ own }) => own);
  if (!meet) return { sides: [filesOf(one), filesOf(other)], meet };
  const above = other.slice(0, places.get(one[meetsAt]!.file));
  return { sides: [filesOf(one.slice(0, meetsAt)), filesOf(above)], meet };
}

/** What a file has in the place of its grain tables. */
interface Tables {
  at(index: number): Awaitable<Uint32Array>;
}

/** The tables of both sides; all windows together take a few MiB, whatever the number of links. */
function streamsOf(sides: readonly [Side, Side], grainBytes: number): readonly [Tables[], Tables[]] {
  const windowBytes = Math.min(WINDOW_BYTES, Math.floor((4 * WINDOW_BYTES) / sides.flat().length));
  const of = (side: Side): Tables[] =>
    side.map((file) =>
      file.onlySparse === undefined
        ? { at: (index) => entriesOf(file, index * GRAIN_TABLE_ENTRIES * grainBytes, grainBytes) }
        : new TableStream(file.onlySparse, windowBytes),
    );
  return [of(sides[0]), of(sides[1])];
}

/** What a side says of the grains of one table: the topmost entry of each, 0 where no link has one. */
async function answersOf(side: readonly Tables[], index: number): Promise<Uint32Array> {
  let answers: Uint32Array = NO_ENTRIES;
  for (const [place, stream] of side.entries()) {
    const entries = await stream.at(index);
    if (entries === NO_ENTRIES) continue;
    // The last link that has a say needs no copy.
    if (answers === NO_ENTRIES) answers = place === side.length - 1 ? entries : entries.slice();
    else for (let i = 0; i < GRAIN_TABLE_ENTRIES; i++) if (answers[i] === 0) answers[i] = entries[i]!;
  }
  return answers;
}

/** What a table of a disk of several extents, or of flat ones, would say from `start` on; of a grain's place only that it has one. */
async function entriesOf(file: ChainFile, start: number, grainBytes: number): Promise<Uint32Array> {
  const unknown = 0xffffffff;
  const someplace = ZEROED_GRAIN + 1;
  const entries = new Uint32Array(GRAIN_TABLE_ENTRIES).fill(unknown);
  const end = Math.min(file.size, start + GRAIN_TABLE_ENTRIES * grainBytes);
  for (let at = start; at < end; ) {
    const extent = await file.map(at, end - at, undefined);
    const entry =
      extent.kind === 'data' ? someplace : extent.kind === 'zero' && extent.allocated ? ZEROED_GRAIN : 0;
    const [first, last] = [at, at + extent.length - 1].map((byte) => Math.floor((byte - start) / grainBytes));
    // A grain that is not all of one kind may differ from anything.
    for (let i = first!; i <= last!; i++)
      entries[i] = entries[i] === unknown || entries[i] === entry ? entry : someplace;
    at += extent.length;
  }
  return entries.map((entry) => (entry === unknown ? 0 : entry));
}

function eachRun(differsAt: (grain: number) => boolean, visit: (first: number, count: number) => void): void {
  for (let grain = 0; grain < GRAIN_TABLE_ENTRIES; ) {
    const first = grain;
    while (grain < GRAIN_TABLE_ENTRIES && differsAt(grain)) grain++;
    if (grain > first) visit(first, grain - first);
    else grain++;
  }
}
