import type { Storage } from '@cowlab/core';
import {
  decodeDirectory,
  GRAIN_TABLE_BYTES,
  GRAIN_TABLE_SECTORS,
  SECTOR,
  type SparseHeader,
} from './layout.ts';

/*
 * The grain directory of an extent, from two copies. Every entry of the first that can be believed is; where one leads
 * out of the file or to a table on another one, the second copy's is used. The same goes for all of it where the header
 * leads nowhere.
 */

export interface Directory {
  readonly entries: Uint32Array;
  /** Indexes whose entries are the second copy's. */
  readonly restored: ReadonlySet<number>;
  /** The second copy, for a writer; undefined where the extent has none. */
  readonly redundant: Uint32Array | undefined;
}

/** Throws `ERR_CORRUPT` where neither copy can be used; for a writer also where one of them cannot. */
export async function readDirectories(
  file: string,
  storage: Storage,
  header: SparseHeader,
  isWriter: boolean,
): Promise<Directory> {
  const { redundantDirectoryOffset } = header;
  // Who only reads has no use for a second copy, as long as the first is good.
  const readSecond = async (): Promise<Uint32Array | undefined> =>
    redundantDirectoryOffset === undefined
      ? undefined
      : readDirectory(file, storage, header, redundantDirectoryOffset, 'redundant grain directory');
  const redundant = isWriter ? await readSecond() : undefined;
  const bytes = header.isDirectoryLost
    ? undefined
    : await readEntries(storage, header, header.directoryOffset);
  if (bytes !== undefined && badEntries(bytes, storage.size()).size === 0) {
    const entries = decodeDirectory(file, 'grain directory', bytes, storage.size());
    return { entries, restored: new Set(), redundant };
  }
  const reading = redundant === undefined ? readSecond() : Promise.resolve(redundant);
  const second = await (bytes === undefined ? reading : reading.catch(() => undefined));
  const { entries, restored } = restore(bytes, second, storage.size());
  if (bytes !== undefined && restored.size === 0)
    decodeDirectory(file, 'grain directory', bytes, storage.size());
  // What was put together from both has to be good as a whole.
  decodeDirectory(file, 'grain directory', new Uint8Array(entries.buffer), storage.size());
  return { entries, restored, redundant };
}

/** One copy of a directory, validated. The header's check has made sure that it lies inside the file. */
export async function readDirectory(
  file: string,
  storage: Storage,
  header: SparseHeader,
  offset: number,
  name: string,
): Promise<Uint32Array> {
  return decodeDirectory(file, name, await readEntries(storage, header, offset), storage.size());
}

async function readEntries(storage: Storage, header: SparseHeader, offset: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(header.tableCount * 4);
  await storage.read(offset, bytes, 'mapping');
  return bytes;
}

function entriesIn(bytes: Uint8Array): Uint32Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Uint32Array.from({ length: bytes.length / 4 }, (_, index) => view.getUint32(index * 4, true));
}

/** Indexes of tables that lie outside the file, or on one another: of two, either may be the wrong one. */
function badEntries(bytes: Uint8Array, fileBytes: number): Set<number> {
  const entries = entriesIn(bytes);
  const bad = new Set<number>();
  const rising = entries.every((sector, index) => index === 0 || sector >= entries[index - 1]!);
  const order = rising
    ? undefined
    : Uint32Array.from(entries.keys()).toSorted((a, b) => entries[a]! - entries[b]!);
  for (let i = 0; i < entries.length; i++) {
    const index = order?.[i] ?? i;
    const sector = entries[index]!;
    if (sector * SECTOR + GRAIN_TABLE_BYTES > fileBytes) bad.add(index);
    const before = order?.[i - 1] ?? i - 1;
    if (i === 0 || entries[before] === 0 || sector - entries[before]! >= GRAIN_TABLE_SECTORS) continue;
    bad.add(index).add(before);
  }
  return bad;
}

function restore(
  bytes: Uint8Array | undefined,
  second: Uint32Array | undefined,
  fileBytes: number,
): Pick<Directory, 'entries' | 'restored'> {
  if (bytes === undefined) {
    const entries = second ?? new Uint32Array(0);
    return { entries, restored: new Set(entries.keys()) };
  }
  const entries = entriesIn(bytes);
  if (second === undefined) return { entries, restored: new Set() };
  const restored = badEntries(bytes, fileBytes);
  for (const index of restored) entries[index] = second[index]!;
  return { entries, restored };
}
