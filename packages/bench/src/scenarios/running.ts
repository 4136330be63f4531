import { verifiedChecksum } from '../contents.ts';
import { type Cell, type OpenCell, openSession, warmUp } from '../lab.ts';
import { addCalls, toCalls } from '../measure.ts';
import type { Profile } from '../profiles.ts';
import type { Calls, OverwriteRow, RequestRow, SessionRow } from '../schema.ts';
import { measureOverwrites, writtenBy } from './overwrite.ts';
import { measureReads } from './read.ts';

export interface RunningRows {
  readonly reads: RequestRow[];
  readonly overwrites: OverwriteRow[];
  readonly sessions: SessionRow[];
}

/*
 * What a running machine sees: one session per cell, all cells open at once. Open, one read of everything that
 * warms the caches (what a cold start costs is the business of open.ts), random reads (G2, G3), how much
 * metadata is in memory (G4), overwrites (G2, G3), a look at every byte, close; and what reached the storage in each part, so that
 * nothing can hide its bookkeeping between two measurements (G1: no refcount calls between open and close).
 */
export async function measureRunning(
  cells: readonly Cell[],
  profile: Profile,
  seed: number,
): Promise<RunningRows> {
  const open: OpenCell[] = [];
  for (const cell of cells) open.push({ cell, session: await openSession(cell.subject, cell.folder) });
  const warming = new Map<Cell, Calls>();
  for (const { cell, session } of open) {
    await warmUp(session.disk);
    warming.set(cell, toCalls(session.folder.reset()));
  }
  const reads = await measureReads(open, profile, seed);
  const afterReads = open.map(({ session }) => session.disk.stats());
  const overwrites = await measureOverwrites(open, profile, seed + 1);
  const sessions: SessionRow[] = [];
  for (const [index, { cell, session }] of open.entries()) {
    const same = (row: RequestRow): boolean =>
      row.format === cell.subject.name && row.snapshots === cell.snapshots;
    const { residentMetadataBytes: residentAfterOverwritesBytes } = session.disk.stats();
    session.folder.reset();
    const operationsOf = (pass: OverwriteRow['pass']): number =>
      overwrites.find((row) => same(row) && row.pass === pass)?.operations ?? 0;
    const written = writtenBy(profile, seed + 1, {
      first: operationsOf('first'),
      steady: operationsOf('steady'),
    });
    const contentsCrc32c = await verifiedChecksum(session.disk, cell, profile, written);
    const verifying = toCalls(session.folder.reset());
    await session.disk.close();
    sessions.push({
      format: cell.subject.name,
      snapshots: cell.snapshots,
      opening: session.opening,
      contentsCrc32c,
      working: [
        warming.get(cell),
        verifying,
        ...[...reads, ...overwrites].filter(same).map(({ calls }) => calls),
      ]
        .filter((calls) => calls !== undefined)
        .reduce(addCalls),
      closing: toCalls(session.folder.reset()),
      residentMetadataBytes: afterReads[index]?.residentMetadataBytes ?? 0,
      residentAfterOverwritesBytes,
      counters: { ...afterReads[index] },
    });
  }
  return { reads, overwrites, sessions };
}
