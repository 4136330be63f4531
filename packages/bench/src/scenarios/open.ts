import { performance } from 'node:perf_hooks';
import { type Cell, openSession } from '../lab.ts';
import { breathe } from '../measure.ts';
import type { Profile } from '../profiles.ts';
import type { OpenRow } from '../schema.ts';
import { randomOffsets } from '../workload.ts';

/** How long until an image with N snapshots answers its first read? In rounds over all cells; the close is not timed. */
export async function measureOpens(
  cells: readonly Cell[],
  profile: Profile,
  seed: number,
): Promise<OpenRow[]> {
  const rows = cells.map(
    ({ subject, snapshots }): OpenRow => ({ format: subject.name, snapshots, milliseconds: [] }),
  );
  const target = new Uint8Array(profile.requestBytes);
  const offsets = randomOffsets(seed, profile.openRounds, profile.imageBytes, profile.requestBytes);
  for (const offset of offsets) {
    for (const [index, { subject, folder }] of cells.entries()) {
      const started = performance.now();
      const { disk } = await openSession(subject, folder);
      await disk.read(offset, target);
      rows[index]?.milliseconds.push(performance.now() - started);
      await disk.close();
      await breathe();
    }
  }
  return rows;
}
