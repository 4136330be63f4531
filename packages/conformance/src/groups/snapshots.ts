import assert from 'node:assert/strict';
import { assertSameBytes, failsWith } from '../expect.ts';
import type { Lab } from '../lab.ts';
import { hasNoSnapshots, hasSnapshots, type Scenario, type ScenarioGroup } from '../subject.ts';
import { contentsOf, type Twin } from '../twin.ts';

/** Snapshots `s0`, `s1`, … with a stride and a bit written before each, and after the last. */
async function withSnapshots(lab: Lab, count: number): Promise<Twin> {
  const twin = await lab.twin();
  for (let index = 0; index < count; index++) {
    await twin.write((index % 6) * lab.stride, lab.stride);
    await twin.write(((index + 2) % 6) * lab.stride + 100, 700);
    await twin.createSnapshot(`s${index}`);
  }
  await twin.write(lab.stride / 2, lab.stride);
  return twin;
}

async function names(twin: Twin): Promise<string[]> {
  return (await twin.disk.snapshots.list()).map(({ name }) => name);
}

const basics: readonly Scenario[] = [
  {
    name: 'a snapshot keeps its bytes while the disk is written, zeroed and discarded',
    async run(lab) {
      const twin = await lab.twin();
      await twin.fill();
      await twin.createSnapshot('before');
      await twin.write(0, lab.stride);
      await twin.write(2 * lab.stride + 17, 5);
      await twin.writeZeroes(3 * lab.stride, lab.stride);
      await twin.discard(4 * lab.stride, lab.stride);
      await twin.verify('after writes');
      await twin.verifySnapshot('before');
      await twin.reopen();
      await twin.verify('after reopening');
      await twin.verifySnapshot('before');
    },
  },
  {
    name: 'the list gives id, name, time and size, in the order of creation',
    async run(lab) {
      const earliest = Date.now() - 2000;
      const twin = await withSnapshots(lab, 3);
      const checkList = async (): Promise<void> => {
        const list = await twin.disk.snapshots.list();
        assert.deepEqual(
          list.map(({ name }) => name),
          ['s0', 's1', 's2'],
        );
        assert.equal(new Set(list.map(({ id }) => id)).size, 3, 'ids are different');
        for (const { id, createdAt, size } of list) {
          assert.ok(typeof id === 'string' && id.length > 0, 'an id is a text');
          assert.equal(size, twin.size);
          const time = createdAt.getTime();
          assert.ok(time >= earliest && time <= Date.now() + 2000, `createdAt is ${createdAt.toISOString()}`);
        }
      };
      await checkList();
      await twin.reopen();
      await checkList();
    },
  },
  {
    name: 'a snapshot of an earlier time keeps that, to the second at least',
    async run(lab) {
      const twin = await lab.twin();
      const { disk } = twin;
      const createdAt = new Date('2011-03-13T12:34:56.789Z');
      const info = await disk.snapshots.create('of the mail', { createdAt });
      const second = (time: Date | undefined): number => Math.floor((time?.getTime() ?? 0) / 1000);
      assert.equal(second(info.createdAt), second(createdAt));
      const [listed] = await disk.snapshots.list();
      assert.equal(second(listed?.createdAt), second(createdAt));
      for (const wrong of [new Date(Number.NaN), new Date(-1)]) {
        await assert.rejects(disk.snapshots.create('wrong', { createdAt: wrong }), RangeError);
      }
      await disk.snapshots.delete('of the mail');
    },
  },
  {
    name: 'create gives back what the list says',
    async run(lab) {
      const twin = await lab.twin();
      const info = await twin.createSnapshot('one');
      const listed = (await twin.disk.snapshots.list())[0];
      assert.equal(listed?.id, info.id);
      assert.equal(listed.name, 'one');
      assert.equal(info.name, 'one');
    },
  },
  {
    name: 'a snapshot of an empty disk, and two of the same state',
    async run(lab) {
      const twin = await lab.twin();
      await twin.createSnapshot('empty');
      await twin.createSnapshot('empty too');
      await twin.fill();
      await twin.createSnapshot('full');
      await twin.createSnapshot('full too');
      await twin.writeZeroes(0, twin.size);
      await twin.verifySnapshots();
    },
  },
  {
    name: 'names of other scripts, with spaces and dots, are kept',
    async run(lab) {
      const twin = await lab.twin();
      const given = ['before the update', 'Grün.2', '日本', 'a-b_c'];
      for (const name of given) {
        await twin.write(0, 100);
        await twin.createSnapshot(name);
      }
      await twin.reopen();
      assert.deepEqual(await names(twin), given);
      await twin.verifySnapshots();
    },
  },
  {
    name: 'twenty snapshots, each with its own bytes',
    when: ({ maxSnapshots }) => maxSnapshots >= 20,
    async run(lab) {
      const twin = await withSnapshots(lab, 20);
      await twin.reopen();
      await twin.verifySnapshots();
      for (let index = 19; index >= 0; index -= 3) await twin.deleteSnapshot(`s${index}`);
      await twin.verifySnapshots();
    },
  },
];

const deleting: readonly Scenario[] = [
  ...['s0', 's1', 's2'].map(
    (victim): Scenario => ({
      name: `of three snapshots ${victim} can be deleted, the others and the disk stay`,
      async run(lab) {
        const twin = await withSnapshots(lab, 3);
        await twin.deleteSnapshot(victim);
        assert.equal((await names(twin)).includes(victim), false);
        await twin.verify('after the delete');
        await twin.verifySnapshots();
        await twin.write(0, 3 * lab.stride);
        await twin.verifySnapshots();
        await twin.reopen();
        await twin.verifySnapshots();
      },
    }),
  ),
  {
    name: 'all can be deleted, in any order, and new ones made; an id is not used again',
    async run(lab) {
      const ids = new Set<string>();
      const twin = await lab.twin();
      const orders = [
        ['a', 'b', 'c'],
        ['c', 'b', 'a'],
        ['b', 'a', 'c'],
      ];
      for (const [round, order] of orders.entries()) {
        for (const name of ['a', 'b', 'c']) {
          await twin.write(lab.random.below(5) * lab.stride, lab.stride);
          ids.add((await twin.createSnapshot(name)).id);
        }
        for (const name of order) await twin.deleteSnapshot(name);
        assert.deepEqual(await names(twin), []);
        await twin.verify(`after round ${round}`);
        if (round === 1) await twin.reopen();
      }
      assert.equal(ids.size, 9, 'every snapshot had an id of its own');
    },
  },
  {
    name: 'a snapshot can be named by its id as well',
    async run(lab) {
      const twin = await withSnapshots(lab, 2);
      const [first, second] = await twin.disk.snapshots.list();
      assert.ok(first !== undefined && second !== undefined);
      await twin.disk.snapshots.apply(first.id);
      twin.model.applySnapshot(first.name);
      await twin.verify('after applying by id');
      await twin.disk.snapshots.delete(second.id);
      twin.model.deleteSnapshot(second.name);
      const disk = await twin.disk.snapshots.open(first.id);
      assertSameBytes(await contentsOf(disk), twin.model.snapshot(first.name), 'opened by id');
      await disk.close();
    },
  },
  {
    name: 'a name that is taken, and one that is unknown, are refused',
    async run(lab) {
      const twin = await withSnapshots(lab, 1);
      const { snapshots } = twin.disk;
      await failsWith('ERR_SNAPSHOT_EXISTS', 'create', () => snapshots.create('s0'));
      await failsWith('ERR_INVALID_OPTION', 'create without a name', () => snapshots.create(''));
      await failsWith('ERR_SNAPSHOT_NOT_FOUND', 'delete', () => snapshots.delete('none'));
      await failsWith('ERR_SNAPSHOT_NOT_FOUND', 'apply', () => snapshots.apply('none'));
      await failsWith('ERR_SNAPSHOT_NOT_FOUND', 'open', () => snapshots.open('none'));
      await twin.verify('after refusals');
    },
  },
];

const applying: readonly Scenario[] = [
  {
    name: 'apply brings back the bytes, and every snapshot stays',
    async run(lab) {
      const twin = await withSnapshots(lab, 3);
      for (const name of ['s1', 's0', 's2', 's0', 's0']) {
        await twin.applySnapshot(name);
        await twin.verify(`after applying ${name}`);
        await twin.verifySnapshots();
        await twin.write(lab.stride + 5, lab.stride);
        await twin.verifySnapshots();
      }
      await twin.reopen();
      await twin.verifySnapshots();
    },
  },
  {
    name: 'branches grow from an applied snapshot, and any of their snapshots can be deleted',
    async run(lab) {
      const twin = await withSnapshots(lab, 2);
      await twin.applySnapshot('s0');
      await twin.write(3 * lab.stride, lab.stride);
      await twin.createSnapshot('branch');
      await twin.write(4 * lab.stride + 1, 99);
      await twin.applySnapshot('s1');
      await twin.write(5 * lab.stride, 77);
      await twin.createSnapshot('trunk');
      for (const name of ['s0', 'branch', 's1']) {
        await twin.deleteSnapshot(name);
        await twin.verify(`after deleting ${name}`);
        await twin.verifySnapshots();
      }
      await twin.reopen();
      await twin.verifySnapshots();
    },
  },
  {
    name: 'the snapshot that was applied last can be deleted',
    async run(lab) {
      const twin = await withSnapshots(lab, 2);
      await twin.applySnapshot('s0');
      await twin.deleteSnapshot('s0');
      await twin.verify('after the delete');
      await twin.write(0, 2 * lab.stride);
      await twin.deleteSnapshot('s1');
      await twin.reopen();
      await twin.verify('after reopening');
    },
  },
];

const opening: readonly Scenario[] = [
  {
    name: 'an opened snapshot is a read-only disk that stays as it was while the front is written',
    async run(lab) {
      const twin = await withSnapshots(lab, 2);
      const snapshot = await twin.disk.snapshots.open('s0');
      assert.equal(snapshot.readOnly, true);
      assert.equal(snapshot.size, twin.size);
      await failsWith('ERR_READ_ONLY', 'write to a snapshot', () => snapshot.write(0, new Uint8Array(1)));
      await failsWith('ERR_READ_ONLY', 'discard on a snapshot', () => snapshot.discard(0, lab.stride));
      for (let index = 0; index < 6; index++) {
        await twin.write(index * lab.stride + 50, lab.stride / 2);
        assertSameBytes(await contentsOf(snapshot), twin.model.snapshot('s0'), `after write ${index}`);
      }
      await twin.discard(0, twin.size);
      await twin.createSnapshot('later');
      assertSameBytes(
        await contentsOf(snapshot),
        twin.model.snapshot('s0'),
        'after a discard and a snapshot',
      );
      await snapshot.close();
      await twin.verify('after the snapshot was closed');
    },
  },
  {
    name: 'two snapshots, and one twice, can be open together',
    async run(lab) {
      const twin = await withSnapshots(lab, 2);
      const opened = [];
      for (const name of ['s0', 's1', 's0'])
        opened.push([name, await twin.disk.snapshots.open(name)] as const);
      for (const [name, disk] of opened) {
        assertSameBytes(await contentsOf(disk), twin.model.snapshot(name), name);
      }
      for (const [, disk] of opened) await disk.close();
    },
  },
  {
    name: 'a snapshot that is open cannot be deleted; when it is closed, it can',
    async run(lab) {
      const twin = await withSnapshots(lab, 2);
      const snapshot = await twin.disk.snapshots.open('s0');
      await failsWith('ERR_BUSY', 'delete', () => twin.disk.snapshots.delete('s0'));
      assertSameBytes(await contentsOf(snapshot), twin.model.snapshot('s0'), 'after the refusal');
      await snapshot.close();
      await twin.deleteSnapshot('s0');
    },
  },
  {
    name: 'a snapshot that is left open closes with its disk',
    async run(lab) {
      const twin = await withSnapshots(lab, 1);
      const snapshot = await twin.disk.snapshots.open('s0');
      await twin.reopen();
      await failsWith('ERR_CLOSED', 'read', () => snapshot.read(0, new Uint8Array(1)));
      await snapshot.close();
    },
  },
  {
    name: 'a snapshot limit holds',
    when: ({ maxSnapshots }) => maxSnapshots <= 64,
    async run(lab) {
      const twin = await lab.twin();
      const { maxSnapshots } = lab.capabilities;
      for (let index = 0; index < maxSnapshots; index++) await twin.createSnapshot(`n${index}`);
      await failsWith('ERR_SNAPSHOT_LIMIT', 'one more', () => twin.disk.snapshots.create('more'));
      await twin.deleteSnapshot('n0');
      await twin.createSnapshot('more');
    },
  },
];

const absent: readonly Scenario[] = [
  {
    name: 'a format without snapshots says so',
    when: hasNoSnapshots,
    async run(lab) {
      const twin = await lab.twin();
      const { snapshots } = twin.disk;
      assert.equal(lab.capabilities.maxSnapshots, 0);
      assert.deepEqual(await snapshots.list(), []);
      await failsWith('ERR_UNSUPPORTED', 'create', () => snapshots.create('one'));
      await failsWith('ERR_UNSUPPORTED', 'delete', () => snapshots.delete('one'));
      await failsWith('ERR_UNSUPPORTED', 'apply', () => snapshots.apply('one'));
      await failsWith('ERR_UNSUPPORTED', 'open', () => snapshots.open('one'));
      const { renameSnapshots, snapshotParents, diff } = lab.capabilities;
      assert.deepEqual([renameSnapshots, snapshotParents, diff], [false, false, false]);
    },
  },
];

const present = [...basics, ...deleting, ...applying, ...opening].map(
  (scenario): Scenario => ({
    ...scenario,
    when: (capabilities) => hasSnapshots(capabilities) && (scenario.when?.(capabilities) ?? true),
  }),
);

export const snapshots: ScenarioGroup = { name: 'snapshots', scenarios: [...present, ...absent] };
