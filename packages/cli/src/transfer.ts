import { setImmediate } from 'node:timers/promises';
import {
  type Awaitable,
  CowlabError,
  type DiffExtent,
  type Disk,
  type DiskExtent,
  type LongCallOptions,
} from '@cowlab/core';

/*
 * Moving and comparing the contents of whole disks. Both walk extents, so that what reads as zeros costs
 * nothing, and take data in large pieces at multiples of the piece, so that allocation units stay whole.
 */

export const PIECE_BYTES: number = 2 * 1024 * 1024;
const MIN_GRANULE_BYTES = 4096;
const YIELD_MS = 50;
const ZEROS: Uint8Array = new Uint8Array(PIECE_BYTES);

/**
 * File I/O here is synchronous, so a long loop would never see a signal arrive: let the event loop turn now
 * and then, and stop where the caller wants to stop.
 */
export class Turns {
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

export function isZero(bytes: Uint8Array): boolean {
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
  const copy = new Copy(source, target, new Turns(options, source.size));
  await copy.range(0, source.size, () => undefined);
}

/**
 * Makes `target` equal to `source` wherever `changes` say, and as far as `source` reaches; zeros are made without
 * writing them where the target's format can. Rejects with `ERR_ABORTED`.
 */
export async function copyChanges(
  source: Disk,
  target: Disk,
  changes: AsyncIterable<DiffExtent>,
  options: LongCallOptions = {},
): Promise<void> {
  const copy = new Copy(source, target, new Turns(options, source.size));
  for await (const { offset, length } of changes) {
    const end = Math.min(offset + length, source.size);
    await copy.range(offset, end, (at, bytes) => target.writeZeroes(at, bytes));
  }
}

/** What to do with a run of zeros of the source. */
type OnZeros = (offset: number, length: number) => Awaitable<void>;

class Copy {
  readonly #source: Disk;
  readonly #target: Disk;
  readonly #turns: Turns;
  readonly #granule: number;
  readonly #buffer: Uint8Array = new Uint8Array(PIECE_BYTES);

  constructor(source: Disk, target: Disk, turns: Turns) {
    this.#source = source;
    this.#target = target;
    this.#turns = turns;
    this.#granule = Math.min(PIECE_BYTES, Math.max(MIN_GRANULE_BYTES, target.unitBytes));
  }

  async range(start: number, end: number, onZeros: OnZeros): Promise<void> {
    if (start >= end) return;
    for await (const extent of this.#source.extents(start, end - start)) {
      const extentEnd = extent.offset + extent.length;
      if (extent.kind === 'zero') await onZeros(extent.offset, extent.length);
      else await this.#data(extent.offset, extentEnd, onZeros);
      await this.#turns.reached(extentEnd);
    }
  }

  async #data(start: number, end: number, onZeros: OnZeros): Promise<void> {
    for (let at = start; at < end; ) {
      const stop = pieceEnd(at, end);
      const piece = this.#buffer.subarray(0, stop - at);
      await this.#source.read(at, piece);
      await this.#piece(at, piece, onZeros);
      at = stop;
      await this.#turns.reached(at);
    }
  }

  /** Granules that are all zeros, and those that are not, neighbours together. */
  async #piece(offset: number, piece: Uint8Array, onZeros: OnZeros): Promise<void> {
    const endOf = (at: number): number =>
      Math.min(piece.length, at + this.#granule - ((offset + at) % this.#granule));
    for (let start = 0; start < piece.length; ) {
      let stop = endOf(start);
      const zero = isZero(piece.subarray(start, stop));
      while (stop < piece.length && isZero(piece.subarray(stop, endOf(stop))) === zero) stop = endOf(stop);
      if (zero) await onZeros(offset + start, stop - start);
      else await this.#target.write(offset + start, piece.subarray(start, stop));
      start = stop;
    }
  }
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
  return new Comparison(a, b, new Turns(options, total)).within(0, total);
}

/** The same, up to `end` and outside of `changes` only; both disks reach to `end`. */
export async function firstDifferenceOutside(
  a: Disk,
  b: Disk,
  end: number,
  changes: AsyncIterable<DiffExtent>,
  options: LongCallOptions = {},
): Promise<number | undefined> {
  const comparison = new Comparison(a, b, new Turns(options, end));
  let at = 0;
  for await (const { offset, length } of changes) {
    const found = await comparison.within(at, Math.min(offset, end));
    if (found !== undefined) return found;
    at = offset + length;
  }
  return comparison.within(at, end);
}

/** Two disks side by side; ranges are asked for at rising offsets. */
class Comparison {
  readonly #left: Cursor;
  readonly #right: Cursor;
  readonly #turns: Turns;

  constructor(a: Disk, b: Disk, turns: Turns) {
    this.#left = new Cursor(a);
    this.#right = new Cursor(b);
    this.#turns = turns;
  }

  /** The first offset in the range at which they differ. */
  async within(start: number, rangeEnd: number): Promise<number | undefined> {
    const [left, right] = [this.#left, this.#right];
    for (let at = start; at < rangeEnd; ) {
      const [inLeft, inRight] = [await left.at(at), await right.at(at)];
      const end = Math.min(rangeEnd, inLeft.end, inRight.end);
      if (inLeft.zero && inRight.zero) {
        at = end;
      } else {
        const stop = pieceEnd(at, end);
        const one = await left.bytes(at, stop - at, inLeft.zero);
        const other = await right.bytes(at, stop - at, inRight.zero);
        if (Buffer.compare(one, other) !== 0)
          return at + one.findIndex((byte, index) => byte !== other[index]);
        at = stop;
      }
      await this.#turns.reached(at);
    }
    return undefined;
  }
}
