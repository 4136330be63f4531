import type { DiffBatch, DiffExtent, Storage } from '@cowlab/core';
import {
  ABSENT,
  type ChunkEntry,
  decodePage,
  ENTRY_ABSENT,
  ENTRY_ZERO,
  type Geometry,
  type PagePointers,
  type Runs,
  ZERO,
} from './layout.ts';
import { type ChunkTable, continuation } from './table.ts';
import { eachPage } from './tree.ts';

/*
 * Where two states differ, by their tables alone. A host block that a snapshot reaches is never written again, so
 * blocks that lie in one place have one content. Pages are immutable too, and shared by the states that have not
 * changed them (tree.ts), so of most states most of the table is passed over without reading it:
 *
 *   pages of the two roots     then
 *   are the same               nothing differs; except for a page of the front with entries newer than the page
 *   are not                    both are read, and their entries compared, block by block
 *
 * Pages that have to be read are taken in groups, so that the log is read in large pieces and memory is bounded.
 */

/** One of the states. The front has entries in memory that its pages do not have. */
export interface Side {
  readonly pages: PagePointers;
  readonly front?: { readonly table: ChunkTable; readonly isTouched: (page: number) => boolean };
}

export interface Comparison {
  readonly storage: Storage;
  readonly geometry: Geometry;
  readonly hostChunks: number;
  /** Absent blocks are the base's; without one they read as zeros. */
  readonly hasBase: boolean;
  readonly sides: readonly [Side, Side];
}

/** A group has at most so many pages, and as many bytes of them unless it is a single one. */
const GROUP_PAGES = 1024;
const GROUP_BYTES = 1024 * 1024;
/** A batch ends with the page in which it comes to so many extents. */
const ENOUGH_EXTENTS = 16_384;

/** The extents between `offset` and `end`, or as many of them as one group of pages has. */
export async function diffStates(comparison: Comparison, offset: number, end: number): Promise<DiffBatch> {
  const { chunkBytes, pageChunks } = comparison.geometry;
  const pageBytes = pageChunks * chunkBytes;
  const { group, next } = groupFrom(comparison, Math.floor(offset / pageBytes), Math.ceil(end / pageBytes));
  const [one, other] = [await entriesOf(comparison, 0, group), await entriesOf(comparison, 1, group)];
  const extents: DiffExtent[] = [];
  for (const [at, page] of group.entries()) {
    const from = page * pageBytes;
    comparePage(comparison, one[at]!, other[at]!, (start, length) => {
      push(extents, Math.max(offset, from + start), Math.min(end, from + start + length));
    });
    if (extents.length >= ENOUGH_EXTENTS) return { extents, end: Math.min(end, from + pageBytes) };
  }
  return { extents, end: Math.min(end, next * pageBytes) };
}

function push(extents: DiffExtent[], start: number, end: number): void {
  if (start >= end) return;
  const last = extents.at(-1);
  if (last !== undefined && last.offset + last.length === start) {
    extents[extents.length - 1] = { offset: last.offset, length: end - last.offset };
  } else {
    extents.push({ offset: start, length: end - start });
  }
}

/** The next pages that the two sides do not share, and where to go on behind them. */
function groupFrom({ sides }: Comparison, first: number, last: number): { group: number[]; next: number } {
  const [one, other] = sides;
  const group: number[] = [];
  let bytes = 0;
  let page = first;
  for (; page < last && group.length < GROUP_PAGES; page++) {
    const isShared =
      one.pages.offsets[page] === other.pages.offsets[page] &&
      one.pages.bytes[page] === other.pages.bytes[page] &&
      !isTouched(one, page) &&
      !isTouched(other, page);
    if (isShared) continue;
    bytes += one.pages.bytes[page]! + other.pages.bytes[page]!;
    if (group.length > 0 && bytes > GROUP_BYTES) break;
    group.push(page);
  }
  return { group, next: page };
}

function isTouched({ front }: Side, page: number): boolean {
  return front?.isTouched(page) === true;
}

/** The entries of each page of the group. */
async function entriesOf(
  { storage, geometry, hostChunks, sides }: Comparison,
  side: 0 | 1,
  group: readonly number[],
): Promise<ChunkEntry[][]> {
  const { pages, front } = sides[side];
  const { pageChunks } = geometry;
  if (front !== undefined) {
    return group.map((page) => {
      const first = page * pageChunks;
      const count = Math.min(pageChunks, front.table.chunks - first);
      return Array.from({ length: count }, (_, slot) => front.table.get(first + slot));
    });
  }
  const all = group.map(() => new Array<ChunkEntry>(pageChunks).fill(ENTRY_ABSENT));
  const pointers = {
    offsets: Float64Array.from(group, (page) => pages.offsets[page]!),
    bytes: Uint32Array.from(group, (page) => pages.bytes[page]!),
  };
  await eachPage(storage, pointers, (at, content) => {
    const entries = all[at]!;
    decodePage(content, group[at]!, geometry, hostChunks, storage.name, (slot, count, entry) => {
      const step = typeof entry === 'number' && entry > 0 ? 1 : 0;
      for (let i = 0; i < count; i++) entries[slot + i] = step === 0 ? entry : (entry as number) + i;
    });
  });
  return all;
}

/** Visits the bytes of a page, counted from its start, that the two lists of entries place differently. */
function comparePage(
  { geometry, hasBase }: Comparison,
  one: readonly ChunkEntry[],
  other: readonly ChunkEntry[],
  visit: (start: number, length: number) => void,
): void {
  const { blocksPerChunk, blockBytes, chunkBytes } = geometry;
  const isSame = (a: number, b: number): boolean => a === b || (!hasBase && a <= ZERO && b <= ZERO);
  for (let slot = 0; slot < Math.min(one.length, other.length); slot++) {
    const [entry, against] = [one[slot]!, other[slot]!];
    if (entry === against) continue;
    const [a, b] = [runsOf(entry, blocksPerChunk), runsOf(against, blocksPerChunk)];
    let [inA, inB] = [0, 0];
    for (let block = 0; block < blocksPerChunk; ) {
      const [endA, endB] = [a.starts[inA + 1] ?? blocksPerChunk, b.starts[inB + 1] ?? blocksPerChunk];
      const end = Math.min(endA, endB);
      if (!isSame(hostOf(a, inA, block), hostOf(b, inB, block))) {
        visit(slot * chunkBytes + block * blockBytes, (end - block) * blockBytes);
      }
      if (end === endA) inA++;
      if (end === endB) inB++;
      block = end;
    }
  }
}

function runsOf(entry: ChunkEntry, blocksPerChunk: number): Runs {
  if (typeof entry !== 'number') return entry;
  const host = entry === ENTRY_ABSENT ? ABSENT : entry === ENTRY_ZERO ? ZERO : entry * blocksPerChunk;
  return { starts: [0], hosts: [host] };
}

function hostOf({ starts, hosts }: Runs, run: number, block: number): number {
  return continuation(hosts[run]!, block - starts[run]!);
}
