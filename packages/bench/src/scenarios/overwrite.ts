import type { OpenCell } from '../lab.ts';
import { interleaved, toCalls } from '../measure.ts';
import type { Profile } from '../profiles.ts';
import type { OverwriteRow } from '../schema.ts';
import { distinctOffsets } from '../workload.ts';
import { writingParty } from './requests.ts';

/*
 * G2, G3: how fast does a disk with N snapshots take small random overwrites, a flush after every 64? Twice over the
 * same blocks, on a fully mapped image: on the first pass every block is shared with the newest snapshot (none at
 * N = 0), on the second all are the front's own.
 */
export async function measureOverwrites(
  cells: readonly OpenCell[],
  profile: Profile,
  seed: number,
): Promise<OverwriteRow[]> {
  const count = profile.flushEvery * profile.overwriteRounds;
  const blocks = distinctOffsets(seed, count, profile.imageBytes, profile.requestBytes);
  const first = await onePass('first', cells, blocks, profile);
  const steady = await onePass('steady', cells, blocks, profile, first);
  return [...first, ...steady];
}

/** A cell that ran out of time on the pass `before` gets the same blocks again, not others. */
async function onePass(
  pass: OverwriteRow['pass'],
  cells: readonly OpenCell[],
  blocks: readonly number[],
  { requestBytes, flushEvery, cellBudgetMs }: Profile,
  before?: readonly OverwriteRow[],
): Promise<OverwriteRow[]> {
  const parties = cells.map(({ session }, index) => {
    const own = blocks.slice(0, before?.[index]?.operations);
    session.folder.reset();
    return writingParty(session.disk, own, requestBytes, flushEvery);
  });
  const times = await interleaved(parties, cellBudgetMs);
  return cells.map(({ cell, session }, index) => ({
    format: cell.subject.name,
    snapshots: cell.snapshots,
    pass,
    flushEvery,
    operations: times[index]?.operations ?? 0,
    roundMicros: times[index]?.roundMicros ?? [],
    calls: toCalls(session.folder.reset()),
  }));
}
