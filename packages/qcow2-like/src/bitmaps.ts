import { type Awaitable, CowlabError } from '@cowlab/core';
import {
  allOnes,
  type Bitmap,
  type Directory,
  encodeBitmapTable,
  encodeEntry,
  entriesFor,
  maxBitmapBytes,
  readBitmapTable,
} from './bitmap-directory.ts';
import type { Metadata } from './metadata.ts';
import { Recording } from './recording.ts';

/*
 * QEMU's dirty bitmaps while the image is open for writing. Until the first change nothing happens. Then
 *
 *   before it     the enabled bitmaps are marked IN_USE in the directory «flush»: a crash leaves them inconsistent, and
 *                 QEMU knows
 *   from then on  changes are recorded in memory, in the finest granularity that an enabled bitmap has: all of them
 *                 record the same. Bytes may be overwritten in place without asking once their granules are recorded
 *   at close      what was recorded goes into each bitmap's clusters of bits: counts, bits «flush» → tables, places «flush» →
 *                 IN_USE off «flush» → what tables had before is given back
 *
 * A bitmap that was IN_USE when the image was opened is inconsistent, and stays as it is. A disabled one stays as it is,
 * too, unless the size changes: then it is marked and written like the others. New bytes of a larger disk are not dirty.
 * Applying a snapshot is refused, as by QEMU: what that changes nobody could record.
 */
export class Bitmaps {
  readonly #metadata: Metadata;
  readonly #directory: Directory;
  readonly #enabled: readonly Bitmap[];
  readonly #recording: Recording | undefined;
  /** Those that are marked, and were consistent before. */
  readonly #marked = new Set<Bitmap>();
  #marking: Promise<void> | undefined;
  /** The smallest size that the disk has had, once it had another: bits past it are clear, whatever the file says. */
  #leastSize = Infinity;

  constructor(metadata: Metadata, directory: Directory) {
    this.#metadata = metadata;
    this.#directory = directory;
    this.#enabled = directory.bitmaps.filter(({ isAuto, isInUse }) => isAuto && !isInUse);
    const finest = Math.min(...this.#enabled.map(({ granularityBits }) => granularityBits));
    this.#recording = this.#enabled.length === 0 ? undefined : new Recording(2 ** finest);
  }

  get all(): readonly Bitmap[] {
    return this.#directory.bitmaps;
  }

  get residentBytes(): number {
    return this.#directory.bytes.length + (this.#recording?.residentBytes ?? 0);
  }

  /** Whether bytes may change without anybody recording it. */
  covers(offset: number, length: number): boolean {
    return this.#recording === undefined || this.#recording.covers(offset, length);
  }

  /** Comes before a change of the disk. */
  begin(): Awaitable<void> {
    if (this.#recording !== undefined && this.#marked.size === 0) return this.#mark(this.#enabled);
    return this.#marking;
  }

  record(offset: number, length: number): void {
    this.#recording?.add(offset, length);
  }

  /** Comes before a change of the size. Throws `ERR_TOO_LARGE` when a bitmap could not be as large as the disk. */
  async beginResize(size: number): Promise<void> {
    const { file } = this.#metadata;
    const consistent = this.all.filter((bitmap) => this.#marked.has(bitmap) || !bitmap.isInUse);
    for (const { name, granularityBits } of consistent) {
      const { clusterBytes } = file.geometry;
      if (entriesFor(size, granularityBits, clusterBytes) * clusterBytes <= maxBitmapBytes) continue;
      const problem = `the bitmap ${JSON.stringify(name)} would be larger than ${maxBitmapBytes} bytes`;
      throw new CowlabError('ERR_TOO_LARGE', `${file.name}: ${problem}`, {
        file: file.name,
        field: 'bitmaps',
      });
    }
    await this.#marking;
    await this.#mark(consistent.filter((bitmap) => !this.#marked.has(bitmap)));
  }

  resized(before: number, size: number): void {
    this.#leastSize = Math.min(this.#leastSize, before, size);
    this.#recording?.truncate(size);
  }

  #mark(bitmaps: readonly Bitmap[]): Promise<void> {
    const marking = this.#writeMarks(bitmaps).finally(() => {
      if (this.#marking === marking) this.#marking = undefined;
    });
    this.#marking = marking;
    return marking;
  }

  async #writeMarks(bitmaps: readonly Bitmap[]): Promise<void> {
    if (bitmaps.length === 0) return;
    for (const bitmap of bitmaps) {
      bitmap.isInUse = true;
      this.#marked.add(bitmap);
    }
    try {
      await this.#writeDirectory();
    } catch (error) {
      // The file may have the marks or not; who comes next tries again.
      for (const bitmap of bitmaps) {
        bitmap.isInUse = false;
        this.#marked.delete(bitmap);
      }
      throw error;
    }
  }

  async #writeDirectory(): Promise<void> {
    const { file } = this.#metadata;
    const { bytes, bitmaps } = this.#directory;
    for (const bitmap of bitmaps) encodeEntry(bytes, bitmap);
    const { directoryOffset = 0 } = file.header.bitmaps ?? {};
    await file.writeMetadata(directoryOffset, bytes, 'mapping', ownDirectory);
    await file.storage.flush();
  }

  /** Writes what was recorded; all else of the image is on disk already. */
  async store(): Promise<void> {
    if (this.#marked.size === 0) return;
    const stored: Stored[] = [];
    for (const bitmap of this.#marked) stored.push(await this.#storeBits(bitmap));
    await this.#metadata.writeAll();
    await this.#switchTables(stored);
    for (const { bitmap } of stored) bitmap.isInUse = false;
    await this.#writeDirectory();
    this.#marked.clear();
    for (const { released } of stored)
      for (const { offset, bytes } of released) await this.#metadata.countDown(offset, bytes);
    if (this.#metadata.refcounts.hasChanges) await this.#metadata.writeAll();
  }

  /** At any moment of it, a table has at least as many entries as the directory says: place and number are two sectors. */
  async #switchTables(stored: readonly Stored[]): Promise<void> {
    const { file } = this.#metadata;
    for (const { bitmap, table, movedTo } of stored)
      if (movedTo === undefined)
        await file.writeMetadata(bitmap.tableOffset, encodeBitmapTable(table), 'mapping');
    await file.storage.flush();
    const changed = stored.filter(
      ({ bitmap, table, movedTo }) => movedTo !== undefined || table.length !== bitmap.tableEntryCount,
    );
    if (changed.length === 0) return;
    for (const { bitmap, table, movedTo } of changed) {
      if (table.length < bitmap.tableEntryCount) bitmap.tableEntryCount = table.length;
      else bitmap.tableOffset = movedTo ?? bitmap.tableOffset;
    }
    await this.#writeDirectory();
    for (const { bitmap, table, movedTo } of changed) {
      bitmap.tableEntryCount = table.length;
      bitmap.tableOffset = movedTo ?? bitmap.tableOffset;
    }
    await this.#writeDirectory();
  }

  /** Puts a bitmap's clusters of bits where they have to be, and its table, when that needs another place. */
  async #storeBits(bitmap: Bitmap): Promise<Stored> {
    const { file } = this.#metadata;
    const { clusterBytes } = file.geometry;
    const before = await readBitmapTable(file, bitmap);
    const count = entriesFor(file.header.size, bitmap.granularityBits, clusterBytes);
    const table = Array.from({ length: count }, (_, index) => before[index] ?? 0);
    for (const index of this.#changedEntries(bitmap, before.length, count))
      table[index] = await this.#storeCluster(bitmap, index, table[index]!);
    const released = before
      .slice(count)
      .filter((entry) => entry !== 0 && entry !== allOnes)
      .map((offset) => ({ offset, bytes: clusterBytes }));
    const clustersOf = (entries: number): number => Math.ceil((entries * 8) / clusterBytes);
    if (clustersOf(count) === clustersOf(before.length)) return { bitmap, table, released };
    released.push({ offset: bitmap.tableOffset, bytes: before.length * 8 });
    const movedTo = await this.#metadata.writeNew(encodeBitmapTable(table), 'mapping');
    return { bitmap, table, released, movedTo };
  }

  /** Which clusters of bits may have to change, in order. */
  #changedEntries(bitmap: Bitmap, countBefore: number, count: number): number[] {
    const spanBytes = this.#spanBytes(bitmap);
    const changed = new Set<number>();
    const end = Math.min(countBefore, count);
    for (let index = Math.floor(this.#leastSize / spanBytes); index < end; index += 1) changed.add(index);
    if (bitmap.isAuto && this.#recording !== undefined)
      for (const page of this.#recording.pages)
        changed.add(Math.floor((page * this.#recording.pageSpanBytes) / spanBytes));
    return [...changed].toSorted((a, b) => a - b);
  }

  /** Guest bytes that a cluster of bits speaks for. */
  #spanBytes({ granularityBits }: Bitmap): number {
    return this.#metadata.file.geometry.clusterBytes * 8 * 2 ** granularityBits;
  }

  /** The table entry for a cluster of bits, which is written when it has to change. IN_USE is set: it may change in place. */
  async #storeCluster(bitmap: Bitmap, index: number, entry: number): Promise<number> {
    const { file } = this.#metadata;
    const bits = await this.#readBits(entry);
    const before = bits.slice();
    this.#clearPastEnd(bitmap, index, bits);
    if (bitmap.isAuto) this.#addRecorded(bitmap, index, bits);
    if (Buffer.compare(bits, before) === 0) return entry;
    if (entry === 0 || entry === allOnes) return this.#metadata.writeNew(bits, 'mapping');
    await file.writeMetadata(entry, bits, 'mapping');
    return entry;
  }

  async #readBits(entry: number): Promise<Uint8Array> {
    const { file } = this.#metadata;
    const bits = new Uint8Array(file.geometry.clusterBytes);
    if (entry === allOnes) bits.fill(0xff);
    else if (entry !== 0) await file.storage.read(entry, bits, 'mapping');
    return bits;
  }

  /** Clears what the file says of bytes that the disk once did not have. */
  #clearPastEnd({ granularityBits }: Bitmap, index: number, bits: Uint8Array): void {
    const first = index * bits.length * 8;
    const kept = Math.ceil(this.#leastSize / 2 ** granularityBits) - first;
    for (let bit = Math.max(0, kept); bit < bits.length * 8; ) {
      if (bit % 8 === 0) {
        bits.fill(0, bit / 8);
        return;
      }
      bits[Math.floor(bit / 8)]! &= ~(1 << (bit % 8));
      bit += 1;
    }
  }

  #addRecorded(bitmap: Bitmap, index: number, bits: Uint8Array): void {
    const recording = this.#recording;
    if (recording === undefined) return;
    const spanBytes = this.#spanBytes(bitmap);
    const perSpan = spanBytes / recording.pageSpanBytes;
    const granuleBytes = 2 ** bitmap.granularityBits;
    for (const page of recording.pages) {
      if (page < index * perSpan || page >= (index + 1) * perSpan) continue;
      recording.runs(page, (offset, length) => {
        const from = Math.floor((offset - index * spanBytes) / granuleBytes);
        const to = Math.ceil((offset + length - index * spanBytes) / granuleBytes);
        for (let bit = from; bit < to; bit += 1) bits[Math.floor(bit / 8)]! |= 1 << (bit % 8);
      });
    }
  }
}

/** What became of a bitmap: its table, and what it has no more use for. */
interface Stored {
  readonly bitmap: Bitmap;
  readonly table: readonly number[];
  /** Where the table lies now, when it needed another place. */
  readonly movedTo?: number;
  readonly released: readonly { readonly offset: number; readonly bytes: number }[];
}

const ownDirectory = ['bitmap directory'] as const;
