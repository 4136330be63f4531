import type { Awaitable, Storage } from '@cowlab/core';
import type { SparseExtent } from './extent.ts';
import { GRAIN_TABLE_BYTES, GRAIN_TABLE_SECTORS, SECTOR } from './layout.ts';
import { NO_ENTRIES } from './tables.ts';

/*
 * Grain tables one after another, for whoever looks at many of them: a merge, `diff`, `check`. They come past the cache
 * of the running disk, which keeps what it has:
 *
 *   in memory (cached, or not on disk yet)    from there: it may be newer (not for `check`)
 *   a hole of the file                        nothing is read, however many tables lie in it
 *   anything else                             as many as lie together and fit the window, in one read
 *
 * The window doubles as long as one load follows on the other, so that who looks here and there reads little. What it
 * holds is the window and one table.
 */

export const WINDOW_BYTES: number = 1024 * 1024;
const FIRST_TABLES = 4;

/** The tables of one directory as they are on the medium, for rising indexes. */
export class TablePieces {
  readonly #storage: Storage;
  readonly #directory: Uint32Array;
  readonly #mostTables: number;
  #windowTables = FIRST_TABLES;
  #bytes = new Uint8Array(0);
  /** Tables `#first … #end` are in the window, or all of them are holes. */
  #first = 0;
  #end = 0;
  #isHole = false;

  constructor(storage: Storage, directory: Uint32Array, windowBytes: number) {
    this.#storage = storage;
    this.#directory = directory;
    this.#mostTables = Math.max(1, Math.floor(windowBytes / GRAIN_TABLE_BYTES));
  }

  /** The bytes of a table that the directory has, valid until the next call; undefined where they are a hole. */
  at(index: number): Awaitable<Uint8Array | undefined> {
    if (index < this.#first || index >= this.#end) return this.#load(index).then(() => this.at(index));
    if (this.#isHole) return undefined;
    const at = (index - this.#first) * GRAIN_TABLE_BYTES;
    return this.#bytes.subarray(at, at + GRAIN_TABLE_BYTES);
  }

  async #load(index: number): Promise<void> {
    const offset = this.#directory[index]! * SECTOR;
    const { data, length } = await this.#storage.status(offset, this.#together(index) * GRAIN_TABLE_BYTES);
    const tables = length / GRAIN_TABLE_BYTES;
    const isHole = !data && tables >= 1;
    const wanted = index === this.#end ? 2 * this.#windowTables : FIRST_TABLES;
    this.#windowTables = Math.min(wanted, this.#mostTables);
    const count = isHole ? Math.floor(tables) : Math.min(Math.ceil(tables), this.#windowTables);
    this.#end = this.#first;
    if (!isHole) {
      const bytes = count * GRAIN_TABLE_BYTES;
      if (this.#bytes.length < bytes) this.#bytes = new Uint8Array(bytes);
      await this.#storage.read(offset, this.#bytes.subarray(0, bytes), 'mapping');
    }
    this.#isHole = isHole;
    this.#first = index;
    this.#end = index + count;
  }

  /** Tables from `index` on that lie one behind the other. */
  #together(index: number): number {
    const sector = this.#directory[index]!;
    let count = 1;
    while (this.#directory[index + count] === sector + count * GRAIN_TABLE_SECTORS) count++;
    return count;
  }
}

/** The tables of an extent as they are now, for rising indexes. */
export class TableStream {
  readonly #extent: SparseExtent;
  readonly #pieces: TablePieces;
  readonly #table = new Uint32Array(GRAIN_TABLE_BYTES / 4);
  #decoded = -1;
  #isEmpty = false;

  constructor(extent: SparseExtent, windowBytes: number = WINDOW_BYTES) {
    this.#extent = extent;
    this.#pieces = new TablePieces(extent.storage, extent.tables.directory, windowBytes);
  }

  /** The table's entries, valid until the next call; `NO_ENTRIES` where it has none. Throws `ERR_CORRUPT`. */
  at(index: number): Awaitable<Uint32Array> {
    const { tables } = this.#extent;
    const held = tables.held(index);
    if (held !== undefined) return held.entries;
    if (tables.directory[index] === 0) return NO_ENTRIES;
    if (index === this.#decoded) return this.#isEmpty ? NO_ENTRIES : this.#table;
    const bytes = this.#pieces.at(index);
    return bytes instanceof Promise
      ? bytes.then((loaded) => this.#decode(index, loaded))
      : this.#decode(index, bytes);
  }

  #decode(index: number, bytes: Uint8Array | undefined): Uint32Array {
    this.#isEmpty = bytes === undefined || !this.#extent.tables.decode(index, bytes, this.#table);
    this.#decoded = index;
    return this.#isEmpty ? NO_ENTRIES : this.#table;
  }
}
