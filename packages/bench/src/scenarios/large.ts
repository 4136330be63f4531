import { performance } from 'node:perf_hooks';
import type { Disk } from '@cowlab/core';
import type { Subject } from '../formats.ts';
import { createImage, type Lab, occupiedBytes, openSession } from '../lab.ts';
import { breathe, timed } from '../measure.ts';
import type { Profile } from '../profiles.ts';
import type { LargeImageRow, SnapshotRow } from '../schema.ts';
import { overwriteSome, timeCreates } from './snapshots.ts';

export interface LargeRows {
  readonly images: LargeImageRow[];
  readonly operations: SnapshotRow[];
}

/*
 * G5, G6 on the other axis: how long do create and delete take when a terabyte is mapped? The metadata are real,
 * the data are holes, and every snapshot holds a few blocks of its own. A format gets as many snapshots as it can
 * make in the time, and the row says how many.
 */
export async function measureLarge(
  lab: Lab,
  subjects: readonly Subject[],
  profile: Profile,
  seed: number,
  tick: (done: number) => void,
): Promise<LargeRows> {
  const rows: LargeRows = { images: [], operations: [] };
  for (const [index, subject] of subjects.entries()) {
    await measureOne(lab, subject, profile, seed, rows, (done) => tick((index + done) / subjects.length));
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
  const { large, requestBytes } = profile;
  const folder = lab.path(`large-${subject.name}`);
  await createMapped(subject, folder, large.imageBytes);
  const building = await openSession(subject, folder);
  const snapshots = await build(building.disk, profile, seed, tick);
  await building.disk.close();
  const started = performance.now();
  const { disk } = await openSession(subject, folder);
  const openMs = performance.now() - started;
  const common = { format: subject.name, imageBytes: large.imageBytes, snapshots };
  const { residentMetadataBytes } = disk.stats();
  rows.images.push({ ...common, storageBytes: await occupiedBytes(folder), openMs, residentMetadataBytes });
  const pace = { ...profile, snapshotIterations: large.iterations };
  const dirtyBytes = profile.flushEvery * requestBytes;
  const creates = await timeCreates(disk, pace, seed);
  rows.operations.push({ ...common, operation: 'create', heldBytes: dirtyBytes, ...creates });
  const heldBytes = profile.historyWrites * requestBytes;
  const deletes = await timeDeletes(disk, snapshots, pace, seed);
  rows.operations.push({ ...common, operation: 'delete', heldBytes, ...deletes });
  await disk.close();
  await lab.discard(folder);
}

/** An image in which every unit has a place and nothing is written: by the driver's own means, or place by place. */
async function createMapped(subject: Subject, folder: string, size: number): Promise<void> {
  const preallocates = subject.driver.options.preallocation?.choices?.includes('metadata') === true;
  await createImage(subject, folder, size, preallocates ? { preallocation: 'metadata' } : {});
  if (preallocates) return;
  const { disk } = await openSession(subject, folder);
  const { image } = disk;
  const last = size - image.unitBytes;
  for (let offset = 0; offset < last; ) {
    const placement = await image.reserve(offset, last - offset);
    await image.commit(placement);
    offset += placement.length;
  }
  // A real write at the end makes the file as long as its places say.
  await disk.write(last, new Uint8Array(image.unitBytes).fill(1));
  await disk.close();
}

/** Takes snapshots, a few writes before each, until there are enough or the time is up; `minSnapshots` in any case. */
async function build(
  disk: Disk,
  { large, historyWrites, requestBytes }: Profile,
  seed: number,
  tick: (done: number) => void,
): Promise<number> {
  const started = performance.now();
  for (let count = 0; count < large.snapshots; count++) {
    const spent = (performance.now() - started) / large.buildBudgetMs;
    if (count >= large.minSnapshots && spent > 1) return count;
    await overwriteSome(disk, historyWrites, requestBytes, seed + count);
    await disk.snapshots.create(`s${count}`);
    tick(Math.max(spent, count / large.snapshots) / 2);
    if (count % 16 === 0) await breathe();
  }
  return large.snapshots;
}

/** From the middle of the line on; the front is written to before each, as a running machine would. */
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
