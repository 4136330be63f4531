import assert from 'node:assert/strict';
import type { SnapshotInfo } from '@cowlab/core';
import { assertSameBytes, failsWith } from '../expect.ts';
import { hasSnapshots, type Scenario, type ScenarioGroup } from '../subject.ts';
import { contentsOf, type Twin } from '../twin.ts';

async function listed(twin: Twin, name: string): Promise<SnapshotInfo> {
  const found = (await twin.disk.snapshots.list()).find((snapshot) => snapshot.name === name);
  assert.ok(found !== undefined, `snapshot ${name} is in the list`);
  return found;
}

const renaming: readonly Scenario[] = [
  {
    name: 'a renamed snapshot keeps everything but its name, and its place in the list',
    async run(lab) {
      const twin = await lab.twin();
      for (const [index, name] of ['first', 'second', 'third'].entries()) {
        await twin.write(index * lab.stride, lab.stride);
        await twin.createSnapshot(name);
      }
      await twin.write(0, 2 * lab.stride);
      const before = await twin.disk.snapshots.list();
      await twin.renameSnapshot('second', 'Zweiter, 二');
      const wanted = before.map((info) => (info.name === 'second' ? { ...info, name: 'Zweiter, 二' } : info));
      assert.deepEqual(await twin.disk.snapshots.list(), wanted);
      await twin.verify('after the rename');
      await twin.reopen();
      assert.deepEqual(await twin.disk.snapshots.list(), wanted);
      await twin.verifySnapshots();
      await twin.verifyParents();
      await failsWith('ERR_SNAPSHOT_NOT_FOUND', 'the old name', () => twin.disk.snapshots.open('second'));
      await twin.applySnapshot('Zweiter, 二');
      await twin.verify('after applying it');
      await twin.deleteSnapshot('Zweiter, 二');
    },
  },
  {
    name: 'a snapshot can be renamed by its id, to a long name, to its own, and while it is open',
    async run(lab) {
      const twin = await lab.twin();
      await twin.fill();
      const { id } = await twin.createSnapshot('one');
      const opened = await twin.disk.snapshots.open('one');
      const long = 'n'.repeat(200);
      await twin.disk.snapshots.rename(id, long);
      twin.model.renameSnapshot('one', long);
      await twin.disk.snapshots.rename(long, long);
      await twin.write(0, lab.stride);
      assertSameBytes(await contentsOf(opened), twin.model.snapshot(long), 'the snapshot that is open');
      await opened.close();
      assert.equal((await listed(twin, long)).id, id);
    },
  },
  {
    name: 'a name that a rename gave up can be taken again',
    async run(lab) {
      const twin = await lab.twin();
      for (let round = 0; round < 5; round++) {
        await twin.write(round * lab.stride, lab.stride);
        await twin.createSnapshot('latest');
        await twin.renameSnapshot('latest', `day ${round}`);
      }
      await twin.verifySnapshots();
    },
  },
  {
    name: 'names that create refuses are refused here too, and nothing changes',
    async run(lab) {
      const twin = await lab.twin();
      await twin.createSnapshot('one');
      await twin.createSnapshot('two');
      const { snapshots } = twin.disk;
      const before = await snapshots.list();
      await failsWith('ERR_SNAPSHOT_EXISTS', 'taken', () => snapshots.rename('one', 'two'));
      await failsWith('ERR_SNAPSHOT_NOT_FOUND', 'unknown', () => snapshots.rename('none', 'three'));
      for (const name of ['', 'a\nb', 'n'.repeat(256)]) {
        await failsWith('ERR_INVALID_OPTION', JSON.stringify(name), () => snapshots.rename('one', name));
      }
      assert.deepEqual(await snapshots.list(), before);
      await twin.disk.close();
      twin.disk = await lab.open({ readOnly: true });
      await failsWith('ERR_READ_ONLY', 'read-only', () => twin.disk.snapshots.rename('one', 'three'));
    },
  },
];

const parents: readonly Scenario[] = [
  {
    name: 'the list tells which snapshot each grew from, through apply, delete and reopening; or says nothing',
    async run(lab) {
      const twin = await lab.twin();
      const at = async (act: Promise<unknown>): Promise<void> => {
        await act;
        await twin.verifyParents();
      };
      for (const name of ['a', 'b', 'c']) await at(twin.createSnapshot(name));
      await at(twin.applySnapshot('a'));
      await twin.write(0, lab.stride);
      for (const name of ['a1', 'a2']) await at(twin.createSnapshot(name));
      await at(twin.applySnapshot('b'));
      await twin.reopen();
      await at(twin.createSnapshot('b1'));
      for (const name of ['b', 'a', 'b1']) await at(twin.deleteSnapshot(name));
      await at(twin.createSnapshot('d'));
      await twin.reopen();
      await twin.verifyParents();
      for (const name of ['a1', 'c', 'd', 'a2']) await at(twin.deleteSnapshot(name));
      await at(twin.createSnapshot('first again'));
    },
  },
];

const absent: readonly Scenario[] = [
  {
    name: 'a format that does not rename snapshots says so',
    when: ({ renameSnapshots }) => !renameSnapshots,
    async run(lab) {
      const twin = await lab.twin();
      if (hasSnapshots(lab.capabilities)) await twin.createSnapshot('one');
      await failsWith('ERR_UNSUPPORTED', 'rename', () => twin.disk.snapshots.rename('one', 'two'));
      assert.equal(
        (await twin.disk.snapshots.list())[0]?.name,
        twin.model.snapshots.size > 0 ? 'one' : undefined,
      );
    },
  },
];

export const snapshotTree: ScenarioGroup = {
  name: 'names and parents of snapshots',
  scenarios: [
    ...renaming.map((scenario): Scenario => ({ ...scenario, when: (each) => each.renameSnapshots })),
    ...parents.map((scenario): Scenario => ({ ...scenario, when: hasSnapshots })),
    ...absent,
  ],
};
