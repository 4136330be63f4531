import { corrupt, unsupported, viewOf } from '@cowlab/core';
import { MAGIC } from '../layout.ts';
import { isWithin, type Region, SECTOR_BYTES } from '../structure.ts';

/*
 * The header of FVD version 1, as the original program wrote it: decode and validate, no I/O. FORMAT.md, section
 * "Version 1", has the fields. Nothing of it carries a checksum, so every number is held against the file's own
 * length before anything is read or allocated by it. What only a writer needs (prefetching, growth of the storage
 * and the shell command for it) is not decoded.
 */

/** Bytes that the fields take; regions begin behind them. */
export const HEADER_BYTES = 4336;
const VERSION_1 = 1;
const FIRST_REGION = Math.ceil(HEADER_BYTES / SECTOR_BYTES) * SECTOR_BYTES;

/** Where the fields that a reader needs are, by the names of the format. */
export const HEADER_OFFSETS = {
  all_data_in_fvd_img: 8,
  virtual_disk_size: 12,
  metadata_size: 20,
  base_img: 28,
  base_img_fmt: 1052,
  base_img_size: 1068,
  bitmap_offset: 1076,
  bitmap_size: 1084,
  block_size: 1092,
  data_file: 1108,
  data_file_fmt: 2132,
  compact_image: 2208,
  table_offset: 2212,
  chunk_size: 2220,
  add_storage_cmd: 2236,
  journal_offset: 4284,
  journal_size: 4292,
  clean_shutdown: 4300,
} as const;

type Field = keyof typeof HEADER_OFFSETS;

/** What one image may take of our memory: 64 MiB of table, as much of bitmap; the journal is streamed. */
const MAX_ENTRIES = 2 ** 24;
const MAX_BITMAP_BYTES = 2 ** 26;
const MAX_JOURNAL_BYTES = 2 ** 30;

/** The base, and the bitmap that says which of its blocks are in the image by now. */
export interface BaseFields {
  readonly file: string;
  /** Empty: not known. */
  readonly format: string;
  /** Guest bytes from 0 that the base answered for at first. */
  readonly bytes: number;
  readonly blockBytes: number;
  readonly blocks: number;
  readonly bitmap: Region;
}

/** The lookup table of a compact image. */
export interface TableFields {
  readonly offset: number;
  readonly chunkBytes: number;
  readonly entries: number;
}

export interface Header {
  /** Guest bytes. */
  readonly size: number;
  readonly metadataBytes: number;
  /** None: the image has all of its data itself. */
  readonly base: BaseFields | undefined;
  /** None: guest byte n is data byte n. */
  readonly table: TableFields | undefined;
  readonly journal: Region | undefined;
  /** The file with the data; empty: this one, behind the metadata. */
  readonly dataFile: string;
  readonly dataFormat: string;
  readonly cleanShutdown: boolean;
  readonly namesCommand: boolean;
}

export function isVersion1(head: Uint8Array): boolean {
  const view = viewOf(head);
  return head.length >= 8 && view.getUint32(0, true) === MAGIC && view.getUint32(4, true) === VERSION_1;
}

/** Reads fields by the names of the format, and refuses by those names. */
class Fields {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #file: string;

  constructor(bytes: Uint8Array, file: string) {
    this.#bytes = bytes;
    this.#view = viewOf(bytes);
    this.#file = file;
  }

  i8(field: Field): number {
    return this.#view.getInt8(HEADER_OFFSETS[field]);
  }

  i32(field: Field): number {
    return this.#view.getInt32(HEADER_OFFSETS[field], true);
  }

  /** A 64-bit field that counts bytes. */
  bytes(field: Field): number {
    const value = this.#view.getBigInt64(HEADER_OFFSETS[field], true);
    this.ensure(value >= 0n && value <= Number.MAX_SAFE_INTEGER, field, 'is not from 0 to 2^53 - 1', value);
    return Number(value);
  }

  text(field: Field, length: number): string {
    const start = HEADER_OFFSETS[field];
    const bytes = this.#bytes.subarray(start, start + length);
    const end = bytes.indexOf(0);
    this.ensure(end >= 0, field, 'has no end');
    try {
      return new TextDecoder('utf-8', { fatal: true }).decode(bytes.subarray(0, end));
    } catch {
      throw unsupported(this.#file, `header.${field}`, 'is not UTF-8');
    }
  }

  ensure(right: boolean, field: Field, problem: string, value?: number | bigint): void {
    if (right) return;
    const found = value === undefined ? '' : `${value} `;
    throw corrupt(this.#file, `header.${field}`, `${found}${problem}`, value === undefined ? {} : { value });
  }

  /** Refuses what may be right, but is more than we hold. */
  limit(value: number, most: number, field: Field, what: string): void {
    if (value <= most) return;
    throw unsupported(this.#file, `header.${field}`, `${value} ${what} are more than ${most}`, { value });
  }
}

function isSectors(bytes: number): boolean {
  return bytes > 0 && bytes % SECTOR_BYTES === 0;
}

function decodeBase(fields: Fields, size: number): BaseFields | undefined {
  if (fields.i32('all_data_in_fvd_img') !== 0) return undefined;
  const file = fields.text('base_img', 1024);
  fields.ensure(file !== '', 'base_img', 'is empty, but not all data are in the image');
  const format = fields.text('base_img_fmt', 16);
  const baseBytes = fields.bytes('base_img_size');
  fields.ensure(baseBytes % SECTOR_BYTES === 0, 'base_img_size', 'is no multiple of 512', baseBytes);
  const blockBytes = fields.i32('block_size');
  fields.ensure(isSectors(blockBytes), 'block_size', 'is no multiple of 512 above 0', blockBytes);
  const blocks = Math.ceil(baseBytes / blockBytes);
  const bitmap = { offset: fields.bytes('bitmap_offset'), bytes: fields.bytes('bitmap_size') };
  const holds = bitmap.bytes >= Math.ceil(blocks / 8);
  fields.ensure(holds, 'bitmap_size', `bytes do not hold ${blocks} blocks`, bitmap.bytes);
  // The original's `update` shrinks a disk by its header alone, below its base even.
  return { file, format, bytes: Math.min(size, baseBytes), blockBytes, blocks, bitmap };
}

function decodeTable(fields: Fields, size: number): TableFields | undefined {
  if (fields.i32('compact_image') === 0) return undefined;
  const chunkBytes = fields.bytes('chunk_size');
  fields.ensure(isSectors(chunkBytes), 'chunk_size', 'is no multiple of 512 above 0', chunkBytes);
  const entries = Math.ceil(size / chunkBytes);
  return { offset: fields.bytes('table_offset'), chunkBytes, entries };
}

/** Regions lie between header and data, at sectors, and no two share a byte. */
function assertRegions(fields: Fields, { base, table, journal, metadataBytes }: Header): void {
  const tableRegion = table && { offset: table.offset, bytes: table.entries * 4 };
  const regions: [Field, Region | undefined][] = [
    ['bitmap_offset', base?.bitmap],
    ['table_offset', tableRegion],
    ['journal_offset', journal],
  ];
  let before: [Field, Region][] = [];
  for (const [field, region] of regions) {
    if (region === undefined) continue;
    const { offset, bytes } = region;
    fields.ensure(offset % SECTOR_BYTES === 0, field, 'is no multiple of 512', offset);
    const inside = isWithin(region, FIRST_REGION, metadataBytes);
    fields.ensure(inside, field, `with ${bytes} bytes from there is outside the metadata`, offset);
    for (const [other, { offset: start, bytes: length }] of before) {
      const apart = offset + bytes <= start || start + length <= offset;
      fields.ensure(apart, field, `with ${bytes} bytes from there runs into ${other}`, offset);
    }
    before = [...before, [field, region]];
  }
}

/** The header in a file of `fileBytes`. Throws `ERR_CORRUPT`, `ERR_UNSUPPORTED`. */
export function decodeHeader(bytes: Uint8Array, fileBytes: number, file: string): Header {
  if (fileBytes < HEADER_BYTES) {
    throw corrupt(file, 'header', `the file has ${fileBytes} bytes, fewer than its header`);
  }
  const fields = new Fields(bytes, file);
  const size = fields.bytes('virtual_disk_size');
  fields.ensure(isSectors(size), 'virtual_disk_size', 'is no multiple of 512 above 0', size);
  const metadataBytes = fields.bytes('metadata_size');
  const inFile = metadataBytes >= FIRST_REGION && metadataBytes <= fileBytes;
  const range = `is not from ${FIRST_REGION} to the file's ${fileBytes}`;
  fields.ensure(inFile && isSectors(metadataBytes), 'metadata_size', range, metadataBytes);
  const addressable = metadataBytes + size <= Number.MAX_SAFE_INTEGER;
  fields.ensure(addressable, 'virtual_disk_size', 'leaves no room for metadata', size);
  const journal = { offset: fields.bytes('journal_offset'), bytes: fields.bytes('journal_size') };
  const whole = journal.bytes % SECTOR_BYTES === 0;
  fields.ensure(whole, 'journal_size', 'is no multiple of 512', journal.bytes);
  const header: Header = {
    size,
    metadataBytes,
    base: decodeBase(fields, size),
    table: decodeTable(fields, size),
    journal: journal.bytes === 0 ? undefined : journal,
    dataFile: fields.text('data_file', 1024),
    dataFormat: fields.text('data_file_fmt', 16),
    cleanShutdown: fields.i32('clean_shutdown') !== 0,
    namesCommand: fields.i8('add_storage_cmd') !== 0,
  };
  assertRegions(fields, header);
  fields.limit(header.table?.entries ?? 0, MAX_ENTRIES, 'chunk_size', 'chunks');
  fields.limit(header.base?.bitmap.bytes ?? 0, MAX_BITMAP_BYTES, 'bitmap_size', 'bytes');
  fields.limit(journal.bytes, MAX_JOURNAL_BYTES, 'journal_size', 'bytes');
  return header;
}
