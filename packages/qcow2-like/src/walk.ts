import type { ImageFile } from './image-file.ts';
import { viewOf } from '@cowlab/core';

/*
 * Visiting many L2 tables in one pass: in the order of the file, neighbours read and written together.
 */

/** One L2 table to visit. */
export interface TableAt {
  readonly hostOffset: number;
  readonly l1Index: number;
}

/** Sees a table's bytes; true when it changed them. */
export type Visit = (table: TableAt, view: DataView) => boolean | Promise<boolean>;

const batchBytes = 1024 * 1024;
/** Tables are shared by the disk and its snapshots. */
const own = ['active L2 table', 'L2 table of a snapshot'] as const;

/** Visits every table once; changed ones are written back (not flushed). Throws `ERR_CORRUPT` outside the file. */
export async function walkTables(file: ImageFile, tables: readonly TableAt[], visit: Visit): Promise<void> {
  const { clusterBytes } = file.geometry;
  const most = Math.max(1, Math.floor(batchBytes / clusterBytes));
  const sorted = tables.toSorted((a, b) => a.hostOffset - b.hostOffset);
  // One piece of memory for all batches: whoever visits keeps no view.
  const room = new Uint8Array(Math.min(most, Math.max(1, sorted.length)) * clusterBytes);
  for (let at = 0; at < sorted.length; ) {
    const start = (sorted[at] as TableAt).hostOffset;
    let count = 1;
    while (count < most && sorted[at + count]?.hostOffset === start + count * clusterBytes) count += 1;
    await walkBatch(file, sorted.slice(at, at + count), room.subarray(0, count * clusterBytes), visit);
    at += count;
  }
}

async function walkBatch(
  file: ImageFile,
  tables: readonly TableAt[],
  bytes: Uint8Array,
  visit: Visit,
): Promise<void> {
  const { clusterBytes } = file.geometry;
  const start = (tables[0] as TableAt).hostOffset;
  await file.readCluster(start, bytes, 'l1_table.entry');
  let from = 0;
  for (let nth = 0; nth < tables.length; nth += 1) {
    const view = viewOf(bytes.subarray(nth * clusterBytes, (nth + 1) * clusterBytes));
    const visited = visit(tables[nth] as TableAt, view);
    const changed = visited instanceof Promise ? await visited : visited;
    if (changed) continue;
    await writePart(file, start, bytes, from, nth * clusterBytes);
    from = (nth + 1) * clusterBytes;
  }
  await writePart(file, start, bytes, from, bytes.length);
}

async function writePart(
  file: ImageFile,
  start: number,
  bytes: Uint8Array,
  from: number,
  to: number,
): Promise<void> {
  if (from < to) await file.writeMetadata(start + from, bytes.subarray(from, to), 'mapping', own);
}
