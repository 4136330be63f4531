import assert from 'node:assert/strict';
import { type Capabilities, commitDisk, type CommitOptions, type CommitReport } from '@cowlab/core';
import { assertCoded, assertSameBytes, failsWith, failureOf } from '../expect.ts';
import { FaultFolder } from '../fault-folder.ts';
import { type Lab, mainFile } from '../lab.ts';
import { baseFile, makeBase, overlay } from '../overlay.ts';
import { hasSnapshots, type Scenario, type ScenarioGroup } from '../subject.ts';
import { contentsOf, type Twin } from '../twin.ts';

/* What an image has of its own goes into its backing: that reads as the image did, and the image as before. */

const middleFile = 'middle.img';

/** Some of the disk is its own, in every way there is. */
async function touch(lab: Lab, twin: Twin): Promise<void> {
  await twin.write(lab.stride, lab.stride);
  await twin.write(2 * lab.stride + 200, 200);
  await twin.writeZeroes(3 * lab.stride, lab.stride);
  await twin.discard(4 * lab.stride, lab.stride / 2);
  await twin.write(twin.size - 300, 300);
}

function commit(lab: Lab, options: CommitOptions = {}, folder = lab.folder): Promise<CommitReport> {
  const { drivers, driver } = lab;
  return commitDisk({ folder, file: mainFile }, { drivers, format: driver.name, ...options });
}

/** What an image of that name reads as; checked, too. */
async function read(lab: Lab, file: string): Promise<Uint8Array> {
  const disk = await lab.open({ file, readOnly: true });
  const bytes = await contentsOf(disk);
  await lab.assertClean(disk);
  await disk.close();
  return bytes;
}

/** The backing reads as the disk does, as far as that goes. */
async function assertCommitted(lab: Lab, twin: Twin, file = baseFile): Promise<void> {
  const bytes = await read(lab, file);
  assertSameBytes(bytes.subarray(0, twin.size), twin.model.bytes, 'what was committed to');
}

/** Whether anything is left in the image itself. */
async function assertEmpty(twin: Twin): Promise<void> {
  for await (const { offset, depth, allocated } of twin.disk.extents()) {
    assert.ok(depth > 0 || !allocated, `the image has bytes of its own at ${offset}`);
  }
}

const sizes: readonly Scenario[] = [
  { what: 'of its size', strides: 8, baseStrides: 8 },
  { what: 'that is longer', strides: 6, baseStrides: 9 },
  { what: 'that is shorter, and grows', strides: 9, baseStrides: 5, grows: true },
].map(
  ({ what, strides, baseStrides, grows = false }): Scenario => ({
    name: `a commit to a backing ${what} moves everything there`,
    when: ({ resize }) => !grows || resize !== 'none',
    async run(lab) {
      const twin = await overlay(lab, strides, baseStrides);
      await touch(lab, twin);
      await twin.disk.close();
      const report = await commit(lab);
      assert.deepEqual([report.base, report.emptied, report.invalid], [baseFile, true, []]);
      assert.equal(report.grownBytes > 0, grows);
      await assertCommitted(lab, twin);
      twin.disk = await lab.open();
      await assertEmpty(twin);
      await twin.verify('after the commit');
      await touch(lab, twin);
      await twin.disk.close();
      await commit(lab);
      await assertCommitted(lab, twin);
      twin.disk = await lab.open();
    },
  }),
);

const plain: readonly Scenario[] = [
  {
    name: 'a backing that cannot grow takes what fits, and refuses what does not',
    when: ({ resize }) => resize === 'none',
    async run(lab) {
      const twin = await overlay(lab, 9, 5);
      await twin.write(lab.stride, lab.stride);
      await twin.disk.close();
      await commit(lab);
      twin.disk = await lab.open();
      await twin.verify('when all fits');
      await twin.write(7 * lab.stride, 10);
      await twin.disk.close();
      await failsWith('ERR_UNSUPPORTED', 'commit', () => commit(lab));
      twin.disk = await lab.open();
      await twin.verify('after the refusal');
    },
  },
  {
    name: 'a commit that keeps leaves the image what it has',
    async run(lab) {
      const twin = await overlay(lab);
      await touch(lab, twin);
      await twin.disk.close();
      const { emptied } = await commit(lab, { keep: true });
      assert.equal(emptied, false);
      await assertCommitted(lab, twin);
      twin.disk = await lab.open();
      for await (const { depth } of twin.disk.extents(lab.stride, lab.stride)) {
        assert.equal(depth, 0, 'the image has its own bytes still');
      }
      await twin.verify('after the commit');
    },
  },
  {
    name: 'what an image does not have stays away from its backing',
    async run(lab) {
      const twin = await overlay(lab);
      await twin.disk.close();
      const before = (await lab.files()).get(baseFile)!;
      const { writtenBytes, zeroedBytes } = await commit(lab);
      assert.equal(writtenBytes + zeroedBytes, 0);
      await assertCommitted(lab, twin);
      assert.equal((await lab.files()).get(baseFile)!.length, before.length);
      twin.disk = await lab.open();
    },
  },
  {
    name: 'a commit past images between leaves the image whole, and names what is between',
    async run(lab) {
      const format = lab.driver.name;
      const middle = await lab.twin({
        file: middleFile,
        strides: 8,
        backing: { file: baseFile, format },
        initial: await makeBase(lab, lab.capabilities.resize === 'none' ? 8 : 6),
      });
      await middle.disk.write(5 * lab.stride, new Uint8Array(lab.stride).fill(5));
      const initial = await contentsOf(middle.disk);
      await middle.disk.close();
      lab.release(middle);
      const twin = await lab.twin({ strides: 8, backing: { file: middleFile, format }, initial });
      await touch(lab, twin);
      await twin.disk.close();
      if (lab.capabilities.backingContentId) {
        await failsWith('ERR_UNSUPPORTED', 'commit', () => commit(lab, { base: baseFile }));
      } else {
        const report = await commit(lab, { base: baseFile });
        assert.deepEqual([report.emptied, report.invalid], [false, [middleFile]]);
        await assertCommitted(lab, twin);
      }
      twin.disk = await lab.open();
      await twin.verify('over all of them');
    },
  },
  {
    name: 'what cannot be committed to is refused, and nothing changes',
    async run(lab) {
      const twin = await overlay(lab);
      await touch(lab, twin);
      await failsWith('ERR_LOCKED', 'commit', () => commit(lab));
      await twin.disk.close();
      await failsWith('ERR_INVALID_OPTION', 'commit', () => commit(lab, { base: mainFile }));
      await failsWith('ERR_INVALID_OPTION', 'commit', () => commit(lab, { base: 'nowhere.img' }));
      const reader = await lab.open({ file: baseFile, readOnly: true });
      await failsWith('ERR_LOCKED', 'commit', () => commit(lab));
      await reader.close();
      twin.disk = await lab.open();
      await twin.verify('after all of that');
      await twin.disk.close();
      await lab.folder.rename(baseFile, 'elsewhere.img');
      await failsWith('ERR_BACKING_MISSING', 'commit', () => commit(lab));
      await lab.folder.rename('elsewhere.img', baseFile);
      twin.disk = await lab.open();
    },
  },
  {
    name: 'an abort leaves the image as it was, and the next commit does all',
    async run(lab) {
      const twin = await overlay(lab, 12);
      await touch(lab, twin);
      await twin.disk.close();
      const aborted = new AbortController();
      const { signal } = aborted;
      const running = commit(lab, { signal, onProgress: () => aborted.abort() });
      await failsWith('ERR_ABORTED', 'commit', () => running);
      twin.disk = await lab.open();
      await twin.verify('after the abort');
      await twin.disk.close();
      await commit(lab);
      await assertCommitted(lab, twin);
      twin.disk = await lab.open();
    },
  },
  {
    name: 'a commit that fails can be repeated, and the image reads the same either way',
    async run(lab) {
      const twin = await overlay(lab);
      await touch(lab, twin);
      await twin.disk.close();
      const faulty = new FaultFolder(lab.folder);
      for (let nth = 1; ; nth++) {
        assert.ok(nth < 300, 'a commit makes so many calls?');
        faulty.arm({ kind: 'EIO', methods: ['write', 'flush', 'truncate', 'zero'], nth });
        const error = await failureOf(() => commit(lab, {}, faulty));
        faulty.disarm();
        if (error === undefined) break;
        assertCoded(error, `commit with a failure of call ${nth}`);
        twin.disk = await lab.open();
        await twin.verify(`after a failure of call ${nth}`);
        await twin.write(lab.random.below(twin.size - lab.stride), lab.stride);
        await twin.disk.close();
      }
      await assertCommitted(lab, twin);
      twin.disk = await lab.open();
    },
  },
];

const hasInternal = (capabilities: Capabilities): boolean => capabilities.snapshots === 'internal';

const withSnapshots: readonly Scenario[] = [
  {
    name: 'a snapshot that would change with the backing keeps it from changing',
    when: hasInternal,
    async run(lab) {
      const twin = await overlay(lab);
      await twin.createSnapshot('reads from below');
      await twin.write(lab.stride, lab.stride);
      await twin.disk.close();
      const error = await failsWith('ERR_BACKING_NEEDED', 'commit', () => commit(lab));
      assert.equal(error.data.field, 'snapshot reads from below');
      twin.disk = await lab.open();
      await twin.verifySnapshots();
      await twin.deleteSnapshot('reads from below');
      await twin.createSnapshot('has its own');
      await twin.write(lab.stride, lab.stride / 2);
      await twin.disk.close();
      await commit(lab);
      await assertCommitted(lab, twin);
      twin.disk = await lab.open();
      await twin.verifySnapshots();
      await twin.applySnapshot('has its own');
    },
  },
  {
    name: 'snapshots of the backing stay as they are',
    when: hasInternal,
    async run(lab) {
      const twin = await overlay(lab);
      await touch(lab, twin);
      await twin.disk.close();
      const base = await lab.open({ file: baseFile });
      await base.snapshots.create('before');
      const before = await contentsOf(base);
      await base.close();
      await commit(lab);
      await assertCommitted(lab, twin);
      const after = await lab.open({ file: baseFile, readOnly: true });
      const snapshot = await after.snapshots.open('before');
      assertSameBytes(await contentsOf(snapshot), before, "the backing's snapshot");
      await after.close();
      twin.disk = await lab.open();
    },
  },
  {
    name: 'a disk whose backing is its own snapshot is not committed to that',
    when: (capabilities) => hasSnapshots(capabilities) && !hasInternal(capabilities),
    async run(lab) {
      const twin = await overlay(lab);
      await touch(lab, twin);
      await twin.createSnapshot('below');
      await twin.write(0, lab.stride);
      await twin.disk.close();
      await failsWith('ERR_UNSUPPORTED', 'commit', () => commit(lab));
      twin.disk = await lab.open();
      await twin.verifySnapshots();
    },
  },
];

const absent: Scenario = {
  name: 'an image without a backing has nothing to commit to',
  async run(lab) {
    const twin = await lab.twin();
    await twin.fill();
    await twin.disk.close();
    await failsWith('ERR_INVALID_OPTION', 'commit', () => commit(lab));
    twin.disk = await lab.open();
  },
};

const present = [...sizes, ...plain, ...withSnapshots].map(
  (scenario): Scenario => ({
    ...scenario,
    when: (capabilities) => capabilities.empty && (scenario.when?.(capabilities) ?? true),
  }),
);

export const commits: ScenarioGroup = { name: 'commit', scenarios: [...present, absent] };
