import assert from 'node:assert/strict';
import { amendDisk } from '@cowlab/core';
import { amended, amendmentsOf } from '../amendments.ts';
import { assertCoded, failsWith, failureOf } from '../expect.ts';
import { FaultFolder } from '../fault-folder.ts';
import { type Lab, mainFile } from '../lab.ts';
import { overlay } from '../overlay.ts';
import { hasSnapshots, type Scenario, type ScenarioGroup } from '../subject.ts';
import type { Twin } from '../twin.ts';

/* Create options get other values; nothing that can be read changes. */

/** Every amendment there is, one after the other, with a look at everything and some writes between. */
async function amendEverything(lab: Lab, twin: Twin): Promise<void> {
  const { driver, drivers, folder } = lab;
  const done: string[] = [];
  for (const amendment of amendmentsOf(driver)) {
    await twin.disk.close();
    if (await amended(folder, driver, drivers, amendment)) done.push(`${amendment.name}=${amendment.value}`);
    await twin.verifyClosed(folder);
    twin.disk = await lab.open();
    await twin.write(lab.random.below(twin.size - 700), 700);
    await twin.discard(lab.random.below(4) * lab.stride, lab.stride);
  }
  lab.note(done.join(', '));
  assert.ok(done.length > 0, 'nothing could be amended');
}

const present: readonly Scenario[] = [
  {
    name: 'a disk reads as before, whatever it is amended to',
    async run(lab) {
      const twin = await lab.twin({ strides: 12 });
      await twin.write(lab.stride, 3 * lab.stride);
      await twin.writeZeroes(2 * lab.stride, lab.stride);
      await twin.write(8 * lab.stride + 5, 900);
      await amendEverything(lab, twin);
    },
  },
  {
    name: 'a disk over a backing reads as before, zeros over its bytes, too',
    when: ({ backing }) => backing,
    async run(lab) {
      const twin = await overlay(lab, 9, 6);
      await twin.writeZeroes(0, 2 * lab.stride);
      await twin.write(3 * lab.stride + 5, 900);
      await twin.writeZeroes(7 * lab.stride, lab.stride);
      await amendEverything(lab, twin);
    },
  },
  {
    name: 'snapshots read as before',
    when: hasSnapshots,
    async run(lab) {
      const twin = await lab.twin({ strides: 8 });
      await twin.fill();
      await twin.createSnapshot('one');
      await twin.write(lab.stride, lab.stride);
      await twin.createSnapshot('two');
      await twin.write(lab.stride + 700, 100);
      await twin.writeZeroes(5 * lab.stride, lab.stride);
      await twin.createSnapshot('three');
      await amendEverything(lab, twin);
      await twin.deleteSnapshot('one');
      await twin.applySnapshot('two');
    },
  },
  {
    name: 'snapshots over a backing read as before, zeros over its bytes, too',
    when: (capabilities) => hasSnapshots(capabilities) && capabilities.backing,
    async run(lab) {
      const twin = await overlay(lab, 9, 6);
      await twin.writeZeroes(0, 2 * lab.stride);
      await twin.write(2 * lab.stride, lab.stride);
      await twin.createSnapshot('zeros');
      await twin.createSnapshot('the same');
      await twin.write(lab.stride, 100);
      await twin.writeZeroes(2 * lab.stride, lab.stride);
      await twin.createSnapshot('more zeros');
      await twin.write(0, lab.stride);
      await amendEverything(lab, twin);
      await twin.deleteSnapshot('zeros');
      await twin.applySnapshot('the same');
    },
  },
  {
    name: 'an amendment that fails can be repeated, and the disk reads the same either way',
    async run(lab) {
      const { driver, drivers } = lab;
      const twin = await overlay(lab);
      await twin.write(lab.stride, lab.stride);
      await twin.writeZeroes(0, lab.stride);
      await twin.disk.close();
      const faulty = new FaultFolder(lab.folder);
      for (const amendment of amendmentsOf(driver)) {
        for (let nth = 1; ; nth++) {
          assert.ok(nth < 300, 'an amendment makes so many calls?');
          faulty.arm({ kind: 'EIO', methods: ['write', 'flush', 'truncate', 'zero'], nth });
          const error = await failureOf(() => amended(faulty, driver, drivers, amendment));
          faulty.disarm();
          if (error === undefined) break;
          assertCoded(error, `${amendment.name}=${amendment.value} with a failure of call ${nth}`);
          twin.disk = await lab.open();
          await twin.verify(`after a failure of call ${nth}`);
          await twin.disk.close();
        }
      }
      twin.disk = await lab.open();
    },
  },
];

const always: readonly Scenario[] = [
  {
    name: 'what cannot be amended is refused, and nothing changes',
    async run(lab) {
      const twin = await lab.twin();
      await twin.fill();
      await twin.disk.close();
      const { driver, drivers, folder } = lab;
      const before = (await lab.files()).get(mainFile)!;
      const amend = (values: Record<string, string | number | boolean>): Promise<void> =>
        amendDisk({ folder, file: mainFile }, { drivers, format: driver.name, values });
      const code = driver.capabilities.amend.length === 0 ? 'ERR_UNSUPPORTED' : 'ERR_INVALID_OPTION';
      await failsWith(code, 'amend', () => amend({ nonsense: 1 }));
      for (const [name, { default: value }] of Object.entries(driver.options)) {
        if (driver.capabilities.amend.includes(name) || value === undefined) continue;
        await failsWith(code, 'amend', () => amend({ [name]: value }));
      }
      assert.ok(
        (await lab.files()).get(mainFile)!.every((byte, at) => byte === before[at]),
        'the file',
      );
      twin.disk = await lab.open();
      await failsWith('ERR_LOCKED', 'amend', () => amend({}));
    },
  },
];

export const amendment: ScenarioGroup = {
  name: 'amend',
  scenarios: [
    ...present.map(
      (scenario): Scenario => ({
        ...scenario,
        when: (capabilities) => capabilities.amend.length > 0 && (scenario.when?.(capabilities) ?? true),
      }),
    ),
    ...always,
  ],
};
