import { Lab } from '../lab.ts';
import type { LabPart, PartContext } from '../part.ts';
import type { ConformanceSubject } from '../subject.ts';
import { Explorer, type ExplorerBounds } from './explorer.ts';
import { recordHistory } from './record.ts';
import { type CrashWorkload, crashWorkloadsFor } from './workloads.ts';

/*
 * Power loss as a part of the lab. Rounds over all workloads, each with a seed of its own: the first ones take a
 * little of everything, so that a short run has seen all workloads; later ones go deep.
 */

const rounds: readonly ExplorerBounds[] = [
  { moments: 30, exhaustive: 4, samples: 1, recoveryEvery: 8, recoveryMoments: 1 },
  { moments: 120, exhaustive: 32, samples: 4, recoveryEvery: 8, recoveryMoments: 2 },
];
const deepRound: ExplorerBounds = {
  moments: Infinity,
  exhaustive: 1024,
  samples: 24,
  recoveryEvery: 6,
  recoveryMoments: 2,
};

/** The name, in the place of a state's, of a workload that did not get to its end. */
const wholeRun = 'run';

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** One workload with one seed. */
async function runWorkload(
  context: PartContext,
  subject: ConformanceSubject,
  workload: CrashWorkload,
  seed: number,
  bounds: ExplorerBounds,
): Promise<void> {
  const { state } = context;
  const lab = await Lab.make(subject, 'memory', seed);
  const violation = (name: string, error: unknown): void => {
    const options = JSON.stringify(subject.options ?? {});
    const message = `${workload.name} with ${options}, state ${name}: ${messageOf(error)}`;
    context.violation({ workload: workload.name, seed, state: name, message });
  };
  const explorer = new Explorer(lab, bounds, { hasTime: () => context.hasTime(), violation });
  try {
    const history = await recordHistory(lab, workload);
    if (state === undefined) await explorer.explore(history);
    else if (state !== wholeRun) await explorer.replay(history, state);
  } catch (error) {
    violation(wholeRun, error);
  }
  context.count(workload.name, { ...explorer.findings, histories: 1 });
}

export const crashes: LabPart = {
  name: 'crash',

  workloads(capabilities) {
    return crashWorkloadsFor(capabilities).map(({ name }) => name);
  },

  async run(context) {
    const { subjects, shares, state } = context;
    const all = crashWorkloadsFor(subjects[0]!.driver.capabilities);
    const chosen = all.filter(({ name }) => name === (context.workload ?? name));
    let { seed } = context;
    for (let round = 0; ; round += 1) {
      const bounds = rounds[round] ?? deepRound;
      // A deep round may not come to its end: each share begins it elsewhere, and the next round goes on from there.
      const first = rounds[round] === undefined ? seed % chosen.length : 0;
      for (const workload of [...chosen.slice(first), ...chosen.slice(0, first)]) {
        if (!context.hasTime()) return;
        await runWorkload(context, subjects[seed % subjects.length]!, workload, seed, bounds);
      }
      if (state !== undefined) return;
      seed += shares;
    }
  },
};
