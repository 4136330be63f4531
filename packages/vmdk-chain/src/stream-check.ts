import { type Finding, isCowlabError, roundUp, type Storage } from '@cowlab/core';
import { SECTOR, ZEROED_GRAIN, GRAIN_TABLE_ENTRIES } from './layout.ts';
import { type StreamExtent, tablesOf } from './stream-extent.ts';
import { decodeMarker, GRAIN_HEADER_BYTES, markerTypes } from './stream-layout.ts';

/*
 * The check of a stream-optimized extent goes two ways. By the tables: every grain is where it is said to be, says which
 * one it is, and decodes (zlib's checksum is compared by that). Along the stream, from marker to marker: each leads to
 * the next one, up to the end; a grain that no table refers to is a leak, one that is not met on the way is corruption.
 * QEMU puts no markers, and zeros behind its grains: they end the way like an end marker.
 */

export type OnFinding = (
  severity: Finding['severity'],
  structure: string,
  message: string,
  hostOffset: number,
) => void;

/** Reads every grain. `onTable` is called before each table, and may throw. */
export async function checkStream(
  extent: StreamExtent,
  found: OnFinding,
  onTable: () => void,
): Promise<{ readonly allocatedBytes: number; readonly imageEndBytes: number }> {
  const grains = new Set<number>();
  for await (const [index, entries] of tablesOf(extent)) {
    onTable();
    for (const [i, sector] of entries.entries()) {
      if (sector === 0 || (sector === ZEROED_GRAIN && extent.header.zeroedGrains)) continue;
      const grain = index * GRAIN_TABLE_ENTRIES + i;
      const problem = await problemWith(extent, grain, sector);
      if (problem === undefined) grains.add(sector);
      else found('corruption', 'grain', `grain ${grain}: ${problem}`, sector * SECTOR);
    }
  }
  await walk(extent, grains, found);
  const allocatedBytes = grains.size * extent.header.grainBytes;
  return { allocatedBytes, imageEndBytes: extent.storage.size() };
}

async function problemWith(extent: StreamExtent, grain: number, sector: number): Promise<string | undefined> {
  const { header, storage } = extent;
  if (sector * SECTOR < header.overheadBytes) return 'lies inside the metadata';
  if (sector * SECTOR >= storage.size()) return 'lies outside the file';
  if (grain * header.grainBytes >= header.size) return 'lies past the end of the disk';
  try {
    await extent.grain(grain, sector);
    return undefined;
  } catch (error) {
    if (!isCowlabError(error, 'ERR_CORRUPT')) throw error;
    return error.message;
  }
}

async function walk(extent: StreamExtent, grains: ReadonlySet<number>, found: OnFinding): Promise<void> {
  const { storage, header } = extent;
  const left = new Set(grains);
  for (let at = header.overheadBytes; at < storage.size(); ) {
    const step = await stepAt(storage, at, header.grainBytes);
    if (step.problem !== undefined) found('corruption', 'marker', step.problem, at);
    if (step.isGrain && !left.delete(at / SECTOR)) found('leak', 'grain', 'no table refers to it', at);
    if (step.next === undefined) break;
    at = step.next;
  }
  for (const sector of left) found('corruption', 'grain', 'lies beside the stream', sector * SECTOR);
}

interface Step {
  /** Undefined at the end, and where it cannot be told. */
  readonly next?: number;
  readonly isGrain?: boolean;
  readonly problem?: string;
}

async function stepAt(storage: Storage, at: number, grainBytes: number): Promise<Step> {
  const bytes = new Uint8Array(SECTOR);
  await storage.read(at, bytes);
  const { value, size, type } = decodeMarker(bytes);
  if (size > 0) {
    const next = at + roundUp(GRAIN_HEADER_BYTES + size, SECTOR);
    if (size > 2 * grainBytes || next > roundUp(storage.size(), SECTOR))
      return { problem: `a grain of ${size} bytes` };
    return { next, isGrain: true };
  }
  if (type === markerTypes.end) return {};
  if (type > markerTypes.footer) return { problem: `a marker of type ${type}, which is none` };
  const next = at + SECTOR + (value ?? Infinity) * SECTOR;
  return next > storage.size() ? { problem: 'a marker that leads out of the file' } : { next };
}
