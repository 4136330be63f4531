import assert from 'node:assert/strict';
import { Explorer, type ExplorerBounds } from '../explorer/explorer.ts';
import { recordHistory } from '../explorer/record.ts';
import { crashWorkloads } from '../explorer/workloads.ts';
import type { Scenario, ScenarioGroup } from '../subject.ts';

/*
 * The durability contract, on a few moments of every workload of the crash explorer; `explorer/verify.ts` has the
 * questions that are asked of what the power loss leaves. `npm run lab` goes through all of them.
 */

const bounds: ExplorerBounds = {
  moments: 24,
  exhaustive: 8,
  samples: 1,
  recoveryEvery: 8,
  recoveryMoments: 1,
};

/** Moments of a workload that is over sooner are looked at all. */
const fewestStates = 5;

const scenarios: readonly Scenario[] = crashWorkloads.map((workload) => ({
  name: `during ${workload.name} keeps what was flushed, snapshots whole, and no corruption`,
  ...(workload.when && { when: workload.when }),
  place: 'memory',
  async run(lab) {
    const explorer = new Explorer(lab, bounds, {
      hasTime: () => true,
      violation: (state, error) => {
        throw new Error(`state ${state}`, { cause: error });
      },
    });
    await explorer.explore(await recordHistory(lab, workload));
    assert.ok(explorer.findings.verified >= fewestStates, `only ${explorer.findings.verified} states`);
  },
}));

export const powerLoss: ScenarioGroup = { name: 'power loss', scenarios };
