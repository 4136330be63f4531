import { amendment } from './groups/amend.ts';
import { backing } from './groups/backing.ts';
import { clones } from './groups/clones.ts';
import { compaction } from './groups/compaction.ts';
import { compression } from './groups/compression.ts';
import { commits } from './groups/commit.ts';
import { concurrency } from './groups/concurrency.ts';
import { damage } from './groups/damage.ts';
import { faults } from './groups/faults.ts';
import { flush, reopen } from './groups/flush-and-reopen.ts';
import { lifecycle } from './groups/lifecycle.ts';
import { localCopies } from './groups/local-copies.ts';
import { measuring } from './groups/measure.ts';
import { oneWriter } from './groups/one-writer.ts';
import { powerLoss } from './groups/power-loss.ts';
import { races } from './groups/races.ts';
import { readOnly } from './groups/read-only.ts';
import { readsAndWrites } from './groups/reads-and-writes.ts';
import { rebase } from './groups/rebase.ts';
import { resize } from './groups/resize.ts';
import { snapshotDiff } from './groups/snapshot-diff.ts';
import { snapshotTree } from './groups/snapshot-tree.ts';
import { snapshots } from './groups/snapshots.ts';
import { discard, zeroes } from './groups/zeroes-and-discard.ts';
import { Lab } from './lab.ts';
import type { ConformanceSubject, Place, Scenario, ScenarioGroup } from './subject.ts';

/** Every group of the suite, in the order in which it is run. */
export const groups: readonly ScenarioGroup[] = [
  readsAndWrites,
  zeroes,
  discard,
  compression,
  flush,
  reopen,
  readOnly,
  oneWriter,
  snapshots,
  snapshotTree,
  snapshotDiff,
  backing,
  localCopies,
  rebase,
  commits,
  clones,
  concurrency,
  races,
  resize,
  compaction,
  measuring,
  amendment,
  damage,
  faults,
  powerLoss,
  lifecycle,
];

/** Those that are run on devices, too. */
export const deviceGroups: readonly ScenarioGroup[] = [readsAndWrites, zeroes, discard, reopen, resize];

/** The scenarios of a group that apply to this driver at this place. */
export function scenariosFor(group: ScenarioGroup, subject: ConformanceSubject, place: Place): Scenario[] {
  const { capabilities } = subject.driver;
  return group.scenarios.filter(
    (scenario) => (scenario.place ?? place) === place && (scenario.when?.(capabilities) ?? true),
  );
}

/** Runs one scenario in an empty folder, asks what is always asked, and removes the folder. `note` gets what it has to say. */
export async function runScenario(
  scenario: Scenario,
  subject: ConformanceSubject,
  place: Place,
  seed: number,
  note?: (text: string) => void,
): Promise<void> {
  const lab = await Lab.make(subject, place, seed);
  try {
    await scenario.run(lab);
    await lab.finish();
    if (note !== undefined) for (const text of lab.notes) note(text);
  } finally {
    await lab.dispose();
  }
}
