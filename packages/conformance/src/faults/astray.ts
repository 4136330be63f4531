import { CowlabError, type StorageFolder } from '@cowlab/core';
import { assertCoded, failureOf } from '../expect.ts';
import { type Fault, FaultFolder } from '../fault-folder.ts';
import type { StorageCall } from '../intercepted-folder.ts';
import type { Lab } from '../lab.ts';
import { contentsOf } from '../twin.ts';
import type { Stage } from './injection.ts';
import { after, type DiskState, perform } from './steps.ts';
import type { Workload } from './workloads.ts';

/*
 * A medium that lies: it acknowledges a write of the driver's own structures, which then is nowhere, or lies some
 * sectors beside its place. Nobody is told. The disk is closed, or the power fails before. What comes of it:
 *
 *     found in use, by open, by check    an error with a code, or a finding
 *     harmless                           the disk and its snapshots are as if nothing had happened
 *     old                                they are, as a whole, as they were at an earlier moment
 *     old and used again                 the one root or journal record that told of the newest state was lost, and no
 *                                        later one was written: an older state is opened, and what had been free since
 *                                        then, and was used or given back to the host, shows other bytes that the guest
 *                                        once had
 *     data hit                           guest sectors show the stray write itself, which lies on them
 *     wrong                              anything else, silently
 *
 * Data have no checksums, so nobody can tell that data was hit. A root or journal record that never arrived cannot be
 * told from one that was never written: the state before is opened, and its data may have been used again. All other
 * damage shows: a driver that has checksums of its own structures must come to nothing that is `wrong`. Of the others
 * it is asked that they neither crash nor hang.
 */

type Outcome =
  | 'found in use'
  | 'found by open'
  | 'found by check'
  | 'harmless'
  | 'old'
  | 'old and used again'
  | 'data hit'
  | 'wrong';

/** How the run ends before the image is looked at. */
export type Ending = 'close' | 'power-loss';
export const endings: readonly Ending[] = ['close', 'power-loss'];

const sectorBytes = 512;

export const metadataPurposes: NonNullable<Fault['purpose']> = [
  'header',
  'mapping',
  'journal',
  'refcount',
  'snapshot',
];

export interface AstrayRun {
  readonly outcome: Outcome;
  /** The write that went astray; undefined when the workload has not so many. */
  readonly call: StorageCall | undefined;
}

/** The workload with one write that goes astray, and what is found afterwards. */
export async function runAstray(
  lab: Lab,
  workload: Workload,
  stage: Stage,
  fault: Fault,
  ending: Ending,
): Promise<AstrayRun> {
  const folder = new FaultFolder(await lab.copyFolder(stage.files));
  const { states, failure, left } = await act(lab, workload, stage, folder, fault, ending);
  folder.disarm();
  const call = folder.struck[0];
  if (failure !== undefined) return { outcome: 'found in use', call };
  const stray = call?.source !== undefined && fault.kind === 'misdirected' ? call.source : undefined;
  const outcome = await examine(lab, left, states, showsPartOf(stray));
  const isRoot = call?.purpose === 'header' || call?.purpose === 'journal';
  const isLast = ending === 'power-loss' || folder.matching === fault.nth;
  if (outcome !== 'wrong' || !isRoot || !isLast) return { outcome, call };
  const isOfGuest = (await examine(lab, left, states, wasEverIn(states, stray))) !== 'wrong';
  return { outcome: isOfGuest ? 'old and used again' : 'wrong', call };
}

/** The states that the guest believes to have gone through, and the first failure that stopped him. */
async function act(
  lab: Lab,
  workload: Workload,
  stage: Stage,
  folder: FaultFolder,
  fault: Fault,
  ending: Ending,
): Promise<{ states: DiskState[]; failure: unknown; left: StorageFolder }> {
  const states = [stage.start];
  let left: StorageFolder = folder.inner;
  const failure = await failureOf(async () => {
    const disk = await lab.open({ folder, copyOnRead: workload.copyOnRead === true });
    folder.arm(fault);
    const stopped = await failureOf(async () => {
      for (const step of workload.act(lab)) {
        await perform(disk, step);
        states.push(after(states.at(-1)!, step, disk.unitBytes));
      }
    });
    if (ending === 'power-loss') left = await lab.copyFolder(folder.inner);
    const closing = await lab.closeAnyway(disk);
    const first = stopped ?? (ending === 'close' ? closing : undefined);
    if (first !== undefined) throw first;
  });
  assertCoded(failure, 'a step after a write that went astray');
  return { states, failure, left };
}

async function examine(
  lab: Lab,
  folder: StorageFolder,
  states: readonly DiskState[],
  excuse: Excuse,
): Promise<Outcome> {
  let outcome: Outcome = 'found by open';
  const failure = await failureOf(async () => {
    const disk = await lab.open({ folder, readOnly: true });
    try {
      outcome = 'found by check';
      const report = await disk.check();
      if (report.corruptions > 0) return;
      outcome = compare(await stateOf(disk), states, excuse);
    } finally {
      await lab.closeAnyway(disk);
    }
  });
  assertCoded(failure, 'an image in which a write went astray');
  if (failure instanceof CowlabError && outcome !== 'found by open') return 'found by check';
  return outcome;
}

async function stateOf(disk: Awaited<ReturnType<Lab['open']>>): Promise<DiskState> {
  const snapshots = new Map<string, Uint8Array>();
  for (const { name } of await disk.snapshots.list()) {
    const snapshot = await disk.snapshots.open(name);
    snapshots.set(name, await contentsOf(snapshot));
    await snapshot.close();
  }
  return { bytes: await contentsOf(disk), snapshots };
}

function compare(found: DiskState, states: readonly DiskState[], excuse: Excuse): Outcome {
  const newest = states.at(-1)!;
  if (isLike(found, newest)) return 'harmless';
  if (states.some((state) => isLike(found, state))) return 'old';
  return states.some((state) => isLike(found, state, excuse)) ? 'data hit' : 'wrong';
}

function isLike(found: DiskState, state: DiskState, excuse: Excuse = never): boolean {
  if (found.snapshots.size !== state.snapshots.size) return false;
  if (!hasBytes(found.bytes, state.bytes, excuse)) return false;
  return [...found.snapshots].every(([name, bytes]) =>
    hasBytes(bytes, state.snapshots.get(name) ?? new Uint8Array(0), excuse),
  );
}

function hasBytes(found: Uint8Array, wanted: Uint8Array, excuse: Excuse): boolean {
  if (found.length !== wanted.length) return false;
  if (Buffer.compare(found, wanted) === 0) return true;
  if (excuse === never) return false;
  for (let at = 0; at < found.length; at += sectorBytes) {
    const sector = Buffer.from(found.subarray(at, at + sectorBytes));
    const right = wanted.subarray(at, at + sectorBytes);
    if (!sector.equals(right) && !excuse(sector, right)) return false;
  }
  return true;
}

/** Says of a wrong sector whether it may be so. */
type Excuse = (found: Buffer, wanted: Uint8Array) => boolean;

const never: Excuse = () => false;

/** What differs is a piece of the write that went astray. */
function showsPartOf(stray: Uint8Array | undefined): Excuse {
  if (stray === undefined) return never;
  const whole = Buffer.from(stray);
  return (found, wanted) => {
    const first = found.findIndex((byte, index) => byte !== wanted[index]);
    const last = found.findLastIndex((byte, index) => byte !== wanted[index]);
    return whole.includes(found.subarray(first, last + 1));
  };
}

/** The guest had that sector once, anywhere; or it is a piece of what went astray. */
function wasEverIn(states: readonly DiskState[], stray: Uint8Array | undefined): Excuse {
  const known = new Set([''.padEnd(sectorBytes, '\0')]);
  for (const bytes of states.flatMap((state) => [state.bytes, ...state.snapshots.values()])) {
    for (let at = 0; at < bytes.length; at += sectorBytes) {
      known.add(Buffer.from(bytes.subarray(at, at + sectorBytes)).toString('latin1'));
    }
  }
  const isStray = showsPartOf(stray);
  return (found, wanted) => known.has(found.toString('latin1')) || isStray(found, wanted);
}
