import type { Backing, Storage } from '@cowlab/core';
import { ABSENT, ZERO } from './layout.ts';
import { mapState } from './mapping.ts';
import type { Space } from './space.ts';
import type { ChunkTable } from './table.ts';
import type { State } from './tree.ts';

/*
 * A new size is a table of its own, made beside the present one and published in its place: until that is durable
 * nothing of the present one has changed.
 *
 *   shrink   what lies past the new end becomes absent; a block that the end cuts is copied, its rest zeros
 *   grow     new blocks are absent; where a base would answer for them they are zero; the block that the old end
 *            cuts is copied if it is the base's
 */

/** Runs of host blocks that a new table refers to no longer, and blocks that it has taken. */
export interface Resized {
  readonly table: ChunkTable;
  readonly released: readonly (readonly [host: number, count: number])[];
  readonly taken: readonly number[];
  /** Guest chunks whose entries have changed. */
  readonly changed: readonly number[];
}

export interface ResizeParts {
  readonly state: State;
  readonly storage: Storage;
  readonly space: Space;
  readonly base: Backing | undefined;
}

export async function resizedTable(parts: ResizeParts, size: number): Promise<Resized> {
  const { state, base } = parts;
  const { chunkBytes, blockBytes } = state.table.geometry;
  const chunks = Math.ceil(size / chunkBytes);
  const released: [number, number][] = [];
  const taken: number[] = [];
  const changed: number[] = [];
  const table = state.table.copy(Math.max(chunks, state.table.chunks));
  const set = (from: number, to: number, host: number): void => {
    setBlocks(table, from, to, host, changed, (old, count) => released.push([old, count]));
  };
  const end = Math.min(size, state.size);
  const cut = end % blockBytes === 0 ? undefined : await copyOfCut(parts, end);
  const firstBlock = Math.ceil(end / blockBytes);
  if (cut !== undefined) {
    taken.push(cut);
    set(firstBlock - 1, firstBlock, cut);
  }
  if (size < state.size) set(firstBlock, Math.ceil(state.size / blockBytes), ABSENT);
  else if (base !== undefined && base.size > state.size) {
    set(firstBlock, Math.ceil(Math.min(size, base.size) / blockBytes), ZERO);
  }
  return { table: table.copy(chunks), released, taken, changed };
}

function setBlocks(
  table: ChunkTable,
  from: number,
  to: number,
  host: number,
  changed: number[],
  released: (host: number, count: number) => void,
): void {
  const { blocksPerChunk } = table.geometry;
  for (let at = from; at < to; ) {
    const chunk = Math.floor(at / blocksPerChunk);
    const block = at - chunk * blocksPerChunk;
    const isLast = Math.ceil(to / blocksPerChunk) - 1 === chunk;
    // Blocks past the end of the disk are nobody's: a mark covers its chunk to the end.
    const count =
      (isLast && host <= ZERO ? blocksPerChunk : Math.min(to - chunk * blocksPerChunk, blocksPerChunk)) -
      block;
    table.set(chunk, block, count, host, released);
    changed.push(chunk);
    at += count;
  }
}

/** The block that `end` cuts, copied to a new place with zeros past `end`; undefined when it reads so already. */
async function copyOfCut(
  { state, storage, space, base }: ResizeParts,
  end: number,
): Promise<number | undefined> {
  const { blockBytes, blocksPerChunk } = state.table.geometry;
  const start = end - (end % blockBytes);
  const extent = mapState(state.table, storage, base, () => true, start, blockBytes);
  const isOwn = extent.kind === 'data' && end === state.size;
  if (extent.kind === 'zero' || extent.kind === 'encoded' || isOwn) return undefined;
  const bytes = new Uint8Array(blockBytes);
  const kept = bytes.subarray(0, end - start);
  if (extent.kind === 'data') await storage.read(extent.hostOffset, kept);
  else {
    const inside = Math.max(0, Math.min(kept.length, extent.source.size - start));
    if (inside > 0) await extent.source.read(start, kept.subarray(0, inside));
  }
  const host = space.takePacked(1, (start / blockBytes) % blocksPerChunk);
  try {
    await storage.write(host * blockBytes, bytes);
  } catch (error) {
    space.release(space.chunkOf(host), 1);
    throw error;
  }
  return host;
}
