import { corrupt, type Storage } from '@cowlab/core';
import {
  CATALOG_HEADER_BYTES,
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

/** The directory alone: some bytes for each snapshot, whatever the image's size. */
export async function readDirectory(place: CatalogPlace): Promise<Directory> {
  const { storage, region, geometry, hostChunks } = place;
  if (region.bytes === 0) return EMPTY;
  const header = await readPart(storage, region, CATALOG_HEADER_BYTES, 'snapshot');
  const end = directoryBytesOf(header, region.bytes, storage.name);
  const bytes = await readPart(storage, region, end, 'snapshot');
  return decodeDirectory(bytes, geometry, hostChunks, storage.name);
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
