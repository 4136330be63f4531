import { corrupt, viewOf } from '@cowlab/core';
import type { JournalRun } from './layout-journal.ts';
import { decodePointer, encodePointer, ZERO } from './layout-table.ts';
import {
  type Geometry,
  isWithin,
  LOG_ALIGN,
  type Region,
  seal,
  sealed,
  SUPERBLOCKS_BYTES,
  TWO_32,
} from './structure.ts';

/*
 * Delta pages: what a page has become since it was written whole, as runs of absolute values, as in the journal. A
 * delta says everything since then, and what it refers to is a whole page: the depth is one.
 */

const DELTA_MAGIC = 0x44445646;
const DELTA_HEADER_BYTES = 32;
export const DELTA_RUN_BYTES = 10;
const MAX_COUNT = 0xffff;

export interface Delta {
  /** The page that the runs go over. */
  readonly full: Region;
  /** What the deltas over that page have taken so far, this one included. */
  readonly spent: number;
  /** Rising; guest blocks are counted from the page's first one. */
  readonly runs: readonly JournalRun[];
}

/** `spent`: what the deltas before this one have taken. */
export function encodeDelta(
  index: number,
  full: Region,
  spent: number,
  runs: readonly JournalRun[],
): Uint8Array {
  const items = runs.flatMap(splitCount);
  const end = DELTA_HEADER_BYTES + items.length * DELTA_RUN_BYTES;
  const delta = new Uint8Array(Math.ceil(end / LOG_ALIGN) * LOG_ALIGN);
  const view = viewOf(delta);
  view.setUint32(0, DELTA_MAGIC, true);
  view.setUint32(4, index, true);
  view.setUint32(8, end, true);
  encodePointer(view, 16, full);
  view.setUint32(24, spent + delta.length, true);
  items.forEach(({ guest, count, host }, i) => {
    const at = DELTA_HEADER_BYTES + i * DELTA_RUN_BYTES;
    view.setUint16(at, guest, true);
    view.setUint16(at + 2, count, true);
    view.setUint16(at + 4, Math.floor(host / TWO_32), true);
    view.setUint32(at + 6, host >>> 0, true);
  });
  return seal(delta, 12);
}

/** A run of all blocks of a large page is one more than its count can say. */
function splitCount(run: JournalRun): JournalRun[] {
  if (run.count <= MAX_COUNT) return [run];
  const { guest, count, host } = run;
  const rest = host > ZERO ? host + MAX_COUNT : host;
  return [
    { guest, count: MAX_COUNT, host },
    { guest: guest + MAX_COUNT, count: count - MAX_COUNT, host: rest },
  ];
}

/** Whether there is a delta where a root says that page `index` is; nothing else in it has been looked at. */
export function isDelta(bytes: Uint8Array): boolean {
  return bytes.length >= DELTA_HEADER_BYTES && viewOf(bytes).getUint32(0, true) === DELTA_MAGIC;
}

export function decodeDelta(
  bytes: Uint8Array,
  index: number,
  { blocksPerChunk, pageChunks, chunkBytes }: Geometry,
  hostChunks: number,
  file: string,
): Delta {
  const view = viewOf(bytes);
  const wrong = (problem: string): Error => corrupt(file, `page[${index}]`, `delta: ${problem}`);
  if (!sealed(bytes, 12)) throw wrong('checksum does not match');
  const end = view.getUint32(8, true);
  if (view.getUint32(4, true) !== index || end > bytes.length) throw wrong('is of another place');
  if (end < DELTA_HEADER_BYTES || (end - DELTA_HEADER_BYTES) % DELTA_RUN_BYTES !== 0) {
    throw wrong('ends inside a run');
  }
  const full = decodePointer(view, 16);
  if (!isWithin(full, SUPERBLOCKS_BYTES, hostChunks * chunkBytes)) {
    throw wrong(`page at ${full.offset} is outside the file`);
  }
  const spent = view.getUint32(24, true);
  if (spent < bytes.length) throw wrong(`${spent} bytes of deltas are fewer than its own`);
  const runs: JournalRun[] = [];
  let next = 0;
  for (let at = DELTA_HEADER_BYTES; at < end; at += DELTA_RUN_BYTES) {
    const guest = view.getUint16(at, true);
    const count = view.getUint16(at + 2, true);
    const host = view.getUint16(at + 4, true) * TWO_32 + view.getUint32(at + 6, true);
    if (guest < next || count === 0 || guest + count > pageChunks * blocksPerChunk) {
      throw wrong(`block ${guest} is out of order`);
    }
    if (host > ZERO && (host < blocksPerChunk || host + count > hostChunks * blocksPerChunk)) {
      throw wrong(`host block ${host} is outside the file`);
    }
    runs.push({ guest, count, host });
    next = guest + count;
  }
  return { full, spent, runs };
}
