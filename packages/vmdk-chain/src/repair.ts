import { isCowlabError, viewOf } from '@cowlab/core';
import type { SparseExtent } from './extent.ts';
import { GRAIN_TABLE_BYTES, GRAIN_TABLE_ENTRIES, SECTOR } from './layout.ts';

/*
 * What one copy of the grain tables can do for the other. Only extents that are open for writing; of each table, what
 * has to be read is both copies.
 *
 *   first copy                       second copy     then
 *   its directory entry is lost      good            a copy of it in a new place; flush; the entry; flush
 *   has an entry that cannot be,     good            the second over the first; flush
 *   or cannot be read
 *   good                             differs         the first over the second; flush
 *   else                                             nothing: check says what is wrong
 *
 * Either copy is whole before the other is touched, so a power cut leaves one that is good.
 */

export interface Repair {
  readonly severity: 'corruption' | 'leak';
  readonly structure: string;
  readonly message: string;
  readonly hostOffset: number;
}

/** Makes the copies alike where one of them can be believed; tells of each repair. */
export async function repairTables(extent: SparseExtent, onRepair: (repair: Repair) => void): Promise<void> {
  const { tables, restored, header } = extent;
  if (header.isDirectoryLost) return;
  for (const [index, sector] of tables.directory.entries()) {
    const second = tables.secondOf(index);
    if (sector === 0 || second === undefined || second === 0) continue;
    const copy = await readTable(extent, second);
    if (restored.has(index)) {
      if (isGood(extent, index, copy)) onRepair(await newPlace(extent, index, copy));
      continue;
    }
    const first = await readOrNothing(extent, sector);
    if (first !== undefined && Buffer.compare(first, copy) === 0) continue;
    const isFirstGood = first !== undefined && isGood(extent, index, first);
    if (!isFirstGood && !isGood(extent, index, copy)) continue;
    const [from, to] = isFirstGood ? [first, second] : [copy, sector];
    await extent.storage.write(to * SECTOR, from, 'mapping');
    await extent.storage.flush();
    onRepair({
      severity: isFirstGood ? 'leak' : 'corruption',
      structure: isFirstGood ? 'redundant grain table' : 'grain table',
      message: `table ${index} is as its other copy again`,
      hostOffset: to * SECTOR,
    });
  }
}

async function readTable({ storage }: SparseExtent, sector: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(GRAIN_TABLE_BYTES);
  await storage.read(sector * SECTOR, bytes, 'mapping');
  return bytes;
}

/** Undefined where the medium does not give it out; it may take it again. */
async function readOrNothing(extent: SparseExtent, sector: number): Promise<Uint8Array | undefined> {
  try {
    return await readTable(extent, sector);
  } catch (error) {
    if (isCowlabError(error, 'ERR_IO')) return undefined;
    throw error;
  }
}

function isGood({ tables }: SparseExtent, index: number, bytes: Uint8Array): boolean {
  try {
    tables.decode(index, bytes, new Uint32Array(GRAIN_TABLE_ENTRIES));
    return true;
  } catch {
    return false;
  }
}

/** A table of its own for an entry of the first directory, behind everything else. */
async function newPlace(extent: SparseExtent, index: number, bytes: Uint8Array): Promise<Repair> {
  const { storage, grains, header, tables } = extent;
  const { sector } = grains.take(1);
  const whole = new Uint8Array(header.grainBytes);
  whole.set(bytes);
  await storage.write(sector * SECTOR, whole, 'mapping');
  await storage.flush();
  const entry = new Uint8Array(4);
  viewOf(entry).setUint32(0, sector, true);
  await storage.write(header.directoryOffset + index * 4, entry, 'mapping');
  await storage.flush();
  tables.directory[index] = sector;
  extent.settle(index);
  return {
    severity: 'corruption',
    structure: 'grain directory',
    message: `entry ${index} has a table again, by the second copy`,
    hostOffset: header.directoryOffset + index * 4,
  };
}
