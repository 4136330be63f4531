import type { OpenCell } from '../lab.ts';
import { interleaved, toCalls } from '../measure.ts';
import type { Profile } from '../profiles.ts';
import type { RequestRow } from '../schema.ts';
import { randomOffsets } from '../workload.ts';
import { readingParty } from './requests.ts';

/** G2, G3: how fast does a disk with N snapshots answer small random reads, when every cache is warm? */
export async function measureReads(
  cells: readonly OpenCell[],
  profile: Profile,
  seed: number,
): Promise<RequestRow[]> {
  const { readBatch, readRounds, requestBytes } = profile;
  const offsets = randomOffsets(seed, readBatch * readRounds, profile.imageBytes, requestBytes);
  const parties = cells.map(({ session }) => {
    session.folder.reset();
    return readingParty(session.disk, offsets, requestBytes, readBatch, readRounds);
  });
  const times = await interleaved(parties, profile.cellBudgetMs);
  return cells.map(({ cell, session }, index) => ({
    format: cell.subject.name,
    snapshots: cell.snapshots,
    operations: times[index]?.operations ?? 0,
    roundMicros: times[index]?.roundMicros ?? [],
    calls: toCalls(session.folder.reset()),
  }));
}
