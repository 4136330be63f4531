import { performance } from 'node:perf_hooks';
import type { Subject } from '../formats.ts';
import {
  createdAt,
  createImage,
  fill,
  type Lab,
  occupiedBytes,
  openSession,
  type Session,
  warmUp,
} from '../lab.ts';
import { breathe, interleaved, toCalls } from '../measure.ts';
import type { Profile } from '../profiles.ts';
import type { HistoryRow, PairedReads } from '../schema.ts';
import { randomOffsets } from '../workload.ts';
import { readingParty } from './requests.ts';
import { overwriteSome } from './snapshots.ts';

/*
 * What does a long life cost? A snapshot, a few random writes, a flush, a snapshot, … on a fully mapped image. Copying
 * whole units on the first write after each snapshot, or walking what many snapshots left behind, shows here and
 * in no other scenario. Formats take turns; who is out of time stops, and the row says after how many.
 *
 * Afterwards the disk is read, at random and from end to end, beside one of the same format that never had a
 * snapshot: what the history has scattered shows there.
 */
export async function measureHistories(
  lab: Lab,
  subjects: readonly Subject[],
  profile: Profile,
  seed: number,
  tick: (done: number) => void,
): Promise<HistoryRow[]> {
  const { historyRounds, historyWrites, requestBytes } = profile;
  const lives: Life[] = [];
  for (const subject of subjects) lives.push(await beginLife(lab, subject, profile));
  for (let round = 0; round < historyRounds; round++) {
    for (const life of lives) {
      const { maxSnapshots } = life.subject.driver.capabilities;
      if (life.milliseconds > profile.historyBudgetMs || life.snapshots >= maxSnapshots) continue;
      const started = performance.now();
      await life.session.disk.snapshots.create(`s${round}`, { createdAt });
      await overwriteSome(life.session.disk, historyWrites, requestBytes, seed + round);
      life.milliseconds += performance.now() - started;
      life.snapshots++;
    }
    tick(round / historyRounds);
    await breathe();
  }
  const rows: HistoryRow[] = [];
  for (const life of lives) rows.push(await endLife(lab, life, profile, seed));
  return rows;
}

interface Life {
  readonly subject: Subject;
  readonly folder: string;
  readonly session: Session;
  readonly storageBytesBefore: number;
  snapshots: number;
  milliseconds: number;
}

async function beginLife(lab: Lab, subject: Subject, profile: Profile): Promise<Life> {
  const folder = lab.path(`history-${subject.name}`);
  const session = await openFilled(subject, folder, profile);
  const storageBytesBefore = await occupiedBytes(folder);
  session.folder.reset();
  return { subject, folder, session, storageBytesBefore, snapshots: 0, milliseconds: 0 };
}

async function openFilled(subject: Subject, folder: string, profile: Profile): Promise<Session> {
  await createImage(subject, folder, profile.historyImageBytes);
  const session = await openSession(subject, folder);
  await fill(session.disk, 0, profile.historyImageBytes, () => undefined);
  return session;
}

async function endLife(lab: Lab, life: Life, profile: Profile, seed: number): Promise<HistoryRow> {
  const { subject, session, storageBytesBefore, snapshots, milliseconds } = life;
  const calls = toCalls(session.folder.reset());
  const storageBytes = await occupiedBytes(life.folder);
  const { residentMetadataBytes } = session.disk.stats();
  const freshFolder = lab.path(`history-${subject.name}-fresh`);
  const fresh = await openFilled(subject, freshFolder, profile);
  for (const { disk } of [session, fresh]) await warmUp(disk);
  const reads = { fresh, aged: session, profile };
  const { requestBytes, historyReads, historyImageBytes } = profile;
  const random = randomOffsets(seed, historyReads, historyImageBytes, requestBytes);
  const sequential = Array.from(
    { length: Math.max(1, Math.floor(historyImageBytes / SEQUENTIAL_BYTES)) },
    (_, index) => index * SEQUENTIAL_BYTES,
  );
  const row: HistoryRow = {
    format: subject.name,
    snapshots,
    writesPerSnapshot: profile.historyWrites,
    milliseconds,
    calls,
    storageBytesBefore,
    storageBytes,
    residentMetadataBytes,
    randomReads: await readBoth(reads, random, requestBytes),
    sequentialReads: await readBoth(reads, sequential, Math.min(SEQUENTIAL_BYTES, historyImageBytes)),
  };
  for (const { disk } of [session, fresh]) await disk.close();
  for (const folder of [life.folder, freshFolder]) await lab.discard(folder);
  return row;
}

const SEQUENTIAL_BYTES = 1024 * 1024;
/** Both disks are read in so many rounds, in turns. */
const READ_ROUNDS = 16;

async function readBoth(
  { fresh, aged, profile }: { readonly fresh: Session; readonly aged: Session; readonly profile: Profile },
  offsets: readonly number[],
  requestBytes: number,
): Promise<PairedReads> {
  const batch = Math.ceil(offsets.length / READ_ROUNDS);
  aged.folder.reset();
  const parties = [fresh, aged].map(({ disk }) =>
    readingParty(disk, offsets, requestBytes, batch, READ_ROUNDS),
  );
  const [before, after] = await interleaved(parties, profile.cellBudgetMs);
  const { purposes } = toCalls(aged.folder.reset());
  return {
    before: before?.roundMicros ?? [],
    after: after?.roundMicros ?? [],
    callsAfter: purposes.data.reads / Math.max(1, after?.operations ?? 0),
  };
}
