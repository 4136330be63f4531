/*
 * How often each host cluster is referred to, as counted by walking everything. Counts lie in small pages that
 * exist only where something refers to, so memory follows the metadata read, not a length that the file claims.
 */

const pageClusters = 256;

export class References {
  readonly #pages = new Map<number, Uint32Array>();
  #lastNumber = -1;
  #lastPage: Uint32Array | undefined;
  /** One past the last cluster that anything refers to. */
  end = 0;

  /** Counts `times` more for each cluster of a run. */
  add(first: number, count: number, times = 1): void {
    for (let cluster = first; cluster < first + count; cluster += 1) {
      const page =
        this.#page(Math.floor(cluster / pageClusters)) ?? this.#newPage(Math.floor(cluster / pageClusters));
      page[cluster % pageClusters]! += times;
    }
    if (first + count > this.end) this.end = first + count;
  }

  get(cluster: number): number {
    return this.#page(Math.floor(cluster / pageClusters))?.[cluster % pageClusters] ?? 0;
  }

  /** Every cluster that something refers to, in order. */
  *clusters(): Generator<number> {
    for (const number of [...this.#pages.keys()].toSorted((a, b) => a - b)) {
      const page = this.#pages.get(number)!;
      for (let within = 0; within < pageClusters; within += 1) {
        if (page[within] !== 0) yield number * pageClusters + within;
      }
    }
  }

  #page(number: number): Uint32Array | undefined {
    if (number === this.#lastNumber) return this.#lastPage;
    const page = this.#pages.get(number);
    if (page === undefined) return undefined;
    this.#lastNumber = number;
    this.#lastPage = page;
    return page;
  }

  #newPage(number: number): Uint32Array {
    const page = new Uint32Array(pageClusters);
    this.#pages.set(number, page);
    this.#lastNumber = number;
    this.#lastPage = page;
    return page;
  }
}
