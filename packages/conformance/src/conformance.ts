import { createDisk, MemoryFolder } from '@cowlab/core';
import { describe, it } from 'vitest';
import { failsWith } from './expect.ts';
import { qemuAvailable } from './judge.ts';
import { modelRun } from './model-run.ts';
import { runSeed } from './random.ts';
import { deviceGroups, groups, runScenario, scenariosFor } from './scenarios.ts';
import { type ConformanceSubject, type Place, places, type ScenarioGroup } from './subject.ts';

/** Files, and a judge most of all, cost more than memory: fewer sequences do there. */
const modelRuns: Record<Place, number> = { memory: 60, files: 12, devices: 12 };

/** Names the seed in whatever `run` throws. */
async function seeded(seed: number, run: () => Promise<void>): Promise<void> {
  try {
    await run();
  } catch (error) {
    if (error instanceof Error) error.message += `\nTo run it again: COWLAB_SEED=${seed}`;
    throw error;
  }
}

function registerJudge(): void {
  const missing = !qemuAvailable();
  // A judge that is missing counts as skipped at home, and as a failure where images must be judged.
  it.skipIf(missing && !process.env['CI'])(
    'qemu-img is here to judge (Debian: apt-get install qemu-utils)',
    () => {
      if (missing) throw new Error('qemu-img is not installed, and CI is set');
    },
  );
}

/** Snapshots that are files of their own are out of place on devices: the texts of such a chain have the length of their file. */
function onDevices(subject: ConformanceSubject): ConformanceSubject {
  const { driver } = subject;
  if (driver.capabilities.snapshots !== 'chain') return subject;
  const without = { snapshots: 'none', maxSnapshots: 0, renameSnapshots: false, diff: false } as const;
  return { ...subject, driver: { ...driver, capabilities: { ...driver.capabilities, ...without } } };
}

/** Registers, inside a vitest file, every test that this driver has to pass; its capabilities choose them. */
export function conformance(subject: ConformanceSubject): void {
  const seed = runSeed();
  const { driver, judge } = subject;
  if (!driver.capabilities.write) {
    it(`${driver.name} makes no images, and says so`, async () => {
      const location = { folder: new MemoryFolder(), file: 'disk.img' };
      await failsWith('ERR_UNSUPPORTED', 'create', () => createDisk(location, { driver, size: 1 << 20 }));
    });
    return;
  }
  if (judge !== undefined) registerJudge();
  for (const place of places) registerPlace(subject, place, groups, seed);
  if (subject.devices === true) registerPlace(onDevices(subject), 'devices', deviceGroups, seed);
}

function registerPlace(
  subject: ConformanceSubject,
  place: Place,
  chosen: readonly ScenarioGroup[],
  seed: number,
): void {
  describe(`${subject.driver.name} in ${place}`, () => {
    for (const group of chosen) {
      const scenarios = scenariosFor(group, subject, place);
      if (scenarios.length === 0) continue;
      describe(group.name, () => {
        for (const scenario of scenarios) {
          it(scenario.name, ({ annotate }) => {
            const note = (text: string): unknown => annotate(text);
            return seeded(seed, () => runScenario(scenario, subject, place, seed, note));
          });
        }
      });
    }
    it('does what the reference model does', () =>
      seeded(seed, () => modelRun(subject, { place, seed, numRuns: modelRuns[place] })));
  });
}
