import type { DiskExtent } from '@cowlab/core';
import type { WireFailure } from './failures.ts';
import type { MetaContext } from './meta-contexts.ts';
import { Chunk, CHUNK_DONE, WireError } from './protocol.ts';
import { type Asked, chunkHeaderBytes, putChunk } from './replies.ts';
import type { SparseReadParts } from './sparse-read.ts';

/*
 * BLOCK_STATUS: for each context that the client has selected, runs of equal status from the offset on. An answer may
 * end before the range does; the client asks again from there. So it is bounded, in size and in what is looked at.
 *
 *   payload    context 4, then per run: length 4  status 4
 *   extended   context 4  runs 4, then per run: length 8  status 8
 */

const MOST_RUNS = 2048;
/** The mapping may have many extents of one status. */
const MOST_EXTENTS = 16_384;
/** More than all chunks of a reply take together. */
export const MOST_STATUS_BYTES: number = 2 * (MOST_RUNS * 16 + 64);

interface StatusRun {
  length: number;
  readonly status: number;
}

export interface BlockStatusParts extends SparseReadParts {
  readonly contexts: readonly MetaContext[];
}

export class BlockStatus {
  readonly #parts: BlockStatusParts;

  constructor(parts: BlockStatusParts) {
    this.#parts = parts;
  }

  refusal(length: number): WireFailure | undefined {
    if (length === 0) return { error: WireError.invalid, message: 'block status of no bytes' };
    if (this.#parts.contexts.length > 0) return undefined;
    return { error: WireError.invalid, message: 'no metadata context was selected' };
  }

  /** `mostRuns`: how many runs each context is told. */
  async answer(asked: Asked, length: number, mostRuns: number, owed: number): Promise<void> {
    const { contexts, output } = this.#parts;
    const columns = await this.#columns(asked.offset, length, Math.min(mostRuns, MOST_RUNS));
    output.reserve(MOST_STATUS_BYTES);
    let at = output.at;
    for (const [index, { id }] of contexts.entries()) {
      const flags = index === contexts.length - 1 ? CHUNK_DONE : 0;
      at = this.#put(output.buffer, at, asked, { id, runs: columns[index] ?? [], flags });
    }
    output.commit(at, owed);
  }

  /** The runs of each context, none longer than what was asked for. */
  async #columns(offset: number, length: number, mostRuns: number): Promise<StatusRun[][]> {
    const { disk, contexts } = this.#parts;
    const columns: StatusRun[][] = contexts.map(() => []);
    let extents = 0;
    for await (const extent of disk.extents(offset, length)) {
      // Every column takes the extent, until one more run than may be told shows that it is full.
      for (const [index, context] of contexts.entries())
        addRun(columns[index] ?? [], context, extent, mostRuns + 1);
      if (++extents === MOST_EXTENTS || columns.every((runs) => runs.length > mostRuns)) break;
    }
    return columns.map((runs) => runs.slice(0, mostRuns));
  }

  #put(
    to: Buffer,
    start: number,
    asked: Asked,
    { id, runs, flags }: { id: number; runs: readonly StatusRun[]; flags: number },
  ): number {
    const { mode } = this.#parts;
    const extended = mode === 'extended';
    const type = extended ? Chunk.blockStatusExtended : Chunk.blockStatus;
    const length = extended ? 8 + runs.length * 16 : 4 + runs.length * 8;
    let at = putChunk(to, start, mode, asked, { type, flags, length });
    at = to.writeUInt32BE(id, at);
    if (extended) at = to.writeUInt32BE(runs.length, at);
    for (const run of runs) {
      if (extended) {
        at = to.writeBigUInt64BE(BigInt(run.length), at);
        at = to.writeBigUInt64BE(BigInt(run.status), at);
      } else {
        at = to.writeUInt32BE(run.length, at);
        at = to.writeUInt32BE(run.status, at);
      }
    }
    return start + chunkHeaderBytes(mode) + length;
  }
}

function addRun(runs: StatusRun[], context: MetaContext, extent: DiskExtent, mostRuns: number): void {
  const status = context.status(extent);
  const last = runs.at(-1);
  if (runs.length === mostRuns) return;
  if (last?.status === status) last.length += extent.length;
  else runs.push({ length: extent.length, status });
}
