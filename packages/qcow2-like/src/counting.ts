import { type LongCallOptions, viewOf } from '@cowlab/core';
import { malformedEntry } from './corruption.ts';
import {
  compressedFlag,
  compressedPlace,
  copiedFlag,
  hostOffsetOf,
  isMalformed,
  zeroFlag,
} from './entries.ts';
import type { ImageFile } from './image-file.ts';
import type { Geometry } from './layout.ts';
import { abortError, type Metadata } from './metadata.ts';
import type { ClusterRun } from './refcounts.ts';
import { type TableAt, walkTables } from './walk.ts';

/*
 * What a snapshot operation does to counts and COPIED flags: passes over L2 tables, as they are in the file. A
 * terabyte in clusters of 64 KiB is sixteen million entries, so entries are taken in runs whose host clusters lie
 * side by side, and counts are changed a run at a time.
 */

/** What an operation may report: one step for each L2 table. */
export interface Walk {
  readonly metadata: Metadata;
  readonly options: LongCallOptions;
}

/** The L2 tables that an L1 table points to. Throws `ERR_CORRUPT`. */
export function tablesOf({ file }: Metadata, l1: Uint8Array): TableAt[] {
  const view = viewOf(l1);
  const tables: TableAt[] = [];
  for (let l1Index = 0; l1Index < view.byteLength / 8; l1Index += 1) {
    const hi = view.getUint32(l1Index * 8);
    const lo = view.getUint32(l1Index * 8 + 4);
    const { clusterBytes } = file.geometry;
    if (isMalformed(hi, lo, clusterBytes, 0) || (hi & compressedFlag) !== 0)
      throw malformedEntry(file.name, 'l1_table.entry', hi, lo, clusterBytes, l1Index);
    const hostOffset = hostOffsetOf(hi, lo);
    if (hostOffset !== 0) tables.push({ hostOffset, l1Index });
  }
  return tables;
}

export function activeTables(metadata: Metadata): TableAt[] {
  return tablesOf(metadata, bytesOf(metadata.mapping.l1));
}

/** Those of `tables` that the other list does not have at the same place. */
export function without(tables: readonly TableAt[], others: readonly TableAt[]): TableAt[] {
  const there = new Map(others.map(({ l1Index, hostOffset }) => [l1Index, hostOffset]));
  return tables.filter(({ l1Index, hostOffset }) => there.get(l1Index) !== hostOffset);
}

/** One more way leads to each table and to what it refers to: nobody owns them alone any more. */
export async function countUp(walk: Walk, tables: readonly TableAt[]): Promise<void> {
  const { l2EntryBytes } = walk.metadata.file.geometry;
  await countTables(walk, tables, 1, (view) => {
    let changed = false;
    for (let at = 0; at < view.byteLength; at += l2EntryBytes) {
      const hi = view.getUint32(at);
      if ((hi & copiedFlag) === 0) continue;
      view.setUint32(at, (hi & ~copiedFlag) >>> 0);
      changed = true;
    }
    return changed;
  });
}

export async function countDown(walk: Walk, tables: readonly TableAt[]): Promise<void> {
  await countTables(walk, tables, -1, () => false);
}

async function countTables(
  { metadata, options }: Walk,
  tables: readonly TableAt[],
  delta: 1 | -1,
  change: (view: DataView) => boolean,
): Promise<void> {
  const { file, refcounts } = metadata;
  let done = 0;
  await walkTables(file, tables, async (table, view) => {
    if (options.signal?.aborted) throw abortError(file.name);
    await refcounts.change({ first: table.hostOffset / file.geometry.clusterBytes, count: 1 }, delta);
    await countEntries(metadata, view, delta);
    done += 1;
    options.onProgress?.({ done, total: tables.length });
    const changed = change(view);
    if (changed) keepCached(metadata, table, view);
    return changed;
  });
}

/** Changes the counts of everything that one L2 table refers to, neighbours together. */
async function countEntries({ file, refcounts }: Metadata, view: DataView, delta: 1 | -1): Promise<void> {
  // Clusters in a data file have no counts.
  if (file.hasDataFile) return;
  for (let at = 0; at < view.byteLength; ) {
    const { run, next } = runAt(file, view, at);
    const changed = run.count > 0 ? refcounts.change(run, delta) : undefined;
    if (changed !== undefined) await changed;
    at = next;
  }
}

/** The host clusters that the entry at `at` refers to, joined with those behind it that lie next to them. */
function runAt(
  file: ImageFile,
  view: DataView,
  at: number,
): { readonly run: ClusterRun; readonly next: number } {
  const { clusterBytes, l2EntryBytes } = file.geometry;
  const hi = view.getUint32(at);
  const lo = view.getUint32(at + 4);
  const next = at + l2EntryBytes;
  if ((hi & compressedFlag) !== 0) {
    const { offset, end } = compressedPlace(hi, lo, file.header.clusterBits);
    const first = Math.floor(offset / clusterBytes);
    return { run: { first, count: Math.ceil(end / clusterBytes) - first }, next };
  }
  if (isMalformed(hi, lo, clusterBytes, zeroFlag))
    throw malformedEntry(file.name, 'l2_table.entry', hi, lo, clusterBytes, at / l2EntryBytes);
  const hostOffset = hostOffsetOf(hi, lo & ~zeroFlag);
  if (hostOffset === 0) return { run: { first: 0, count: 0 }, next };
  const count = 1 + neighbours(view, next, hi & ~copiedFlag, lo & ~zeroFlag, file.geometry);
  return { run: { first: hostOffset / clusterBytes, count }, next: at + count * l2EntryBytes };
}

/** How many entries from `at` on continue one of host offset `hi`, `lo`. Whole halves are compared: no bit is overlooked. */
function neighbours(
  view: DataView,
  at: number,
  hi: number,
  lo: number,
  { clusterBytes, l2EntryBytes }: Geometry,
): number {
  let count = 0;
  let expectedHi = hi;
  let expectedLo = lo >>> 0;
  for (let next = at; next < view.byteLength; next += l2EntryBytes) {
    expectedLo += clusterBytes;
    if (expectedLo > 0xffff_ffff) {
      expectedLo -= 2 ** 32;
      expectedHi += 1;
    }
    if ((view.getUint32(next) & ~copiedFlag) !== expectedHi) break;
    if ((view.getUint32(next + 4) & ~zeroFlag) >>> 0 !== expectedLo) break;
    count += 1;
  }
  return count;
}

/**
 * After a delete: what only the active state refers to now is its own again. Sharing happens at one guest offset only,
 * and what an L2 table refers to that is shared itself is shared too.
 */
export async function markSoleOwners(metadata: Metadata, deleted: readonly TableAt[]): Promise<void> {
  const { file, mapping, refcounts } = metadata;
  const { clusterBytes, l2EntryBytes } = file.geometry;
  const touched = new Set(deleted.map(({ l1Index }) => l1Index));
  const countOf = refcounts.reader();
  const sole: TableAt[] = [];
  for (const table of activeTables(metadata)) {
    if (!touched.has(table.l1Index) || (await countOf(table.hostOffset / clusterBytes)) !== 1) continue;
    sole.push(table);
    if (!mapping.isOwned(table.l1Index)) mapping.setL1(table.l1Index, table.hostOffset, true);
  }
  await walkTables(file, sole, async (table, view) => {
    let changed = false;
    for (let at = 0; at < view.byteLength; at += l2EntryBytes) {
      const hi = view.getUint32(at);
      if ((hi & (copiedFlag | compressedFlag)) !== 0) continue;
      const hostOffset = hostOffsetOf(hi, view.getUint32(at + 4) & ~zeroFlag);
      if (hostOffset === 0) continue;
      const count = countOf(hostOffset / clusterBytes);
      if ((count instanceof Promise ? await count : count) !== 1) continue;
      view.setUint32(at, (hi | copiedFlag) >>> 0);
      changed = true;
    }
    if (changed) keepCached(metadata, table, view);
    return changed;
  });
}

/** A table that was changed in the file is changed in the cache too. */
function keepCached({ mapping }: Metadata, { l1Index, hostOffset }: TableAt, view: DataView): void {
  const cached = mapping.tables.peek(l1Index);
  if (cached?.hostOffset === hostOffset) cached.bytes.set(bytesOf(view));
}

/** The bytes that a view shows. */
export function bytesOf(view: DataView): Uint8Array {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}
