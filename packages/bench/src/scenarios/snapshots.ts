import type { Disk } from '@cowlab/core';
import { type Cell, fill, heldOffset, openSession } from '../lab.ts';
import { type Timing, timed } from '../measure.ts';
import type { Profile } from '../profiles.ts';
import type { SnapshotRow } from '../schema.ts';
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
    const { disk } = await openSession(cell.subject, cell.folder);
    const common = { format: cell.subject.name, snapshots: cell.snapshots, imageBytes: disk.size };
    if (cell.snapshots > 0) {
      const { samplesMs, medianMs } = await timeDeletes(disk, cell, profile);
      // The only snapshot holds the whole disk.
      const heldBytes = cell.snapshots === 1 ? disk.size : profile.heldBytes;
      rows.push({ ...common, operation: 'delete', heldBytes, samplesMs, medianMs });
    }
    const dirtyBytes = profile.flushEvery * profile.requestBytes;
    const { samplesMs, medianMs } = await timeCreates(disk, profile, seed);
    rows.push({ ...common, operation: 'create', heldBytes: dirtyBytes, samplesMs, medianMs });
    await disk.close();
    tick((index + 1) / cells.length);
  }
  return rows;
}

/** Creates on top, one after the other. */
export function timeCreates(
  disk: Disk,
  profile: Pick<Profile, 'flushEvery' | 'requestBytes' | 'snapshotIterations' | 'snapshotBudgetMs'>,
  seed: number,
): Promise<Timing> {
  let created = 0;
  return timed('create', {
    iterations: profile.snapshotIterations,
    budgetMs: profile.snapshotBudgetMs,
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

function timeDeletes(disk: Disk, cell: Cell, profile: Profile): Promise<Timing> {
  let deleted = 0;
  let name = '';
  return timed('delete', {
    iterations: cell.snapshots === 1 ? profile.snapshotIterations : cell.held.length,
    budgetMs: profile.snapshotBudgetMs,
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
  });
}
