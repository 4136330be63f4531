import { inflateSync } from 'node:zlib';
import {
  type Awaitable,
  andThen,
  corrupt,
  type Extent,
  type ReadSource,
  type Storage,
  unsupported,
  viewOf,
} from '@cowlab/core';
import { GRAIN_TABLE_ENTRIES, SECTOR, type SparseHeader, ZEROED_GRAIN } from './layout.ts';
import { readDirectory } from './directory.ts';
import { ReadOnlyPart } from './read-only-part.ts';
import { decodeMarker, GRAIN_HEADER_BYTES } from './stream-layout.ts';
import { StreamWriter } from './stream-writer.ts';
import { type GrainTable, GrainTables } from './tables.ts';

/*
 * A stream-optimized extent that is complete: it is read, never written. Tables are those of any sparse extent; their
 * entries name the sector in which a grain's header lies. The last grain decoded is kept, so that small reads in a row
 * decode each grain once.
 *
 * What a grain says of itself is compared with what led to it. It is read as far as it says, which may be twice a grain
 * at most, and makes no more than a grain.
 */

export class StreamExtent extends ReadOnlyPart {
  declare readonly storage: Storage;
  readonly header: SparseHeader;
  readonly tables: GrainTables;
  readonly file: string;
  #lastSector = -1;
  #last: Uint8Array | undefined;

  constructor(file: string, storage: Storage, header: SparseHeader, tables: GrainTables) {
    super({ start: 0, size: header.size, storage });
    this.file = file;
    this.header = header;
    this.tables = tables;
  }

  override map(offset: number, length: number, below: ReadSource | undefined): Awaitable<Extent> {
    const grain = Math.floor(offset / this.header.grainBytes);
    const table = this.tables.load(Math.floor(grain / GRAIN_TABLE_ENTRIES));
    return andThen(table, (loaded) => this.#extentAt(loaded, offset, length, below));
  }

  #extentAt({ entries }: GrainTable, offset: number, length: number, below: ReadSource | undefined): Extent {
    const { grainBytes } = this.header;
    const grain = Math.floor(offset / grainBytes);
    const at = grain % GRAIN_TABLE_ENTRIES;
    const sector = entries[at]!;
    const inside = offset - grain * grainBytes;
    const rest = grainBytes - inside;
    if (sector > ZEROED_GRAIN) {
      const read = (target: Uint8Array): Awaitable<void> =>
        andThen(this.grain(grain, sector), (bytes) =>
          target.set(bytes.subarray(inside, inside + target.length)),
        );
      return { kind: 'encoded', length: Math.min(length, rest), read };
    }
    let next = at + 1;
    while (
      next < GRAIN_TABLE_ENTRIES &&
      (next - at) * grainBytes - inside < length &&
      entries[next] === sector
    )
      next += 1;
    const covered = Math.min(length, (next - at) * grainBytes - inside);
    if (sector === 0 && below !== undefined)
      return { kind: 'backing', length: covered, source: below, offset };
    return { kind: 'zero', length: covered, allocated: sector === ZEROED_GRAIN };
  }

  /** A grain's bytes; the last one of the disk may be shorter. Throws `ERR_CORRUPT`. */
  grain(grain: number, sector: number): Awaitable<Uint8Array> {
    if (this.#last !== undefined && this.#lastSector === sector) return this.#last;
    return andThen(this.#stored(grain, sector), (stored) => {
      const bytes = this.#inflate(grain, sector, stored);
      this.#last = bytes;
      this.#lastSector = sector;
      return bytes;
    });
  }

  /** The zlib stream of a grain. */
  #stored(grain: number, sector: number): Awaitable<Uint8Array> {
    const at = sector * SECTOR;
    const head = new Uint8Array(SECTOR);
    return andThen(this.storage.read(at, head), () => {
      const { value, size } = decodeMarker(head);
      const { grainBytes } = this.header;
      const lba = grain * (grainBytes / SECTOR);
      if (value !== lba)
        throw this.#corrupt('lba', `${value ?? 'more than any'}, where ${lba} is expected`, sector);
      if (size === 0 || size > 2 * grainBytes) {
        throw this.#corrupt('size', `${size} bytes, where a grain has ${grainBytes}`, sector);
      }
      if (at + GRAIN_HEADER_BYTES + size > this.storage.size()) {
        throw this.#corrupt('size', `${size} bytes reach past the end of the file`, sector);
      }
      const stored = new Uint8Array(size);
      stored.set(head.subarray(GRAIN_HEADER_BYTES, GRAIN_HEADER_BYTES + size));
      const known = SECTOR - GRAIN_HEADER_BYTES;
      if (size <= known) return stored;
      return andThen(this.storage.read(at + SECTOR, stored.subarray(known)), () => stored);
    });
  }

  #inflate(grain: number, sector: number, stored: Uint8Array): Uint8Array {
    const { grainBytes, size } = this.header;
    let bytes: Uint8Array;
    try {
      bytes = inflateSync(stored, { maxOutputLength: grainBytes, chunkSize: grainBytes });
    } catch (error) {
      throw this.#corrupt('data', error instanceof Error ? error.message : String(error), sector);
    }
    const needed = Math.min(grainBytes, size - grain * grainBytes);
    if (bytes.length >= needed) return bytes;
    throw this.#corrupt('data', `decodes to ${bytes.length} bytes, where ${needed} are needed`, sector);
  }

  #corrupt(field: string, problem: string, sector: number): Error {
    return corrupt(this.file, `grain.${field}`, problem, { offset: sector * SECTOR });
  }

  override freeze(): void {
    this.tables.freeze();
  }

  override get residentBytes(): number {
    return this.tables.residentBytes + (this.#last?.length ?? 0);
  }

  protected override refuse(): never {
    throw unsupported(this.file, 'header.flags', 'a stream-optimized disk is written once, as a whole');
  }
}

export interface StreamOptions {
  readonly readOnly: boolean;
  /** Bytes of grain tables to keep in memory. */
  readonly cacheBytes: number;
  readonly isChild: boolean;
}

/** A stream that is there, to be read; or one without grains, to be written. Throws `ERR_UNSUPPORTED` for other wishes. */
export async function openStream(
  file: string,
  storage: Storage,
  header: SparseHeader,
  { readOnly, cacheBytes, isChild }: StreamOptions,
): Promise<StreamExtent | StreamWriter> {
  const directory = await readDirectory(file, storage, header, header.directoryOffset, 'grain directory');
  if (readOnly) {
    const tables = new GrainTables(file, storage, header, directory, undefined, cacheBytes);
    return new StreamExtent(file, storage, header, tables);
  }
  // In one without grains the directory's marker is where the first grain would be; an emptied directory is no new one.
  const isNew =
    directory.every((sector) => sector === 0) && header.directoryOffset === header.overheadBytes + SECTOR;
  if (isNew && !isChild && header.version === 3) return new StreamWriter(file, storage, header);
  throw unsupported(
    file,
    'header.flags',
    'a stream-optimized disk that is complete can only be opened read-only',
  );
}

/** Every table of an extent, one after the other, with its number; those without a place are left out. */
export async function* tablesOf(extent: StreamExtent): AsyncGenerator<readonly [number, Uint32Array]> {
  for (const [index, sector] of extent.tables.directory.entries()) {
    if (sector === 0) continue;
    const bytes = new Uint8Array(GRAIN_TABLE_ENTRIES * 4);
    await extent.storage.read(sector * SECTOR, bytes, 'mapping');
    const view = viewOf(bytes);
    yield [index, Uint32Array.from({ length: GRAIN_TABLE_ENTRIES }, (_, i) => view.getUint32(i * 4, true))];
  }
}
