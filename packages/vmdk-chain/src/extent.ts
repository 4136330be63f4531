import {
  type Awaitable,
  corrupt,
  type Extent,
  type ReadSource,
  type Storage,
  unsupported,
} from '@cowlab/core';
import { GrainAllocator } from './allocator.ts';
import { endInUse } from './device-end.ts';
import { readDirectories } from './directory.ts';
import {
  decodeHeader,
  GRAIN_TABLE_BYTES,
  GRAIN_TABLE_ENTRIES,
  SECTOR,
  type SparseHeader,
  signatureOf,
  ZEROED_GRAIN,
} from './layout.ts';
import type { Part, PartPlacement } from './part.ts';
import { decodeFooter, FOOTER_BYTES, isDirectoryAtEnd } from './stream-layout.ts';
import { type GrainTable, GrainTables } from './tables.ts';

/*
 * A sparse extent: header, grain tables and the place of the next grain. What a grain table entry says of a grain:
 *
 *   entry     reads as                              a write
 *   0         the parent, or zeros without one      takes a new grain, filled from the old state
 *   1         zeros (only with the header's flag)   takes a new grain, filled with zeros
 *   sector    the grain there                       goes in place
 *
 * `commit` changes tables in memory; what `flush` orders stands in tables.ts. There is no free map, so a mapped grain is
 * never unmapped: making it zeros punches a hole into its place. A grain without a place gets entry 1, or nothing at all
 * where nothing is under it.
 */

interface GrainPlacement extends PartPlacement {
  readonly firstGrain: number;
  readonly grainCount: number;
  /** First sector of the new grains; undefined for a write in place. */
  readonly sector: number | undefined;
}

/** Grain tables in more pieces are taken to be filled everywhere. */
const MAX_RUNS = 32;
/** So many that lie together are looked at, whether they have an entry. */
const MAX_LOOKS = 64;

/** Where an extent lies in its disk, and how it is opened. */
export interface SparseOptions {
  readonly start: number;
  /** Guest bytes; the header may have whole grains. */
  readonly size: number;
  readonly readOnly: boolean;
  /** Opened to be repaired: directories need not be whole. */
  readonly forRepair?: boolean;
  /** Bytes of grain tables to keep in memory. */
  readonly cacheBytes: number;
}

interface SparseFile {
  readonly storage: Storage;
  readonly header: SparseHeader;
  readonly tables: GrainTables;
  readonly restored: ReadonlySet<number>;
  /** For a device that is written: the first sector behind what is in use. */
  readonly end?: number;
}

export class SparseExtent implements Part {
  /** The file's name when it was opened, for messages. */
  readonly file: string;
  readonly start: number;
  readonly size: number;
  readonly storage: Storage;
  readonly header: SparseHeader;
  readonly tables: GrainTables;
  readonly grains: GrainAllocator;
  readonly #restored: Set<number>;
  readonly #grainBytes: number;
  #filled: Promise<readonly number[]> | undefined;

  private constructor(
    file: string,
    { storage, header, tables, restored, end }: SparseFile,
    options: SparseOptions,
  ) {
    this.file = file;
    this.start = options.start;
    this.size = options.size;
    this.storage = storage;
    this.header = header;
    this.tables = tables;
    this.#restored = new Set(restored);
    this.#grainBytes = header.grainBytes;
    this.grains = new GrainAllocator(file, storage, header, end);
  }

  /** Reads and validates what every use needs. The caller has read the header, and keeps the storage. */
  static async read(
    file: string,
    storage: Storage,
    header: SparseHeader,
    options: SparseOptions,
  ): Promise<SparseExtent> {
    const { entries, restored, redundant } = await readDirectories(file, storage, header, !options.readOnly);
    if (!options.readOnly && options.forRepair !== true) assertWhole(file, header, restored);
    const tables = new GrainTables(file, storage, header, entries, redundant, options.cacheBytes);
    const isDevice = storage.fixedSize === true && !options.readOnly;
    const directories = redundant === undefined ? [entries] : [entries, redundant];
    const end = isDevice ? await endInUse(storage, header, directories) : undefined;
    const opened = { storage, header, tables, restored, ...(end !== undefined && { end }) };
    return new SparseExtent(file, opened, options);
  }

  map(offset: number, length: number, below: ReadSource | undefined, owned: boolean): Awaitable<Extent> {
    const grain = Math.floor((offset - this.start) / this.#grainBytes);
    const table = this.tables.load(Math.floor(grain / GRAIN_TABLE_ENTRIES));
    if (table instanceof Promise) {
      return table.then((loaded) => this.#extentAt(loaded, offset, length, below, owned));
    }
    return this.#extentAt(table, offset, length, below, owned);
  }

  reserve(offset: number, length: number): Awaitable<PartPlacement> {
    const grain = this.#grainAt(offset);
    const index = Math.floor(grain / GRAIN_TABLE_ENTRIES);
    return this.tables.use(index, (table) => {
      const sector = table.entries[grain % GRAIN_TABLE_ENTRIES]!;
      if (sector > ZEROED_GRAIN) return this.#inPlace(table, offset, length);
      this.tables.assertWritable(index);
      return this.#placeNew(table, grain, offset, length);
    });
  }

  commit(placement: PartPlacement): Awaitable<void> {
    const { sector, firstGrain, grainCount } = placement as GrainPlacement;
    if (sector === undefined) return;
    return this.setGrains(firstGrain, sector, grainCount);
  }

  abort(placement: PartPlacement): void {
    const { sector, grainCount } = placement as GrainPlacement;
    if (sector !== undefined) this.grains.giveBack(sector, grainCount);
  }

  async unmap(offset: number, end: number, covers: boolean): Promise<number> {
    const extent = await this.map(offset, end - offset, undefined, false);
    if (extent.kind === 'data') await this.storage.zero(extent.hostOffset, extent.length);
    else if (extent.kind === 'zero' && !extent.allocated && covers) {
      await this.zeroGrains(this.#grainAt(offset), Math.ceil(extent.length / this.#grainBytes));
    }
    return offset + extent.length;
  }

  /** Tables that the first directory does not lead to; the second one's are read instead. */
  get restored(): ReadonlySet<number> {
    return this.#restored;
  }

  /** The first directory leads to the table again. */
  settle(index: number): void {
    this.#restored.delete(index);
  }

  get crowded(): boolean {
    return this.tables.crowded;
  }

  flush(): Awaitable<void> {
    return this.tables.flush();
  }

  trim(): Promise<void> {
    return this.grains.trim();
  }

  freeze(): void {
    this.tables.freeze();
  }

  get residentBytes(): number {
    return this.tables.residentBytes;
  }

  /**
   * Runs of grain tables that are not in holes of the file: the first table and the one behind the last, in turns. Looked
   * up once: for a file that is read only.
   */
  filledTables(): Awaitable<readonly number[]> {
    // A failure is whoever asked's: the next one tries again.
    this.#filled ??= this.#findFilled().catch((error: unknown) => {
      this.#filled = undefined;
      throw error;
    });
    return this.#filled;
  }

  async #findFilled(): Promise<readonly number[]> {
    const { directory } = this.tables;
    const all = [0, directory.length];
    const start = directory[0]! * SECTOR;
    const isRegular = directory.every((sector, i) => sector * SECTOR === start + i * GRAIN_TABLE_BYTES);
    if (start === 0 || !isRegular) return all;
    const runs: number[] = [];
    const end = start + directory.length * GRAIN_TABLE_BYTES;
    for (let at = start; at < end; ) {
      const { data, length } = await this.storage.status(at, end - at);
      const first = Math.floor((at - start) / GRAIN_TABLE_BYTES);
      const last = Math.ceil((at + length - start) / GRAIN_TABLE_BYTES);
      if (data && last - first <= MAX_LOOKS) await this.#lookForEntries(start, first, last, runs);
      else if (data) runs.push(first, last);
      if (runs.length > 2 * MAX_RUNS) return all;
      at += length;
    }
    return runs;
  }

  /** A few tables may have no hole only for what lies beside them in a block of the file system. */
  async #lookForEntries(start: number, first: number, end: number, runs: number[]): Promise<void> {
    const bytes = new Uint8Array((end - first) * GRAIN_TABLE_BYTES);
    await this.storage.read(start + first * GRAIN_TABLE_BYTES, bytes, 'mapping');
    for (let index = first; index < end; index++) {
      const at = (index - first) * GRAIN_TABLE_BYTES;
      if (bytes.subarray(at, at + GRAIN_TABLE_BYTES).some((byte) => byte !== 0)) runs.push(index, index + 1);
    }
  }

  /** Makes grains without a place read as zeros: by a flag, or by new grains of zeros where the header has no flag. */
  async zeroGrains(firstGrain: number, count: number): Promise<void> {
    this.tables.assertWritable(Math.floor(firstGrain / GRAIN_TABLE_ENTRIES));
    if (this.header.zeroedGrains) return this.setGrains(firstGrain, ZEROED_GRAIN, count, 0);
    for (let done = 0; done < count; ) {
      const taken = this.grains.take(count - done);
      try {
        await this.storage.zero(taken.sector * SECTOR, taken.count * this.#grainBytes);
        await this.setGrains(firstGrain + done, taken.sector, taken.count);
      } catch (error) {
        this.grains.giveBack(taken.sector, taken.count);
        throw error;
      }
      done += taken.count;
    }
  }

  /** No grain is mapped any more, durably; then what they held is cut off. */
  async clear(): Promise<void> {
    for (let index = 0; index < this.tables.directory.length; index++) {
      const isUsed = await this.tables.use(index, ({ entries }) => entries.some((entry) => entry !== 0));
      if (isUsed) await this.setGrains(index * GRAIN_TABLE_ENTRIES, 0, GRAIN_TABLE_ENTRIES, 0);
      if (this.tables.crowded) await this.tables.flush();
    }
    await this.tables.flush();
    await this.storage.truncate(this.header.overheadBytes);
    this.grains.restart();
    await this.storage.flush();
  }

  /** Changes the entries of grains that lie in one table, in memory: the first to `value`, each next to `step` more. */
  setGrains(
    firstGrain: number,
    value: number,
    count: number,
    step: number = this.#grainBytes / SECTOR,
  ): Awaitable<void> {
    return this.tables.use(Math.floor(firstGrain / GRAIN_TABLE_ENTRIES), (table) => {
      const first = firstGrain % GRAIN_TABLE_ENTRIES;
      for (let i = 0; i < count; i++) this.tables.set(table, first + i, value + i * step);
    });
  }

  #grainAt(offset: number): number {
    return Math.floor((offset - this.start) / this.#grainBytes);
  }

  #extentAt(
    { entries }: GrainTable,
    offset: number,
    length: number,
    below: ReadSource | undefined,
    owned: boolean,
  ): Extent {
    const grainBytes = this.#grainBytes;
    const grain = Math.floor((offset - this.start) / grainBytes);
    const at = grain % GRAIN_TABLE_ENTRIES;
    const sector = entries[at]!;
    const inside = offset - this.start - grain * grainBytes;
    const covered =
      inside + length <= grainBytes
        ? length
        : Math.min(length, this.#runLength(entries, at, inside + length) * grainBytes - inside);
    if (sector > ZEROED_GRAIN) {
      const hostOffset = sector * SECTOR + inside;
      return { kind: 'data', length: covered, storage: this.storage, hostOffset, owned };
    }
    if (sector === 0 && below !== undefined) {
      return { kind: 'backing', length: covered, source: below, offset };
    }
    return { kind: 'zero', length: covered, allocated: sector === ZEROED_GRAIN };
  }

  /** Entries from `at` on that lie together or say the same, at most for so many bytes of the disk. */
  #runLength(entries: Uint32Array, at: number, bytes: number): number {
    const sector = entries[at]!;
    const wanted = Math.min(GRAIN_TABLE_ENTRIES - at, Math.ceil(bytes / this.#grainBytes));
    const step = sector > ZEROED_GRAIN ? this.#grainBytes / SECTOR : 0;
    let count = 1;
    while (count < wanted && entries[at + count] === sector + count * step) count++;
    return count;
  }

  /** A write to a grain that is there already. */
  #inPlace(table: GrainTable, offset: number, length: number): GrainPlacement {
    const extent = this.#extentAt(table, offset, length, undefined, true);
    if (extent.kind !== 'data') throw new TypeError('a mapped grain is data');
    return {
      part: this,
      storage: extent.storage,
      guestOffset: offset,
      length: extent.length,
      hostOffset: extent.hostOffset,
      head: 0,
      tail: 0,
      fresh: false,
      firstGrain: this.#grainAt(offset),
      grainCount: 0,
      sector: undefined,
    };
  }

  #placeNew(table: GrainTable, grain: number, offset: number, length: number): GrainPlacement {
    const grainBytes = this.#grainBytes;
    const start = this.start + grain * grainBytes;
    const at = grain % GRAIN_TABLE_ENTRIES;
    const wanted = Math.min(GRAIN_TABLE_ENTRIES - at, Math.ceil((offset + length - start) / grainBytes));
    let free = 1;
    while (free < wanted && table.entries[at + free]! <= ZEROED_GRAIN) free++;
    const { sector, count, fresh } = this.grains.take(free);
    const end = Math.min(this.start + this.size, start + count * grainBytes);
    const covered = Math.min(length, end - offset);
    return {
      part: this,
      storage: this.storage,
      guestOffset: offset,
      length: covered,
      hostOffset: sector * SECTOR + offset - start,
      head: offset - start,
      tail: end - offset - covered,
      fresh,
      firstGrain: grain,
      grainCount: count,
      sector,
    };
  }
}

/** The first sector of a file: what it is, and perhaps its header. */
export async function readHead(storage: Storage): Promise<Uint8Array> {
  const bytes = new Uint8Array(SECTOR);
  await storage.read(0, bytes, 'header');
  return bytes;
}

/** The header of a sparse extent. Throws `ERR_CORRUPT` and `ERR_UNSUPPORTED`. */
export async function headerIn(
  file: string,
  storage: Storage,
  bytes: Uint8Array,
  readOnly: boolean,
): Promise<SparseHeader> {
  switch (signatureOf(bytes)) {
    case 'descriptor':
    case 'other':
      throw corrupt(file, 'header.magicNumber', 'not a sparse extent of VMDK');
    case 'cowd':
      throw unsupported(file, 'createType', 'vmfsSparse (a COWD extent)', { value: 'vmfsSparse' });
    case 'sparse':
  }
  if (storage.size() < SECTOR) throw corrupt(file, 'header', 'file ends inside the header');
  const decisive = isDirectoryAtEnd(bytes) ? await readFooter(file, storage) : bytes;
  const header = decodeHeader(file, decisive, storage.size());
  if (header.version === 3 && !readOnly && !header.streamOptimized) {
    // Version 3 may have a changed-block map beside it, which a writer would have to keep.
    throw unsupported(file, 'header.version', '3 can only be opened read-only', { value: 3 });
  }
  return header;
}

/** The header that counts where the first one does not know the directory. */
async function readFooter(file: string, storage: Storage): Promise<Uint8Array> {
  const bytes = new Uint8Array(Math.min(FOOTER_BYTES, storage.size()));
  await storage.read(storage.size() - bytes.length, bytes, 'header');
  const footer = decodeFooter(file, bytes);
  if (signatureOf(footer) === 'sparse') return footer;
  throw corrupt(file, 'footer.magicNumber', 'no header of a sparse extent');
}

/** What is written goes to both copies, so a writer needs both. */
function assertWhole(file: string, header: SparseHeader, restored: ReadonlySet<number>): void {
  if (header.isDirectoryLost) {
    const problem = 'directory lies outside the file; the second one can be read, or used for a repair';
    throw corrupt(file, 'header.gdOffset', problem, { value: header.directoryOffset / SECTOR });
  }
  const [index] = restored;
  if (index === undefined) return;
  const problem = 'leads to no grain table; the second copy can be read, or used for a repair';
  throw corrupt(file, `grain directory[${index}]`, problem, { offset: header.directoryOffset + index * 4 });
}
