import { type Awaitable, corrupt, isCowlabError, type Storage, unsupported, viewOf } from '@cowlab/core';
import {
  firstGrainSector,
  GRAIN_TABLE_BYTES,
  GRAIN_TABLE_ENTRIES,
  GRAIN_TABLE_SECTORS,
  SECTOR,
  type SparseHeader,
  ZEROED_GRAIN,
} from './layout.ts';

/*
 * The grain tables of one extent: a bounded cache in front of two copies on disk.
 *
 *   slots    one table each; table i may only lie in slot i mod slotCount. A disk with no more tables than
 *            slots (16 GiB with 64 KiB grains, by default) keeps every table it has touched
 *   dirty    tables with entries that the disk does not have; found here even when their slot went to another
 *   writing  tables on their way to disk, until both copies have arrived
 *
 * Order of a write-back (the reason it is one function): flush, so that the grains are durable → the redundant table,
 * whole, so that a copy that power left behind is mended, and the changed sectors of the primary one → flush. The
 * bytes are copied before the first flush: entries committed while it runs refer to grains that it does not cover,
 * and wait for the next.
 * A table without a single entry shares one constant array, so an untouched child costs next to nothing.
 */

export interface GrainTable {
  readonly index: number;
  /** Sector numbers; 0: not here; 1: zeros, where the header allows it. */
  entries: Uint32Array;
  /** Bit i: sector i of the table differs from the disk. */
  dirty: number;
  /** Read from the second copy, because the first cannot be used: the first write mends all of it. */
  readonly restored: boolean;
}

interface DirtySectors {
  readonly table: GrainTable;
  readonly mask: number;
  readonly bytes: Uint8Array;
}

/** What every table without entries shares; never written to. */
export const NO_ENTRIES: Uint32Array = new Uint32Array(GRAIN_TABLE_ENTRIES);
const ENTRIES_PER_SECTOR = SECTOR / 4;
const MIN_SLOTS = 16;
const WHOLE_TABLE: number = (1 << GRAIN_TABLE_SECTORS) - 1;

export class GrainTables {
  readonly directory: Uint32Array;
  #redundant: Uint32Array | undefined;
  readonly #file: string;
  readonly #storage: Storage;
  readonly #header: SparseHeader;
  readonly #slots: (GrainTable | undefined)[];
  /** As many as the cache has room for. A disk with fewer tables writes none before it is flushed. */
  readonly #mostDirty: number;
  readonly #dirty = new Map<number, GrainTable>();
  readonly #writing = new Map<number, GrainTable>();
  readonly #loading = new Map<number, Promise<GrainTable>>();
  #writeBack: Promise<void> | undefined;

  constructor(
    file: string,
    storage: Storage,
    header: SparseHeader,
    directory: Uint32Array,
    redundant: Uint32Array | undefined,
    cacheBytes: number,
  ) {
    this.#file = file;
    this.#storage = storage;
    this.#header = header;
    this.directory = directory;
    this.#redundant = redundant;
    this.#mostDirty = Math.max(MIN_SLOTS, Math.floor(cacheBytes / GRAIN_TABLE_BYTES));
    this.#slots = new Array<undefined>(Math.min(this.#mostDirty, directory.length)).fill(undefined);
  }

  /** The table at once when it is in memory or its storage does not wait. Throws `ERR_CORRUPT` for a bad entry. */
  load(index: number): Awaitable<GrainTable> {
    return this.held(index) ?? this.#loading.get(index) ?? this.#read(index);
  }

  /** The table when memory has it, cached or not written back yet. */
  held(index: number): GrainTable | undefined {
    const cached = this.#slots[index % this.#slots.length];
    if (cached !== undefined && cached.index === index) return cached;
    return this.#dirty.get(index) ?? this.#writing.get(index);
  }

  /** Reads a table's bytes into `entries`; false when there is no entry. Throws `ERR_CORRUPT` for a bad one. */
  decode(index: number, bytes: Uint8Array, entries: Uint32Array): boolean {
    const view = viewOf(bytes);
    const first = firstGrainSector(this.#header);
    const end = Math.ceil(this.#storage.size() / SECTOR);
    let union = 0;
    for (let i = 0; i < GRAIN_TABLE_ENTRIES; i++) {
      const sector = view.getUint32(i * 4, true);
      entries[i] = sector;
      union |= sector;
      if (sector !== 0 && (sector < first || sector >= end)) this.#assertZeroed(index, i, sector);
    }
    return union !== 0;
  }

  /**
   * Calls `use` with the table in the same turn of the event loop in which it is in the cache: so nobody can have
   * dropped and reloaded it between, and there is never a second object of one table.
   */
  use<T>(index: number, use: (table: GrainTable) => T): Awaitable<T> {
    const table = this.load(index);
    return table instanceof Promise ? table.then(() => this.use(index, use)) : use(table);
  }

  /** Changes an entry in memory; `flush` takes it to disk. The table must be one that {@link use} gave. */
  set(table: GrainTable, entry: number, value: number): void {
    if (table.entries === NO_ENTRIES) table.entries = new Uint32Array(GRAIN_TABLE_ENTRIES);
    table.entries[entry] = value;
    table.dirty |= table.restored ? WHOLE_TABLE : 1 << Math.floor(entry / ENTRIES_PER_SECTOR);
    this.#dirty.set(table.index, table);
  }

  /** Where a writer keeps the second copy of a table; 0 where that has none. */
  secondOf(index: number): number | undefined {
    return this.#redundant?.[index];
  }

  /** Whether the extent has room for the entries of this table. */
  isWritable(index: number): boolean {
    return this.directory[index] !== 0 && this.#redundant?.[index] !== 0;
  }

  /** Throws `ERR_UNSUPPORTED` when the extent has no room for the entries of this table. */
  assertWritable(index: number): void {
    if (!this.isWritable(index)) {
      throw unsupported(this.#file, `grain directory[${index}]`, 'grain table is not allocated');
    }
  }

  /** Nothing will be written any more: the second copy's directory is not needed. */
  freeze(): void {
    this.#redundant = undefined;
  }

  /** True when so many tables are dirty that they should be written before more become so. */
  get crowded(): boolean {
    return this.#dirty.size >= this.#mostDirty;
  }

  /** Makes the extent's data durable, then the tables that refer to it. */
  flush(): Awaitable<void> {
    if (this.#writeBack === undefined && this.#dirty.size === 0) return this.#storage.flush();
    const before = this.#writeBack?.catch(() => undefined) ?? Promise.resolve();
    const run = before.then(() => this.#writeAll());
    this.#writeBack = run;
    const done = (): void => {
      if (this.#writeBack === run) this.#writeBack = undefined;
    };
    run.then(done, done);
    return run;
  }

  /** Bytes held now: directories, slots, tables. */
  get residentBytes(): number {
    let bytes = this.directory.byteLength + (this.#redundant?.byteLength ?? 0) + this.#slots.length * 8;
    for (const table of this.#slots) if (table !== undefined) bytes += bytesOf(table);
    for (const table of [...this.#dirty.values(), ...this.#writing.values()]) {
      if (this.#slots[table.index % this.#slots.length] !== table) bytes += bytesOf(table);
    }
    return bytes;
  }

  #read(index: number): Awaitable<GrainTable> {
    const sector = this.directory[index]!;
    if (sector === 0) return this.#keep({ index, entries: NO_ENTRIES, dirty: 0, restored: false });
    const bytes = new Uint8Array(GRAIN_TABLE_BYTES);
    let reading: Promise<GrainTable>;
    try {
      const pending = this.#storage.read(sector * SECTOR, bytes, 'mapping');
      if (!(pending instanceof Promise)) return this.#keep(this.#decode(index, bytes, false));
      reading = pending
        .then(() => this.#decode(index, bytes, false))
        .catch((error: unknown) => this.#readSecond(index, error));
    } catch (error) {
      reading = this.#readSecond(index, error);
    }
    const loading = reading.then((table) => this.#keep(table)).finally(() => this.#loading.delete(index));
    this.#loading.set(index, loading);
    return loading;
  }

  /** The second copy of a table whose first one cannot be used; throws what was wrong with that when it is no better. */
  async #readSecond(index: number, error: unknown): Promise<GrainTable> {
    // A medium that fails is for its user to know of, not to be passed over; a repair takes the second copy then.
    if (!isCowlabError(error, 'ERR_CORRUPT')) throw error;
    try {
      const sector = await this.#secondPlace(index);
      if (sector === undefined) throw error;
      const bytes = new Uint8Array(GRAIN_TABLE_BYTES);
      await this.#storage.read(sector * SECTOR, bytes, 'mapping');
      return this.#decode(index, bytes, true);
    } catch {
      throw error;
    }
  }

  /** Where the second copy of a table lies; undefined where there is none. */
  async #secondPlace(index: number): Promise<number | undefined> {
    const known = this.#redundant?.[index];
    if (known !== undefined) return known === 0 ? undefined : known;
    const offset = this.#header.redundantDirectoryOffset;
    if (offset === undefined) return undefined;
    const entry = new Uint8Array(4);
    await this.#storage.read(offset + index * 4, entry, 'mapping');
    const sector = viewOf(entry).getUint32(0, true);
    const isInside = sector * SECTOR + GRAIN_TABLE_BYTES <= this.#storage.size();
    return sector !== 0 && isInside ? sector : undefined;
  }

  #keep(table: GrainTable): GrainTable {
    this.#slots[table.index % this.#slots.length] = table;
    return table;
  }

  #decode(index: number, bytes: Uint8Array, restored: boolean): GrainTable {
    const entries = new Uint32Array(GRAIN_TABLE_ENTRIES);
    const isUsed = this.decode(index, bytes, entries);
    return { index, entries: isUsed ? entries : NO_ENTRIES, dirty: 0, restored };
  }

  #assertZeroed(index: number, entry: number, sector: number): void {
    if (sector === ZEROED_GRAIN && this.#header.zeroedGrains) return;
    const where = sector < firstGrainSector(this.#header) ? 'inside the metadata' : 'outside the file';
    throw corrupt(this.#file, `grain table[${index}][${entry}]`, `grain at sector ${sector} lies ${where}`, {
      value: sector,
      offset: this.directory[index]! * SECTOR + entry * 4,
    });
  }

  async #writeAll(): Promise<void> {
    const batch = this.#takeDirty();
    try {
      await this.#storage.flush();
      if (batch.length === 0) return;
      for (const { table, mask, bytes } of batch) {
        const redundant = this.#redundant?.[table.index];
        if (redundant !== undefined) await this.#writeSectors(redundant, WHOLE_TABLE, bytes);
        await this.#writeSectors(this.directory[table.index]!, mask, bytes);
      }
      await this.#storage.flush();
    } catch (error) {
      for (const { table, mask } of batch) {
        table.dirty |= mask;
        this.#dirty.set(table.index, table);
      }
      throw error;
    } finally {
      this.#writing.clear();
    }
  }

  #takeDirty(): DirtySectors[] {
    const batch = [...this.#dirty.values()].map((table) => {
      const bytes = new Uint8Array(GRAIN_TABLE_BYTES);
      const view = viewOf(bytes);
      for (let i = 0; i < GRAIN_TABLE_ENTRIES; i++) view.setUint32(i * 4, table.entries[i]!, true);
      const mask = table.dirty;
      table.dirty = 0;
      this.#writing.set(table.index, table);
      return { table, mask, bytes };
    });
    this.#dirty.clear();
    return batch;
  }

  /** Writes the runs of sectors that `mask` names to the table at `sector`. */
  async #writeSectors(sector: number, mask: number, bytes: Uint8Array): Promise<void> {
    for (let start = 0; start < GRAIN_TABLE_SECTORS; start++) {
      if ((mask & (1 << start)) === 0) continue;
      let end = start + 1;
      while (end < GRAIN_TABLE_SECTORS && (mask & (1 << end)) !== 0) end++;
      await this.#storage.write(
        (sector + start) * SECTOR,
        bytes.subarray(start * SECTOR, end * SECTOR),
        'mapping',
      );
      start = end;
    }
  }
}

function bytesOf(table: GrainTable): number {
  return table.entries === NO_ENTRIES ? 0 : GRAIN_TABLE_BYTES;
}
