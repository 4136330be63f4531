import { Bitset } from '@cowlab/core';

/*
 * Which guest bytes were changed, in granules. Pages of 4,096 granules exist where something was changed, so memory
 * follows what is written, up to one bit for each granule of the disk.
 */

const pageGranules = 4096;
const pageBytes = pageGranules / 8;

export class Recording {
  readonly granuleBytes: number;
  readonly #pages = new Map<number, Bitset>();

  constructor(granuleBytes: number) {
    this.granuleBytes = granuleBytes;
  }

  get residentBytes(): number {
    return this.#pages.size * pageBytes;
  }

  /** Guest bytes that one page speaks for. */
  get pageSpanBytes(): number {
    return pageGranules * this.granuleBytes;
  }

  /** Numbers of the pages that exist, in order. */
  get pages(): number[] {
    return [...this.#pages.keys()].toSorted((a, b) => a - b);
  }

  add(offset: number, length: number): void {
    this.#inPages(offset, length, (number, from, to) => {
      let page = this.#pages.get(number);
      if (page === undefined) {
        page = new Bitset(pageGranules);
        this.#pages.set(number, page);
      }
      page.setRange(from, to);
      return true;
    });
  }

  /** Whether all of it has been recorded already. */
  covers(offset: number, length: number): boolean {
    return this.#inPages(offset, length, (number, from, to) => {
      const page = this.#pages.get(number);
      if (page === undefined) return false;
      const clear = page.nextClear(from);
      return clear === -1 || clear >= to;
    });
  }

  /** Forgets what lies past the end of a disk of `size` bytes. */
  truncate(size: number): void {
    const end = Math.ceil(size / this.granuleBytes);
    for (const [number, page] of this.#pages) {
      const within = end - number * pageGranules;
      if (within <= 0) this.#pages.delete(number);
      else if (within < pageGranules) page.clearRange(within, pageGranules);
    }
  }

  /** Calls back for each run of changed bytes that a page has. */
  runs(number: number, visit: (offset: number, length: number) => void): void {
    const page = this.#pages.get(number);
    if (page === undefined) return;
    for (let from = page.nextSet(0); from !== -1; ) {
      const clear = page.nextClear(from);
      const to = clear === -1 ? pageGranules : clear;
      visit((number * pageGranules + from) * this.granuleBytes, (to - from) * this.granuleBytes);
      from = to === pageGranules ? -1 : page.nextSet(to);
    }
  }

  /** Stops, with false, at the first page for which `use` says false. */
  #inPages(
    offset: number,
    length: number,
    use: (number: number, from: number, to: number) => boolean,
  ): boolean {
    const end = Math.ceil((offset + length) / this.granuleBytes);
    for (let granule = Math.floor(offset / this.granuleBytes); granule < end; ) {
      const number = Math.floor(granule / pageGranules);
      const stop = Math.min(end, (number + 1) * pageGranules);
      if (!use(number, granule - number * pageGranules, stop - number * pageGranules)) return false;
      granule = stop;
    }
    return true;
  }
}
