import { CowlabError, type LongCallOptions, unsupported } from '@cowlab/core';
import type { SparseExtent } from './extent.ts';
import { GRAIN_TABLE_ENTRIES, SECTOR, ZEROED_GRAIN } from './layout.ts';
import { TableStream } from './table-stream.ts';
import { NO_ENTRIES } from './tables.ts';

/*
 * The moving of grains when a link is taken out of a chain. Up: its child gets every grain that the link has and the
 * child lacks, and can do without it. Down: the link gets every grain that its only child has, and can do for it.
 *
 *   child      link       up: then, in the child                     down: then, in the link
 *   lacks      any        what the link has: see below               nothing
 *   zeros      lacks      nothing                                    zeros, when somebody is below to be hidden
 *   zeros      zeros      nothing                                    nothing
 *   zeros      a grain    nothing                                    a hole in that grain's place
 *   a grain    any        nothing                                    a copy: over the link's grain, or in a new one
 *
 *   lacks      lacks      nothing: both mean "ask below"
 *   lacks      zeros      zeros, when there is somebody below to hide; else nothing
 *   lacks      a grain    a copy; or zeros as above, when the grain is a hole of its file
 *
 * Nothing that a reader of the child sees changes at any moment. Up, what is copied reads as before. Down, whatever
 * changes in the link is hidden by the child, which has it. But a reader of the link itself does see that: so it goes
 * down only when nobody reads the link any more (snapshots.ts).
 */

const COPY_BYTES = 1024 * 1024;

export interface MergeOptions {
  /** Somebody is below the link: its zeros, and those that come into it, must be said. */
  readonly below: boolean;
  readonly signal: AbortSignal | undefined;
  /** Called with the number of grains that have been looked at since the last call. */
  readonly onGrains: (count: number) => void;
}

export function assertNotAborted(file: string, signal: LongCallOptions['signal']): void {
  if (signal?.aborted === true) {
    throw new CowlabError('ERR_ABORTED', `${file}: aborted by the caller`, { file }, signal.reason);
  }
}

/** Throws `ERR_UNSUPPORTED` unless both cover the same disk with the same grains. */
export function assertSameShape(link: SparseExtent, child: SparseExtent): void {
  const [below, above] = [link.header, child.header];
  if (below.grainBytes !== above.grainBytes) {
    throw unsupported(child.file, 'header.grainSize', `differs from that of ${link.file}`, {
      value: above.grainBytes,
    });
  }
  if (below.size !== above.size) {
    throw unsupported(child.file, 'header.capacity', `differs from that of ${link.file}`, {
      value: above.size,
    });
  }
}

function grainCountOf({ header }: SparseExtent): number {
  return Math.ceil(header.size / header.grainBytes);
}

/** Grains of a table, from the first one on; the last table of a disk may have fewer than entries. */
function tableEnd(extent: SparseExtent, index: number): number {
  return Math.min(GRAIN_TABLE_ENTRIES, grainCountOf(extent) - index * GRAIN_TABLE_ENTRIES);
}

/**
 * Whether fewer grains move down than up, and the link has a place for each; told from the tables alone. It stops
 * counting as soon as that is certain.
 */
export async function movesLessDown(
  link: SparseExtent,
  child: SparseExtent,
  options: Pick<MergeOptions, 'signal' | 'onGrains'>,
): Promise<boolean> {
  const tableCount = link.tables.directory.length;
  const own = new TableStream(child);
  let down = 0;
  for (let index = 0; index < tableCount; index++) {
    const entries = await own.at(index);
    if (entries === NO_ENTRIES) continue;
    assertNotAborted(link.file, options.signal);
    if (!link.tables.isWritable(index) && entries.some((sector) => sector !== 0)) return false;
    for (const sector of entries) if (sector > ZEROED_GRAIN) down++;
  }
  const old = new TableStream(link);
  const again = new TableStream(child);
  let up = 0;
  for (let index = 0; index < tableCount && up <= down; index++) {
    assertNotAborted(link.file, options.signal);
    const below = await old.at(index);
    options.onGrains(tableEnd(link, index));
    if (below === NO_ENTRIES) continue;
    const above = await again.at(index);
    for (let i = 0; i < GRAIN_TABLE_ENTRIES; i++) if (below[i]! > ZEROED_GRAIN && above[i] === 0) up++;
  }
  return down < up;
}

/** Gives a child what it lacks of its link. In memory as to the tables; both have one shape. */
export function moveUp(link: SparseExtent, child: SparseExtent, options: MergeOptions): Promise<void> {
  return moveGrains(link, child, { ...options, isWanted: (grain, place) => grain !== 0 && place === 0 });
}

/** Gives a link everything that its child has. In memory as to the tables; both have one shape. */
export function moveDown(child: SparseExtent, link: SparseExtent, options: MergeOptions): Promise<void> {
  return moveGrains(child, link, { ...options, isWanted: (grain) => grain !== 0 });
}

interface Rule extends MergeOptions {
  /** Whether a grain moves, by its entries in the one file and in the other. */
  readonly isWanted: (from: number, to: number) => boolean;
}

/** Where a run of grains of one table lies: in the file it comes from and, perhaps, in the one it goes to. */
interface Run {
  readonly firstGrain: number;
  readonly count: number;
  /** `ZEROED_GRAIN` where the file says zeros. */
  readonly sector: number;
  /** Undefined where the other file has no place for it yet. */
  readonly place: number | undefined;
}

async function moveGrains(from: SparseExtent, to: SparseExtent, rule: Rule): Promise<void> {
  const source = new TableStream(from);
  const target = new TableStream(to);
  for (let index = 0; index < from.tables.directory.length; index++) {
    assertNotAborted(from.file, rule.signal);
    const entries = await source.at(index);
    const end = tableEnd(from, index);
    for (let at = entries === NO_ENTRIES ? end : 0; at < end; ) {
      assertNotAborted(from.file, rule.signal);
      if (to.tables.crowded) await to.tables.flush();
      const run = findRun(entries, await target.at(index), at, end, from.header.grainBytes / SECTOR, rule);
      if (run === undefined) break;
      const firstGrain = index * GRAIN_TABLE_ENTRIES + run.firstGrain;
      at = run.firstGrain + (await moveRun(from, to, { ...run, firstGrain }, rule.below));
    }
    rule.onGrains(end);
  }
}

/** The next grains of a table that are wanted and lie together on both sides; undefined when there are none. */
function findRun(
  entries: Uint32Array,
  there: Uint32Array,
  from: number,
  end: number,
  grainSectors: number,
  { isWanted }: Rule,
): Run | undefined {
  let at = from;
  while (at < end && !isWanted(entries[at]!, there[at]!)) at++;
  if (at === end) return undefined;
  const sector = entries[at]!;
  const place = there[at]! > ZEROED_GRAIN ? there[at]! : undefined;
  const step = sector === ZEROED_GRAIN ? 0 : grainSectors;
  const goesOn = (count: number): boolean => {
    const [grain, other] = [entries[at + count]!, there[at + count]!];
    if (grain !== sector + count * step || !isWanted(grain, other)) return false;
    return place === undefined ? other <= ZEROED_GRAIN : other === place + count * grainSectors;
  };
  let count = 1;
  while (at + count < end && goesOn(count)) count++;
  return { firstGrain: at, count, sector, place };
}

/** Moves the first grains of the run; returns how many. */
async function moveRun(from: SparseExtent, to: SparseExtent, run: Run, below: boolean): Promise<number> {
  const { grainBytes } = from.header;
  let { count } = run;
  if (run.sector !== ZEROED_GRAIN) {
    const status = await from.storage.status(run.sector * SECTOR, count * grainBytes);
    const holes = status.data ? 0 : Math.floor(status.length / grainBytes);
    if (holes === 0) {
      const most = status.data ? Math.max(1, COPY_BYTES / grainBytes) : 1;
      return copyRun(from, to, { ...run, count: Math.min(count, most) });
    }
    count = Math.min(count, holes);
  }
  if (run.place !== undefined) await to.storage.zero(run.place * SECTOR, count * grainBytes);
  else if (below) await to.zeroGrains(run.firstGrain, count);
  return count;
}

async function copyRun(from: SparseExtent, to: SparseExtent, run: Run): Promise<number> {
  const { grainBytes } = from.header;
  if (run.place !== undefined) {
    const bytes = new Uint8Array(run.count * grainBytes);
    await from.storage.read(run.sector * SECTOR, bytes);
    await to.storage.write(run.place * SECTOR, bytes);
    return run.count;
  }
  to.tables.assertWritable(Math.floor(run.firstGrain / GRAIN_TABLE_ENTRIES));
  const taken = to.grains.take(run.count);
  try {
    const bytes = new Uint8Array(taken.count * grainBytes);
    await from.storage.read(run.sector * SECTOR, bytes);
    await to.storage.write(taken.sector * SECTOR, bytes);
    // The table may have to be read first.
    await to.setGrains(run.firstGrain, taken.sector, taken.count);
  } catch (error) {
    to.grains.giveBack(taken.sector, taken.count);
    throw error;
  }
  return taken.count;
}
