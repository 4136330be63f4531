import { corrupt, crc32c, type Storage } from '@cowlab/core';
import {
  assertCounts,
  CATALOG_HEADER_BYTES,
  countsOf,
  type Directory,
  decodeCounts,
  decodeDirectory,
  directoryBytesOf,
  type Geometry,
  type Region,
} from './layout.ts';

/* Reading the catalog. Between open and close this happens in snapshot operations and in check, and nowhere else (P1). */

export interface Catalog {
  readonly directory: Directory;
  /** Of each host chunk, how many snapshots reach it; chunks past the end: none. */
  readonly counts: Uint16Array;
}

const EMPTY: Directory = { nextId: 1, current: 0, snapshots: [] };

/** Where the catalog lies, and what bounds the numbers in it. */
export interface CatalogPlace {
  readonly storage: Storage;
  readonly region: Region;
  readonly geometry: Geometry;
  readonly hostChunks: number;
}

/** Directory and counts; empty where there never was a snapshot. Throws `ERR_CORRUPT` when they do not fit the file. */
export async function readCatalog({ storage, region, geometry, hostChunks }: CatalogPlace): Promise<Catalog> {
  if (region.bytes === 0) return { directory: EMPTY, counts: new Uint16Array(0) };
  const bytes = await readPart(storage, region, region.bytes, 'refcount');
  const end = directoryBytesOf(bytes, region.bytes, storage.name);
  return {
    directory: decodeDirectory(bytes.subarray(0, end), geometry, hostChunks, storage.name),
    counts: decodeCounts(bytes, end, hostChunks, storage.name),
  };
}

/** Of so many bytes of refcounts there is a copy in memory while an image is opened. */
const PIECE_BYTES = 256 * 1024;

/**
 * What opening needs of a catalog: that its directory is right, and each of the refcounts once. They go by in pieces,
 * `counts[i]` being of host chunk `first` + i; `first` is a multiple of 32. A wrong one is known after the last piece.
 */
export async function scanCounts(
  place: CatalogPlace,
  visit: (first: number, counts: Uint16Array) => void,
): Promise<void> {
  const { storage, region, hostChunks } = place;
  if (region.bytes === 0) return;
  const directory = await readDirectoryBytes(place);
  decodeDirectory(directory, place.geometry, hostChunks, storage.name);
  const { chunks, checksum } = countsOf(directory, hostChunks, storage.name);
  const start = region.offset + region.bytes - 2 * chunks;
  const buffer = new Uint8Array(Math.min(PIECE_BYTES, 2 * chunks));
  let found = 0;
  for (let at = 0; at < 2 * chunks; at += buffer.length) {
    const piece = buffer.subarray(0, Math.min(buffer.length, 2 * chunks - at));
    await storage.read(start + at, piece, 'refcount');
    found = crc32c(piece, found);
    visit(at / 2, new Uint16Array(piece.buffer, 0, piece.length / 2));
  }
  assertCounts(found, checksum, storage.name);
}

/** The directory alone: some bytes for each snapshot, whatever the image's size. */
export async function readDirectory(place: CatalogPlace): Promise<Directory> {
  if (place.region.bytes === 0) return EMPTY;
  const bytes = await readDirectoryBytes(place);
  return decodeDirectory(bytes, place.geometry, place.hostChunks, place.storage.name);
}

/** One read has the header, which tells the length, and all of a directory that is not long. */
const HEAD_BYTES = 1024;

async function readDirectoryBytes({ storage, region }: CatalogPlace): Promise<Uint8Array> {
  const length = Math.max(CATALOG_HEADER_BYTES, Math.min(HEAD_BYTES, region.bytes));
  const head = await readPart(storage, region, length, 'snapshot');
  const end = directoryBytesOf(head, region.bytes, storage.name);
  if (end <= head.length) return head.subarray(0, end);
  const bytes = new Uint8Array(end);
  bytes.set(head);
  await storage.read(region.offset + head.length, bytes.subarray(head.length), 'snapshot');
  return bytes;
}

async function readPart(
  storage: Storage,
  region: Region,
  length: number,
  purpose: 'refcount' | 'snapshot',
): Promise<Uint8Array> {
  if (length > region.bytes || region.offset + region.bytes > storage.size()) {
    throw corrupt(storage.name, 'superblock.catalog', `${region.bytes} bytes at ${region.offset} do not fit`);
  }
  const bytes = new Uint8Array(length);
  await storage.read(region.offset, bytes, purpose);
  return bytes;
}
