import { performance } from 'node:perf_hooks';
import type { Subject } from '../formats.ts';
import { createImage, fill, type Lab, openSession } from '../lab.ts';
import { breathe, toCalls } from '../measure.ts';
import type { Profile } from '../profiles.ts';
import type { HistoryRow } from '../schema.ts';
import { overwriteSome } from './snapshots.ts';

/*
 * What does a long life cost? A snapshot, a few random writes, a snapshot, … on a fully mapped image. Copying
 * whole units on the first write after each snapshot, or walking what many snapshots left behind, shows here and
 * in no other scenario. Formats take turns; who is out of time stops, and the row says after how many.
 */
export async function measureHistories(
  lab: Lab,
  subjects: readonly Subject[],
  profile: Profile,
  seed: number,
  tick: (done: number) => void,
): Promise<HistoryRow[]> {
  const { historyRounds, historyWrites, requestBytes } = profile;
  const lives = [];
  for (const subject of subjects) {
    const folder = lab.path(`history-${subject.name}`);
    await createImage(subject, folder, profile.historyImageBytes);
    const session = await openSession(subject, folder);
    await fill(session.disk, 0, profile.historyImageBytes, () => undefined);
    session.folder.reset();
    lives.push({ subject, folder, session, snapshots: 0, milliseconds: 0 });
  }
  for (let round = 0; round < historyRounds; round++) {
    for (const life of lives) {
      if (life.milliseconds > profile.historyBudgetMs) continue;
      const started = performance.now();
      await overwriteSome(life.session.disk, historyWrites, requestBytes, seed + round);
      await life.session.disk.snapshots.create(`s${round}`);
      life.milliseconds += performance.now() - started;
      life.snapshots++;
    }
    tick(round / historyRounds);
    await breathe();
  }
  const rows: HistoryRow[] = [];
  for (const { subject, folder, session, snapshots, milliseconds } of lives) {
    const { residentMetadataBytes } = session.disk.stats();
    const calls = toCalls(session.folder.reset());
    const { name: format } = subject;
    rows.push({
      format,
      snapshots,
      writesPerSnapshot: historyWrites,
      milliseconds,
      calls,
      residentMetadataBytes,
    });
    await session.disk.close();
    await lab.discard(folder);
  }
  return rows;
}
