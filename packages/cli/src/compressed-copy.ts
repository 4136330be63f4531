import type { Disk, LongCallOptions } from '@cowlab/core';
import { isZero, PIECE_BYTES, Turns } from './transfer.ts';

/*
 * Copying a disk into one whose data are stored compressed. Extents are taken in whole units of the target, in rising
 * order, each unit once, and units of zeros are left out. Encoding takes most of the time, and is done beside: while
 * two pieces are under way, the next one is read.
 */

const PIECES_UNDER_WAY = 2;

/** Copies everything that is not zero from `source` into `target`, which reads as zeros and is at least as large. */
export async function copyCompressed(
  source: Disk,
  target: Disk,
  options: LongCallOptions = {},
): Promise<void> {
  const copy = new CompressedCopy(source, target, new Turns(options, source.size));
  try {
    await copy.all();
  } finally {
    await copy.settled();
  }
}

class CompressedCopy {
  readonly #source: Disk;
  readonly #target: Disk;
  readonly #turns: Turns;
  readonly #pieceBytes: number;
  /** What is compressed as one, so that it must come as one. */
  readonly #unitBytes: number;
  readonly #underWay: Promise<unknown>[] = [];
  readonly #free: Uint8Array[];

  constructor(source: Disk, target: Disk, turns: Turns) {
    this.#source = source;
    this.#target = target;
    this.#turns = turns;
    this.#unitBytes = target.image.reserveBytes ?? target.unitBytes;
    this.#pieceBytes = Math.max(PIECE_BYTES, this.#unitBytes);
    this.#free = Array.from({ length: PIECES_UNDER_WAY + 1 }, () => new Uint8Array(this.#pieceBytes));
  }

  async all(): Promise<void> {
    const { size } = this.#target;
    const unitBytes = this.#unitBytes;
    let done = 0;
    for await (const { kind, offset, length } of this.#source.extents()) {
      const end = Math.min(size, Math.ceil((offset + length) / unitBytes) * unitBytes);
      const start = Math.max(done, Math.floor(offset / unitBytes) * unitBytes);
      if (kind !== 'zero' && start < end) {
        await this.#range(start, end);
        done = end;
      }
      await this.#turns.reached(offset + length);
    }
    await Promise.all(this.#underWay);
  }

  /** Nothing goes on after this, whatever came of it. */
  async settled(): Promise<void> {
    await Promise.allSettled(this.#underWay);
  }

  async #range(start: number, end: number): Promise<void> {
    for (let at = start; at < end; ) {
      const stop = Math.min(end, at - (at % this.#pieceBytes) + this.#pieceBytes);
      const buffer = await this.#buffer();
      const piece = buffer.subarray(0, stop - at);
      const known = Math.max(0, Math.min(piece.length, this.#source.size - at));
      await this.#source.read(at, piece.subarray(0, known));
      piece.fill(0, known);
      this.#start(at, piece, buffer);
      at = stop;
      await this.#turns.reached(Math.min(at, this.#source.size));
    }
  }

  /** A buffer that nobody uses: the oldest piece's, when all are under way. */
  async #buffer(): Promise<Uint8Array> {
    while (this.#free.length === 0) await this.#underWay.shift();
    return this.#free.pop() as Uint8Array;
  }

  #start(offset: number, piece: Uint8Array, buffer: Uint8Array): void {
    const writing = this.#write(offset, piece).then(() => this.#free.push(buffer));
    // Whoever takes it from the queue hears of a failure; until then nobody does, and the process would end.
    writing.catch(() => undefined);
    this.#underWay.push(writing);
  }

  /** Units that are all zeros are left out; those that are not, neighbours together. */
  async #write(offset: number, piece: Uint8Array): Promise<void> {
    const unitBytes = this.#unitBytes;
    const isZeroAt = (at: number): boolean => isZero(piece.subarray(at, at + unitBytes));
    const writes: Promise<unknown>[] = [];
    for (let start = 0; start < piece.length; ) {
      let stop = start;
      while (stop < piece.length && !isZeroAt(stop)) stop += unitBytes;
      if (stop > start)
        writes.push(this.#target.writeCompressed(offset + start, piece.subarray(start, stop)));
      start = stop + unitBytes;
    }
    await Promise.all(writes);
  }
}
