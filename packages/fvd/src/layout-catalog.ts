import { corrupt, crc32c, readU64LE, viewOf, writeU64LE } from '@cowlab/core';
import {
  type Geometry,
  isWithin,
  LOG_ALIGN,
  type Region,
  SECTOR_BYTES,
  SUPERBLOCKS_BYTES,
  seal,
  sealed,
} from './structure.ts';

/*
 * The catalog: the directory of snapshots, and behind it the static refcounts of host chunks. The directory has a
 * checksum of its own, so that listing snapshots does not read the refcounts.
 */

const CATALOG_MAGIC = 0x43445646;

/** One snapshot in the directory. */
export interface SnapshotEntry {
  readonly id: number;
  /** 0: grew from no snapshot. */
  readonly parent: number;
  readonly name: string;
  /** Milliseconds since 1970. */
  readonly createdAt: number;
  readonly size: number;
  readonly root: Region;
}

export interface Directory {
  readonly nextId: number;
  /** The snapshot that the front grew from; 0 for none. */
  readonly current: number;
  /** By rising id. */
  readonly snapshots: readonly SnapshotEntry[];
}

export const CATALOG_HEADER_BYTES = 40;
const SNAPSHOT_HEADER_BYTES = 48;
const MAX_TIME = 8.64e15;
const encoder = new TextEncoder();
const decoder = new TextDecoder();

function entryBytes(nameBytes: number): number {
  return SNAPSHOT_HEADER_BYTES + Math.ceil(nameBytes / 8) * 8;
}

/** Directory and refcounts as one sequential piece. `counts[c]` is of host chunk c. */
export function encodeCatalog(directory: Directory, counts: Uint16Array): Uint8Array {
  const names = directory.snapshots.map(({ name }) => encoder.encode(name));
  const directoryBytes = names.reduce((sum, name) => sum + entryBytes(name.length), CATALOG_HEADER_BYTES);
  const bytes = new Uint8Array(directoryBytes + counts.length * 2);
  const view = viewOf(bytes);
  view.setUint32(0, CATALOG_MAGIC, true);
  view.setUint32(8, directoryBytes, true);
  view.setUint32(12, directory.snapshots.length, true);
  view.setUint32(16, directory.nextId, true);
  view.setUint32(20, directory.current, true);
  view.setUint32(24, counts.length, true);
  const countBytes = bytes.subarray(directoryBytes);
  countBytes.set(new Uint8Array(counts.buffer, counts.byteOffset, counts.byteLength));
  view.setUint32(28, crc32c(countBytes), true);
  let at = CATALOG_HEADER_BYTES;
  directory.snapshots.forEach((snapshot, i) => {
    const name = names[i]!;
    view.setUint32(at, snapshot.id, true);
    view.setUint32(at + 4, snapshot.parent, true);
    writeU64LE(view, at + 8, snapshot.createdAt);
    writeU64LE(view, at + 16, snapshot.size);
    writeU64LE(view, at + 24, snapshot.root.offset);
    writeU64LE(view, at + 32, snapshot.root.bytes);
    view.setUint16(at + 40, name.length, true);
    bytes.set(name, at + SNAPSHOT_HEADER_BYTES);
    at += entryBytes(name.length);
  });
  seal(bytes.subarray(0, directoryBytes), 4);
  return bytes;
}

/** Length of the directory, header included; `header` are the catalog's first bytes, `total` is its length. */
export function directoryBytesOf(header: Uint8Array, total: number, file: string): number {
  const view = viewOf(header);
  if (view.getUint32(0, true) !== CATALOG_MAGIC)
    throw corrupt(file, 'catalog.magic', 'is not that of a catalog');
  const bytes = view.getUint32(8, true);
  if (bytes < CATALOG_HEADER_BYTES || bytes % 8 !== 0 || bytes + view.getUint32(24, true) * 2 !== total) {
    throw corrupt(file, 'catalog.directoryBytes', `${bytes} does not fit the catalog`, { value: bytes });
  }
  return bytes;
}

export function decodeDirectory(
  bytes: Uint8Array,
  geometry: Geometry,
  hostChunks: number,
  file: string,
): Directory {
  const view = viewOf(bytes);
  if (!sealed(bytes, 4)) throw corrupt(file, 'catalog.checksum', 'does not match the directory');
  const count = view.getUint32(12, true);
  const nextId = view.getUint32(16, true);
  const current = view.getUint32(20, true);
  const ids = new Set([0]);
  const names = new Set<string>();
  const snapshots: SnapshotEntry[] = [];
  let at = CATALOG_HEADER_BYTES;
  for (let i = 0; i < count; i++) {
    const wrong = (field: string, problem: string): Error =>
      corrupt(file, `catalog.snapshot[${i}]${field}`, problem);
    if (at + SNAPSHOT_HEADER_BYTES > bytes.length) throw wrong('', 'runs past the directory');
    const nameBytes = view.getUint16(at + 40, true);
    if (at + entryBytes(nameBytes) > bytes.length) throw wrong('.name', 'runs past the directory');
    const entry = decodeEntry(bytes, view, at, nameBytes, wrong);
    // Ids rise and parents come before their children, so the tree has no cycles.
    const last = snapshots.at(-1)?.id ?? 0;
    if (entry.id <= last || entry.id >= nextId) throw wrong('.id', `${entry.id} is out of order`);
    if (nameBytes === 0 || names.has(entry.name)) throw wrong('.name', 'is empty or another one has it');
    names.add(entry.name);
    if (!ids.has(entry.parent)) throw wrong('.parent', `${entry.parent} is no earlier snapshot`);
    const end = hostChunks * geometry.chunkBytes;
    if (!isWithin(entry.root, SUPERBLOCKS_BYTES, end) || entry.root.offset % LOG_ALIGN !== 0) {
      throw wrong('.root', `${entry.root.offset} is outside the file`);
    }
    ids.add(entry.id);
    snapshots.push(entry);
    at += entryBytes(nameBytes);
  }
  if (at !== bytes.length)
    throw corrupt(file, 'catalog.count', `${count} snapshots do not fill the directory`);
  if (!ids.has(current)) throw corrupt(file, 'catalog.current', `${current} is no snapshot`);
  return { nextId, current, snapshots };
}

function decodeEntry(
  bytes: Uint8Array,
  view: DataView,
  at: number,
  nameBytes: number,
  wrong: (field: string, problem: string) => Error,
): SnapshotEntry {
  const number = (field: string, offset: number): number => {
    try {
      return readU64LE(view, at + offset);
    } catch {
      throw wrong(field, 'is larger than 2^53 - 1');
    }
  };
  const createdAt = number('.createdAt', 8);
  const size = number('.size', 16);
  if (createdAt > MAX_TIME) throw wrong('.createdAt', `${createdAt} is no date`);
  if (size === 0 || size % SECTOR_BYTES !== 0) throw wrong('.size', `${size} is out of range`);
  const nameAt = at + SNAPSHOT_HEADER_BYTES;
  return {
    id: view.getUint32(at, true),
    parent: view.getUint32(at + 4, true),
    createdAt,
    size,
    root: { offset: number('.root', 24), bytes: number('.root', 32) },
    name: decoder.decode(bytes.subarray(nameAt, nameAt + nameBytes)),
  };
}

/** How many refcounts follow the directory, and their checksum. */
export function countsOf(
  header: Uint8Array,
  hostChunks: number,
  file: string,
): { chunks: number; checksum: number } {
  const view = viewOf(header);
  const chunks = view.getUint32(24, true);
  if (chunks > hostChunks) {
    throw corrupt(file, 'catalog.countChunks', `${chunks} is past the end of the file`, { value: chunks });
  }
  return { chunks, checksum: view.getUint32(28, true) };
}

/** Refcounts whose checksum is `found`. */
export function assertCounts(found: number, checksum: number, file: string): void {
  if (found !== checksum) throw corrupt(file, 'catalog.countsChecksum', 'does not match the refcounts');
}

/** The refcounts of a catalog whose header has been checked by `directoryBytesOf`; they stay part of `catalog`. */
export function decodeCounts(
  catalog: Uint8Array,
  directoryBytes: number,
  hostChunks: number,
  file: string,
): Uint16Array {
  const part = catalog.subarray(directoryBytes);
  const { chunks, checksum } = countsOf(catalog, hostChunks, file);
  assertCounts(crc32c(part), checksum, file);
  return new Uint16Array(part.buffer, part.byteOffset, chunks);
}
