import assert from 'node:assert/strict';
import { type Disk, type Measurement, measureDisk } from '@cowlab/core';
import { failsWith } from '../expect.ts';
import type { Lab } from '../lab.ts';
import { hasSnapshots, type Scenario, type ScenarioGroup } from '../subject.ts';
import type { Twin } from '../twin.ts';

/* What a driver says that an image would take, held against images that were made. */

const copyFile = 'copy.img';

function measure(lab: Lab, source: Disk): Promise<Measurement> {
  return measureDisk(lab.driver, { source, options: lab.options });
}

/** Length of the image's files together. */
async function lengthOf(lab: Lab, file: string): Promise<number> {
  const disk = await lab.open({ file, readOnly: true });
  const { files } = await disk.info();
  await disk.close();
  let bytes = 0;
  for (const name of files) {
    const storage = await lab.folder.open(name, { readOnly: true });
    bytes += storage.size();
    await storage.close();
  }
  return bytes;
}

/** A new image with the bytes of another disk, written from the start to the end and closed; its length. */
async function copyOf(lab: Lab, source: Disk): Promise<number> {
  await lab.create({ file: copyFile, size: source.size });
  const copy = await lab.open({ file: copyFile });
  for await (const { offset, length, kind } of source.extents()) {
    if (kind === 'zero') continue;
    const bytes = new Uint8Array(length);
    await source.read(offset, bytes);
    await copy.write(offset, bytes);
  }
  await copy.close();
  return lengthOf(lab, copyFile);
}

const contents: readonly {
  readonly what: string;
  readonly strides: number;
  readonly fill: (lab: Lab, twin: Twin) => Promise<void>;
}[] = [
  { what: 'an empty disk', strides: 6, fill: async () => undefined },
  {
    what: 'a disk with some bytes',
    strides: 200,
    async fill(lab, twin) {
      for (let stride = 0; stride < 200; stride += 1 + lab.random.below(20)) {
        await twin.write(stride * lab.stride + lab.random.below(lab.stride), 1 + lab.random.below(700));
      }
    },
  },
  {
    what: 'a disk of which every other stride is written',
    strides: 300,
    async fill(lab, twin) {
      for (let stride = 0; stride < 300; stride += 2) await twin.write(stride * lab.stride, lab.stride);
    },
  },
  { what: 'a full disk', strides: 150, fill: async (_, twin) => twin.fill() },
];

const present: readonly Scenario[] = [
  ...contents.map(
    ({ what, strides, fill }): Scenario => ({
      name: `a copy of ${what} takes at most what was measured`,
      async run(lab) {
        const twin = await lab.twin({ strides });
        await fill(lab, twin);
        const measured = await measure(lab, twin.disk);
        const length = await copyOf(lab, twin.disk);
        lab.note(`${length} of ${measured.requiredBytes}, at most ${measured.fullyAllocatedBytes}`);
        assert.ok(length <= measured.requiredBytes, `${length} bytes, measured ${measured.requiredBytes}`);
        assert.ok(measured.requiredBytes <= measured.fullyAllocatedBytes, 'required and at most');
      },
    }),
  ),
  {
    name: 'what is full takes all, and what is empty the same as a disk of that size without a source',
    async run(lab) {
      const twin = await lab.twin({ strides: 40 });
      const { size } = twin;
      const sized = await measureDisk(lab.driver, { size, options: lab.options });
      assert.equal(sized.fullyAllocatedBytes, (await measure(lab, twin.disk)).fullyAllocatedBytes);
      await twin.fill();
      const full = await measure(lab, twin.disk);
      assert.equal(full.requiredBytes, full.fullyAllocatedBytes);
      assert.equal(full.fullyAllocatedBytes, sized.fullyAllocatedBytes);
      assert.ok(sized.requiredBytes <= full.requiredBytes);
    },
  },
  {
    name: 'a snapshot is measured as the disk was',
    when: hasSnapshots,
    async run(lab) {
      const twin = await lab.twin({ strides: 60 });
      await twin.write(3 * lab.stride, 2 * lab.stride);
      const before = await measure(lab, twin.disk);
      await twin.createSnapshot('then');
      await twin.fill();
      const snapshot = await twin.disk.snapshots.open('then');
      assert.deepEqual(await measure(lab, snapshot), before);
      await snapshot.close();
    },
  },
  {
    name: 'a size that cannot be is not measured',
    async run(lab) {
      const { driver, options } = lab;
      for (const size of [0, -1, Number.MAX_VALUE]) {
        await failsWith('ERR_INVALID_OPTION', 'measure', () => measureDisk(driver, { size, options }));
      }
      const nonsense = { size: 512, options: { nonsense: true } };
      await failsWith('ERR_INVALID_OPTION', 'measure', () => measureDisk(driver, nonsense));
    },
  },
];

const absent: Scenario = {
  name: 'a format that does not measure says so',
  when: ({ measure: measures }) => !measures,
  run: async ({ driver }) => {
    await failsWith('ERR_UNSUPPORTED', 'measure', () => measureDisk(driver, { size: 512 }));
  },
};

export const measuring: ScenarioGroup = {
  name: 'measure',
  scenarios: [
    ...present.map(
      (scenario): Scenario => ({
        ...scenario,
        when: (capabilities) => capabilities.measure && (scenario.when?.(capabilities) ?? true),
      }),
    ),
    absent,
  ],
};
