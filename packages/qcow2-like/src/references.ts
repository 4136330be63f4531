/*
 * How often each host cluster is referred to, as counted by walking everything, and which COPIED flags the disk's own
 * references have. One 32-bit word for each cluster:
 *
 *   31 the disk refers to it with COPIED    30 the disk refers to it without    0-29 how often it is referred to
 *
 * Words lie in small pages that exist only where something refers to, so memory follows the metadata read, not a length
 * that the file claims. Pages are parts of large arrays: a terabyte has tens of thousands of them.
 */

const pageClusters = 256;
const pagesPerArray = 4096;

export const withCopied = 0x8000_0000;
export const withoutCopied = 0x4000_0000;
const countMask = 0x3fff_ffff;

export class References {
  /** Which page a number of clusters has: its place in the arrays. */
  readonly #pages = new Map<number, number>();
  readonly #arrays: Uint32Array[] = [];
  #lastNumber = -1;
  #lastPage = 0;
  /** One past the last cluster that anything refers to. */
  end = 0;

  /** Counts `times` more for each cluster of a run, and notes the flag of the disk's own reference, if it is one. */
  add(first: number, count: number, times = 1, flag = 0): void {
    const end = first + count;
    for (let cluster = first; cluster < end; ) {
      const number = Math.floor(cluster / pageClusters);
      const page = this.#page(number) ?? this.#newPage(number);
      const words = this.#arrays[Math.floor(page / pagesPerArray)]!;
      const base = (page % pagesPerArray) * pageClusters - number * pageClusters;
      const stop = Math.min(end, (number + 1) * pageClusters);
      for (; cluster < stop; cluster += 1) {
        const word = words[base + cluster]!;
        const sum = (word & countMask) + times;
        words[base + cluster] = (word & ~countMask) | flag | (sum > countMask ? countMask : sum);
      }
    }
    if (end > this.end) this.end = end;
  }

  get(cluster: number): number {
    return this.#word(cluster) & countMask;
  }

  /** Whether a COPIED flag of the disk's own references is wrong: it has to be there where the count is one. */
  hasWrongFlags(): boolean {
    const used = this.#pages.size * pageClusters;
    for (const [nth, words] of this.#arrays.entries()) {
      const end = Math.min(words.length, used - nth * words.length);
      for (let at = 0; at < end; at += 1) {
        const word = words[at]!;
        const wrong = (word & countMask) === 1 ? withoutCopied : withCopied;
        if ((word & wrong) !== 0) return true;
      }
    }
    return false;
  }

  /** Calls back for each cluster from `first` on whose count is not what `recorded` says of it. */
  compare(
    first: number,
    count: number,
    recorded: (nth: number) => number,
    onDifference: (cluster: number, expected: number, recorded: number) => void,
  ): void {
    for (let nth = 0; nth < count; ) {
      const number = Math.floor((first + nth) / pageClusters);
      const page = this.#page(number);
      const words = page === undefined ? nothing : this.#arrays[Math.floor(page / pagesPerArray)]!;
      const base = page === undefined ? 0 : (page % pagesPerArray) * pageClusters;
      const start = first + nth - number * pageClusters;
      const stop = Math.min(count, nth + pageClusters - start);
      for (let at = base + start; nth < stop; nth += 1, at += 1) {
        const expected = words[at]! & countMask;
        const found = recorded(nth);
        if (found !== expected) onDifference(first + nth, expected, found);
      }
    }
  }

  /** Every cluster that something refers to, in order; not those of a range of which `matters` says that it does not. */
  *clusters(matters: (first: number, last: number) => boolean = () => true): Generator<number> {
    for (const number of [...this.#pages.keys()].toSorted((a, b) => a - b)) {
      const end = (number + 1) * pageClusters;
      if (!matters(number * pageClusters, end - 1)) continue;
      for (let cluster = number * pageClusters; cluster < end; cluster += 1) {
        if (this.get(cluster) !== 0) yield cluster;
      }
    }
  }

  #word(cluster: number): number {
    const number = Math.floor(cluster / pageClusters);
    const page = this.#page(number);
    if (page === undefined) return 0;
    const within = cluster - number * pageClusters;
    return this.#arrays[Math.floor(page / pagesPerArray)]![(page % pagesPerArray) * pageClusters + within]!;
  }

  #page(number: number): number | undefined {
    if (number === this.#lastNumber) return this.#lastPage;
    const page = this.#pages.get(number);
    if (page === undefined) return undefined;
    this.#lastNumber = number;
    this.#lastPage = page;
    return page;
  }

  #newPage(number: number): number {
    const page = this.#pages.size;
    if (page % pagesPerArray === 0) this.#arrays.push(new Uint32Array(pagesPerArray * pageClusters));
    this.#pages.set(number, page);
    this.#lastNumber = number;
    this.#lastPage = page;
    return page;
  }
}

const nothing = new Uint32Array(pageClusters);
