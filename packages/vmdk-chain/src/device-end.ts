import { roundUp, type Storage, viewOf } from '@cowlab/core';
import { GRAIN_TABLE_BYTES, SECTOR, type SparseHeader, ZEROED_GRAIN } from './layout.ts';

/*
 * Where the next grain goes when the file's length does not tell, which is that of a device: behind the last grain or table
 * that anything refers to. What lies there may be anything.
 */

const TABLE_SECTORS = GRAIN_TABLE_BYTES / SECTOR;
/** Tables read at once, where they lie together. */
const MAX_TABLES = 512;

/** First sector behind everything in use. Entries that point past the device are passed over: whoever uses them finds out. */
export async function endInUse(
  storage: Storage,
  header: SparseHeader,
  directories: readonly Uint32Array[],
): Promise<number> {
  const limit = Math.floor(storage.size() / SECTOR);
  const grainSectors = header.grainBytes / SECTOR;
  let end = header.overheadBytes / SECTOR;
  for (const directory of directories) {
    for (let index = 0; index < directory.length; ) {
      const count = runOfTables(directory, index);
      const sector = directory[index]!;
      index += count;
      if (sector === 0) continue;
      end = Math.max(end, sector + count * TABLE_SECTORS);
      const bytes = new Uint8Array(count * GRAIN_TABLE_BYTES);
      await storage.read(sector * SECTOR, bytes, 'mapping');
      end = Math.max(end, endOfGrains(bytes, limit, grainSectors));
    }
  }
  const grains = roundUp(end * SECTOR - header.overheadBytes, header.grainBytes);
  return Math.max(roundUp(end, grainSectors), (header.overheadBytes + grains) / SECTOR);
}

function runOfTables(directory: Uint32Array, index: number): number {
  const first = directory[index]!;
  const step = first === 0 ? 0 : TABLE_SECTORS;
  const most = Math.min(MAX_TABLES, directory.length - index);
  let count = 1;
  while (count < most && directory[index + count] === first + count * step) count++;
  return count;
}

function endOfGrains(bytes: Uint8Array, limit: number, grainSectors: number): number {
  const view = viewOf(bytes);
  let last = 0;
  for (let at = 0; at < bytes.length; at += 4) {
    const sector = view.getUint32(at, true);
    if (sector < limit && sector > last) last = sector;
  }
  return last > ZEROED_GRAIN ? last + grainSectors : 0;
}
