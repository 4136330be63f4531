import type { Backing } from '@cowlab/core';
import { compressedFlag, hostOffsetOf, setEntry, zeroFlag } from './entries.ts';
import type { Metadata } from './metadata.ts';
import { readTables } from './snapshots.ts';
import { type TableAt, walkTables } from './walk.ts';

/*
 * ZERO entries of snapshots become what says the same without that flag: a cluster of zeros where the backing would show
 * through, nothing elsewhere. Tables change in place, since their old entries and the new ones read alike:
 *
 *   clusters of zeros, counted as often as the table is «flush» → tables «flush» → clusters that ZERO entries had kept
 *   are counted down
 *
 * Power loss between any two leaves clusters counted that nothing uses. The disk has no such entries any more, so no
 * table with some is one of its own.
 */

/** A table, and how many snapshots point to it. */
interface Shared extends TableAt {
  times: number;
}

export async function dropZerosOfSnapshots(metadata: Metadata, backing: Backing | undefined): Promise<void> {
  const shared = await sharedTables(metadata);
  const tables = [...shared.values()];
  const { file, refcounts } = metadata;
  const { clusterBytes } = file.geometry;
  const places = new Map<string, number>();
  await walkTables(file, tables, async (table, view) => {
    const { times } = shared.get(table.hostOffset)!;
    for (const { index, guestOffset } of zeroEntries(metadata, table, view)) {
      if (guestOffset >= (backing?.size ?? 0)) continue;
      const { first } = await refcounts.allocate(1);
      if (times > 1) await refcounts.change({ first, count: 1 }, times - 1);
      await file.storage.zero(first * clusterBytes, clusterBytes);
      places.set(`${table.hostOffset} ${index}`, first * clusterBytes);
    }
    return false;
  });
  await metadata.writeAll();
  const freed: { readonly first: number; readonly times: number }[] = [];
  await walkTables(file, tables, (table, view) => {
    const entries = [...zeroEntries(metadata, table, view)];
    for (const { index, kept } of entries) {
      const { times } = shared.get(table.hostOffset)!;
      if (kept !== 0) freed.push({ first: kept / clusterBytes, times });
      setEntry(view, index, places.get(`${table.hostOffset} ${index}`) ?? 0, 0, 0);
    }
    return entries.length > 0;
  });
  await file.storage.flush();
  for (const { first, times } of freed) await refcounts.change({ first, count: 1 }, -times);
  await metadata.writeAll();
}

/** Every L2 table that a snapshot has, by where it lies. */
async function sharedTables(metadata: Metadata): Promise<Map<number, Shared>> {
  const shared = new Map<number, Shared>();
  for (const snapshot of metadata.snapshots.snapshots) {
    for (const table of (await readTables(metadata, snapshot)).tables) {
      const known = shared.get(table.hostOffset);
      if (known === undefined) shared.set(table.hostOffset, { ...table, times: 1 });
      else known.times += 1;
    }
  }
  return shared;
}

function* zeroEntries(
  { file }: Metadata,
  { l1Index }: TableAt,
  view: DataView,
): Generator<{ readonly index: number; readonly guestOffset: number; readonly kept: number }> {
  const { clusterBytes, l2EntryCount } = file.geometry;
  for (let index = 0; index < l2EntryCount; index += 1) {
    const hi = view.getUint32(index * 8);
    const lo = view.getUint32(index * 8 + 4);
    if ((hi & compressedFlag) !== 0 || (lo & zeroFlag) === 0) continue;
    const guestOffset = (l1Index * l2EntryCount + index) * clusterBytes;
    yield { index, guestOffset, kept: hostOffsetOf(hi, lo & ~zeroFlag) };
  }
}
