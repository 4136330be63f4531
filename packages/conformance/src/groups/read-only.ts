import assert from 'node:assert/strict';
import type { Disk } from '@cowlab/core';
import { assertSameBytes, failsWith } from '../expect.ts';
import type { Lab } from '../lab.ts';
import { hasSnapshots, type Scenario, type ScenarioGroup } from '../subject.ts';
import { contentsOf } from '../twin.ts';

/** Runs `act` on the image opened read-only, and fails when a file changes by it. */
async function withoutChange(lab: Lab, act: (disk: Disk) => Promise<void>): Promise<void> {
  const before = await lab.files();
  const disk = await lab.open({ readOnly: true });
  assert.equal(disk.readOnly, true);
  await act(disk);
  await disk.close();
  const after = await lab.files();
  assert.deepEqual([...after.keys()], [...before.keys()], 'the names in the folder');
  for (const [name, bytes] of before) assertSameBytes(after.get(name) ?? new Uint8Array(0), bytes, name);
}

const scenarios: readonly Scenario[] = [
  {
    name: 'every call that would change the image is refused, and the files stay as they are',
    async run(lab) {
      const twin = await lab.twin();
      await twin.fill();
      await twin.disk.close();
      await withoutChange(lab, async (disk) => {
        const refused = (what: string, call: () => unknown): Promise<unknown> =>
          failsWith('ERR_READ_ONLY', what, call);
        await refused('write', () => disk.write(0, new Uint8Array(1)));
        await refused('writeZeroes', () => disk.writeZeroes(0, 1));
        await refused('discard', () => disk.discard(0, lab.stride));
        await refused('resize', () => disk.resize(lab.size(7)));
        await refused('repair', () => disk.check({ repair: 'all' }));
        await disk.flush();
        assertSameBytes(await contentsOf(disk), twin.model.bytes, 'the read-only disk');
        await lab.assertClean(disk);
      });
      await twin.reopen();
    },
  },
  {
    name: 'snapshots of a read-only disk can be listed and opened, not made, deleted or applied',
    when: hasSnapshots,
    async run(lab) {
      const twin = await lab.twin();
      await twin.fill();
      await twin.createSnapshot('kept');
      await twin.write(0, lab.stride);
      await twin.disk.close();
      await withoutChange(lab, async (disk) => {
        const { snapshots } = disk;
        await failsWith('ERR_READ_ONLY', 'snapshots.create', () => snapshots.create('more'));
        await failsWith('ERR_READ_ONLY', 'snapshots.delete', () => snapshots.delete('kept'));
        await failsWith('ERR_READ_ONLY', 'snapshots.apply', () => snapshots.apply('kept'));
        assert.equal((await snapshots.list()).length, 1);
        await twin.verifySnapshots(disk);
      });
      await twin.reopen();
    },
  },
];

export const readOnly: ScenarioGroup = { name: 'read-only', scenarios };
