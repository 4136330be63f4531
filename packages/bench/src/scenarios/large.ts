import fs from 'node:fs/promises';
import path from 'node:path';
import { isCowlabError } from '@cowlab/core';
import { fileSystemOf } from '../environment.ts';
import type { Subject } from '../formats.ts';
import { IMAGE_FILE, type Lab, occupiedBytes, openSession, type Session } from '../lab.ts';
import { breathe, timed } from '../measure.ts';
import { median } from '../statistics.ts';
import type { LargeProfile, Profile } from '../profiles.ts';
import type { Calls, LargeImageRow, Omission, SnapshotRow } from '../schema.ts';
import { size } from '../wording.ts';
import { createMapped } from './mapped.ts';
import { residentSets } from './memory.ts';
import { overwriteSome, type Pace, timedAndCounted } from './snapshots.ts';

export interface LargeRows {
  readonly images: LargeImageRow[];
  readonly operations: SnapshotRow[];
  readonly omissions: Omission[];
}

/*
 * G4, G5, G6 on the other axis: what do terabytes of mapped disk and their snapshots take, and how long are open,
 * create, delete and apply? Without snapshots, with one, and with many: time and bytes should follow the size, and not
 * N. The metadata are real, the data are holes, and every snapshot holds a few blocks of its own: always the same
 * blocks, so that the front looks alike whatever N is. A format gets as many snapshots as it can make in the time, and
 * the row says how many.
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
      .map((subject): LargeRun => {
        const name = `large-${subject.name}`;
        return { lab, subject, profile, large, seed, folder: lab.pathFor(name, fileBytesFor(large)) };
      }),
  );
  for (const [index, run] of all.entries()) {
    await measureWhereItFits(run, rows, (done) => tick((index + done) / all.length));
  }
  return rows;
}

/** A mapped image is longer than its disk by its metadata; a 32nd is enough for those of every format. */
function fileBytesFor({ imageBytes }: LargeProfile): number {
  return imageBytes + Math.ceil(imageBytes / 32);
}

/** What fits nowhere (a file has at most 16 TiB in ext4, and there may be no folder in memory) is left out, and named. */
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
    await run.lab.discard(run.folder);
  }
}

interface LargeRun {
  readonly lab: Lab;
  readonly subject: Subject;
  readonly profile: Profile;
  readonly large: LargeProfile;
  readonly seed: number;
  readonly folder: string;
}

async function measureOne(run: LargeRun, rows: LargeRows, tick: (done: number) => void): Promise<void> {
  const { lab, subject, large, folder } = run;
  await createMapped(subject, folder, large.imageBytes);
  const images: LargeImageRow[] = [];
  for (const wanted of [0, 1, large.snapshots]) {
    const snapshots = await build(run, images.at(-1)?.snapshots ?? 0, wanted, tick);
    const image = await describeImage(run, snapshots);
    images.push(image);
    if (wanted === large.snapshots) await compareProcesses(run, images);
    rows.operations.push(...(await timeOperations(run, snapshots)));
  }
  rows.images.push(...images);
  await lab.discard(folder);
}

/** What a closed image takes, and takes to open. */
async function describeImage(run: LargeRun, snapshots: number): Promise<LargeImageRow> {
  const { subject, large, folder, profile } = run;
  const sessions: Session[] = [];
  const { samplesMs, medianMs } = await timed('open', {
    iterations: large.iterations,
    budgetMs: profile.snapshotBudgetMs,
    prepare: async () => undefined,
    run: async () => void sessions.push(await openSession(subject, folder)),
    finish: async () => sessions.at(-1)?.disk.close(),
  });
  const { disk, opening } = await openSession(subject, folder);
  const stats = disk.stats();
  await disk.close();
  return {
    format: subject.name,
    imageBytes: large.imageBytes,
    snapshots,
    storageBytes: await occupiedBytes(folder),
    fileBytes: (await fs.stat(path.join(folder, IMAGE_FILE))).size,
    fileSystem: fileSystemOf(folder),
    openSamplesMs: samplesMs,
    openMs: medianMs,
    refcountScanMs: median(sessions.map(({ refcountScanMs }) => refcountScanMs)),
    opening,
    residentMetadataBytes: stats.residentMetadataBytes,
    counters: { ...stats },
    rssBytes: [],
  };
}

/** Processes that open the image as it is now, in turns with such as open another that never had a snapshot. */
async function compareProcesses(
  { lab, subject, large, folder, profile }: LargeRun,
  images: readonly LargeImageRow[],
): Promise<void> {
  const fresh = `${folder}-fresh`;
  await createMapped(subject, fresh, large.imageBytes);
  const [before, after] = await residentSets(subject, [fresh, folder], profile.largeMemoryRuns);
  images[0]?.rssBytes.push(...(before ?? []));
  images.at(-1)?.rssBytes.push(...(after ?? []));
  await lab.discard(fresh);
}

/**
 * Takes snapshots, a few writes before each, until there are enough. Those past the first may be as many as the time
 * allows, `minSnapshots` in any case.
 */
async function build(
  { subject, folder, large, seed, profile: { flushEvery, requestBytes } }: LargeRun,
  from: number,
  wanted: number,
  tick: (done: number) => void,
): Promise<number> {
  const { disk } = await openSession(subject, folder);
  const started = performance.now();
  let count = from;
  for (; count < wanted; count++) {
    const spent = (performance.now() - started) / large.buildBudgetMs;
    if (count >= large.minSnapshots && spent > 1) break;
    await overwriteSome(disk, flushEvery, requestBytes, seed);
    await disk.snapshots.create(`s${count}`);
    tick(Math.max(spent, count / large.snapshots) / 2);
    if (count % 16 === 0) await breathe();
  }
  await disk.close();
  return count;
}

/** Afterwards there are as many snapshots as before. */
async function timeOperations(run: LargeRun, snapshots: number): Promise<SnapshotRow[]> {
  const { subject, folder, large, profile, seed } = run;
  const session = await openSession(subject, folder);
  const common = { format: subject.name, imageBytes: large.imageBytes, snapshots };
  const pace: Pace = { ...profile, snapshotIterations: large.iterations };
  const context: Timed = { session, pace, seed, snapshots };
  const heldBytes = profile.flushEvery * profile.requestBytes;
  const rows: SnapshotRow[] = [];
  rows.push({ ...common, operation: 'create', heldBytes, ...(await timeCreates(context)) });
  if (snapshots > 0) {
    rows.push({ ...common, operation: 'apply', heldBytes, ...(await timeApplies(context)) });
    rows.push({ ...common, operation: 'delete', heldBytes, ...(await timeDeletes(context)) });
  }
  await session.disk.close();
  return rows;
}

interface Timed {
  readonly session: Session;
  readonly pace: Pace;
  readonly seed: number;
  readonly snapshots: number;
}

type CountedTiming = Pick<SnapshotRow, 'samplesMs' | 'medianMs'> & { readonly calls: Calls };

/** As a running machine would, before each operation. */
function dirty({ session, pace, seed }: Timed): Promise<void> {
  return overwriteSome(session.disk, pace.flushEvery, pace.requestBytes, seed);
}

const TIMED = 'timed';

/** One on top; it goes again before the next one, so that N stays. */
async function timeCreates(context: Timed): Promise<CountedTiming> {
  const { session, pace } = context;
  const { disk } = session;
  let created = 0;
  const timing = await timedAndCounted('create', session, pace, {
    prepare: async () => {
      if (created++ > 0) await disk.snapshots.delete(TIMED);
      await dirty(context);
    },
    run: async () => void (await disk.snapshots.create(TIMED)),
  });
  await disk.snapshots.delete(TIMED);
  return timing;
}

/** From the middle of the line on; its place is taken by one on top, so that N stays. */
async function timeDeletes(context: Timed): Promise<CountedTiming> {
  const { session, pace, snapshots } = context;
  const { disk } = session;
  const first = Math.max(0, Math.floor((snapshots - pace.snapshotIterations) / 2));
  const names = (await disk.snapshots.list()).map(({ name }) => name);
  let deleted = 0;
  const replace = async (): Promise<void> => {
    const name = `after-${snapshots}-${deleted}`;
    await disk.snapshots.create(name);
    names.push(name);
  };
  const timing = await timedAndCounted('delete', session, pace, {
    prepare: async () => {
      if (deleted > 0) await replace();
      await dirty(context);
    },
    run: () => disk.snapshots.delete(names[first + deleted++] ?? ''),
  });
  await replace();
  return timing;
}

/** To and fro between the first snapshot and the last. */
async function timeApplies(context: Timed): Promise<CountedTiming> {
  const { session, pace } = context;
  const { disk } = session;
  const all = await disk.snapshots.list();
  let applied = 0;
  return timedAndCounted('apply', session, pace, {
    prepare: () => dirty(context),
    run: () => disk.snapshots.apply((applied++ % 2 === 0 ? all[0] : all.at(-1))?.name ?? ''),
  });
}
