import type { Subject } from '../formats.ts';
import { createImage, type Lab, openSession } from '../lab.ts';
import { interleaved, toCalls } from '../measure.ts';
import type { Profile } from '../profiles.ts';
import type { AllocateRow } from '../schema.ts';
import { distinctOffsets } from '../workload.ts';
import { writingParty } from './requests.ts';

interface Variant {
  readonly subject: Subject;
  readonly variant: AllocateRow['variant'];
  readonly how: string;
  readonly open: Parameters<typeof openSession>[2];
  readonly create: Parameters<typeof createImage>[3];
}

/** The driver as it is and, where that can be had, without its snapshot bookkeeping. */
function variantsOf(subject: Subject): Variant[] {
  const { bookkeeping } = subject;
  const asIs: Variant = {
    subject,
    variant: 'as is',
    how: bookkeeping.switchable ? 'default options' : bookkeeping.why,
    open: {},
    create: {},
  };
  if (!bookkeeping.switchable) return [asIs];
  const { how, open, create } = bookkeeping;
  return [asIs, { subject, variant: 'without bookkeeping', how, open, create }];
}

/*
 * G1: what does the snapshot code cost an image that has none? Random writes into an empty image, a flush after
 * every 64, are where bookkeeping shows, if there is any: every write takes space. Each driver is measured
 * against raw and against itself without its bookkeeping.
 */
export async function measureAllocations(
  lab: Lab,
  subjects: readonly Subject[],
  profile: Profile,
  seed: number,
): Promise<AllocateRow[]> {
  const { requestBytes, flushEvery } = profile;
  const variants = subjects.flatMap(variantsOf);
  const count = flushEvery * profile.overwriteRounds;
  const offsets = distinctOffsets(seed, count, profile.imageBytes, requestBytes);
  const open = [];
  for (const [index, each] of variants.entries()) {
    const folder = lab.path(`allocate-${index}`);
    await createImage(each.subject, folder, profile.imageBytes, each.create);
    open.push({ ...each, session: await openSession(each.subject, folder, each.open) });
  }
  const parties = open.map(({ session }) => writingParty(session.disk, offsets, requestBytes, flushEvery));
  const times = await interleaved(parties, profile.cellBudgetMs);
  const rows: AllocateRow[] = [];
  for (const [index, { subject, variant, how, session }] of open.entries()) {
    rows.push({
      format: subject.name,
      snapshots: 0,
      variant,
      how,
      operations: times[index]?.operations ?? 0,
      roundMicros: times[index]?.roundMicros ?? [],
      calls: toCalls(session.folder.reset()),
      residentRefcountBytes: refcountBytes(session.disk.stats()),
    });
    await session.disk.close();
    await lab.discard(lab.path(`allocate-${index}`));
  }
  return rows;
}

/** Drivers that hold refcounts in memory say so in counters that have both words in their names. */
export function refcountBytes(counters: Readonly<Record<string, number>>): number {
  return Object.entries(counters)
    .filter(([name]) => /refcount/i.test(name) && /bytes/i.test(name))
    .reduce((sum, [, bytes]) => sum + bytes, 0);
}
