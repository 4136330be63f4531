import type { CheckReport } from '@cowlab/core';
import { Findings } from '../check.ts';
import { dataRange, type Version1Parts } from './parts.ts';
import { type ChunkTable, hostChunksOf } from './table.ts';

/*
 * What can be recomputed of an image without checksums and counts: each host chunk in use lies in the file and has one
 * user; each below the highest is in use (the original forgets those that a crash interrupted); each journal sector
 * holds whole records. Nothing is repaired: version 1 is never written.
 */
export function checkImage(parts: Version1Parts): CheckReport {
  const { storage, table, damaged, replayed } = parts;
  const findings = new Findings(storage.name);
  for (const chunk of damaged ?? []) findings.add('corruption', 'table', damaged!.describe(chunk));
  const used = table === undefined ? undefined : soundHosts(parts, table);
  if (used !== undefined) findLeaks(used, findings);
  for (const offset of replayed?.torn ?? []) {
    findings.add('corruption', 'journal', `the sector at ${offset} holds what is no record: dropped`);
  }
  return {
    corruptions: findings.totals.corruption,
    leaks: findings.totals.leak,
    repaired: 0,
    findings: findings.list,
    allocatedBytes:
      table === undefined || used === undefined ? flatBytes(parts) : compactBytes(parts, table, used),
    imageEndBytes: endOf(parts, used),
  };
}

/** The host chunks in use that the file has, in order. */
function soundHosts(parts: Version1Parts, table: ChunkTable): Uint32Array {
  const { start, end } = dataRange(parts);
  return hostChunksOf(table).filter((host) => start + (host + 1) * table.chunkBytes <= end);
}

/** Host chunks that no entry names, below the highest one that is named. */
function findLeaks(used: Uint32Array, findings: Findings): void {
  let next = 0;
  for (const host of used) {
    if (host > next) findings.add('leak', 'table', `host chunks ${next} to ${host - 1} are used by nothing`);
    next = host + 1;
  }
}

function compactBytes({ header }: Version1Parts, { chunkBytes }: ChunkTable, used: Uint32Array): number {
  return Math.min(header.size, used.length * chunkBytes);
}

/** Of an image that is not compact: what the base has not. */
function flatBytes({ header, bitmap, storage, data }: Version1Parts): number {
  const range = dataRange({ header, storage, data });
  if (range.end <= range.start) return 0;
  if (header.base === undefined || bitmap === undefined) return header.size;
  const { bytes, blockBytes } = header.base;
  return header.size - bytes + Math.min(bytes, bitmap.count() * blockBytes);
}

function endOf(parts: Version1Parts, used: Uint32Array | undefined): number {
  const { header } = parts;
  const { start, end } = dataRange(parts);
  if (header.table === undefined || used === undefined)
    return Math.max(start, Math.min(end, start + header.size));
  return start + ((used.at(-1) ?? -1) + 1) * header.table.chunkBytes;
}
