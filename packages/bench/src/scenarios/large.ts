import { performance } from 'node:perf_hooks';
import type { Disk } from '@cowlab/core';
import type { Subject } from '../formats.ts';
import { createImage, type Lab, openSession } from '../lab.ts';
import { breathe, timed } from '../measure.ts';
import type { LargeProfile, Profile } from '../profiles.ts';
import type { LargeImageRow, Omission, SnapshotRow } from '../schema.ts';
import { overwriteSome, timeCreates } from './snapshots.ts';

export interface LargeRows {
  readonly images: LargeImageRow[];
  readonly operations: SnapshotRow[];
  readonly omissions: Omission[];
}

/*
 * G5, G6 on the other axis: how long do create and delete take when a terabyte is mapped? The metadata are real,
 * the data are holes; so only formats take part that can be created with everything mapped.
 */
export async function measureLarge(
  lab: Lab,
  subjects: readonly Subject[],
  profile: Profile,
  seed: number,
  tick: (done: number) => void,
): Promise<LargeRows> {
  const rows: LargeRows = { images: [], operations: [], omissions: [] };
  for (const subject of subjects) {
    if (subject.driver.options.preallocation?.choices?.includes('metadata')) {
      await measureOne(lab, subject, profile, seed, rows, tick);
    } else {
      const reason = 'cannot be created with everything mapped and nothing written';
      rows.omissions.push({ scenario: 'large image', format: subject.name, reason });
    }
  }
  return rows;
}

async function measureOne(
  lab: Lab,
  subject: Subject,
  profile: Profile,
  seed: number,
  rows: LargeRows,
  tick: (done: number) => void,
): Promise<void> {
  const { large } = profile;
  const folder = lab.path(`large-${subject.name}`);
  await createImage(subject, folder, large.imageBytes, { preallocation: 'metadata' });
  const building = await openSession(subject, folder);
  const snapshots = await build(building.disk, large, tick);
  await building.disk.close();
  const started = performance.now();
  const { disk } = await openSession(subject, folder);
  const openMs = performance.now() - started;
  const common = { format: subject.name, imageBytes: large.imageBytes, snapshots };
  const { storageBytes } = await disk.info();
  const { residentMetadataBytes } = disk.stats();
  rows.images.push({ ...common, storageBytes, openMs, residentMetadataBytes });
  const pace = { ...profile, snapshotIterations: large.iterations };
  const creates = await timeCreates(disk, pace, seed);
  const heldBytes = profile.flushEvery * profile.requestBytes;
  rows.operations.push({ ...common, operation: 'create', heldBytes, ...creates });
  const deletes = await timeDeletes(disk, snapshots, pace, seed);
  rows.operations.push({ ...common, operation: 'delete', heldBytes, ...deletes });
  await disk.close();
  await lab.discard(folder);
}

/** Takes snapshots until there are enough of them, or until the time is up and the least number is there. */
async function build(disk: Disk, large: LargeProfile, tick: (done: number) => void): Promise<number> {
  const started = performance.now();
  for (let count = 0; count < large.snapshots; count++) {
    if (count >= large.minSnapshots && performance.now() - started > large.buildBudgetMs) return count;
    await disk.snapshots.create(`s${count}`);
    tick(count / large.snapshots);
    if (count % 16 === 0) await breathe();
  }
  return large.snapshots;
}

/** From the middle of the line outwards; the front is written to before each, as a running machine would. */
function timeDeletes(
  disk: Disk,
  snapshots: number,
  profile: Profile,
  seed: number,
): ReturnType<typeof timed> {
  let next = Math.floor((snapshots - profile.snapshotIterations) / 2);
  return timed('delete', {
    iterations: profile.snapshotIterations,
    budgetMs: profile.snapshotBudgetMs,
    prepare: () => overwriteSome(disk, profile.flushEvery, profile.requestBytes, seed + next),
    run: () => disk.snapshots.delete(`s${next++}`),
  });
}
