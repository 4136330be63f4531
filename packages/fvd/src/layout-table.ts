import { corrupt, viewOf, writeU64LE } from '@cowlab/core';
import {
  type Geometry,
  isWithin,
  LOG_ALIGN,
  type Region,
  seal,
  sealed,
  SUPERBLOCKS_BYTES,
  TWO_32,
} from './structure.ts';

/*
 * Pages and roots: the lookup table of one state as it lies on disk. A page holds the entries of `pageChunks`
 * chunks, as items of 8 bytes: runs of whole chunks that follow each other, and splits with one more item a run.
 */

const PAGE_MAGIC = 0x50445646;
const ROOT_MAGIC = 0x52445646;

/** Marks of a run that has no host block. */
export const ABSENT = 0;
export const ZERO = 1;

/** Blocks of one chunk: `starts[i]` up to the next start lie at `hosts[i]` and on, or are absent or zero. */
export interface Runs {
  readonly starts: number[];
  readonly hosts: number[];
}

/** What a lookup-table entry says of its chunk. Numbers: a host chunk, or a mark. */
export type ChunkEntry = number | Runs;

export const ENTRY_ABSENT = 0;
export const ENTRY_ZERO = -1;

const PAGE_HEADER_BYTES = 16;
const ITEM_BYTES = 8;
const SPLIT_FLAG = 0x8000;
const ZERO_CHUNK = 0xffff_ffff;

/** A page: `entries[i]` is of chunk `index * pageChunks + i`. Undefined when every entry is absent. */
export function encodePage(index: number, entries: readonly ChunkEntry[]): Uint8Array | undefined {
  let bytes = PAGE_HEADER_BYTES;
  for (const entry of entries)
    bytes += typeof entry === 'number' ? ITEM_BYTES : ITEM_BYTES * (1 + entry.starts.length);
  const page = new Uint8Array(bytes + LOG_ALIGN);
  const view = viewOf(page);
  let at = PAGE_HEADER_BYTES;
  for (let slot = 0; slot < entries.length; ) {
    const entry = entries[slot]!;
    if (typeof entry !== 'number') {
      at = encodeSplit(view, at, slot, entry);
      slot++;
      continue;
    }
    let count = 1;
    const step = entry > 0 ? 1 : 0;
    while (entries[slot + count] === entry + step * count) count++;
    if (entry !== ENTRY_ABSENT) {
      view.setUint16(at, slot, true);
      view.setUint16(at + 2, count, true);
      view.setUint32(at + 4, entry === ENTRY_ZERO ? ZERO_CHUNK : entry, true);
      at += ITEM_BYTES;
    }
    slot += count;
  }
  if (at === PAGE_HEADER_BYTES) return undefined;
  view.setUint32(0, PAGE_MAGIC, true);
  view.setUint32(4, index, true);
  view.setUint32(8, at, true);
  return seal(page.subarray(0, Math.ceil(at / LOG_ALIGN) * LOG_ALIGN), 12);
}

/** The most bytes of a page in which so many chunks have entries, split into so many runs together. */
export function pageBytesAtMost(chunks: number, runs: number): number {
  return PAGE_HEADER_BYTES + ITEM_BYTES * (chunks + runs);
}

function encodeSplit(view: DataView, start: number, slot: number, { starts, hosts }: Runs): number {
  let at = start;
  view.setUint16(at, slot | SPLIT_FLAG, true);
  view.setUint16(at + 2, starts.length, true);
  at += ITEM_BYTES;
  for (let run = 0; run < starts.length; run++) {
    view.setUint16(at, starts[run]!, true);
    view.setUint16(at + 2, Math.floor(hosts[run]! / TWO_32), true);
    view.setUint32(at + 4, hosts[run]! >>> 0, true);
    at += ITEM_BYTES;
  }
  return at;
}

/**
 * Yields every entry of a page that is not absent: `count` chunks from `slot` on, of which the first has `entry` and
 * the others host chunks that follow it, or the same mark. `hostChunks` bounds what it may name.
 */
export function decodePage(
  bytes: Uint8Array,
  index: number,
  geometry: Geometry,
  hostChunks: number,
  file: string,
  visit: (slot: number, count: number, entry: ChunkEntry) => void,
): void {
  const view = viewOf(bytes);
  const wrong = (problem: string): Error => corrupt(file, `page[${index}]`, problem);
  if (bytes.length < PAGE_HEADER_BYTES || view.getUint32(0, true) !== PAGE_MAGIC) throw wrong('no page here');
  if (!sealed(bytes, 12)) throw wrong('checksum does not match');
  const end = view.getUint32(8, true);
  if (view.getUint32(4, true) !== index || end > bytes.length) throw wrong('is of another place');
  const { pageChunks } = geometry;
  let next = 0;
  for (let at = PAGE_HEADER_BYTES; at < end; ) {
    if (at + ITEM_BYTES > end) throw wrong('ends inside an item');
    const slot = view.getUint16(at, true);
    const count = view.getUint16(at + 2, true);
    const host = view.getUint32(at + 4, true);
    at += ITEM_BYTES;
    if (slot & SPLIT_FLAG) {
      const chunk = slot & ~SPLIT_FLAG;
      if (chunk < next || chunk >= pageChunks) throw wrong(`chunk ${chunk} is out of order`);
      if (at + count * ITEM_BYTES > end) throw wrong(`split of chunk ${chunk} runs past the end`);
      visit(chunk, 1, decodeSplit(view, at, count, geometry, hostChunks, wrong));
      at += count * ITEM_BYTES;
      next = chunk + 1;
      continue;
    }
    if (slot < next || count === 0 || slot + count > pageChunks) throw wrong(`chunk ${slot} is out of order`);
    const zero = host === ZERO_CHUNK;
    if (!zero && (host === 0 || host + count > hostChunks))
      throw wrong(`host chunk ${host} is outside the file`);
    visit(slot, count, zero ? ENTRY_ZERO : host);
    next = slot + count;
  }
}

function decodeSplit(
  view: DataView,
  start: number,
  count: number,
  { blocksPerChunk }: Geometry,
  hostChunks: number,
  wrong: (problem: string) => Error,
): Runs {
  const runs: Runs = { starts: [], hosts: [] };
  for (let run = 0; run < count; run++) {
    const at = start + run * ITEM_BYTES;
    const first = view.getUint16(at, true);
    const host = view.getUint16(at + 2, true) * TWO_32 + view.getUint32(at + 4, true);
    if (run === 0 ? first !== 0 : first <= runs.starts[run - 1]!)
      throw wrong('runs of a split are out of order');
    const last = run + 1 < count ? view.getUint16(at + ITEM_BYTES, true) : blocksPerChunk;
    if (last > blocksPerChunk || last <= first) throw wrong('run is longer than its chunk');
    if (host > ZERO && (host < blocksPerChunk || host + last - first > hostChunks * blocksPerChunk)) {
      throw wrong(`host block ${host} is outside the file`);
    }
    if (host > ZERO && (host % blocksPerChunk) + last - first > blocksPerChunk) {
      throw wrong(`run at host block ${host} crosses a chunk`);
    }
    runs.starts.push(first);
    runs.hosts.push(host);
  }
  if (count === 0) throw wrong('split has no runs');
  return runs;
}

const ROOT_HEADER_BYTES = 32;
const POINTER_BYTES = 8;

/** Where the pages of one state lie, or their deltas; `bytes` 0: the page's chunks are all absent. */
export interface PagePointers {
  readonly offsets: Float64Array;
  readonly bytes: Uint32Array;
}

export function encodePointer(view: DataView, at: number, { offset, bytes }: Region): void {
  const unit = offset / LOG_ALIGN;
  view.setUint32(at, unit >>> 0, true);
  view.setUint16(at + 4, Math.floor(unit / TWO_32), true);
  view.setUint16(at + 6, bytes / LOG_ALIGN, true);
}

export function decodePointer(view: DataView, at: number): Region {
  const offset = (view.getUint16(at + 4, true) * TWO_32 + view.getUint32(at, true)) * LOG_ALIGN;
  return { offset, bytes: view.getUint16(at + 6, true) * LOG_ALIGN };
}

export function newPointers(count: number): PagePointers {
  return { offsets: new Float64Array(count), bytes: new Uint32Array(count) };
}

export function pageCount({ chunkBytes, pageChunks }: Geometry, size: number): number {
  return Math.ceil(Math.ceil(size / chunkBytes) / pageChunks);
}

/** Length of the root of a disk of `size` bytes. */
export function rootBytes(geometry: Geometry, size: number): number {
  const pointers = pageCount(geometry, size) * POINTER_BYTES;
  return ROOT_HEADER_BYTES + Math.ceil(pointers / LOG_ALIGN) * LOG_ALIGN;
}

export function encodeRoot(size: number, pages: PagePointers): Uint8Array {
  const count = pages.bytes.length;
  const root = new Uint8Array(ROOT_HEADER_BYTES + Math.ceil((count * POINTER_BYTES) / LOG_ALIGN) * LOG_ALIGN);
  const view = viewOf(root);
  view.setUint32(0, ROOT_MAGIC, true);
  view.setUint32(4, count, true);
  writeU64LE(view, 16, size);
  for (let page = 0; page < count; page++) {
    const place = { offset: pages.offsets[page]!, bytes: pages.bytes[page]! };
    encodePointer(view, ROOT_HEADER_BYTES + page * POINTER_BYTES, place);
  }
  return seal(root, 12);
}

/** Where the pages lie of a disk of `size` bytes. `root` has the length that `rootBytes` says. */
export function decodeRoot(
  root: Uint8Array,
  size: number,
  geometry: Geometry,
  hostChunks: number,
  file: string,
): PagePointers {
  const view = viewOf(root);
  if (view.getUint32(0, true) !== ROOT_MAGIC || !sealed(root, 12)) {
    throw corrupt(file, 'root', 'checksum or magic does not match');
  }
  const high = view.getUint32(20, true);
  const recorded = high * TWO_32 + view.getUint32(16, true);
  if (recorded !== size) throw corrupt(file, 'root.size', `${recorded} is not the ${size} of its state`);
  const count = view.getUint32(4, true);
  if (count !== pageCount(geometry, size)) {
    throw corrupt(file, 'root.pageCount', `${count} does not fit the size ${size}`, { value: count });
  }
  const pages = newPointers(count);
  for (let page = 0; page < count; page++) {
    const { offset, bytes } = decodePointer(view, ROOT_HEADER_BYTES + page * POINTER_BYTES);
    if (bytes === 0 && offset === 0) continue;
    if (!isWithin({ offset, bytes }, SUPERBLOCKS_BYTES, hostChunks * geometry.chunkBytes)) {
      throw corrupt(file, `root.page[${page}]`, `offset ${offset} is outside the file`, { offset });
    }
    pages.offsets[page] = offset;
    pages.bytes[page] = bytes;
  }
  return pages;
}
