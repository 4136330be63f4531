import {
  allocatedBytes,
  type CheckReport,
  type DriverImage,
  type DriverSnapshots,
  type Extent,
  type ImageInfo,
  type ImageStats,
  type Placement,
  unsupported,
} from '@cowlab/core';
import { SECTOR_BYTES } from '../structure.ts';
import { checkImage } from './check.ts';
import { type DataRange, dataRange, type Version1Parts } from './parts.ts';
import { EMPTY } from './table.ts';

/*
 * One open image of version 1, read-only. Where a guest byte is:
 *
 *   in the base's range, and its block not in the image     the base
 *   compact: its chunk has a place                          data start + host chunk × chunk bytes
 *   compact: its chunk has none                             the base, in the base's range; else zeros
 *   not compact                                             data start + guest offset; zeros before the first write
 *
 * A block can be marked as in the image while its chunk has no place: after a crash the original knew its bitmap, but
 * not the chunk that a copied block reached into, or that prefetching had filled. The original then reads zeros. No
 * guest ever wrote there, else the journal had told of the chunk; so the base still has the right bytes.
 */

/** Longest run of blocks or chunks that one extent looks at: a small read of a large image stays cheap. */
const MAX_RUN = 65_536;

/** How many indices from `from` on have what `from` has, at most up to `end` (or as many as are cheap to look at). */
function runLength(from: number, end: number, continues: (index: number) => boolean): number {
  const stop = Math.min(end, from + MAX_RUN);
  let index = from + 1;
  while (index < stop && continues(index)) index++;
  return index - from;
}

/** The largest power of two that divides `bytes`. */
function powerOfTwoIn(bytes: number): number {
  let unit = 1;
  while (bytes % (2 * unit) === 0) unit *= 2;
  return unit;
}

export class Version1Image implements DriverImage {
  readonly size: number;
  readonly unitBytes: number;
  readonly snapshots: DriverSnapshots;
  readonly parts: Version1Parts;
  readonly #data: DataRange;

  constructor(parts: Version1Parts) {
    const { header, storage } = parts;
    this.parts = parts;
    this.size = header.size;
    this.#data = dataRange(parts);
    this.unitBytes = powerOfTwoIn(header.table?.chunkBytes ?? header.base?.blockBytes ?? SECTOR_BYTES);
    const refuse = async (): Promise<never> => {
      throw unsupported(storage.name, 'header.version', 'version 1 has no snapshots');
    };
    this.snapshots = { list: () => [], create: refuse, delete: refuse, apply: refuse, open: refuse };
  }

  map(offset: number, length: number): Extent {
    const { header, bitmap } = this.parts;
    const { base } = header;
    if (base === undefined || bitmap === undefined || offset >= base.bytes) {
      return this.#mapLocal(offset, length);
    }
    const { blockBytes, blocks } = base;
    const block = Math.floor(offset / blockBytes);
    const isLocal = bitmap.get(block);
    const end = Math.min(blocks, Math.ceil((offset + length) / blockBytes));
    const run = runLength(block, end, (index) => bitmap.get(index) === isLocal);
    const covered = Math.min(length, base.bytes - offset, (block + run) * blockBytes - offset);
    return isLocal ? this.#mapLocal(offset, covered) : this.#mapBase(offset, covered);
  }

  reserve(): Placement {
    throw new TypeError('version 1 is never written');
  }

  commit(): void {
    throw new TypeError('version 1 is never written');
  }

  abort(): void {
    throw new TypeError('version 1 is never written');
  }

  unmap(): void {
    throw new TypeError('version 1 is never written');
  }

  flush(): void {
    // Nothing ever changes.
  }

  async check(): Promise<CheckReport> {
    return checkImage(this.parts);
  }

  async info(): Promise<ImageInfo> {
    const { header, storage, data, replayed } = this.parts;
    const { base, table, journal } = header;
    const dataInfo = await data?.image.info();
    return {
      format: 'fvd',
      size: this.size,
      unitBytes: this.unitBytes,
      files: [storage.name, ...(dataInfo?.files ?? [])],
      storageBytes: (await allocatedBytes(storage)) + (dataInfo?.storageBytes ?? 0),
      ...(base && { backing: { file: base.file, ...(base.format !== '' && { format: base.format }) } }),
      details: {
        version: 1,
        compact: table !== undefined,
        ...(table && { 'chunk size': table.chunkBytes }),
        ...(base && { 'block size': base.blockBytes, 'base size': base.bytes }),
        'metadata size': header.metadataBytes,
        'journal size': journal?.bytes ?? 0,
        'clean shutdown': header.cleanShutdown,
        ...(replayed && { 'replayed journal sectors': replayed.sectors }),
        ...(header.namesCommand && { 'storage command ignored': true }),
      },
    };
  }

  stats(): ImageStats {
    const { table, bitmap, damaged, base, data } = this.parts;
    const tableBytes = table?.entries.byteLength ?? 0;
    const bitmapBytes = bitmap?.words.byteLength ?? 0;
    const below = [base, data].map((each) => each?.stats().residentMetadataBytes ?? 0);
    const others = below.reduce((sum, bytes) => sum + bytes, damaged?.residentBytes ?? 0);
    return { residentMetadataBytes: tableBytes + bitmapBytes + others, tableBytes, bitmapBytes };
  }

  async close(): Promise<void> {
    const { storage, base, data } = this.parts;
    try {
      await storage.close();
    } finally {
      try {
        await base?.close();
      } finally {
        await data?.close();
      }
    }
  }

  #mapBase(offset: number, length: number): Extent {
    const { base } = this.parts;
    if (base === undefined) return { kind: 'zero', length, allocated: false };
    return { kind: 'backing', length, source: base, offset };
  }

  /** What is not the base's, by the bitmap. */
  #mapLocal(offset: number, length: number): Extent {
    const { table, damaged, storage, header } = this.parts;
    if (table === undefined) return this.#mapData(this.#data.start + offset, length);
    const { chunkBytes, entries } = table;
    const chunk = Math.floor(offset / chunkBytes);
    const skip = offset - chunk * chunkBytes;
    const host = entries[chunk]!;
    const end = Math.ceil((offset + length) / chunkBytes);
    if (host === EMPTY) {
      const run = runLength(chunk, end, (index) => entries[index] === EMPTY);
      const covered = Math.min(length, run * chunkBytes - skip);
      const inBase = (header.base?.bytes ?? 0) - offset;
      if (inBase > 0) return this.#mapBase(offset, Math.min(covered, inBase));
      return { kind: 'zero', length: covered, allocated: false };
    }
    damaged?.assertSound(chunk, storage.name);
    const run = runLength(
      chunk,
      end,
      (index) => entries[index] === host + index - chunk && damaged?.has(index) !== true,
    );
    const covered = Math.min(length, run * chunkBytes - skip);
    return this.#mapData(this.#data.start + host * chunkBytes + skip, covered);
  }

  /** Bytes of the file with the data; where it has not grown to them, nobody wrote yet. */
  #mapData(position: number, length: number): Extent {
    const { storage, data } = this.parts;
    if (position >= this.#data.end) return { kind: 'zero', length, allocated: false };
    if (data !== undefined) return { kind: 'backing', length, source: data, offset: position };
    return { kind: 'data', length, storage, hostOffset: position, owned: false };
  }
}
