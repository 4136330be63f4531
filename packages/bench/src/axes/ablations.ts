import { chooseSubjects, type Subject } from '../formats.ts';
import { createdAt, createImage, fill, type Lab, openSession, type Session } from '../lab.ts';
import { interleaved, type RoundTimes, toCalls } from '../measure.ts';
import type { Profile } from '../profiles.ts';
import { createMapped } from '../scenarios/mapped.ts';
import { writingParty } from '../scenarios/requests.ts';
import { overwriteSome, type Pace, timedAndCounted } from '../scenarios/snapshots.ts';
import { refcountBytes } from '../scenarios/allocate.ts';
import { distinctOffsets } from '../workload.ts';
import type { AblationRow } from './schema.ts';

/*
 * G1, G2, G5, G6: what is each part of FVD worth? The same driver without it, beside the driver as it is: random writes into an
 * empty image, a first and a second pass over what a snapshot holds, and snapshots of the smallest of the large images,
 * with what is in memory then.
 */

const FORMAT = 'fvd';
const ABLATED: readonly string[] = [
  FORMAT,
  'fvd-live-refcounts',
  'fvd-chunk-copy',
  'fvd-64k',
  'fvd-unjournaled',
];

export async function measureAblations(
  lab: Lab,
  subjects: readonly Subject[],
  profile: Profile,
  seed: number,
  tick: (done: number) => void,
): Promise<AblationRow[]> {
  if (!subjects.some(({ name }) => name === FORMAT)) return [];
  const parts: Part[] = [];
  for (const subject of chooseSubjects(ABLATED)) {
    const folder = lab.path(`ablation-${subject.name}`);
    await createImage(subject, folder, profile.axes.ablation.imageBytes);
    parts.push({ subject, folder, session: await openSession(subject, folder) });
  }
  const rows = await measureWrites(parts, profile, seed);
  for (const { session, folder } of parts) {
    await session.disk.close();
    await lab.discard(folder);
  }
  for (const [index, { subject }] of parts.entries()) {
    tick((index + 1) / (parts.length + 1));
    rows.push(...(await measureLargeSnapshots(lab, subject, profile, seed)));
  }
  return rows.toSorted((a, b) => ABLATED.indexOf(a.format) - ABLATED.indexOf(b.format));
}

interface Part {
  readonly subject: Subject;
  readonly folder: string;
  readonly session: Session;
}

async function measureWrites(parts: readonly Part[], profile: Profile, seed: number): Promise<AblationRow[]> {
  const { imageBytes, rounds } = profile.axes.ablation;
  const rows: AblationRow[] = [];
  const pass = async (workload: AblationRow['workload'], passSeed: number): Promise<void> => {
    const { flushEvery, requestBytes } = profile;
    const offsets = distinctOffsets(passSeed, flushEvery * rounds, imageBytes, requestBytes);
    const parties = parts.map(({ session }) => {
      session.folder.reset();
      return writingParty(session.disk, offsets, requestBytes, flushEvery);
    });
    const times = await interleaved(parties, Infinity);
    for (const [index, { subject, session }] of parts.entries()) {
      const snapshots = workload === 'allocation' ? 0 : 1;
      rows.push(rowOf(subject, session, times[index]!, { workload, snapshots }));
    }
  };
  await pass('allocation', seed);
  for (const { session } of parts) {
    await fill(session.disk, 0, imageBytes, () => undefined);
    await session.disk.snapshots.create('held', { createdAt });
  }
  await pass('first overwrite', seed + 1);
  await pass('steady overwrite', seed + 1);
  return rows;
}

function rowOf(
  { name }: Subject,
  { disk, folder }: Session,
  { operations, roundMicros }: RoundTimes,
  about: Pick<AblationRow, 'workload' | 'snapshots'>,
): AblationRow {
  const stats = disk.stats();
  return {
    format: name,
    ...about,
    imageBytes: disk.size,
    operations,
    roundMicros,
    calls: toCalls(folder.reset()),
    residentMetadataBytes: stats.residentMetadataBytes,
    residentRefcountBytes: refcountBytes(stats),
  };
}

/** Every unit mapped; some blocks written before each create and delete. */
async function measureLargeSnapshots(
  lab: Lab,
  subject: Subject,
  profile: Profile,
  seed: number,
): Promise<AblationRow[]> {
  const [large] = profile.large;
  if (large === undefined) return [];
  const { iterations } = profile.axes.ablation;
  const folder = lab.path(`ablation-large-${subject.name}`);
  await createMapped(subject, folder, large.imageBytes);
  const session = await openSession(subject, folder);
  const { disk } = session;
  const pace: Pace = { ...profile, snapshotBudgetMs: Infinity, snapshotIterations: iterations };
  const rows: AblationRow[] = [];
  let at = 0;
  const operations: readonly ['create' | 'delete', () => Promise<unknown>][] = [
    ['create', () => disk.snapshots.create(`timed-${at++}`, { createdAt })],
    ['delete', () => disk.snapshots.delete(`timed-${--at}`)],
  ];
  for (const [workload, run] of operations) {
    const { samplesMs, calls } = await timedAndCounted(workload, session, pace, {
      prepare: () => overwriteSome(disk, profile.flushEvery, profile.requestBytes, seed + at),
      run: async () => void (await run()),
    });
    const times = { operations: samplesMs.length, roundMicros: samplesMs.map((each) => each * 1000) };
    rows.push({ ...rowOf(subject, session, times, { workload, snapshots: at }), calls });
  }
  await disk.close();
  await lab.discard(folder);
  return rows;
}
