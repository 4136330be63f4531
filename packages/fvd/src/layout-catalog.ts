import { corrupt, readU64LE, viewOf, writeU64LE } from '@cowlab/core';
import { type Geometry, type Region, seal, sealed } from './structure.ts';

/* The catalog: the directory of snapshots, and the static refcounts of host chunks. */

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
  readonly snapshots: readonly SnapshotEntry[];
}

const CATALOG_HEADER_BYTES = 40;
const SNAPSHOT_HEADER_BYTES = 48;

/** Directory and refcounts as one sequential piece. `counts[c]` is of host chunk c. */
export function encodeCatalog(directory: Directory, counts: Uint16Array): Uint8Array {
  const names = directory.snapshots.map(({ name }) => new TextEncoder().encode(name));
  const directoryBytes = names.reduce(
    (sum, name) => sum + SNAPSHOT_HEADER_BYTES + Math.ceil(name.length / 8) * 8,
    CATALOG_HEADER_BYTES,
  );
  const bytes = new Uint8Array(directoryBytes + counts.length * 2);
  const view = viewOf(bytes);
  view.setUint32(0, CATALOG_MAGIC, true);
  view.setUint32(8, directoryBytes, true);
  view.setUint32(12, directory.snapshots.length, true);
  view.setUint32(16, directory.nextId, true);
  view.setUint32(20, directory.current, true);
  view.setUint32(24, counts.length, true);
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
    at += SNAPSHOT_HEADER_BYTES + Math.ceil(name.length / 8) * 8;
  });
  new Uint8Array(bytes.buffer, directoryBytes).set(
    new Uint8Array(counts.buffer, counts.byteOffset, counts.byteLength),
  );
  return seal(bytes, 4);
}

export function decodeCatalog(
  bytes: Uint8Array,
  geometry: Geometry,
  hostChunks: number,
  file: string,
): { directory: Directory; counts: Uint16Array } {
  const view = viewOf(bytes);
  const wrong = (field: string, problem: string): Error => corrupt(file, `catalog.${field}`, problem);
  if (bytes.length < CATALOG_HEADER_BYTES || view.getUint32(0, true) !== CATALOG_MAGIC || !sealed(bytes, 4)) {
    throw wrong('header', 'checksum or magic does not match');
  }
  const directoryBytes = view.getUint32(8, true);
  const count = view.getUint32(12, true);
  const chunks = view.getUint32(24, true);
  if (directoryBytes + chunks * 2 !== bytes.length || chunks > hostChunks)
    throw wrong('bytes', 'does not fit');
  const snapshots: SnapshotEntry[] = [];
  let at = CATALOG_HEADER_BYTES;
  for (let i = 0; i < count; i++) {
    if (at + SNAPSHOT_HEADER_BYTES > directoryBytes) throw wrong(`snapshot[${i}]`, 'runs past the directory');
    const nameBytes = view.getUint16(at + 40, true);
    const nameAt = at + SNAPSHOT_HEADER_BYTES;
    const root = { offset: readU64LE(view, at + 24), bytes: readU64LE(view, at + 32) };
    if (nameAt + nameBytes > directoryBytes) throw wrong(`snapshot[${i}].name`, 'runs past the directory');
    if (root.offset + root.bytes > hostChunks * geometry.chunkBytes)
      throw wrong(`snapshot[${i}].root`, 'is outside the file');
    snapshots.push({
      id: view.getUint32(at, true),
      parent: view.getUint32(at + 4, true),
      createdAt: readU64LE(view, at + 8),
      size: readU64LE(view, at + 16),
      root,
      name: new TextDecoder().decode(bytes.subarray(nameAt, nameAt + nameBytes)),
    });
    at = nameAt + Math.ceil(nameBytes / 8) * 8;
  }
  const counts = new Uint16Array(chunks);
  new Uint8Array(counts.buffer).set(bytes.subarray(directoryBytes));
  return {
    directory: { nextId: view.getUint32(16, true), current: view.getUint32(20, true), snapshots },
    counts,
  };
}
