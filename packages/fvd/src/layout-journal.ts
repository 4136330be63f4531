import { corrupt, viewOf, writeU64LE } from '@cowlab/core';
import { SECTOR_BYTES, seal, sealed, TWO_32 } from './structure.ts';

/* Journal sectors: mapping changes as runs of absolute values. */

const JOURNAL_MAGIC = 0x4a445646;

/** Guest blocks `guest … guest + count` are at host blocks `host …`, or absent, or zero. */
export interface JournalRun {
  readonly guest: number;
  readonly count: number;
  readonly host: number;
}

const JOURNAL_HEADER_BYTES = 32;
const RUN_BYTES = 16;
export const RUNS_PER_SECTOR: number = (SECTOR_BYTES - JOURNAL_HEADER_BYTES) / RUN_BYTES;

/** Sectors for `runs`, the first of which is number `index` of its epoch and follows a sector whose CRC is `link`. */
export function encodeJournal(
  runs: readonly JournalRun[],
  epoch: number,
  index: number,
  link: number,
): { bytes: Uint8Array; link: number } {
  const sectors = Math.ceil(runs.length / RUNS_PER_SECTOR);
  const bytes = new Uint8Array(sectors * SECTOR_BYTES);
  let previous = link;
  for (let sector = 0; sector < sectors; sector++) {
    const part = bytes.subarray(sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES);
    const view = viewOf(part);
    const some = runs.slice(sector * RUNS_PER_SECTOR, (sector + 1) * RUNS_PER_SECTOR);
    view.setUint32(0, JOURNAL_MAGIC, true);
    view.setUint32(8, index + sector, true);
    view.setUint32(12, some.length, true);
    writeU64LE(view, 16, epoch);
    view.setUint32(24, previous, true);
    some.forEach((run, i) => {
      const at = JOURNAL_HEADER_BYTES + i * RUN_BYTES;
      view.setUint32(at, run.guest >>> 0, true);
      view.setUint16(at + 4, Math.floor(run.guest / TWO_32), true);
      view.setUint16(at + 6, Math.floor(run.host / TWO_32), true);
      view.setUint32(at + 8, run.host >>> 0, true);
      view.setUint32(at + 12, run.count, true);
    });
    seal(part, 4);
    previous = view.getUint32(4, true);
  }
  return { bytes, link: previous };
}

/** The runs of one journal sector, or undefined where the journal's valid part has ended. */
export function decodeJournalSector(
  sector: Uint8Array,
  epoch: number,
  index: number,
  link: number,
  file: string,
): { runs: JournalRun[]; link: number } | undefined {
  const view = viewOf(sector);
  if (view.getUint32(0, true) !== JOURNAL_MAGIC || view.getUint32(8, true) !== index) return undefined;
  const recorded = view.getUint32(20, true) * TWO_32 + view.getUint32(16, true);
  if (view.getUint32(24, true) !== link || recorded !== epoch || !sealed(sector, 4)) return undefined;
  const count = view.getUint32(12, true);
  if (count === 0 || count > RUNS_PER_SECTOR) {
    throw corrupt(file, 'journal.count', `${count} runs in sector ${index}`, { value: count });
  }
  const runs: JournalRun[] = [];
  for (let i = 0; i < count; i++) {
    const at = JOURNAL_HEADER_BYTES + i * RUN_BYTES;
    runs.push({
      guest: view.getUint16(at + 4, true) * TWO_32 + view.getUint32(at, true),
      host: view.getUint16(at + 6, true) * TWO_32 + view.getUint32(at + 8, true),
      count: view.getUint32(at + 12, true),
    });
  }
  return { runs, link: view.getUint32(4, true) };
}

/**
 * Throws `ERR_CORRUPT` when the journal follows a newer superblock than the one of `epoch`. That one was durable, so its slot
 * was damaged since; what the older slot leads to may have been given to others, and the next superblock would take
 * this journal for its own.
 */
export function assertNotAhead(sector: Uint8Array, epoch: number, file: string): void {
  const view = viewOf(sector);
  if (view.getUint32(0, true) !== JOURNAL_MAGIC || !sealed(sector, 4)) return;
  const recorded = view.getUint32(20, true) * TWO_32 + view.getUint32(16, true);
  if (recorded <= epoch) return;
  throw corrupt(file, 'journal.epoch', `follows superblock ${recorded}, the newest whole one is ${epoch}`, {
    value: recorded,
  });
}
