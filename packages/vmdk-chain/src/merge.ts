import { CowlabError, type LongCallOptions, unsupported } from '@cowlab/core';
import type { SparseExtent } from './extent.ts';
import { GRAIN_TABLE_ENTRIES, SECTOR, ZEROED_GRAIN } from './layout.ts';

/*
 * The work of deleting a link: its child gets every grain that the link has and the child lacks.
 *
 *   child    link      then, in the child
 *   has it   any       nothing
 *   lacks    lacks     nothing: both mean "ask below"
 *   lacks    zeros     zeros, when there is somebody below to hide; else nothing
 *   lacks    a grain   a copy; or zeros as above, when the grain is a hole of its file
 *
 * Nothing that a reader of the child sees changes at any moment: what is copied reads as before. Until the child
 * is linked to what is below, the copies are only a second answer to the same question.
 */

const COPY_BYTES = 1024 * 1024;

export interface MergeOptions {
  /** Somebody is below the link: its zeros must be said in the child. */
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

/** Copies what `child` lacks of `link`; both cover the same disk with the same grains. In memory as to the tables. */
export async function copyMissing(
  link: SparseExtent,
  child: SparseExtent,
  options: MergeOptions,
): Promise<void> {
  const grainCount = Math.ceil(Math.min(link.header.size, child.header.size) / link.header.grainBytes);
  for (let grain = 0; grain < grainCount; ) {
    assertNotAborted(link.file, options.signal);
    if (child.tables.crowded) await child.tables.flush();
    const end = Math.min(grainCount, (Math.floor(grain / GRAIN_TABLE_ENTRIES) + 1) * GRAIN_TABLE_ENTRIES);
    const count = await copyRun(link, child, grain, end, options.below);
    options.onGrains(count);
    grain += count;
  }
}

/** Goes on from `grain` to the end of what can be treated alike, at most to `end` in the same table; returns how far. */
async function copyRun(
  link: SparseExtent,
  child: SparseExtent,
  grain: number,
  end: number,
  below: boolean,
): Promise<number> {
  const { grainBytes } = link.header;
  const index = Math.floor(grain / GRAIN_TABLE_ENTRIES);
  const at = grain % GRAIN_TABLE_ENTRIES;
  const { entries: old } = await link.tables.load(index);
  const { entries: own } = await child.tables.load(index);
  const needed = (i: number): boolean => own[at + i] === 0 && old[at + i] !== 0;
  let count = 1;
  if (!needed(0)) {
    while (grain + count < end && !needed(count)) count++;
    return count;
  }
  const sector = old[at]!;
  const step = sector === ZEROED_GRAIN ? 0 : grainBytes / SECTOR;
  while (grain + count < end && needed(count) && old[at + count] === sector + count * step) count++;
  if (sector !== ZEROED_GRAIN) {
    const status = await link.storage.status(sector * SECTOR, count * grainBytes);
    const most = Math.max(1, COPY_BYTES / grainBytes);
    if (status.data) return copyGrains(link, child, grain, sector, Math.min(count, most));
    const holes = Math.floor(status.length / grainBytes);
    if (holes === 0) return copyGrains(link, child, grain, sector, 1);
    count = Math.min(count, holes);
  }
  if (below) await child.zeroGrains(grain, count);
  return count;
}

async function copyGrains(
  link: SparseExtent,
  child: SparseExtent,
  grain: number,
  from: number,
  count: number,
): Promise<number> {
  child.tables.assertWritable(Math.floor(grain / GRAIN_TABLE_ENTRIES));
  const taken = child.grains.take(count);
  try {
    const bytes = new Uint8Array(taken.count * link.header.grainBytes);
    await link.storage.read(from * SECTOR, bytes);
    await child.storage.write(taken.sector * SECTOR, bytes);
  } catch (error) {
    child.grains.giveBack(taken.sector, taken.count);
    throw error;
  }
  await child.setGrains(grain, taken.sector, taken.count);
  return taken.count;
}
