import { isCowlabError, type Storage } from '@cowlab/core';
import type { PageChanges } from './changes.ts';
import {
  decodeDelta,
  type Delta,
  DELTA_RUN_BYTES,
  encodeDelta,
  type Geometry,
  isDelta,
  type Region,
} from './layout.ts';
import type { ChunkTable } from './table.ts';
import { eachPiece, type PlacedPage } from './tree.ts';

/*
 * When a changed page is written whole, and when as a delta over what was last written whole (P5, P7).
 *
 * A delta says all that has changed since the whole page, so its length grows with each publication, while a page
 * written whole starts anew. The rule: a delta, as long as all deltas over a page, this one included, take no more
 * bytes than the page does. Then
 *
 *   no history writes more than whole pages would: for n publications over a page of F bytes, F at most
 *   where each publication adds d bytes to the delta, the page is due after about √(2F ÷ d) of them, and that is
 *   where deltas and whole pages together cost least: √(2Fd) each, instead of F
 *
 * Pages of less than 1 KiB (`min_delta_page`) are written whole always: a publication begins with a sector of its own
 * and writes a root besides, so there is little to save, and each delta is one more place to read.
 *
 * What the deltas have taken stands in the newest one, so the rule outlives the session. From the one before, a
 * delta takes the blocks that it has to speak of; where they are now, the table in memory knows.
 */

/** How many changed ranges of a page are worth remembering: a delta of more is longer than the page. */
export function rangesWorth({ bytes }: Region): number {
  return Math.floor(bytes / DELTA_RUN_BYTES);
}

export interface DeltaPlace {
  readonly storage: Storage;
  readonly geometry: Geometry;
  readonly hostChunks: number;
}

/**
 * Reads the present deltas of pages. From the first damaged one on they are left out, and their pages will be written
 * whole: the table in memory has all of them. A storage that fails is another matter, and reported.
 */
export async function recallDeltas(
  { storage, geometry, hostChunks }: DeltaPlace,
  deltas: readonly PlacedPage[],
): Promise<Map<number, Delta>> {
  const found = new Map<number, Delta>();
  try {
    await eachPiece(storage, deltas, (piece) => {
      for (const [{ page }, content] of piece) {
        if (isDelta(content)) found.set(page, decodeDelta(content, page, geometry, hostChunks, storage.name));
      }
    });
  } catch (error) {
    if (!isCowlabError(error, 'ERR_CORRUPT')) throw error;
  }
  return found;
}

/**
 * The delta that a page has come to, over the page `full`; undefined when it is to be written whole. `before` is the
 * delta that there is already, if any.
 */
export function deltaOf(
  table: ChunkTable,
  page: number,
  full: Region,
  changes: PageChanges,
  before: Delta | undefined,
): Uint8Array | undefined {
  const known = before?.runs.map(({ guest, count }) => ({ start: guest, end: guest + count })) ?? [];
  const ranges = changes.rangesOf(page, known);
  if (ranges === undefined) return undefined;
  const { pageChunks, blocksPerChunk } = table.geometry;
  const first = page * pageChunks * blocksPerChunk;
  const runs = ranges.flatMap(({ start, end }) =>
    table
      .runsBetween(first + start, first + end)
      .map(({ guest, count, host }) => ({ guest: guest - first, count, host })),
  );
  const spent = before?.spent ?? 0;
  if (spent + runs.length * DELTA_RUN_BYTES > full.bytes) return undefined;
  const delta = encodeDelta(page, full, spent, runs);
  return spent + delta.length > full.bytes ? undefined : delta;
}
