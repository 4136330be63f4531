import type { Disk } from '@cowlab/core';
import { type Cell, fill, heldOffset, openSession, type Session } from '../lab.ts';
import { addCalls, type TimedOperation, type Timing, timed, toCalls } from '../measure.ts';
import type { Profile } from '../profiles.ts';
import type { Calls, SnapshotRow } from '../schema.ts';
import { patternBytes, randomOffsets } from '../workload.ts';

/*
 * G5, G6: how long do create and delete take when N snapshots exist? Before every create some random blocks are
 * written, as a running machine would; every delete takes away a snapshot from the middle of the line, which
 * holds bytes that no other does. At N = 1 the only snapshot is the middle one, and is made anew each time.
 */
export async function measureSnapshots(
  cells: readonly Cell[],
  profile: Profile,
  seed: number,
  tick: (done: number) => void,
): Promise<SnapshotRow[]> {
  const rows: SnapshotRow[] = [];
  for (const [index, cell] of cells.entries()) {
    const session = await openSession(cell.subject, cell.folder);
    const { disk } = session;
    const common = { format: cell.subject.name, snapshots: cell.snapshots, imageBytes: disk.size };
    if (cell.snapshots > 0) {
      const deletes = await timeDeletes(session, cell, profile);
      // The only snapshot holds the whole disk.
      const heldBytes = cell.snapshots === 1 ? disk.size : profile.heldBytes;
      rows.push({ ...common, operation: 'delete', heldBytes, ...deletes });
    }
    const dirtyBytes = profile.flushEvery * profile.requestBytes;
    const creates = await timeCreates(session, profile, seed);
    rows.push({ ...common, operation: 'create', heldBytes: dirtyBytes, ...creates });
    await disk.close();
    tick((index + 1) / cells.length);
  }
  return rows;
}

/** What a snapshot operation is timed with. */
export type Pace = Pick<Profile, 'flushEvery' | 'requestBytes' | 'snapshotIterations' | 'snapshotBudgetMs'>;

type CountedTiming = Timing & { readonly calls: Calls };

/** Times an operation, and counts what all runs of it ask of the storages. */
export async function timedAndCounted(
  name: string,
  { folder }: Session,
  pace: Pace,
  operation: Pick<TimedOperation, 'prepare' | 'run'>,
  iterations: number = pace.snapshotIterations,
): Promise<CountedTiming> {
  const each: Calls[] = [];
  const timing = await timed(name, {
    iterations,
    budgetMs: pace.snapshotBudgetMs,
    prepare: async () => {
      await operation.prepare();
      folder.reset();
    },
    run: () => operation.run(),
    finish: async () => void each.push(toCalls(folder.reset())),
  });
  return { ...timing, calls: each.reduce(addCalls) };
}

/** Creates on top, one after the other. */
function timeCreates(session: Session, profile: Pace, seed: number): Promise<CountedTiming> {
  const { disk } = session;
  let created = 0;
  return timedAndCounted('create', session, profile, {
    prepare: () => overwriteSome(disk, profile.flushEvery, profile.requestBytes, seed + created),
    run: async () => {
      await disk.snapshots.create(`timed-${created++}`);
    },
  });
}

/** Random overwrites and a flush. */
export async function overwriteSome(
  disk: Disk,
  count: number,
  requestBytes: number,
  seed: number,
): Promise<void> {
  const source = patternBytes(seed, requestBytes);
  for (const offset of randomOffsets(seed, count, disk.size, requestBytes)) await disk.write(offset, source);
  await disk.flush();
}

function timeDeletes(session: Session, cell: Cell, profile: Profile): Promise<CountedTiming> {
  const { disk } = session;
  let deleted = 0;
  let name = '';
  const iterations = cell.snapshots === 1 ? profile.snapshotIterations : cell.held.length;
  const operation = {
    prepare: async () => {
      name = cell.held[deleted] ?? '';
      if (name === '') {
        name = `again-${deleted}`;
        await fill(disk, heldOffset(deleted, disk.size, profile), profile.heldBytes, () => undefined);
        await disk.snapshots.create(name);
      }
      deleted++;
    },
    run: () => disk.snapshots.delete(name),
  };
  return timedAndCounted('delete', session, profile, operation, iterations);
}
