import type { Awaitable } from '@cowlab/core';
import type { SparseExtent } from './extent.ts';
import { GRAIN_TABLE_BYTES, GRAIN_TABLE_SECTORS, SECTOR } from './layout.ts';
import { NO_ENTRIES } from './tables.ts';

/*
 * Grain tables one after another, for whoever looks at many of them: a merge, `diff`. They come past the cache of
 * the running disk, which keeps what it has:
 *
 *   in memory (cached, or not on disk yet)    from there: it may be newer
 *   a hole of the file                        nothing is read, however many tables lie in it
 *   anything else                             as many as lie together and fit the window, in one read
 *
 * What it holds is the window and one table.
 */

const WINDOW_BYTES = 1024 * 1024;

export class TableStream {
  readonly #extent: SparseExtent;
  readonly #windowTables: number;
  #bytes = new Uint8Array(0);
  /** Tables `#first … #end` are in the window, or all of them are holes. */
  #first = 0;
  #end = 0;
  #isHole = false;
  readonly #table = new Uint32Array(GRAIN_TABLE_BYTES / 4);
  #decoded = -1;

  constructor(extent: SparseExtent, windowBytes: number = WINDOW_BYTES) {
    this.#extent = extent;
    this.#windowTables = Math.max(1, Math.floor(windowBytes / GRAIN_TABLE_BYTES));
  }

  /** The table's entries, valid until the next call; `NO_ENTRIES` where it has none. Throws `ERR_CORRUPT`. */
  at(index: number): Awaitable<Uint32Array> {
    const { tables } = this.#extent;
    const held = tables.held(index);
    if (held !== undefined) return held.entries;
    if (tables.directory[index] === 0) return NO_ENTRIES;
    if (index >= this.#first && index < this.#end) return this.#take(index);
    return this.#load(index).then(() => this.#take(index));
  }

  #take(index: number): Uint32Array {
    if (this.#isHole) return NO_ENTRIES;
    if (this.#decoded !== index) {
      const at = (index - this.#first) * GRAIN_TABLE_BYTES;
      const bytes = this.#bytes.subarray(at, at + GRAIN_TABLE_BYTES);
      this.#decoded = index;
      if (!this.#extent.tables.decode(index, bytes, this.#table)) this.#table.fill(0);
    }
    return this.#table;
  }

  async #load(index: number): Promise<void> {
    const { directory } = this.#extent.tables;
    const { storage } = this.#extent;
    const sector = directory[index]!;
    const together = (most: number): number => {
      let count = 1;
      while (count < most && directory[index + count] === sector + count * GRAIN_TABLE_SECTORS) count++;
      return count;
    };
    const offset = sector * SECTOR;
    const status = await storage.status(offset, (directory.length - index) * GRAIN_TABLE_BYTES);
    const holes = status.data ? 0 : Math.floor(status.length / GRAIN_TABLE_BYTES);
    const count = together(holes > 0 ? holes : this.#windowTables);
    this.#end = this.#first;
    if (holes === 0) {
      const bytes = count * GRAIN_TABLE_BYTES;
      if (this.#bytes.length < bytes) this.#bytes = new Uint8Array(bytes);
      await storage.read(offset, this.#bytes.subarray(0, bytes), 'mapping');
    }
    this.#isHole = holes > 0;
    this.#decoded = -1;
    this.#first = index;
    this.#end = index + count;
  }
}
