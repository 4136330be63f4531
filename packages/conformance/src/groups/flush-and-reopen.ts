import assert from 'node:assert/strict';
import { openDisk } from '@cowlab/core';
import { assertSameBytes, failsWith } from '../expect.ts';
import { mainFile, type Lab } from '../lab.ts';
import { hasSnapshots, type Scenario, type ScenarioGroup } from '../subject.ts';
import { TraceFolder } from '../trace-folder.ts';
import { contentsOf, type Twin } from '../twin.ts';

/** Opens the files as they are now, as after a power loss, and compares with the model. */
async function verifyCopy(lab: Lab, twin: Twin): Promise<void> {
  const folder = await lab.copyFolder();
  for (const readOnly of [true, false]) {
    const disk = await lab.open({ folder, readOnly });
    assertSameBytes(await contentsOf(disk), twin.model.bytes, `a copy opened with readOnly ${readOnly}`);
    await twin.verifySnapshots(disk);
    await lab.assertClean(disk, lab.capabilities.afterPowerLoss);
    await disk.close();
  }
}

const flushing: readonly Scenario[] = [
  {
    name: 'after a flush no changed file is left unflushed, and the same after close',
    async run(lab) {
      const folder = new TraceFolder(lab.folder);
      const twin = await lab.twin({ folder });
      await twin.write(100, 3 * lab.stride);
      await twin.disk.flush();
      assert.deepEqual(folder.unflushed(), []);
      await twin.writeZeroes(0, lab.stride);
      await twin.discard(lab.stride, lab.stride);
      await twin.write(4 * lab.stride, 10);
      await twin.disk.flush();
      assert.deepEqual(folder.unflushed(), []);
      await twin.write(0, 3);
      await twin.reopen();
      assert.deepEqual(folder.unflushed(), []);
    },
  },
  {
    name: 'what was flushed is in the files, without a close',
    async run(lab) {
      const twin = await lab.twin();
      await twin.write(lab.stride - 10, 2 * lab.stride);
      await twin.disk.flush();
      await verifyCopy(lab, twin);
      await twin.writeZeroes(lab.stride, lab.stride);
      await twin.discard(0, lab.stride);
      await twin.write(5 * lab.stride, 1);
      await twin.disk.flush();
      await verifyCopy(lab, twin);
    },
  },
  {
    name: 'a flush of nothing, and one after another, is fine',
    async run(lab) {
      const twin = await lab.twin();
      await twin.disk.flush();
      await twin.fill();
      await twin.disk.flush();
      await twin.disk.flush();
      await twin.verify('after flushes');
    },
  },
  {
    name: 'a snapshot is in the files when its create returns, and gone when its delete returns',
    when: hasSnapshots,
    async run(lab) {
      const twin = await lab.twin();
      await twin.write(0, 2 * lab.stride);
      await twin.createSnapshot('first');
      await verifyCopy(lab, twin);
      await twin.write(lab.stride, 2 * lab.stride);
      await twin.disk.flush();
      await verifyCopy(lab, twin);
      await twin.applySnapshot('first');
      await verifyCopy(lab, twin);
      await twin.deleteSnapshot('first');
      await verifyCopy(lab, twin);
    },
  },
];

const reopening: readonly Scenario[] = [
  {
    name: 'everything is there after reopening, again and again',
    async run(lab) {
      const twin = await lab.twin();
      for (let round = 0; round < 5; round++) {
        await twin.write(round * lab.stride + 13, lab.stride);
        await twin.discard(((round + 3) % 6) * lab.stride, lab.stride);
        await twin.reopen();
        await twin.verify(`after reopening ${round + 1} times`);
        await lab.assertClean(twin.disk);
      }
    },
  },
  {
    name: 'the format is found without being named',
    async run(lab) {
      await lab.create();
      const disk = await openDisk({ folder: lab.folder, file: mainFile }, { drivers: lab.drivers });
      assert.equal(disk.format, lab.driver.name);
      await disk.close();
    },
  },
  {
    name: 'an image that is not there is not found',
    run: async (lab) => {
      await failsWith('ERR_NOT_FOUND', 'opening no file', () => lab.open({ file: 'none.img' }));
    },
  },
  {
    name: 'create does not take the place of a file',
    async run(lab) {
      const twin = await lab.twin();
      await twin.fill();
      await twin.disk.flush();
      await failsWith('ERR_EXISTS', 'creating an image again', () => lab.create());
      await twin.reopen();
      await twin.verify('after a refused create');
    },
  },
];

export const flush: ScenarioGroup = { name: 'flush', scenarios: flushing };
export const reopen: ScenarioGroup = { name: 'reopen', scenarios: reopening };
