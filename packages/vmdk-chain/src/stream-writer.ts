import { promisify } from 'node:util';
import { deflate, type ZlibOptions } from 'node:zlib';
import {
  CowlabError,
  type Extent,
  type GuestRange,
  roundUp,
  type Storage,
  unsupported,
  viewOf,
} from '@cowlab/core';
import { GRAIN_TABLE_BYTES, GRAIN_TABLE_ENTRIES, MAX_SECTORS, SECTOR, type SparseHeader } from './layout.ts';
import type { Part, PartPlacement } from './part.ts';
import { encodeEnd, encodeGrain, encodeMarked, encodeStreamHeader } from './stream-layout.ts';

/*
 * Writing a stream-optimized extent, once, from its start to its end. A new one is a complete stream without grains; the
 * first write takes its end away, and the last thing before a close puts another one there:
 *
 *   new           header, descriptor │ directory, footer
 *   first write   cut behind the descriptor «flush» → grains; each table behind the last of its grains
 *   end           last table, directory «flush» → footer, end marker «flush»
 *
 * So a file that power cut off, or whose writing failed, does not end with a footer, and is refused when it is opened:
 * what it has is not believed in part. A flush in between keeps grains, and promises no more.
 *
 * Memory holds one table, the directory, and the grains that are being encoded. Those of a batch are encoded at once, in
 * the thread pool, and writes follow each other in the order of the calls.
 */

const BATCH_BYTES: number = 2 * 1024 * 1024;
const encode = promisify<Uint8Array, ZlibOptions, Uint8Array>(deflate);

/** Writes a complete stream without grains into an empty storage, durably. */
export async function writeEmptyStream(
  storage: Storage,
  header: SparseHeader,
  text: Uint8Array,
): Promise<void> {
  const directory = encodeMarked('directory', new Uint8Array(header.tableCount * 4));
  await storage.write(0, encodeStreamHeader(header, undefined), 'header');
  await storage.write(header.descriptorOffset, text, 'header');
  await storage.write(header.overheadBytes, directory, 'mapping');
  const end = header.overheadBytes + directory.length;
  await storage.write(end, encodeEnd(header, header.overheadBytes + SECTOR), 'header');
  await storage.flush();
}

export class StreamWriter implements Part {
  readonly start = 0;
  readonly size: number;
  readonly crowded = false;
  readonly storage: Storage;
  readonly header: SparseHeader;
  readonly #file: string;
  readonly #directory: Uint32Array;
  readonly #table = new Uint32Array(GRAIN_TABLE_ENTRIES);
  /** The table that is being filled. */
  #tableIndex = 0;
  #tableHasGrains = false;
  /** Bytes of the file so far, with those that are about to be written. */
  #end: number;
  /** First byte of the disk that can still be written. */
  #next = 0;
  #begun = false;
  #failure: unknown;
  #last: Promise<unknown> = Promise.resolve();
  #waiting: Uint8Array[] = [];

  /** `header` is that of a complete stream without grains. */
  constructor(file: string, storage: Storage, header: SparseHeader) {
    this.#file = file;
    this.storage = storage;
    this.header = header;
    this.size = header.size;
    this.#directory = new Uint32Array(header.tableCount);
    this.#end = header.overheadBytes;
  }

  /** Takes whole grains behind all that came before. Rejects with `ERR_UNSUPPORTED`, `ERR_TOO_LARGE`. */
  write(offset: number, source: Uint8Array): Promise<readonly GuestRange[]> {
    if (offset < this.#next) {
      const problem = `bytes from ${offset} on come after those up to ${this.#next}: it is written in order, and once`;
      throw unsupported(this.#file, 'header.flags', problem);
    }
    this.#next = roundUp(offset + source.length, this.header.grainBytes);
    const before = this.#last;
    const written = this.#write(offset, source, before);
    this.#last = written.catch(() => undefined);
    return written;
  }

  async #write(offset: number, source: Uint8Array, before: Promise<unknown>): Promise<readonly GuestRange[]> {
    const { grainBytes } = this.header;
    const step = Math.max(grainBytes, BATCH_BYTES);
    for (let at = 0; at < source.length; at += step) {
      const grains = await this.#encode(source.subarray(at, at + step));
      await before;
      const first = (offset + at) / grainBytes;
      await this.#appending(async () => {
        if (!this.#begun) await this.#begin();
        for (const [nth, bytes] of grains.entries()) this.#grain(first + nth, bytes);
        await this.#writeWaiting();
      });
    }
    return [];
  }

  #encode(source: Uint8Array): Promise<Uint8Array[]> {
    const { grainBytes } = this.header;
    const count = Math.ceil(source.length / grainBytes);
    const grains = Array.from({ length: count }, (_, nth) => {
      const grain = source.subarray(nth * grainBytes, (nth + 1) * grainBytes);
      if (grain.length === grainBytes) return grain;
      // Readers of others want whole grains, also where the disk ends.
      const whole = new Uint8Array(grainBytes);
      whole.set(grain);
      return whole;
    });
    return Promise.all(grains.map((grain) => encode(grain, { chunkSize: grainBytes + 64 })));
  }

  /** After a failure nothing fits together any more. */
  async #appending(run: () => Promise<void>): Promise<void> {
    this.#assertWhole();
    try {
      await run();
    } catch (error) {
      this.#failure = error;
      throw error;
    }
  }

  #assertWhole(): void {
    if (this.#failure === undefined) return;
    const problem = 'an earlier write failed, and the stream cannot go on from there';
    const data = { file: this.#file };
    throw new CowlabError('ERR_IO', `${this.#file}: ${problem}`, data, this.#failure);
  }

  /** The end of the empty stream goes, before anything lies where it was. */
  async #begin(): Promise<void> {
    await this.storage.truncate(this.header.overheadBytes);
    await this.storage.flush();
    this.#begun = true;
  }

  #grain(grain: number, bytes: Uint8Array): void {
    const index = Math.floor(grain / GRAIN_TABLE_ENTRIES);
    if (index !== this.#tableIndex) this.#endTable();
    this.#tableIndex = index;
    this.#table[grain % GRAIN_TABLE_ENTRIES] = this.#append(
      encodeGrain(grain * (this.header.grainBytes / SECTOR), bytes),
    );
    this.#tableHasGrains = true;
  }

  #endTable(): void {
    if (!this.#tableHasGrains) return;
    const bytes = new Uint8Array(GRAIN_TABLE_BYTES);
    const view = viewOf(bytes);
    for (const [i, sector] of this.#table.entries()) view.setUint32(i * 4, sector, true);
    this.#directory[this.#tableIndex] = this.#append(encodeMarked('table', bytes)) + 1;
    this.#table.fill(0);
    this.#tableHasGrains = false;
  }

  /** The sector in which the bytes will lie. */
  #append(bytes: Uint8Array): number {
    const sector = this.#end / SECTOR;
    if (sector >= MAX_SECTORS - 1) {
      const problem = `${this.#file}: the extent is full: no sector past 2^32 can be named`;
      throw new CowlabError('ERR_TOO_LARGE', problem, { file: this.#file, field: 'grain table entry' });
    }
    this.#waiting.push(bytes);
    this.#end += bytes.length;
    return sector;
  }

  async #writeWaiting(): Promise<void> {
    const bytes = Buffer.concat(this.#waiting);
    this.#waiting = [];
    await this.storage.write(this.#end - bytes.length, bytes);
  }

  /** Ends the stream, if it was begun; a stream whose writing has failed stays without an end. */
  async trim(): Promise<void> {
    await this.#last;
    if (!this.#begun || this.#failure !== undefined) return;
    await this.#appending(async () => {
      this.#endTable();
      const directory = new Uint8Array(this.#directory.length * 4);
      const view = viewOf(directory);
      for (const [i, sector] of this.#directory.entries()) view.setUint32(i * 4, sector, true);
      const sector = this.#append(encodeMarked('directory', directory)) + 1;
      await this.#writeWaiting();
      await this.storage.flush();
      this.#append(encodeEnd(this.header, sector * SECTOR));
      await this.#writeWaiting();
      await this.storage.flush();
    });
    this.#begun = false;
  }

  flush(): ReturnType<Storage['flush']> {
    return this.storage.flush();
  }

  map(_offset: number, length: number): Extent {
    if (!this.#begun) return { kind: 'zero', length, allocated: false };
    throw unsupported(this.#file, 'header.flags', 'a stream-optimized disk is read when it is complete');
  }

  reserve(): PartPlacement {
    return this.#refuse();
  }

  commit(): void {
    this.#refuse();
  }

  abort(): void {
    // Nothing was set aside.
  }

  async unmap(): Promise<number> {
    return this.#refuse();
  }

  freeze(): void {
    this.#refuse();
  }

  get residentBytes(): number {
    return this.#directory.byteLength + this.#table.byteLength;
  }

  #refuse(): never {
    throw unsupported(this.#file, 'header.flags', 'a stream-optimized disk takes compressed writes only');
  }
}
