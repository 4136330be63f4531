/** A fixed-length row of bits, one bit each, all clear at first. Indices are not checked. */
export class Bitset {
  readonly length: number;
  readonly words: Uint32Array;

  constructor(length: number) {
    this.length = length;
    this.words = new Uint32Array(Math.ceil(length / 32));
  }

  get(index: number): boolean {
    return ((this.words[index >>> 5]! >>> (index & 31)) & 1) === 1;
  }

  set(index: number): void {
    this.words[index >>> 5]! |= 1 << (index & 31);
  }

  clear(index: number): void {
    this.words[index >>> 5]! &= ~(1 << (index & 31));
  }

  setRange(start: number, end: number): void {
    this.#fillRange(start, end, true);
  }

  clearRange(start: number, end: number): void {
    this.#fillRange(start, end, false);
  }

  /** The first clear index from `from` on, or -1. */
  nextClear(from: number): number {
    return this.#next(from, 0xffffffff);
  }

  /** The first set index from `from` on, or -1. */
  nextSet(from: number): number {
    return this.#next(from, 0);
  }

  /** How many bits are set. */
  count(): number {
    let total = 0;
    for (let word of this.words) {
      word -= (word >>> 1) & 0x55555555;
      word = (word & 0x33333333) + ((word >>> 2) & 0x33333333);
      total += Math.imul((word + (word >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
    }
    return total;
  }

  /** A copy of another length; bits that fit are kept. */
  resized(length: number): Bitset {
    const copy = new Bitset(length);
    copy.words.set(this.words.subarray(0, copy.words.length));
    const spare = length & 31;
    if (length < this.length && spare !== 0) copy.words[copy.words.length - 1]! &= (1 << spare) - 1;
    return copy;
  }

  #fillRange(start: number, end: number, value: boolean): void {
    let index = start;
    const step = (until: number): void => {
      for (; index < until; index++) {
        if (value) this.set(index);
        else this.clear(index);
      }
    };
    step(Math.min(end, (start + 31) & ~31));
    const lastWord = end >>> 5;
    if (index >>> 5 < lastWord) {
      this.words.fill(value ? 0xffffffff : 0, index >>> 5, lastWord);
      index = lastWord * 32;
    }
    step(end);
  }

  /** `skip` is the word in which there is nothing to find: its complement's bits are what is sought. */
  #next(from: number, skip: number): number {
    if (from >= this.length) return -1;
    let at = from >>> 5;
    let word = (this.words[at]! ^ skip) & (0xffffffff << (from & 31));
    while (word === 0) {
      at++;
      if (at >= this.words.length) return -1;
      word = this.words[at]! ^ skip;
    }
    const index = at * 32 + (31 - Math.clz32(word & -word));
    return index < this.length ? index : -1;
  }
}
