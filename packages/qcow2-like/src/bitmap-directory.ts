import {
  corrupt,
  type CowlabError,
  isCowlabError,
  roundUp,
  unsupported,
  viewOf,
  writeU64BE,
} from '@cowlab/core';
import { autoclearRawData } from './data-file.ts';
import type { ImageFile } from './image-file.ts';
import { bitmapFields as fields } from './layout-fields.ts';
import { autoclearBitmaps, readField } from './layout.ts';

/*
 * The dirty bitmaps that an image carries for QEMU: which parts of the disk were changed since somebody asked for a bitmap.
 *
 *   header extension → directory: entries one after the other, each padded to 8: fixed fields (layout-fields.ts) | name
 *                    → of each, a table: 0 all bits clear, 1 all bits set, else the host offset of a cluster of bits
 *                    → bits, one for each 2^granularity_bits guest bytes, from the least significant bit of the first byte on
 *
 * Autoclear bit 0 says that all this is up to date; without it the bitmaps are stale and their clusters are leaks.
 * IN_USE says of one bitmap that a writer has not finished with it: after a crash nobody may trust it.
 *
 * Source: QEMU, docs/interop/qcow2, "Bitmaps extension"; the limits are those of its block/qcow2-bitmap.c.
 */

const flagInUse = 1;
const flagAuto = 2;

const fixedBytes = 24;
const typeDirtyTracking = 1;
const minGranularityBits = 9;
const maxGranularityBits = 31;
const maxNameBytes = 1023;
const maxBitmaps = 65_535;
const maxDirectoryBytes = 64 * 1024 * 1024;
/** Of the clusters of bits of one bitmap. */
export const maxBitmapBytes: number = 512 * 1024 * 1024;

const offsetMaskHi = 0x00ff_ffff;
const offsetMaskLo = 0xffff_fe00;
export const allOnes = 1;

/** One bitmap as the directory has it. */
export interface Bitmap {
  readonly name: string;
  readonly granularityBits: number;
  /** Where in the directory its entry is. */
  readonly at: number;
  tableOffset: number;
  tableEntryCount: number;
  isInUse: boolean;
  /** Enabled: changes of the disk are to be recorded. */
  readonly isAuto: boolean;
}

/** How many clusters the bits for `size` guest bytes take. */
export function entriesFor(size: number, granularityBits: number, clusterBytes: number): number {
  return Math.ceil(Math.ceil(size / 2 ** granularityBits) / 8 / clusterBytes);
}

/** Whether the image has bitmaps that are up to date, as far as its header says. */
function hasBitmaps({ header }: ImageFile): boolean {
  return header.bitmaps !== undefined && (header.autoclear & autoclearBitmaps) !== 0n;
}

/** What may stay of the autoclear bits when the image is written to. */
export function keptAutoclear(file: ImageFile): bigint {
  return (hasBitmaps(file) ? autoclearBitmaps : 0n) | (file.hasRawDataFile ? autoclearRawData : 0n);
}

export interface Directory {
  readonly bytes: Uint8Array;
  readonly bitmaps: readonly Bitmap[];
}

/** Reads the directory; empty where there is none, or it is stale. Throws `ERR_CORRUPT` or `ERR_UNSUPPORTED` naming the field. */
export async function readDirectory(file: ImageFile): Promise<Directory> {
  const { bitmaps } = file.header;
  if (bitmaps === undefined || !hasBitmaps(file)) return { bytes: new Uint8Array(0), bitmaps: [] };
  const { count, directoryBytes, directoryOffset } = bitmaps;
  const refuse = (field: string, problem: string, value: number): CowlabError =>
    corrupt(file.name, `bitmaps.${field}`, problem, { value });
  if (count === 0 || count > maxBitmaps) throw refuse('nb_bitmaps', `${count} bitmaps`, count);
  if (directoryBytes === 0 || directoryBytes > maxDirectoryBytes)
    throw refuse('bitmap_directory_size', `${directoryBytes} bytes`, directoryBytes);
  file.requireRegion(directoryOffset, directoryBytes, 'bitmaps.bitmap_directory_offset');
  const bytes = new Uint8Array(directoryBytes);
  await file.storage.read(directoryOffset, bytes, 'mapping');
  return { bytes, bitmaps: decodeDirectory(bytes, count, file) };
}

function decodeDirectory(bytes: Uint8Array, count: number, file: ImageFile): Bitmap[] {
  const bitmaps: Bitmap[] = [];
  const names = new Set<string>();
  let at = 0;
  while (at < bytes.length) {
    if (bitmaps.length === count)
      throw corrupt(file.name, 'bitmaps.nb_bitmaps', 'the directory has more', { value: count });
    const { bitmap, next } = decodeEntry(bytes, at, file);
    if (names.has(bitmap.name))
      throw corrupt(file.name, 'bitmap_directory.name', `two bitmaps are named ${bitmap.name}`);
    names.add(bitmap.name);
    bitmaps.push(bitmap);
    at = next;
  }
  if (bitmaps.length < count)
    throw corrupt(file.name, 'bitmaps.nb_bitmaps', 'the directory has fewer', { value: count });
  return bitmaps;
}

function decodeEntry(
  bytes: Uint8Array,
  at: number,
  file: ImageFile,
): { readonly bitmap: Bitmap; readonly next: number } {
  const view = viewOf(bytes);
  const refuse = (field: string, problem: string, value: number): CowlabError =>
    corrupt(file.name, `bitmap_directory.${field}`, problem, { value, offset: at });
  const ends = 'the entry reaches past the end of the directory';
  if (at + fixedBytes > bytes.length) throw refuse('entry', ends, at);
  const extraBytes = view.getUint32(at + fields.extra_data_size.at);
  const nameBytes = view.getUint16(at + fields.name_size.at);
  if (extraBytes !== 0) {
    const problem = `extra data of ${extraBytes} bytes`;
    throw unsupported(file.name, 'bitmap_directory.extra_data_size', problem, { value: extraBytes });
  }
  if (nameBytes === 0 || nameBytes > maxNameBytes) throw refuse('name_size', `${nameBytes} bytes`, nameBytes);
  const next = at + roundUp(fixedBytes + nameBytes, 8);
  if (next > bytes.length) throw refuse('name_size', ends, nameBytes);
  const type = view.getUint8(at + fields.type.at);
  if (type !== typeDirtyTracking)
    throw unsupported(file.name, 'bitmap_directory.type', `type ${type}`, { value: type });
  const flags = view.getUint32(at + fields.flags.at);
  if ((flags & ~(flagInUse | flagAuto)) !== 0)
    throw unsupported(file.name, 'bitmap_directory.flags', `flags ${flags}`, { value: flags });
  const granularityBits = view.getUint8(at + fields.granularity_bits.at);
  if (granularityBits < minGranularityBits || granularityBits > maxGranularityBits)
    throw refuse('granularity_bits', 'not between 9 and 31', granularityBits);
  const bitmap: Bitmap = {
    name: new TextDecoder().decode(bytes.subarray(at + fixedBytes, at + fixedBytes + nameBytes)),
    granularityBits,
    at,
    tableOffset: readField(view, at, file.name, 'bitmap_directory.bitmap_table_offset'),
    tableEntryCount: view.getUint32(at + fields.bitmap_table_size.at),
    isInUse: (flags & flagInUse) !== 0,
    isAuto: (flags & flagAuto) !== 0,
  };
  requireTable(bitmap, file);
  return { bitmap, next };
}

/** A bitmap that nobody finished with may have the size of a disk that was. */
function requireTable(
  { tableOffset, tableEntryCount, granularityBits, isInUse }: Bitmap,
  file: ImageFile,
): void {
  const { clusterBytes } = file.geometry;
  const { size } = file.header;
  const fits = isInUse || tableEntryCount === entriesFor(size, granularityBits, clusterBytes);
  if (tableEntryCount === 0 || tableEntryCount * clusterBytes > maxBitmapBytes || !fits) {
    const problem = `${tableEntryCount} entries for a disk of ${size} bytes`;
    throw corrupt(file.name, 'bitmap_directory.bitmap_table_size', problem, { value: tableEntryCount });
  }
  file.requireRegion(tableOffset, tableEntryCount * 8, 'bitmap_directory.bitmap_table_offset');
}

/** Puts what can change of a bitmap into the directory's bytes. */
export function encodeEntry(bytes: Uint8Array, bitmap: Bitmap): void {
  const view = viewOf(bytes);
  const { at } = bitmap;
  writeU64BE(view, at + fields.bitmap_table_offset.at, bitmap.tableOffset);
  view.setUint32(at + fields.bitmap_table_size.at, bitmap.tableEntryCount);
  view.setUint32(at + fields.flags.at, (bitmap.isInUse ? flagInUse : 0) | (bitmap.isAuto ? flagAuto : 0));
}

/** A bitmap's table: for each cluster of bits 0, `allOnes`, or where it lies. Throws `ERR_CORRUPT`. */
export async function readBitmapTable(file: ImageFile, bitmap: Bitmap): Promise<number[]> {
  const bytes = new Uint8Array(bitmap.tableEntryCount * 8);
  await file.storage.read(bitmap.tableOffset, bytes, 'mapping');
  const view = viewOf(bytes);
  return Array.from({ length: bitmap.tableEntryCount }, (_, index) => {
    const hi = view.getUint32(index * 8);
    const lo = view.getUint32(index * 8 + 4);
    if (hi === 0 && (lo === 0 || lo === allOnes)) return lo;
    if ((hi & ~offsetMaskHi) !== 0 || (lo & ~offsetMaskLo) !== 0)
      throw corrupt(file.name, 'bitmap_table.entry', 'reserved bits are set', { index });
    const offset = readField(view, index * 8, file.name, 'bitmap_table.entry');
    file.requireRegion(offset, file.geometry.clusterBytes, 'bitmap_table.entry');
    return offset;
  });
}

export function encodeBitmapTable(table: readonly number[]): Uint8Array {
  const bytes = new Uint8Array(table.length * 8);
  table.forEach((entry, index) => writeU64BE(viewOf(bytes), index * 8, entry));
  return bytes;
}

/** Visits each structure of the bitmaps; nothing where they are stale. Throws `ERR_CORRUPT` naming the field. */
export async function visitBitmaps(
  file: ImageFile,
  visit: (structure: string, offset: number, bytes: number) => boolean,
): Promise<void> {
  const { bitmaps } = file.header;
  if (bitmaps === undefined || !hasBitmaps(file)) return;
  const directory = await readDirectory(file);
  visit('bitmap directory', bitmaps.directoryOffset, bitmaps.directoryBytes);
  for (const bitmap of directory.bitmaps) {
    visit('bitmap table', bitmap.tableOffset, bitmap.tableEntryCount * 8);
    for (const entry of await readBitmapTable(file, bitmap))
      if (entry !== 0 && entry !== allOnes) visit('bitmap data', entry, file.geometry.clusterBytes);
  }
}

/** What `info` says of bitmaps. */
export async function bitmapDetails(file: ImageFile): Promise<Record<string, string>> {
  if (!hasBitmaps(file)) return {};
  try {
    const bitmaps = file.bitmaps?.all ?? (await readDirectory(file)).bitmaps;
    return Object.fromEntries(bitmaps.map((bitmap) => [`bitmap ${bitmap.name}`, describe(bitmap)]));
  } catch (error) {
    if (!isCowlabError(error)) throw error;
    return { bitmaps: `malformed: ${error.message}` };
  }
}

function describe({ granularityBits, isInUse, isAuto }: Bitmap): string {
  const flags = [...(isInUse ? ['in-use'] : []), ...(isAuto ? ['auto'] : [])];
  return [`granularity ${2 ** granularityBits}`, ...flags].join(', ');
}
