import { Bitset, type Storage } from '@cowlab/core';
import { reachedBy } from './front-use.ts';
import { type Region, SECTOR_BYTES } from './layout.ts';
import type { Change } from './publisher.ts';
import type { Space } from './space.ts';

/*
 * An ablation, for the benchmark alone: what do static refcounts save? With the open option `live_refcounts` an image
 * also does what QCOW2 does. Of every host chunk there is a count in memory, of the snapshots that reach it and of the
 * front, two bytes each; whatever changes one is written, by sectors, to a table on the disk:
 *
 *   raised    the front has taken the chunk, or a snapshot that is being made or applied reaches it: written before the
 *             F behind which the mapping, or the superblock, may become durable
 *   lowered   what let go of the chunk is durable already: written with the next ones
 *
 * So at any moment a count on the disk is as high as the chunk has users after a crash, or higher: a leak at worst, as with
 * QCOW2. No F more is needed for it. The table lies in chunks that are free for everyone else: nothing refers to them, so the
 * image stays as FORMAT.md has it, any other opening takes no notice, and close gives them back. It is not read again
 * either: at open the counts of the catalog and the front say the same, and reading them costs what it costs without.
 *
 * What has changed is seen by comparing the front's bits with those of the last time, so that the ordinary path has no
 * part in it.
 */

const COUNT_BYTES = 2;
const COUNTS_PER_SECTOR: number = SECTOR_BYTES / COUNT_BYTES;

export class LiveCounts {
  readonly #storage: Storage;
  readonly #space: Space;
  readonly #chunkBytes: number;
  /** Of each host chunk, how many reach it; as on the disk, but for the dirty sectors. */
  #table: Uint16Array = new Uint16Array(0);
  /** The front's bits that the table counts. */
  #front: Bitset = new Bitset(0);
  #dirty: Bitset = new Bitset(0);
  #region: Region = { offset: 0, bytes: 0 };
  #isPaused = false;
  /** What the table is when the publication under way has happened, and the front with it. */
  #next: { readonly table: Uint16Array; readonly front: Bitset } | undefined;

  constructor(storage: Storage, space: Space, chunkBytes: number) {
    this.#storage = storage;
    this.#space = space;
    this.#chunkBytes = chunkBytes;
  }

  /** Of the table, which QCOW2 has in memory too; the bits are what seeing the changes from outside takes. */
  get tableBytes(): number {
    return this.#table.byteLength;
  }

  get residentBytes(): number {
    return this.#table.byteLength + this.#front.words.byteLength + this.#dirty.words.byteLength;
  }

  /** At open: a piece of the catalog's counts. */
  load(first: number, counts: Uint16Array): void {
    this.#grow(first + counts.length);
    this.#table.set(counts, first);
  }

  /** At open, when space knows the front: it is counted, and no sector has changed. */
  begin(): void {
    this.#follow();
    this.#dirty = new Bitset(this.#dirty.length);
  }

  /** Writes the sectors that have changed; the next F makes them durable. A publication says what will be. */
  async write(change: Pick<Change, 'state'> = {}, statics?: Uint16Array): Promise<void> {
    this.#follow();
    let values = this.#table;
    if (change.state !== undefined || statics !== undefined) values = this.#expect(change, statics);
    if (this.#isPaused || this.#dirty.nextSet(0) < 0) return;
    await this.#place();
    for (let at = this.#dirty.nextSet(0); at >= 0; at = this.#dirty.nextSet(at)) {
      const clear = this.#dirty.nextClear(at);
      const end = clear < 0 ? this.#dirty.length : clear;
      const counts = values.subarray(at * COUNTS_PER_SECTOR, end * COUNTS_PER_SECTOR);
      const bytes = new Uint8Array(counts.buffer, counts.byteOffset, counts.byteLength);
      await this.#storage.write(this.#region.offset + at * SECTOR_BYTES, bytes, 'refcount');
      this.#dirty.clearRange(at, end);
    }
  }

  /** The publication has happened: what it lowered is to be written. */
  keep(): void {
    if (this.#next === undefined) return;
    const { table, front } = this.#next;
    this.#markWhere((chunk) => table[chunk]! < this.#table[chunk]!);
    this.#table = table;
    this.#front = front;
    this.#next = undefined;
  }

  /** It has not: what it raised is to be written as before. */
  withdraw(): void {
    if (this.#next === undefined) return;
    const { table } = this.#next;
    this.#markWhere((chunk) => table[chunk]! > this.#table[chunk]!);
    this.#next = undefined;
  }

  /** The table is out of the way while `work` shortens the file; what changes meanwhile is written afterwards. */
  async without<T>(work: () => Promise<T>): Promise<T> {
    await this.release();
    this.#isPaused = true;
    try {
      return await work();
    } finally {
      this.#isPaused = false;
    }
  }

  /** The table's chunks are free again. */
  async release(): Promise<void> {
    const { offset, bytes } = this.#region;
    this.#region = { offset: 0, bytes: 0 };
    if (bytes === 0) return;
    await this.#storage.discard(offset, bytes);
    this.#space.unfix({ offset, bytes });
  }

  /** Counts what the front has taken and given back since the last time. */
  #follow(): void {
    const now = this.#space.frontChunks();
    this.#grow(now.length);
    now.words.forEach((word, at) => {
      const changed = word ^ (this.#front.words[at] ?? 0);
      for (let bit = 0; changed >>> bit !== 0 && bit < 32; bit++) {
        if (((changed >>> bit) & 1) === 0) continue;
        const chunk = at * 32 + bit;
        this.#table[chunk]! += ((word >>> bit) & 1) === 1 ? 1 : -1;
        this.#dirty.set(Math.floor(chunk / COUNTS_PER_SECTOR));
      }
    });
    this.#front = now;
  }

  /** The counts after a publication; those that rise by it are dirty. Returns the higher of before and after. */
  #expect({ state }: Pick<Change, 'state'>, statics: Uint16Array | undefined): Uint16Array {
    const front = state === undefined ? this.#front : reachedBy(state, this.#front.length);
    const table = new Uint16Array(this.#table.length);
    const higher = this.#table.slice();
    for (let chunk = 0; chunk < table.length; chunk++) {
      const fromFront = this.#front.get(chunk) ? 1 : 0;
      const fixed = statics === undefined ? this.#table[chunk]! - fromFront : (statics[chunk] ?? 0);
      table[chunk] = fixed + (front.get(chunk) ? 1 : 0);
      if (table[chunk]! <= this.#table[chunk]!) continue;
      higher[chunk] = table[chunk]!;
      this.#dirty.set(Math.floor(chunk / COUNTS_PER_SECTOR));
    }
    this.#next = { table, front };
    return higher;
  }

  #markWhere(differs: (chunk: number) => boolean): void {
    for (let chunk = 0; chunk < this.#table.length; chunk++) {
      if (differs(chunk)) this.#dirty.set(Math.floor(chunk / COUNTS_PER_SECTOR));
    }
  }

  #grow(chunks: number): void {
    if (chunks <= this.#table.length) return;
    const sectors = Math.ceil(chunks / COUNTS_PER_SECTOR);
    const grown = new Uint16Array(sectors * COUNTS_PER_SECTOR);
    grown.set(this.#table);
    this.#table = grown;
    this.#dirty = this.#dirty.resized(sectors);
  }

  /** Chunks for the table, that nobody else takes as long as it is there; others when it has grown. */
  async #place(): Promise<void> {
    const { byteLength } = this.#table;
    if (this.#region.bytes >= byteLength) return;
    await this.release();
    const first = this.#space.findFree(Math.ceil(byteLength / this.#chunkBytes));
    this.#region = { offset: first * this.#chunkBytes, bytes: byteLength };
    this.#space.fix(this.#region);
  }
}
