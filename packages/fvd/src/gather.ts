import type { Storage } from '@cowlab/core';
import type { Runs } from './layout.ts';
import { ZERO } from './layout.ts';
import type { Space } from './space.ts';
import { type ChunkTable, continuation } from './table.ts';

/*
 * What keeps a chunk of the front together (P6). Each snapshot makes the next small write to a chunk go to another
 * place, so over a long history the chunk would end in as many places as it has blocks: as many reads for one MiB,
 * as many runs in memory and in every page. Therefore:
 *
 *   A chunk of the front lies in at most `limit` places. A *place* is a row of blocks that lie on the host as they
 *   lie in the chunk; holes (absent, zero) within it do not end it.
 *
 * A write to blocks that are not the front's own adds two places at most: itself, and the rest of the place that it
 * falls into. So before such a write to a chunk with more than `limit` - 2 places, those three neighbouring places
 * that span the fewest blocks are copied to one new place. That takes two away.
 *
 * Cost. The places of a chunk of B blocks can be parted into a third as many threes, which together span at most
 * B blocks; so the cheapest three span at most B ÷ ⌊places ÷ 3⌋: with 256 blocks and a limit of 64, 12 blocks, whoever
 * chooses the writes. Copying is bounded by that for each first write, not only on average, and a chunk that was
 * written to in fewer than `limit` ÷ 2 scattered places since it lay together is never copied at all.
 *
 * It is a write like any other: bytes to free space, then the table in memory and a run for the journal; the flush
 * makes the bytes durable before the run, and what the front has left is free once the run is durable and no
 * snapshot reaches it. Requests that reserve hold their whole chunk (`reserveBytes`), so no block moves under a
 * write that is under way.
 */

/** A row of blocks of one chunk: `end` is behind the last. */
interface Span {
  readonly start: number;
  readonly end: number;
}

/** How many places a first write adds at most. */
const ADDED = 2;
/** How many become one. */
const JOINED = 3;
/** The least limit: with more than `limit` - 2 places there are three to join. */
export const MIN_PLACES: number = ADDED + JOINED - 1;
/** A span that covers this part of its chunk gets a host chunk to itself. */
const LARGE_SHARE = 4;

/** The places that a split chunk lies in, in order, each from its first block to behind its last. */
function placesOf({ starts, hosts }: Runs, blocksPerChunk: number): Span[] {
  const places: { start: number; end: number }[] = [];
  let distance = Number.NaN;
  for (let run = 0; run < starts.length; run++) {
    const host = hosts[run]!;
    if (host <= ZERO) continue;
    const start = starts[run]!;
    const end = run + 1 < starts.length ? starts[run + 1]! : blocksPerChunk;
    if (host - start === distance) places.at(-1)!.end = end;
    else places.push({ start, end });
    distance = host - start;
  }
  return places;
}

/** Whether a chunk has to be gathered before something is written to a new place. */
export function isScattered(table: ChunkTable, chunk: number, limit: number): boolean {
  // A place has a run at least, so most chunks need no closer look.
  if (table.runCount(chunk) + ADDED <= limit) return false;
  let places = 0;
  let distance = Number.NaN;
  table.eachRun(chunk, (start, _count, host) => {
    if (host <= ZERO) return;
    if (host - start !== distance) places++;
    distance = host - start;
  });
  return places + ADDED > limit;
}

/** The neighbouring places that become one at the least cost. */
function cheapestSpan(runs: Runs, blocksPerChunk: number): Span {
  const places = placesOf(runs, blocksPerChunk);
  let best = { start: 0, end: blocksPerChunk };
  for (let last = JOINED - 1; last < places.length; last++) {
    const { start } = places[last - JOINED + 1]!;
    const { end } = places[last]!;
    if (end - start < best.end - best.start) best = { start, end };
  }
  return best;
}

/** A run of blocks with bytes, within a span that is gathered. */
interface Piece {
  readonly start: number;
  readonly count: number;
  readonly host: number;
}

function piecesOf({ starts, hosts }: Runs, span: Span, blocksPerChunk: number): Piece[] {
  const pieces: Piece[] = [];
  for (let run = 0; run < starts.length; run++) {
    const start = Math.max(span.start, starts[run]!);
    const end = Math.min(span.end, run + 1 < starts.length ? starts[run + 1]! : blocksPerChunk);
    const host = continuation(hosts[run]!, start - starts[run]!);
    if (host > ZERO && start < end) pieces.push({ start, count: end - start, host });
  }
  return pieces;
}

export interface GatherParts {
  readonly storage: Storage;
  readonly space: Space;
  readonly blockBytes: number;
  readonly blocksPerChunk: number;
}

/**
 * Copies the cheapest span of a chunk to one new place, and tells of each run of blocks in it where it is now;
 * space counts them there already. What lies in holes of the span stays a hole, on zeros that nothing refers to.
 */
export async function gatherSpan(
  { storage, space, blockBytes, blocksPerChunk }: GatherParts,
  runs: Runs,
  moved: (start: number, count: number, host: number) => void,
): Promise<void> {
  const span = cheapestSpan(runs, blocksPerChunk);
  const pieces = piecesOf(runs, span, blocksPerChunk);
  const length = span.end - span.start;
  const filled = pieces.reduce((sum, { count }) => sum + count, 0);
  const isLarge = length * LARGE_SHARE >= blocksPerChunk;
  const target = isLarge ? space.takeHome(length, span.start) : space.takePacked(length, span.start);
  const chunk = space.chunkOf(target);
  if (filled < length) space.release(chunk, length - filled);
  const bytes = new Uint8Array(length * blockBytes);
  try {
    for (const { start, count, host } of pieces) {
      const at = (start - span.start) * blockBytes;
      await storage.read(host * blockBytes, bytes.subarray(at, at + count * blockBytes));
    }
    await storage.write(target * blockBytes, bytes);
  } catch (error) {
    space.release(chunk, filled);
    throw error;
  }
  for (const { start, count } of pieces) moved(start, count, target + start - span.start);
}
