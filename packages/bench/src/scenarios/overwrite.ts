import type { OpenCell } from '../lab.ts';
import type { Requests } from '../contents.ts';
import { interleaved, toCalls } from '../measure.ts';
import type { Profile } from '../profiles.ts';
import type { OverwriteRow } from '../schema.ts';
import { distinctOffsets } from '../workload.ts';
import { writingParty, writtenBytes } from './requests.ts';

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
  const blocks = overwrittenBlocks(profile, seed);
  const first = await onePass('first', cells, blocks, profile);
  const steady = await onePass('steady', cells, blocks, profile, first);
  return [...first, ...steady];
}

function overwrittenBlocks(
  { flushEvery, overwriteRounds, imageBytes, requestBytes }: Profile,
  seed: number,
): number[] {
  return distinctOffsets(seed, flushEvery * overwriteRounds, imageBytes, requestBytes);
}

/** What the two passes of a cell have written, which did so many operations each. */
export function writtenBy(
  profile: Profile,
  seed: number,
  operations: Readonly<Record<OverwriteRow['pass'], number>>,
): Requests[] {
  const blocks = overwrittenBlocks(profile, seed);
  return [
    { offsets: blocks.slice(0, operations.first), source: writtenBytes(blocks.length, profile.requestBytes) },
    {
      offsets: blocks.slice(0, operations.steady),
      source: writtenBytes(operations.first, profile.requestBytes),
    },
  ];
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
