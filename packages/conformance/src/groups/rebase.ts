import assert from 'node:assert/strict';
import type { Capabilities } from '@cowlab/core';
import { assertCoded, assertSameBytes, failsWith, failureOf } from '../expect.ts';
import { FaultFolder } from '../fault-folder.ts';
import { type Lab, mainFile } from '../lab.ts';
import { baseFile, overlay } from '../overlay.ts';
import { type Scenario, type ScenarioGroup, hasSnapshots } from '../subject.ts';
import { TraceFolder } from '../trace-folder.ts';
import { contentsOf, type Twin } from '../twin.ts';

/*
 * Another backing in the place of the one that an image has. Its disk reads as before, whatever the other one holds;
 * so do its snapshots, or it does not happen.
 */

const otherFile = 'other.img';

/** Some of the disk is its own, in every way there is. */
async function touch(lab: Lab, twin: Twin): Promise<void> {
  await twin.write(lab.stride, lab.stride);
  await twin.write(2 * lab.stride + 200, 200);
  await twin.writeZeroes(3 * lab.stride, lab.stride);
  await twin.discard(4 * lab.stride, lab.stride);
}

/** A backing that has some bytes of the first one at their places, some others, and zeros where that has bytes. */
async function makeOther(lab: Lab, strides: number, like?: Uint8Array): Promise<void> {
  const other = await lab.twin({ file: otherFile, strides });
  await other.write(0, lab.stride / 2);
  await other.write(3 * lab.stride - 100, lab.stride + 200);
  if (like !== undefined) {
    const same = like.subarray(lab.stride / 2, 2 * lab.stride);
    await other.disk.write(lab.stride / 2, same);
  }
  await other.disk.close();
  lab.release(other);
}

/** The same bytes under another name. */
async function copyBase(lab: Lab): Promise<void> {
  const bytes = (await lab.files()).get(baseFile)!;
  await (await lab.folder.create(otherFile)).close();
  await lab.replaceFile(otherFile, bytes);
}

const other = ({ driver }: Lab): { file: string; format: string } => ({
  file: otherFile,
  format: driver.name,
});

const backingOf = async (twin: Twin): Promise<string | undefined> => (await twin.disk.info()).backing?.file;

const between: readonly Scenario[] = [
  { what: 'of the same size', strides: 8, baseStrides: 8, otherStrides: 8 },
  { what: 'that is longer', strides: 8, baseStrides: 5, otherStrides: 10 },
  { what: 'that is shorter', strides: 8, baseStrides: 7, otherStrides: 4 },
].map(
  ({ what, strides, baseStrides, otherStrides }): Scenario => ({
    name: `another backing ${what} leaves every byte as it was`,
    async run(lab) {
      const twin = await overlay(lab, strides, baseStrides);
      await touch(lab, twin);
      await makeOther(lab, otherStrides, twin.model.bytes);
      await twin.disk.rebase(other(lab));
      assert.equal(await backingOf(twin), otherFile);
      await lab.folder.remove(baseFile);
      await twin.verify('over the other backing');
      await twin.reopen();
      await twin.verify('when it is opened again');
      await touch(lab, twin);
      await twin.write(6 * lab.stride + 7, lab.stride);
      await twin.disk.populate();
    },
  }),
);

const plain: readonly Scenario[] = [
  {
    name: 'no backing any more leaves every byte as it was',
    async run(lab) {
      const twin = await overlay(lab);
      await touch(lab, twin);
      await twin.disk.rebase(null);
      assert.equal(await backingOf(twin), undefined);
      await lab.folder.remove(baseFile);
      await twin.verify('without a backing');
      await twin.discard(0, lab.stride);
      await twin.reopen();
      await twin.write(5, lab.stride);
    },
  },
  {
    name: 'a first backing does not show through',
    async run(lab) {
      const twin = await lab.twin({ strides: 8 });
      await touch(lab, twin);
      await makeOther(lab, 10);
      await twin.disk.rebase(other(lab));
      assert.equal(await backingOf(twin), otherFile);
      await twin.verify('over its first backing');
      await twin.reopen();
      await twin.discard(0, 2 * lab.stride);
      await twin.writeZeroes(3 * lab.stride, lab.stride);
    },
  },
  {
    name: 'a backing with the same bytes takes the place without a copy',
    async run(lab) {
      const twin = await overlay(lab);
      await touch(lab, twin);
      await copyBase(lab);
      const { copiedBytes } = await twin.disk.rebase(other(lab));
      assert.equal(copiedBytes, 0);
      await lab.folder.remove(baseFile);
      await twin.verify('over the copy');
      assert.ok((await twin.disk.nextBacked()) !== undefined, 'the copy answers');
    },
  },
  {
    name: 'what both chains have in common is not read',
    async run(lab) {
      const twin = await overlay(lab);
      await twin.disk.close();
      const format = lab.driver.name;
      await lab.create({ file: otherFile, backing: { file: baseFile, format } });
      const traced = new TraceFolder(lab.folder);
      twin.disk = await lab.open({ folder: traced });
      const { comparedBytes, copiedBytes } = await twin.disk.rebase(other(lab));
      assert.equal(comparedBytes + copiedBytes, 0);
      const reads = traced.calls.filter(({ method, file, purpose }) => {
        return method === 'read' && file === baseFile && purpose === 'data';
      });
      assert.equal(reads.length, 0, 'reads of data of the common base');
      await twin.verify('over one image more');
      await twin.disk.rebase({ file: baseFile, format });
      await lab.folder.remove(otherFile);
      await twin.verify('over the base again');
    },
  },
  {
    name: 'a backing that has moved gets its new name without being read',
    async run(lab) {
      const twin = await overlay(lab);
      await touch(lab, twin);
      await twin.disk.close();
      await lab.folder.rename(baseFile, otherFile);
      await failsWith('ERR_BACKING_MISSING', 'open', () => lab.open());
      twin.disk = await lab.open({ withoutBacking: true });
      await twin.readAndCompare(lab.stride, lab.stride);
      const unread = (): unknown => twin.disk.read(0, new Uint8Array(1));
      await failsWith('ERR_BACKING_MISSING', 'read', unread);
      await failsWith('ERR_BACKING_MISSING', 'rebase', () => twin.disk.rebase(null));
      const { comparedBytes } = await twin.disk.rebase(other(lab), { unsafe: true });
      assert.equal(comparedBytes, 0);
      await twin.verify('over what has moved');
      await twin.reopen();
    },
  },
  {
    name: 'a backing that cannot be opened is refused, and nothing changes',
    async run(lab) {
      const twin = await overlay(lab);
      await failsWith('ERR_BACKING_MISSING', 'rebase', () => twin.disk.rebase(other(lab)));
      const itself = { file: mainFile, format: lab.driver.name };
      await failsWith('ERR_BACKING_CYCLE', 'rebase', () => twin.disk.rebase(itself));
      const outside = { ...itself, file: await lab.nameElsewhere() };
      await failsWith('ERR_BACKING_DENIED', 'rebase', () => twin.disk.rebase(outside));
      assert.equal(await backingOf(twin), baseFile);
      await twin.verify('after all of that');
      await twin.disk.close();
      twin.disk = await lab.open({ readOnly: true });
      await failsWith('ERR_READ_ONLY', 'rebase', () => twin.disk.rebase(null));
    },
  },
  {
    name: 'an abort leaves the backing that there was',
    async run(lab) {
      const twin = await overlay(lab, 12);
      await makeOther(lab, 12);
      const aborted = new AbortController();
      const { signal } = aborted;
      const rebase = twin.disk.rebase(other(lab), { signal, onProgress: () => aborted.abort() });
      await failsWith('ERR_ABORTED', 'rebase', () => rebase);
      assert.equal(await backingOf(twin), baseFile);
      await twin.verify('after the abort');
      await twin.reopen();
      await twin.disk.rebase(other(lab));
    },
  },
  {
    name: 'a rebase that fails can be repeated, and the disk goes on either way',
    async run(lab) {
      const twin = await overlay(lab);
      await makeOther(lab, 6);
      const faulty = new FaultFolder(lab.folder);
      await twin.disk.close();
      twin.disk = await lab.open({ folder: faulty });
      for (let nth = 1; ; nth++) {
        assert.ok(nth < 200, 'a rebase makes so many calls?');
        faulty.arm({ kind: 'EIO', methods: ['write', 'flush', 'truncate', 'zero'], nth });
        const error = await failureOf(() => twin.disk.rebase(other(lab)));
        faulty.disarm();
        if (error === undefined) break;
        assertCoded(error, `rebase with a failure of call ${nth}`);
        await twin.write(lab.random.below(twin.size - lab.stride), lab.stride);
        await twin.discard(lab.random.below(5) * lab.stride, lab.stride);
        await twin.verify(`after a failure of call ${nth}`);
      }
      await lab.folder.remove(baseFile);
      await twin.verify('over the other backing');
    },
  },
];

const hasInternal = (capabilities: Capabilities): boolean => capabilities.snapshots === 'internal';

const withSnapshots: readonly Scenario[] = [
  {
    name: 'a snapshot that would read otherwise keeps its backing',
    when: hasInternal,
    async run(lab) {
      const twin = await overlay(lab);
      await twin.write(0, lab.stride);
      await twin.createSnapshot('needs');
      await makeOther(lab, 6);
      const error = await failsWith('ERR_BACKING_NEEDED', 'rebase', () => twin.disk.rebase(other(lab)));
      assert.equal(error.data.field, 'snapshot needs');
      assert.equal(await backingOf(twin), baseFile);
      await twin.verifySnapshots();
      await twin.deleteSnapshot('needs');
      await twin.disk.rebase(other(lab));
      await twin.createSnapshot('of the other');
      await twin.write(3 * lab.stride, lab.stride);
    },
  },
  {
    name: 'a snapshot that reads the same goes along, also one that is open',
    when: hasInternal,
    async run(lab) {
      const twin = await overlay(lab);
      await twin.createSnapshot('goes along');
      await touch(lab, twin);
      await copyBase(lab);
      const opened = await twin.disk.snapshots.open('goes along');
      await twin.disk.rebase(other(lab));
      await lab.folder.remove(baseFile);
      assertSameBytes(await contentsOf(opened), twin.model.snapshot('goes along'), 'the open snapshot');
      await opened.close();
      await twin.verifySnapshots();
    },
  },
  {
    name: 'a disk whose snapshots are its backing keeps it',
    when: (capabilities) => hasSnapshots(capabilities) && !hasInternal(capabilities),
    async run(lab) {
      const twin = await overlay(lab);
      await twin.createSnapshot('below');
      await twin.write(0, lab.stride);
      await makeOther(lab, 6);
      await failsWith('ERR_UNSUPPORTED', 'rebase', () => twin.disk.rebase(other(lab)));
      await twin.verifySnapshots();
    },
  },
];

const absent: Scenario = {
  name: 'a format that cannot change its backing says so',
  when: ({ changeBacking }) => !changeBacking,
  async run(lab) {
    const twin = await lab.twin();
    await twin.fill();
    await failsWith('ERR_UNSUPPORTED', 'rebase', () => twin.disk.rebase(null));
    await failsWith('ERR_UNSUPPORTED', 'rebase', () => twin.disk.rebase(other(lab), { unsafe: true }));
  },
};

const present = [...between, ...plain, ...withSnapshots].map(
  (scenario): Scenario => ({
    ...scenario,
    when: (capabilities) => capabilities.changeBacking && (scenario.when?.(capabilities) ?? true),
  }),
);

export const rebase: ScenarioGroup = { name: 'rebase', scenarios: [...present, absent] };
