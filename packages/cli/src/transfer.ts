import { setImmediate } from 'node:timers/promises';
import { CowlabError, type Disk, type DiskExtent, type LongCallOptions } from '@cowlab/core';

/*
 * Moving and comparing the contents of whole disks. Both walk extents, so that what reads as zeros costs
 * nothing, and take data in large pieces at multiples of the piece, so that allocation units stay whole.
 */

const PIECE_BYTES = 2 * 1024 * 1024;
const MIN_GRANULE_BYTES = 4096;
const YIELD_MS = 50;
const ZEROS: Uint8Array = new Uint8Array(PIECE_BYTES);

/**
 * File I/O here is synchronous, so a long loop would never see a signal arrive: let the event loop turn now
 * and then, and stop where the caller wants to stop.
 */
class Turns {
  readonly #options: LongCallOptions;
  readonly #total: number;
  #last = performance.now();

  constructor(options: LongCallOptions, total: number) {
    this.#options = options;
    this.#total = total;
  }

  async reached(done: number): Promise<void> {
    this.#options.onProgress?.({ done, total: this.#total });
    if (performance.now() - this.#last < YIELD_MS) return;
    await setImmediate();
    this.#last = performance.now();
    if (this.#options.signal?.aborted) {
      throw new CowlabError('ERR_ABORTED', 'interrupted', {}, this.#options.signal.reason);
    }
  }
}

function isZero(bytes: Uint8Array): boolean {
  return Buffer.compare(bytes, ZEROS.subarray(0, bytes.length)) === 0;
}

/** Where the next piece that starts at `offset` ends. */
function pieceEnd(offset: number, end: number): number {
  return Math.min(end, offset - (offset % PIECE_BYTES) + PIECE_BYTES);
}

/**
 * Copies everything that is not zero from `source` into `target`, which reads as zeros and is at least as
 * large. Units of `target` that would hold only zeros are left out. Rejects with `ERR_ABORTED`.
 */
export async function copyDisk(source: Disk, target: Disk, options: LongCallOptions = {}): Promise<void> {
  const buffer = new Uint8Array(PIECE_BYTES);
  const granule = Math.min(PIECE_BYTES, Math.max(MIN_GRANULE_BYTES, target.unitBytes));
  const turns = new Turns(options, source.size);
  for await (const extent of source.extents()) {
    const end = extent.offset + extent.length;
    for (let at = extent.offset; extent.kind !== 'zero' && at < end; ) {
      const stop = pieceEnd(at, end);
      const piece = buffer.subarray(0, stop - at);
      await source.read(at, piece);
      await writeData(target, at, piece, granule);
      at = stop;
      await turns.reached(at);
    }
    await turns.reached(end);
  }
}

/** Writes the granules of a piece that are not all zeros, neighbours together. */
async function writeData(target: Disk, offset: number, piece: Uint8Array, granule: number): Promise<void> {
  let start: number | undefined;
  for (let at = 0; at < piece.length; ) {
    const stop = Math.min(piece.length, at + granule - ((offset + at) % granule));
    const zero = isZero(piece.subarray(at, stop));
    if (zero && start !== undefined) {
      await target.write(offset + start, piece.subarray(start, at));
      start = undefined;
    } else if (!zero) {
      start ??= at;
    }
    at = stop;
  }
  if (start !== undefined) await target.write(offset + start, piece.subarray(start));
}

/** The extents of a disk, asked for at rising offsets; past the disk's end everything is zero. */
class Cursor {
  readonly #disk: Disk;
  readonly #extents: AsyncIterator<DiskExtent>;
  readonly #buffer: Uint8Array = new Uint8Array(PIECE_BYTES);
  #current: DiskExtent | undefined;

  constructor(disk: Disk) {
    this.#disk = disk;
    this.#extents = disk.extents();
  }

  async at(offset: number): Promise<{ readonly zero: boolean; readonly end: number }> {
    if (offset >= this.#disk.size) return { zero: true, end: Number.MAX_SAFE_INTEGER };
    while (this.#current === undefined || this.#current.offset + this.#current.length <= offset) {
      const next = await this.#extents.next();
      if (next.done === true) return { zero: true, end: Number.MAX_SAFE_INTEGER };
      this.#current = next.value;
    }
    return { zero: this.#current.kind === 'zero', end: this.#current.offset + this.#current.length };
  }

  async bytes(offset: number, length: number, zero: boolean): Promise<Uint8Array> {
    if (zero) return ZEROS.subarray(0, length);
    const target = this.#buffer.subarray(0, length);
    await this.#disk.read(offset, target);
    return target;
  }
}

/** The first offset at which two disks differ, the shorter one continued with zeros; undefined when none. */
export async function firstDifference(
  a: Disk,
  b: Disk,
  options: LongCallOptions = {},
): Promise<number | undefined> {
  const total = Math.max(a.size, b.size);
  const turns = new Turns(options, total);
  const [left, right] = [new Cursor(a), new Cursor(b)];
  for (let at = 0; at < total; ) {
    const [inLeft, inRight] = [await left.at(at), await right.at(at)];
    const end = Math.min(total, inLeft.end, inRight.end);
    if (inLeft.zero && inRight.zero) {
      at = end;
    } else {
      const stop = pieceEnd(at, end);
      const one = await left.bytes(at, stop - at, inLeft.zero);
      const other = await right.bytes(at, stop - at, inRight.zero);
      if (Buffer.compare(one, other) !== 0) return at + one.findIndex((byte, index) => byte !== other[index]);
      at = stop;
    }
    await turns.reached(at);
  }
  return undefined;
}
