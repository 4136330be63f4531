import { performance } from 'node:perf_hooks';
import type { Subject } from '../formats.ts';
import { type Lab, occupiedBytes, openSession } from '../lab.ts';
import { breathe } from '../measure.ts';
import type { Profile } from '../profiles.ts';
import type { IdleSnapshotsRow } from '../schema.ts';
import { createMapped } from './mapped.ts';

/*
 * G4, G5: what do snapshots of a large disk take, on the host and in memory, when nobody writes between them? What
 * each of them costs by being there at all, whatever it holds. The smallest of the large images, fully mapped; a
 * format gets as many snapshots as it can make in the time.
 */
export async function measureIdleSnapshots(
  lab: Lab,
  subjects: readonly Subject[],
  profile: Profile,
  tick: (done: number) => void,
): Promise<IdleSnapshotsRow[]> {
  const [large] = profile.large;
  if (large === undefined) return [];
  const rows: IdleSnapshotsRow[] = [];
  for (const [index, subject] of subjects.entries()) {
    tick(index / subjects.length);
    const folder = lab.path(`idle-${subject.name}`);
    await createMapped(subject, folder, large.imageBytes);
    const occupied = await occupiedBytes(folder);
    const { disk } = await openSession(subject, folder);
    const { residentMetadataBytes: residentBeforeBytes } = disk.stats();
    const started = performance.now();
    let snapshots = 0;
    while (snapshots < profile.idleSnapshots && performance.now() - started < profile.idleBudgetMs) {
      await disk.snapshots.create(`s${snapshots++}`);
      if (snapshots % 16 === 0) await breathe();
    }
    const milliseconds = performance.now() - started;
    await disk.close();
    const grownBytes = Math.max(0, (await occupiedBytes(folder)) - occupied);
    const again = await openSession(subject, folder);
    const { residentMetadataBytes } = again.disk.stats();
    await again.disk.close();
    await lab.discard(folder);
    const { imageBytes } = large;
    const common = { format: subject.name, imageBytes, snapshots, milliseconds, grownBytes };
    rows.push({ ...common, residentBeforeBytes, residentMetadataBytes });
  }
  return rows;
}
