import type { Disk } from '@cowlab/core';
import type { BufferPool } from './buffer-pool.ts';
import type { Output } from './output.ts';
import { CHUNK_DONE } from './protocol.ts';
import { type Asked, putDataChunk, putHoleChunk, type ReplyMode } from './replies.ts';

/*
 * A long read whose zeros are told instead of sent. The mapping is asked first; then the reply is laid out in one
 * buffer, headers of chunks and data between them, and leaves in one piece. Where data and zeros change too often
 * everything is sent as data: a client has more work with many chunks than with some zeros.
 */

const MOST_RUNS = 64;
const CHUNK_HEAD_BYTES = 64;

interface Run {
  readonly offset: number;
  length: number;
  readonly zero: boolean;
}

export interface SparseReadParts {
  readonly disk: Disk;
  readonly mode: ReplyMode;
  readonly output: Output;
  readonly pool: BufferPool;
}

export class SparseRead {
  readonly #parts: SparseReadParts;

  constructor(parts: SparseReadParts) {
    this.#parts = parts;
  }

  async answer(asked: Asked, length: number, owed: number): Promise<void> {
    const { disk, mode, output, pool } = this.#parts;
    const runs = await this.#runsOf(asked.offset, length);
    const dataBytes = runs.reduce((sum, run) => sum + (run.zero ? 0 : run.length), 0);
    const buffer = pool.take(dataBytes + runs.length * CHUNK_HEAD_BYTES);
    let at = 0;
    for (const [index, run] of runs.entries()) {
      const part = {
        offset: run.offset,
        length: run.length,
        flags: index === runs.length - 1 ? CHUNK_DONE : 0,
      };
      if (run.zero) {
        at = putHoleChunk(buffer, at, mode, asked, part);
      } else {
        const start = putDataChunk(buffer, at, mode, asked, part);
        at = start + run.length;
        const pending = disk.read(run.offset, buffer.subarray(start, at));
        if (pending !== undefined) await pending;
      }
    }
    output.send(buffer, at, owed);
  }

  async #runsOf(offset: number, length: number): Promise<Run[]> {
    const runs: Run[] = [];
    for await (const extent of this.#parts.disk.extents(offset, length)) {
      const zero = extent.kind === 'zero';
      const last = runs.at(-1);
      if (last?.zero === zero) last.length += extent.length;
      else runs.push({ offset: extent.offset, length: extent.length, zero });
      if (runs.length > MOST_RUNS) return [{ offset, length, zero: false }];
    }
    return runs;
  }
}
