import { Bitset } from '@cowlab/core';

/*
 * What of the front's table has changed since it was last written: pages, and within them blocks, as far as that is
 * worth remembering. A page of which nothing finer is known is to be written whole. Memory is bounded: with too many
 * ranges in all, further pages count as changed all over.
 */

/** Blocks `start … end` of a page, counted from its first one. */
export interface BlockRange {
  readonly start: number;
  readonly end: number;
}

const MAX_RANGES = 16_384;
/** A range is one number, the start in its high part: pages have at most 65,536 blocks. */
const START_UNIT = 2 ** 17;
/** What V8 takes for a range and for a list of them, at most. */
const RANGE_MEMORY = 16;
const LIST_MEMORY = 128;

export class PageChanges {
  readonly #whole: Bitset;
  readonly #ranges = new Map<number, number[]>();
  #count = 0;

  constructor(pages: number) {
    this.#whole = new Bitset(pages);
  }

  get residentBytes(): number {
    return this.#whole.words.byteLength + this.#count * RANGE_MEMORY + this.#ranges.size * LIST_MEMORY;
  }

  get isEmpty(): boolean {
    return this.#ranges.size === 0 && this.#whole.nextSet(0) < 0;
  }

  has(page: number): boolean {
    return this.#whole.get(page) || this.#ranges.has(page);
  }

  /** Pages of which the ranges are known. */
  pagesWithRanges(): number[] {
    return [...this.#ranges.keys()];
  }

  /** Anything in the page may have changed. */
  addPage(page: number): void {
    this.#whole.set(page);
    this.#count -= this.#ranges.get(page)?.length ?? 0;
    this.#ranges.delete(page);
  }

  /** Blocks of the page have changed; more than `most` ranges are not worth remembering. */
  addBlocks(page: number, start: number, count: number, most: number): void {
    if (this.#whole.get(page)) return;
    const list = this.#ranges.get(page) ?? [];
    const last = list.at(-1);
    if (last !== undefined && Math.floor(last / START_UNIT) + (last % START_UNIT) === start) {
      list[list.length - 1] = last + count;
      return;
    }
    if (list.length >= most || this.#count >= MAX_RANGES) {
      this.addPage(page);
      return;
    }
    list.push(start * START_UNIT + count);
    this.#ranges.set(page, list);
    this.#count++;
  }

  /** The changed blocks of a page, and `others`: rising, apart. Undefined when it may have changed all over. */
  rangesOf(page: number, others: readonly BlockRange[]): BlockRange[] | undefined {
    const list = this.#ranges.get(page);
    if (list === undefined) return undefined;
    const numbers = Float64Array.from([
      ...list,
      ...others.map(({ start, end }) => start * START_UNIT + end - start),
    ]).toSorted();
    const merged: { start: number; end: number }[] = [];
    for (const number of numbers) {
      const start = Math.floor(number / START_UNIT);
      const end = start + (number % START_UNIT);
      const last = merged.at(-1);
      if (last !== undefined && start <= last.end) last.end = Math.max(last.end, end);
      else merged.push({ start, end });
    }
    return merged;
  }

  /** Takes in what has changed later. The disk may have another number of pages by then. */
  addAll(later: PageChanges): void {
    const pages = this.#whole.length;
    for (let page = later.#whole.nextSet(0); page >= 0; page = later.#whole.nextSet(page + 1)) {
      if (page < pages) this.addPage(page);
    }
    for (const [page, list] of later.#ranges) {
      if (page >= pages) continue;
      for (const number of list) {
        this.addBlocks(page, Math.floor(number / START_UNIT), number % START_UNIT, MAX_RANGES);
      }
    }
  }
}
