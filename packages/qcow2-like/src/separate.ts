import { type Census, maxProblems, type TableInPlace } from './census.ts';
import { compressedFlag, hostOffsetOf, setEntryAt, zeroFlag } from './entries.ts';
import type { Metadata } from './metadata.ts';
import { walkTables } from './walk.ts';

/*
 * Guest clusters that lie on metadata: each gets a place of its own, past all that is in use, with the bytes that it
 * reads as now. Copies «flush» → entries «flush». Counts and flags are for the repair that follows; so no COPIED is set,
 * and a crash in between leaves an image that has to be repaired as before.
 *
 * Only where nothing but such clusters is in the way: tables that lie on each other nobody can tell apart.
 */

/** An entry that has to point elsewhere. */
interface Misplaced {
  readonly table: number;
  readonly at: number;
  readonly hostOffset: number;
}

/** Moves what lies on metadata; false, and nothing is changed, where that is not enough. */
export async function separateData(metadata: Metadata, census: Census): Promise<boolean> {
  const { file } = metadata;
  const { clusterBytes } = file.geometry;
  // Entries of an external data file name places elsewhere.
  if (file.hasDataFile) return false;
  const misplaced = await findMisplaced(metadata, census);
  if (misplaced === undefined || misplaced.length === 0) return false;
  // Behind what is known, and what a damaged image may still need; a device has nothing behind its end.
  const fileEnd = file.storage.fixedSize === true ? 0 : file.storage.size();
  let cluster = Math.max(census.references.end, Math.ceil(fileEnd / clusterBytes));
  const places = new Map<string, number>();
  for (const { table, at, hostOffset } of misplaced) {
    const bytes = new Uint8Array(clusterBytes);
    await file.storage.read(hostOffset, bytes);
    await file.writeMetadata(cluster * clusterBytes, bytes, 'data');
    places.set(`${table} ${at}`, cluster * clusterBytes);
    cluster += 1;
  }
  await file.storage.flush();
  const tables = [...new Set(misplaced.map(({ table }) => table))];
  await walkTables(
    file,
    tables.map((hostOffset) => ({ hostOffset, l1Index: 0 })),
    ({ hostOffset: table }, view) => {
      for (let at = 0; at < view.byteLength; at += file.geometry.l2EntryBytes) {
        const place = places.get(`${table} ${at}`);
        if (place !== undefined) setEntryAt(view, at, place, 0, view.getUint32(at + 4) & zeroFlag);
      }
      return true;
    },
  );
  await file.storage.flush();
  await metadata.reload();
  return true;
}

/** The entries of guest clusters that lie on tables; undefined where these are not all that is in the way, or too many. */
async function findMisplaced(metadata: Metadata, census: Census): Promise<Misplaced[] | undefined> {
  const { file } = metadata;
  const tooMany = excessOf(census, file.geometry.clusterBytes);
  if (tooMany === undefined) return undefined;
  const found: Misplaced[] = [];
  const tables = census.tablesInPlace.filter(({ structure }) => structure === 'L2 table');
  const usesOf = new Map(tables.map(({ offset, uses }) => [offset, uses]));
  await walkTables(
    file,
    tables.map(({ offset }) => ({ hostOffset: offset, l1Index: 0 })),
    ({ hostOffset: table }, view) => {
      for (let at = 0; at < view.byteLength; at += file.geometry.l2EntryBytes) {
        const hi = view.getUint32(at);
        if ((hi & compressedFlag) !== 0) continue;
        const hostOffset = hostOffsetOf(hi, view.getUint32(at + 4));
        const excess = tooMany.get(hostOffset);
        if (excess === undefined) continue;
        tooMany.set(hostOffset, excess - (usesOf.get(table) ?? 0));
        if (found.length <= maxProblems) found.push({ table, at, hostOffset });
      }
      return false;
    },
  );
  const isAll = found.length <= maxProblems && [...tooMany.values()].every((excess) => excess === 0);
  return isAll ? found : undefined;
}

/** How many references too many clusters of tables have, by host offset; undefined where tables lie on each other. */
function excessOf(
  { references, tablesInPlace }: Census,
  clusterBytes: number,
): Map<number, number> | undefined {
  const uses = new Map<number, number>();
  const note = ({ offset, bytes, uses: times }: TableInPlace): boolean => {
    for (let at = offset; at < offset + bytes; at += clusterBytes) {
      if (uses.has(at)) return false;
      uses.set(at, times);
    }
    return true;
  };
  if (!tablesInPlace.every(note)) return undefined;
  const excess = new Map<number, number>();
  for (const [at, times] of uses) {
    const more = references.get(at / clusterBytes) - times;
    if (more > 0) excess.set(at, more);
  }
  return excess;
}
