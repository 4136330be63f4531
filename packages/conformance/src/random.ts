/**
 * A small seeded generator (mulberry32): the same seed gives the same run, on every machine.
 * Not for anything but tests.
 */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** A whole number, 0 ≤ n < `bound`; `bound` at most 2^32. */
  below(bound: number): number {
    return Math.floor((this.#next() / 0x1_0000_0000) * bound);
  }

  /** One of `items`, which is not empty. */
  pick<T>(items: readonly T[]): T {
    const item = items[this.below(items.length)];
    if (item === undefined) throw new RangeError('nothing to pick from');
    return item;
  }

  #next(): number {
    this.#state = (this.#state + 0x6d2b_79f5) >>> 0;
    let mixed = this.#state;
    mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return (mixed ^ (mixed >>> 14)) >>> 0;
  }
}

/**
 * `length` bytes that belong to `tag`: no byte is zero, and no two tags agree over a run of sectors, so that
 * a byte out of place shows.
 */
export function pattern(tag: number, length: number): Uint8Array {
  return noise(tag, length).map((byte) => byte | 1);
}

/** `length` bytes that belong to `tag`, and that nothing makes smaller. */
export function noise(tag: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  let state = (Math.imul(tag + 1, 0x9e37_79b1) | 1) >>> 0;
  for (let index = 0; index < length; index++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    bytes[index] = state & 0xff;
  }
  return bytes;
}

/** Of every four units three are so repetitive that any compression makes them smaller; the fourth is noise. */
export function compressible(tag: number, length: number, unitBytes: number): Uint8Array {
  const bytes = noise(tag, length);
  const period = 48;
  for (let start = 0; start < length; start += unitBytes) {
    if ((start / unitBytes) % 4 === 3) continue;
    const unit = bytes.subarray(start, start + unitBytes);
    for (let at = period; at < unit.length; at += period) {
      unit.copyWithin(at, 0, Math.min(period, unit.length - at));
    }
  }
  return bytes;
}

/** The seed of this run: `COWLAB_SEED` where it is set, a new one otherwise. */
export function runSeed(): number {
  const given = process.env['COWLAB_SEED'];
  if (given === undefined || given === '') return Math.floor(Math.random() * 0x7fff_ffff);
  const seed = Number(given);
  if (!Number.isInteger(seed)) throw new TypeError(`COWLAB_SEED is not a whole number: ${given}`);
  return seed;
}
