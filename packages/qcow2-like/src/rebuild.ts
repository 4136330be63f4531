import { CowlabError, viewOf } from '@cowlab/core';
import { setEntry } from './entries.ts';
import { maxRefcountTableBytes } from './layout.ts';
import type { Metadata } from './metadata.ts';
import { refcountWidth } from './refcount-width.ts';
import type { References } from './references.ts';

/*
 * Refcounts from nothing: where blocks are missing, the old structure cannot take the counts. New blocks and a
 * new table go past everything that is in use; the header switches over; the old ones are free then.
 */

/**
 * Writes the counts of `references` as a new structure and switches to it; `references` are those of the new state then.
 * With another width than the present one, nobody may look at refcounts in memory afterwards. Throws `ERR_TOO_LARGE`.
 */
export async function rebuildRefcounts(
  metadata: Metadata,
  references: References,
  refcountBits: number = metadata.file.geometry.refcountBits,
): Promise<void> {
  const { file, refcounts } = metadata;
  const { clusterBytes } = file.geometry;
  const width = refcountWidth(refcountBits);
  const perBlock = (clusterBytes * 8) / refcountBits;
  const { storage } = file;
  // Behind what is known, and what a damaged image may still need; a device has nothing behind its end.
  const fileEnd = storage.fixedSize === true ? 0 : storage.size();
  const start = Math.max(references.end, Math.ceil(fileEnd / clusterBytes));
  const { blocks, tableClusters } = plan(references, start, perBlock, clusterBytes);
  const table = new Uint8Array(tableClusters * clusterBytes);
  if (table.length > Math.max(maxRefcountTableBytes, clusterBytes)) {
    const problem = `${file.name}: the refcount table would be larger than ${maxRefcountTableBytes} bytes`;
    throw new CowlabError('ERR_TOO_LARGE', problem, { file: file.name, field: 'refcount_table_clusters' });
  }
  const isOld = oldStructure(metadata);
  const end = start + blocks.length + tableClusters;
  const count = (cluster: number): number => {
    if (cluster >= start) return cluster < end ? 1 : 0;
    return references.get(cluster) - (isOld.get(cluster) ?? 0);
  };
  for (const [nth, index] of blocks.entries()) {
    const block = viewOf(new Uint8Array(clusterBytes));
    for (let within = 0; within < perBlock; within += 1) {
      const value = count(index * perBlock + within);
      if (value !== 0) width.set(block, within, value);
    }
    setEntry(viewOf(table), index, (start + nth) * clusterBytes, 0, 0);
    await file.writeMetadata((start + nth) * clusterBytes, new Uint8Array(block.buffer), 'refcount');
  }
  const refcountTableOffset = (start + blocks.length) * clusterBytes;
  await file.writeMetadata(refcountTableOffset, table, 'refcount');
  await storage.flush();
  const isSame = refcountBits === file.geometry.refcountBits;
  const place = { refcountTableOffset, refcountTableClusters: tableClusters };
  await file.update(isSame ? place : { ...place, refcountBits });
  if (!isSame) return;
  await refcounts.reload();
  for (const [cluster, times] of isOld) references.add(cluster, 1, -times);
  references.add(start, end - start);
}

/** How often the structure that goes away is counted, by cluster. */
function oldStructure({ file, refcounts }: Metadata): Map<number, number> {
  const { clusterBytes } = file.geometry;
  const { refcountTableOffset, refcountTableClusters } = file.header;
  const old = new Map<number, number>();
  const note = (cluster: number): void => void old.set(cluster, (old.get(cluster) ?? 0) + 1);
  for (let nth = 0; nth < refcountTableClusters; nth += 1) note(refcountTableOffset / clusterBytes + nth);
  for (let index = 0; index < refcounts.tableEntryCount; index += 1) {
    const offset = refcounts.soundBlockOffset(index);
    if (offset !== 0) note(offset / clusterBytes);
  }
  return old;
}

/** Which blocks are needed for what is counted and for the new structure itself, from cluster `start` on. */
function plan(
  references: References,
  start: number,
  perBlock: number,
  clusterBytes: number,
): { readonly blocks: readonly number[]; readonly tableClusters: number } {
  const needed = new Set<number>();
  let last = 0;
  const need = (cluster: number): void => {
    const index = Math.floor(cluster / perBlock);
    needed.add(index);
    if (index > last) last = index;
  };
  for (const cluster of references.clusters()) need(cluster);
  for (;;) {
    const tableClusters = Math.ceil(((last + 1) * 8) / clusterBytes);
    const [size, reach] = [needed.size, last];
    for (let cluster = start; cluster < start + size + tableClusters; cluster += 1) need(cluster);
    if (needed.size === size && last === reach) {
      return { blocks: [...needed].toSorted((a, b) => a - b), tableClusters };
    }
  }
}
