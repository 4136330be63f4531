import { performance } from 'node:perf_hooks';
import { type Disk, isCowlabError } from '@cowlab/core';
import type { Subject } from '../formats.ts';
import { createImage, type Lab, occupiedBytes, openSession } from '../lab.ts';
import { breathe, timed } from '../measure.ts';
import type { LargeProfile, Profile } from '../profiles.ts';
import type { LargeImageRow, Omission, SnapshotRow } from '../schema.ts';
import { size } from '../wording.ts';
import { residentSets } from './memory.ts';
import { overwriteSome, timeCreates } from './snapshots.ts';

export interface LargeRows {
  readonly images: LargeImageRow[];
  readonly operations: SnapshotRow[];
  readonly omissions: Omission[];
}

/*
 * G4, G5, G6 on the other axis: what do a terabyte of mapped disk and its snapshots take, and how long are open,
 * create, delete and apply? The metadata are real, the data are holes, and every snapshot holds a few blocks of its
 * own. A format gets as many snapshots as it can make in the time, and the row says how many.
 */
export async function measureLarge(
  lab: Lab,
  subjects: readonly Subject[],
  profile: Profile,
  seed: number,
  tick: (done: number) => void,
): Promise<LargeRows> {
  const rows: LargeRows = { images: [], operations: [], omissions: [] };
  const all = profile.large.flatMap((large) =>
    subjects
      .filter(({ name }) => large.formats?.includes(name) ?? true)
      .map((subject): LargeRun => ({ lab, subject, profile, large, seed })),
  );
  for (const [index, run] of all.entries()) {
    await measureWhereItFits(run, rows, (done) => tick((index + done) / all.length));
  }
  return rows;
}

/** A file system has a largest file (16 TiB in ext4): an image that would be larger is left out, and the results say so. */
async function measureWhereItFits(
  run: LargeRun,
  rows: LargeRows,
  tick: (done: number) => void,
): Promise<void> {
  try {
    await measureOne(run, rows, tick);
  } catch (error) {
    if (!isCowlabError(error, 'ERR_NO_SPACE')) throw error;
    const reason = `${size(run.large.imageBytes)}: ${error.message}`;
    rows.omissions.push({ scenario: 'large image', format: run.subject.name, reason });
    await run.lab.discard(folderOf(run));
  }
}

function folderOf({ lab, subject }: LargeRun): string {
  return lab.path(`large-${subject.name}`);
}

interface LargeRun {
  readonly lab: Lab;
  readonly subject: Subject;
  readonly profile: Profile;
  readonly large: LargeProfile;
  readonly seed: number;
}

async function measureOne(run: LargeRun, rows: LargeRows, tick: (done: number) => void): Promise<void> {
  const { lab, subject, profile, large, seed } = run;
  const { requestBytes } = profile;
  const folder = folderOf(run);
  await createMapped(subject, folder, large.imageBytes);
  rows.images.push(await describeImage(run, folder, 0));
  const building = await openSession(subject, folder);
  const snapshots = await build(building.disk, run, tick);
  await building.disk.close();
  rows.images.push(await describeImage(run, folder, snapshots));
  const { disk } = await openSession(subject, folder);
  const common = { format: subject.name, imageBytes: large.imageBytes, snapshots };
  const pace = { ...profile, snapshotIterations: large.iterations };
  const dirtyBytes = profile.flushEvery * requestBytes;
  const creates = await timeCreates(disk, pace, seed);
  rows.operations.push({ ...common, operation: 'create', heldBytes: dirtyBytes, ...creates });
  const heldBytes = profile.historyWrites * requestBytes;
  const deletes = await timeDeletes(disk, snapshots, pace, seed);
  rows.operations.push({ ...common, operation: 'delete', heldBytes, ...deletes });
  const applies = await timeApplies(disk, snapshots, pace, seed);
  rows.operations.push({ ...common, operation: 'apply', heldBytes: dirtyBytes, ...applies });
  await disk.close();
  await lab.discard(folder);
}

/** What a closed image takes, and takes to open. */
async function describeImage(
  { subject, large, profile }: LargeRun,
  folder: string,
  snapshots: number,
): Promise<LargeImageRow> {
  const rssBytes = await residentSets(subject.name, folder, profile.memoryRuns);
  const started = performance.now();
  const { disk } = await openSession(subject, folder);
  const openMs = performance.now() - started;
  const { residentMetadataBytes } = disk.stats();
  await disk.close();
  const storageBytes = await occupiedBytes(folder);
  const { imageBytes } = large;
  return {
    format: subject.name,
    imageBytes,
    snapshots,
    storageBytes,
    openMs,
    residentMetadataBytes,
    rssBytes,
  };
}

/** An image in which every unit has a place and nothing is written: by the driver's own means, or place by place. */
async function createMapped(subject: Subject, folder: string, imageBytes: number): Promise<void> {
  const preallocates = subject.driver.options.preallocation?.choices?.includes('metadata') === true;
  await createImage(subject, folder, imageBytes, preallocates ? { preallocation: 'metadata' } : {});
  if (preallocates) return;
  const { disk } = await openSession(subject, folder);
  const { image } = disk;
  const last = imageBytes - image.unitBytes;
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
  { large, seed, profile: { historyWrites, requestBytes } }: LargeRun,
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

/** To and fro between the first snapshot and the last; the front is written to before each. */
function timeApplies(
  disk: Disk,
  snapshots: number,
  profile: Profile,
  seed: number,
): ReturnType<typeof timed> {
  let applied = 0;
  return timed('apply', {
    iterations: profile.snapshotIterations,
    budgetMs: profile.snapshotBudgetMs,
    prepare: () => overwriteSome(disk, profile.flushEvery, profile.requestBytes, seed + applied),
    run: () => disk.snapshots.apply(applied++ % 2 === 0 ? 's0' : `s${snapshots - 1}`),
  });
}
