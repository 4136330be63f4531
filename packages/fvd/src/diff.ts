import type { DiffBatch, DiffExtent, Storage } from '@cowlab/core';
import {
  ABSENT,
  type ChunkEntry,
  decodeDelta,
  decodePage,
  type Delta,
  ENTRY_ABSENT,
  ENTRY_ZERO,
  type Geometry,
  isDelta,
  type PagePointers,
  type Region,
  type Runs,
  ZERO,
} from './layout.ts';
import { ChunkTable, continuation } from './table.ts';
import { eachPiece, presentPages } from './tree.ts';

/*
 * Where two states differ, by their tables alone. A host block that a snapshot reaches is never written again, so
 * blocks that lie in one place have one content. Pages are immutable too, and shared by the states that have not
 * changed them (tree.ts), so of most states most of the table is passed over without reading it:
 *
 *   pages of the two roots     then
 *   are the same               nothing differs; except for a page of the front with entries newer than the page
 *   are deltas over one page   the blocks that either speaks of are compared; the page under them is not read
 *   are not                    both are read, and their entries compared, block by block
 *
 * A block that only one of two deltas speaks of has been written since the other was, so it is named. Pages that have
 * to be read are taken in groups, so that the log is read in large pieces and memory is bounded; the page under a delta
 * is read when its turn comes.
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
  const found = [await contentsOf(comparison, 0, group), await contentsOf(comparison, 1, group)] as const;
  const extents: DiffExtent[] = [];
  for (const page of group) {
    const from = page * pageBytes;
    await comparePage(comparison, page, [found[0].get(page), found[1].get(page)], (start, length) => {
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

/** What one side's root points to: a page's bytes, or a delta. The front has a table instead. */
type Content = Uint8Array | Delta | undefined;

async function contentsOf(
  { storage, geometry, hostChunks, sides }: Comparison,
  side: 0 | 1,
  group: readonly number[],
): Promise<Map<number, Content>> {
  const { pages, front } = sides[side];
  const found = new Map<number, Content>();
  if (front !== undefined) return found;
  await eachPiece(storage, presentPages(pages, group), (piece) => {
    for (const [{ page }, content] of piece) {
      const delta = isDelta(content);
      found.set(page, delta ? decodeDelta(content, page, geometry, hostChunks, storage.name) : content);
    }
  });
  return found;
}

/** Visits the bytes of a page, counted from its start, that the two sides place differently. */
async function comparePage(
  comparison: Comparison,
  page: number,
  [one, other]: readonly [Content, Content],
  visit: (start: number, length: number) => void,
): Promise<void> {
  const areDeltas = isRuns(one) && isRuns(other);
  if (areDeltas && one.full.offset === other.full.offset) compareRuns(comparison, one, other, visit);
  else {
    const entries = await entriesOf(comparison, 0, page, one);
    compareEntries(comparison, entries, await entriesOf(comparison, 1, page, other), visit);
  }
}

function isRuns(content: Content): content is Delta {
  return content !== undefined && 'runs' in content;
}

/** The entries of a page on one side. */
async function entriesOf(
  { storage, geometry, hostChunks, sides }: Comparison,
  side: 0 | 1,
  page: number,
  content: Content,
): Promise<ChunkEntry[]> {
  const { pageChunks } = geometry;
  const { front } = sides[side];
  if (front !== undefined) {
    const first = page * pageChunks;
    const count = Math.min(pageChunks, front.table.chunks - first);
    return Array.from({ length: count }, (_, slot) => front.table.get(first + slot));
  }
  const table = new ChunkTable(geometry, pageChunks);
  let bytes = content;
  if (isRuns(bytes)) bytes = await readRegion(storage, bytes.full);
  if (bytes !== undefined) {
    decodePage(bytes, page, geometry, hostChunks, storage.name, (slot, count, entry) =>
      table.load(slot, count, entry),
    );
  }
  if (isRuns(content)) for (const run of content.runs) table.apply(run, () => undefined);
  return Array.from({ length: pageChunks }, (_, slot) => table.get(slot));
}

async function readRegion(storage: Storage, { offset, bytes }: Region): Promise<Uint8Array> {
  const content = new Uint8Array(bytes);
  await storage.read(offset, content, 'mapping');
  return content;
}

/** Whether blocks at these places have the same bytes. */
function isSame({ hasBase }: Comparison, a: number, b: number): boolean {
  return a === b || (!hasBase && a <= ZERO && b <= ZERO);
}

/** Goes over the blocks that either delta speaks of. */
function compareRuns(
  comparison: Comparison,
  one: Delta,
  other: Delta,
  visit: (start: number, length: number) => void,
): void {
  const { blockBytes } = comparison.geometry;
  const sides = [one.runs, other.runs] as const;
  const at: [number, number] = [0, 0];
  for (let block = 0; ; ) {
    for (const side of [0, 1] as const) {
      const run = sides[side][at[side]];
      if (run !== undefined && run.guest + run.count <= block) at[side]++;
    }
    const [a, b] = [sides[0][at[0]], sides[1][at[1]]];
    const [startA, startB] = [a?.guest ?? Infinity, b?.guest ?? Infinity];
    block = Math.max(block, Math.min(startA, startB));
    if (block === Infinity) return;
    const [inA, inB] = [startA <= block, startB <= block];
    const end = Math.min(inA ? a!.guest + a!.count : startA, inB ? b!.guest + b!.count : startB);
    const same =
      inA &&
      inB &&
      isSame(comparison, continuation(a!.host, block - startA), continuation(b!.host, block - startB));
    if (!same) visit(block * blockBytes, (end - block) * blockBytes);
    block = end;
  }
}

function compareEntries(
  comparison: Comparison,
  one: readonly ChunkEntry[],
  other: readonly ChunkEntry[],
  visit: (start: number, length: number) => void,
): void {
  const { blocksPerChunk, blockBytes, chunkBytes } = comparison.geometry;
  for (let slot = 0; slot < Math.min(one.length, other.length); slot++) {
    const [entry, against] = [one[slot]!, other[slot]!];
    if (entry === against) continue;
    const [a, b] = [runsOf(entry, blocksPerChunk), runsOf(against, blocksPerChunk)];
    let [inA, inB] = [0, 0];
    for (let block = 0; block < blocksPerChunk; ) {
      const [endA, endB] = [a.starts[inA + 1] ?? blocksPerChunk, b.starts[inB + 1] ?? blocksPerChunk];
      const end = Math.min(endA, endB);
      if (!isSame(comparison, hostOf(a, inA, block), hostOf(b, inB, block))) {
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
