import assert from 'node:assert/strict';
import { isCowlabError } from '@cowlab/core';
import { assertSameBytes, failureOf } from '../expect.ts';
import { FaultFolder } from '../fault-folder.ts';
import { casesOf, pairCase, runCase } from '../faults/cases.ts';
import { setStage } from '../faults/injection.ts';
import { type Workload, workloads } from '../faults/workloads.ts';
import { hasSnapshots, type Scenario, type ScenarioGroup } from '../subject.ts';

/*
 * What a storage that fails may leave: see faults/injection.ts for calls that fail and faults/astray.ts for writes
 * that only seem to succeed. Here some of the points of every workload; `npm run lab -- --part faults` takes them all.
 */

/** Points of each kind of failure, and pairs of failures, for each workload. */
const most = 6;
const pairs = 8;

function faultScenario(workload: Workload): Scenario {
  return {
    name: `${workload.name}: a failure is reported and harms nothing that was flushed`,
    // Faults are injected above the storage: what lies below makes no difference to them.
    place: 'memory',
    ...(workload.when && { when: workload.when }),
    async run(lab) {
      const stage = await setStage(lab, workload);
      const counts = new Map<string, number>();
      const count = (came: Readonly<Record<string, number>>): void => {
        for (const [name, number] of Object.entries(came)) counts.set(name, (counts.get(name) ?? 0) + number);
      };
      for await (const each of casesOf(lab, workload, stage, most))
        count(await runCase(lab, workload, stage, each));
      for (let pair = 0; pair < pairs; pair++) {
        const each = await pairCase(lab, workload, stage);
        if (each !== undefined) count(await runCase(lab, workload, stage, each));
      }
      assert.ok(counts.size > 0, 'nothing could fail');
      lab.note([...counts].map(([name, number]) => `${name} ${number}`).join(', '));
    },
  };
}

const scenarios: readonly Scenario[] = [
  ...workloads.map(faultScenario),
  {
    name: 'an error while reading reaches the caller, and the next read is fine',
    place: 'memory',
    async run(lab) {
      const folder = new FaultFolder(lab.folder);
      const twin = await lab.twin({ folder });
      await twin.fill();
      await twin.reopen();
      folder.arm({ kind: 'EIO', methods: ['read'], nth: 1, purpose: 'data' });
      const failure = await failureOf(() => twin.disk.read(lab.stride, new Uint8Array(lab.stride)));
      assert.ok(isCowlabError(failure, 'ERR_IO'), `expected ERR_IO, but: ${String(failure)}`);
      folder.disarm();
      await twin.verify('after the fault');
    },
  },
  {
    name: 'an error while opening reaches the caller, lets go of every file and changes none',
    place: 'memory',
    async run(lab) {
      const twin = await lab.twin();
      await twin.fill();
      if (hasSnapshots(lab.capabilities)) await twin.createSnapshot('kept');
      await twin.disk.close();
      const before = await lab.files();
      const folder = new FaultFolder(lab.folder);
      let met = true;
      for (let nth = 1; met; nth++) {
        folder.arm({ kind: 'EIO', methods: ['open', 'read'], nth });
        const failure = await failureOf(() => lab.open({ folder }));
        met = failure !== undefined;
        if (met) {
          assert.ok(
            isCowlabError(failure, 'ERR_IO'),
            `fault ${nth}: expected ERR_IO, but: ${String(failure)}`,
          );
          assert.deepEqual(folder.openFiles, [], `fault ${nth}: files that were not closed`);
          for (const [name, bytes] of await lab.files()) {
            assertSameBytes(bytes, before.get(name) ?? new Uint8Array(0), `fault ${nth}: ${name}`);
          }
        }
        folder.disarm();
      }
      await lab.closeAll();
      twin.disk = await lab.open();
    },
  },
];

export const faults: ScenarioGroup = { name: 'faults', scenarios };
