import type { DiffExtent, Disk, DiskExtent, LongCallOptions } from '@cowlab/core';
import { PIECE_BYTES, pieceEnd, Turns, ZEROS } from './transfer.ts';

/* Comparing the contents of whole disks. Both are walked by extents, so that what reads as zeros costs nothing. */

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
