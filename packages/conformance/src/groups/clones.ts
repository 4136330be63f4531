import assert from 'node:assert/strict';
import { createDisk, prefetch } from '@cowlab/core';
import { assertSameBytes, failsWith } from '../expect.ts';
import { type Lab, mainFile } from '../lab.ts';
import { baseFile } from '../overlay.ts';
import type { Scenario, ScenarioGroup } from '../subject.ts';
import { TraceFolder } from '../trace-folder.ts';
import { contentsOf, type Twin } from '../twin.ts';

/*
 * A clone is an image whose backing is a snapshot of another image. It shows the snapshot's bytes under its own,
 * whatever becomes of the other image's disk and of its other snapshots; and no bytes at all when the snapshot is gone.
 */

/** Snapshots `early`, `origin` and `late`, all different, and a disk that is different again; open. */
async function makeOrigin(lab: Lab): Promise<Twin> {
  const base = await lab.twin({ file: baseFile, strides: 8 });
  await base.write(0, lab.stride);
  await base.createSnapshot('early');
  await base.write(lab.stride - 700, 3 * lab.stride);
  await base.discard(2 * lab.stride, lab.stride);
  await base.createSnapshot('origin');
  await base.write(300, 2 * lab.stride);
  await base.createSnapshot('late');
  await base.fill();
  return base;
}

async function cloneOf(lab: Lab, base: Twin, name = 'origin', file = mainFile): Promise<Twin> {
  const snapshot = base.model.snapshot(name);
  const backing = { file: base.file, format: lab.driver.name, snapshot: name };
  return lab.twin({ file, backing, initial: snapshot, size: snapshot.length });
}

async function idOf(base: Twin, name: string): Promise<string> {
  return (await base.disk.snapshots.find(name)).id;
}

const scenarios: readonly Scenario[] = [
  {
    name: 'a clone shows the snapshot that it was made of, and has its size',
    async run(lab) {
      const base = await makeOrigin(lab);
      if (lab.capabilities.resize !== 'none') await base.resize(lab.size(11));
      const id = await idOf(base, 'origin');
      const format = lab.driver.name;
      for (const snapshot of ['origin', id]) {
        await lab.create({ file: `by ${snapshot}`, backing: { file: baseFile, format, snapshot } });
        const clone = await lab.open({ file: `by ${snapshot}` });
        assertSameBytes(await contentsOf(clone), base.model.snapshot('origin'), `the clone by ${snapshot}`);
        assert.deepEqual((await clone.info()).backing, { file: baseFile, format, snapshot: id });
        await clone.close();
      }
    },
  },
  {
    name: 'a clone is written to, and keeps its snapshot beneath, whatever the other image does meanwhile',
    async run(lab) {
      const base = await makeOrigin(lab);
      const clone = await cloneOf(lab, base);
      await clone.write(lab.stride / 2, lab.stride);
      await clone.discard(4 * lab.stride, lab.stride);
      const acts: (() => Promise<unknown>)[] = [
        () => base.fill(),
        async () => base.disk.flush(),
        () => base.createSnapshot('another'),
        () => base.write(0, 3 * lab.stride),
        () => base.deleteSnapshot('early'),
        () => base.fill(),
        () => base.deleteSnapshot('late'),
        () => base.applySnapshot('origin'),
        () => base.fill(),
        () => base.reopen(),
        () => base.discard(0, base.size),
        async () => base.disk.flush(),
        () => base.fill(),
        () => clone.write(lab.random.below(clone.size - lab.stride), lab.stride),
      ];
      for (const [step, act] of acts.entries()) {
        await act();
        await clone.verify(`after step ${step}`);
      }
      await clone.reopen();
    },
  },
  {
    name: 'a clone has snapshots, and clones of them, like any other image',
    async run(lab) {
      const base = await makeOrigin(lab);
      const clone = await cloneOf(lab, base);
      await clone.write(10, lab.stride);
      await clone.createSnapshot('of the clone');
      await clone.fill();
      const second = await cloneOf(lab, clone, 'of the clone', 'second.img');
      await second.write(5 * lab.stride, 100);
      await clone.applySnapshot('of the clone');
      await clone.write(lab.stride, 2 * lab.stride);
      await second.reopen();
      await second.verify('over a clone');
      await second.disk.populate();
    },
  },
  {
    name: 'a clone that has all of its bytes lets go of the other image',
    when: ({ releaseBacking }) => releaseBacking,
    async run(lab) {
      const base = await makeOrigin(lab);
      const clone = await cloneOf(lab, base);
      await clone.write(lab.stride + 1, 100);
      await failsWith('ERR_BACKING_NEEDED', 'release', () => clone.disk.releaseBacking());
      await prefetch(clone.disk, { throttleMaxMs: 0 });
      await clone.disk.releaseBacking();
      assert.equal((await clone.disk.info()).backing, undefined);
      await base.disk.close();
      lab.release(base);
      await lab.folder.remove(baseFile);
      await clone.verify('alone');
      await clone.reopen();
    },
  },
  {
    name: 'a clone of a snapshot that is gone is refused, even where another one bears its id as a name',
    async run(lab) {
      const base = await makeOrigin(lab);
      const clone = await cloneOf(lab, base);
      await clone.disk.close();
      const id = await idOf(base, 'origin');
      await base.deleteSnapshot('origin');
      await base.createSnapshot('origin');
      await base.createSnapshot(id);
      const traced = new TraceFolder(lab.folder);
      for (const readOnly of [true, false]) {
        const failing = (): Promise<unknown> => lab.open({ folder: traced, readOnly });
        const { message, data } = await failsWith('ERR_SNAPSHOT_NOT_FOUND', 'open', failing);
        assert.equal(data.value, id);
        assert.ok(data.field !== undefined && message.includes(data.field), `the field, in ${message}`);
        assert.ok(message.includes(baseFile), `the file, in ${message}`);
      }
      assert.deepEqual(traced.openFiles, [], 'files that the refused open left open');
      lab.release(clone);
    },
  },
  {
    name: 'a clone goes by the id of its snapshot: a new name changes nothing',
    when: ({ renameSnapshots }) => renameSnapshots,
    async run(lab) {
      const base = await makeOrigin(lab);
      const clone = await cloneOf(lab, base);
      await base.renameSnapshot('origin', 'renamed');
      await base.renameSnapshot('late', 'origin');
      await clone.reopen();
      await clone.verify('after the renaming');
    },
  },
  {
    name: 'a clone of a snapshot that never was is refused, and leaves no file',
    async run(lab) {
      await makeOrigin(lab);
      const backing = { file: baseFile, format: lab.driver.name, snapshot: 'never' };
      const { data } = await failsWith('ERR_SNAPSHOT_NOT_FOUND', 'create', () => lab.create({ backing }));
      assert.equal(data.value, 'never');
      assert.equal(await lab.folder.exists(mainFile), false);
    },
  },
];

const absent: Scenario = {
  name: 'a format that cannot record a snapshot of its backing says so, and leaves no file',
  when: ({ backingSnapshot }) => !backingSnapshot,
  async run(lab) {
    const { driver, drivers, folder } = lab;
    await lab.create({ file: baseFile });
    const backing = { file: baseFile, format: driver.name, snapshot: 'any' };
    await failsWith('ERR_UNSUPPORTED', 'create', () =>
      createDisk({ folder, file: mainFile }, { driver, drivers, backing }),
    );
    assert.equal(await folder.exists(mainFile), false);
  },
};

const present = scenarios.map(
  (scenario): Scenario => ({
    ...scenario,
    when: (capabilities) =>
      capabilities.backingSnapshot &&
      capabilities.snapshots !== 'none' &&
      (scenario.when?.(capabilities) ?? true),
  }),
);

export const clones: ScenarioGroup = { name: 'clones of a snapshot', scenarios: [...present, absent] };
