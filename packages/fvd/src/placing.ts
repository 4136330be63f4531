import { Bitset, type Placement, type Storage } from '@cowlab/core';
import { ZERO } from './layout.ts';
import type { Space } from './space.ts';
import type { ChunkTable } from './table.ts';

/*
 * Where bytes go that cannot be written in place: to the chunk's own home where it has one; to a fresh home, when the
 * chunk was absent or the write is large; to a packed place, when it is a little piece over static blocks. Whole blocks
 * only: an aligned write copies nothing.
 *
 * `placeChunks` is there to measure what that is worth. It does as the original: whatever is written to a chunk of
 * which a snapshot has blocks, all that the chunk has goes to a new home, and core fills it from the old state around
 * the write. What the chunk lacks stays a hole.
 */

/** A chunk may have this part of its blocks packed away from it before it gets a home for what comes next. */
const SCATTER_SHARE = 8;
/** A write over static blocks that covers this part of its chunk goes to a home at once. */
const LARGE_SHARE = 4;

interface Blocks {
  readonly start: number;
  readonly length: number;
}

/** Host blocks that have been set aside for blocks of a chunk; `count` 0: the bytes go where they are already. */
export interface FvdPlacement extends Placement {
  readonly chunk: number;
  readonly block: number;
  readonly count: number;
  readonly host: number;
  /** Where they do not follow each other: which blocks of the chunk they are, `count` in all. */
  readonly pieces?: readonly Blocks[];
}

/** What decides about a place. */
export interface Placing {
  readonly storage: Storage;
  readonly table: ChunkTable;
  readonly space: Space;
}

/** By block; space counts the blocks where they go. */
export function placeBlocks(placing: Placing, offset: number, length: number): FvdPlacement {
  const { chunkBytes, blockBytes, blocksPerChunk } = placing.table.geometry;
  const chunk = Math.floor(offset / chunkBytes);
  const within = offset - chunk * chunkBytes;
  const block = Math.floor(within / blockBytes);
  const wanted = Math.min(blocksPerChunk, Math.ceil((within + length) / blockBytes)) - block;
  const count = unowned(placing, chunk, block, wanted);
  const host = take(placing, chunk, block, count);
  return placement(placing, { chunk, block, count, host }, offset, length);
}

/** By chunk, where a snapshot has a part of it; by block elsewhere. */
export function placeChunks(placing: Placing, offset: number, length: number): FvdPlacement {
  const { space, table } = placing;
  const { chunkBytes, blockBytes, blocksPerChunk } = table.geometry;
  const chunk = Math.floor(offset / chunkBytes);
  const within = offset - chunk * chunkBytes;
  const start = Math.floor(within / blockBytes);
  const end = Math.min(blocksPerChunk, Math.ceil((within + length) / blockBytes));
  const own = new Bitset(blocksPerChunk);
  own.setRange(start, end);
  let isShared = false;
  table.eachRun(chunk, (first, count, host) => {
    if (host <= ZERO) return;
    own.setRange(first, first + count);
    if (!space.isOwned(host) || !space.isOwned(host + count - 1)) isShared = true;
  });
  if (!isShared) return placeBlocks(placing, offset, length);
  const pieces = piecesOf(own);
  const [{ start: block }] = pieces as [Blocks];
  const count = own.count();
  const last = pieces.at(-1)!;
  const host = space.takeHome(count, block);
  const blocks = { chunk, block, count: last.start + last.length - block, host };
  return { ...placement(placing, blocks, offset, length), count, pieces };
}

function piecesOf(blocks: Bitset): Blocks[] {
  const pieces: Blocks[] = [];
  for (let start = blocks.nextSet(0); start >= 0; ) {
    const clear = blocks.nextClear(start);
    const end = clear < 0 ? blocks.length : clear;
    pieces.push({ start, length: end - start });
    start = blocks.nextSet(end);
  }
  return pieces;
}

function placement(
  { storage, table }: Placing,
  blocks: Pick<FvdPlacement, 'chunk' | 'block' | 'count' | 'host'>,
  offset: number,
  length: number,
): FvdPlacement {
  const { chunkBytes, blockBytes } = table.geometry;
  const { chunk, block, count, host } = blocks;
  const head = offset - chunk * chunkBytes - block * blockBytes;
  const covered = Math.min(length, count * blockBytes - head);
  return {
    storage,
    guestOffset: offset,
    length: covered,
    hostOffset: host * blockBytes + head,
    head,
    tail: count * blockBytes - head - covered,
    fresh: false,
    chunk,
    block,
    count,
    host,
  };
}

/** How many of the blocks from `block` on are not the front's to overwrite, in a row, at most `wanted`. */
function unowned({ table, space }: Placing, chunk: number, block: number, wanted: number): number {
  let count = 0;
  while (count < wanted) {
    const found = table.find(chunk, block + count);
    if (found.host > ZERO && space.isOwned(found.host)) break;
    const { tailFrom } = space;
    const crosses = found.host > ZERO && tailFrom > found.host;
    count += crosses ? Math.min(found.count, tailFrom - found.host) : found.count;
  }
  return Math.min(count, wanted);
}

/** Where blocks of a chunk go: a host block. */
function take({ table, space }: Placing, chunk: number, block: number, count: number): number {
  const { blocksPerChunk } = table.geometry;
  let home: number | undefined;
  let scattered = 0;
  let hasStatic = false;
  table.eachRun(chunk, (start, length, host) => {
    if (host <= ZERO) return;
    const place = space.chunkOf(host);
    if (!space.isOwned(host)) hasStatic = true;
    else if (host - place * blocksPerChunk === start && !space.isStatic(place)) home ??= place;
    else scattered += length;
  });
  if (home !== undefined) {
    space.addBlocks(home, count);
    return home * blocksPerChunk + block;
  }
  const wantsHome =
    !hasStatic || count * LARGE_SHARE >= blocksPerChunk || scattered + count > blocksPerChunk / SCATTER_SHARE;
  return wantsHome ? space.takeHome(count, block) : space.takePacked(count, block);
}
