import { CowlabError, type DiffExtent, type Disk } from '@cowlab/core';
import { invalidUse } from './errors.ts';
import { firstDifferenceOutside } from './comparison.ts';
import { copyChanges, type CopyOptions } from './transfer.ts';

/*
 * An increment: what differs between a snapshot and a later state of a disk, put into an image that holds the snapshot.
 *
 *   1  the target has the size of the snapshot, or of the result
 *   2  outside of what differs, the target equals the result, byte for byte (unless it is said to)
 *   3  the target gets the size of the result
 *   4  what differs is written, zeros as zeros; flush
 *
 * Up to 3 the target is as it was. An increment that is interrupted later leaves a target that holds neither state;
 * 1 and 2 ask for nothing that 3 and 4 change, so running it once more completes it.
 */

export interface Increment {
  readonly source: Disk;
  /** The state that the target holds: a snapshot of `source`, by its name or id. */
  readonly from: string;
  /** The state that it is to hold: another snapshot, or the present state. */
  readonly to: string | undefined;
  /** Do not compare: the target is known to hold `from`. */
  readonly unchecked: boolean;
  readonly names: { readonly source: string; readonly target: string };
}

export async function writeIncrement(
  increment: Increment,
  target: Disk,
  options: CopyOptions,
): Promise<void> {
  const { source, from, to, unchecked, names } = increment;
  const [before, result] = await openStates(increment);
  const size = sizeIn(target, result.size);
  if (target.size !== size && target.size !== sizeIn(target, before.size)) {
    const problem = `has ${target.size} bytes; snapshot ${JSON.stringify(from)} has ${before.size}`;
    throw invalidUse(names.target, problem);
  }
  assertResizes(target, size, names.target);
  const changes = (): AsyncIterable<DiffExtent> =>
    source.snapshots.diff(from, to, options.signal && { signal: options.signal });
  if (!unchecked) {
    const end = Math.min(before.size, result.size);
    const found = await firstDifferenceOutside(result, target, end, changes(), options);
    if (found !== undefined) throw notThatState(increment, found);
  }
  if (target.size !== size) await target.resize(size, options);
  await copyChanges(result, target, changes(), options);
  await target.flush();
}

/** Opened snapshots close with their disk. */
async function openStates({ source, from, to }: Increment): Promise<[Disk, Disk]> {
  const before = await source.snapshots.open(from);
  return [before, to === undefined ? source : await source.snapshots.open(to)];
}

/** A disk of `size` bytes as a format can have it; what is rounded up to reads as zeros. */
export function sizeIn({ capabilities }: Pick<Disk, 'capabilities'>, size: number): number {
  return Math.ceil(size / capabilities.sizeMultiple) * capabilities.sizeMultiple;
}

/** Refuses before anything is read what the format would refuse afterwards. */
function assertResizes({ size: present, capabilities, format }: Disk, size: number, name: string): void {
  const { resize } = capabilities;
  if (size === present || resize === 'both' || (resize === 'grow' && size > present)) return;
  const problem = `${format} disks cannot be changed from ${present} to ${size} bytes`;
  throw new CowlabError('ERR_UNSUPPORTED', `${name}: ${problem}`, { file: name, field: 'resize' });
}

function notThatState({ from, names }: Increment, offset: number): CowlabError {
  const problem = `does not hold snapshot ${JSON.stringify(from)} of ${names.source}`;
  return invalidUse(
    names.target,
    `${problem}: it differs at offset ${offset}, where nothing has changed since`,
  );
}
