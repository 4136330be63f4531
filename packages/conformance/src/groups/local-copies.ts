import assert from 'node:assert/strict';
import { type Capabilities, type Disk, prefetch } from '@cowlab/core';
import { DelayedFolder } from '../delayed-folder.ts';
import { assertCoded, assertSameBytes, failsWith, failureOf } from '../expect.ts';
import { FaultFolder } from '../fault-folder.ts';
import { type Lab, mainFile } from '../lab.ts';
import { baseFile, overlay } from '../overlay.ts';
import type { Scenario, ScenarioGroup } from '../subject.ts';
import { TraceFolder } from '../trace-folder.ts';
import { contentsOf, type Twin } from '../twin.ts';

/*
 * An image comes to do without its backing: by `populate`, by reads that copy, by a prefetch; then it lets go of it.
 * Whatever happens meanwhile, the disk's bytes are those that its guest wrote over those of the backing.
 */

const releases = (capabilities: Capabilities): boolean => capabilities.releaseBacking;
const hasInternalSnapshots = (capabilities: Capabilities): boolean => capabilities.snapshots === 'internal';

/** Some of the disk becomes the image's own, in every way there is. */
async function touch(lab: Lab, twin: Twin): Promise<void> {
  await twin.write(lab.stride, lab.stride);
  await twin.write(2 * lab.stride + 200, 200);
  await twin.writeZeroes(3 * lab.stride, lab.stride);
  await twin.discard(4 * lab.stride, lab.stride);
}

async function assertLocal(disk: Disk): Promise<void> {
  assert.equal(await disk.nextBacked(), undefined, 'what the backing still answers for');
}

/** The twin's image, opened anew such that its reads copy; through `folder`. */
async function reopenCopying(lab: Lab, twin: Twin, folder = lab.folder): Promise<void> {
  await twin.disk.close();
  twin.disk = await lab.open({ folder, copyOnRead: true });
}

const populating: readonly Scenario[] = [
  ...[
    { what: 'of its size', strides: 6, baseStrides: 6 },
    { what: 'that is shorter', strides: 9, baseStrides: 5 },
    { what: 'that is longer', strides: 5, baseStrides: 8 },
  ].map(
    ({ what, strides, baseStrides }): Scenario => ({
      name: `populate over a backing ${what} leaves every byte as it was, and nothing to the backing`,
      async run(lab) {
        const twin = await overlay(lab, strides, baseStrides);
        await touch(lab, twin);
        await twin.disk.populate(lab.stride + 1, lab.stride);
        await twin.verify('after a part');
        const report = await twin.disk.populate();
        await twin.verify('after the rest');
        await assertLocal(twin.disk);
        assert.ok(report.readBytes >= report.writtenBytes, 'what was written had been read');
        const again = await twin.disk.populate();
        assert.equal(again.readBytes + again.writtenBytes + again.zeroedBytes, 0, 'bytes copied twice');
        await twin.reopen();
        await assertLocal(twin.disk);
      },
    }),
  ),
  {
    name: 'guest requests beside populate are neither lost nor disturbed',
    async run(lab) {
      const strides = 12;
      const twin = await overlay(lab, strides, strides, new DelayedFolder(lab.folder, lab.seed));
      const { disk, size } = twin;
      const copies = Array.from({ length: 3 * strides }, () => {
        const offset = lab.random.below(strides) * lab.stride;
        return disk.populate(offset, Math.min(2 * lab.stride, size - offset));
      });
      for (let step = 0; step < 30; step++) {
        const offset = lab.random.below(size - lab.stride);
        const length = 1 + lab.random.below(lab.stride);
        if (step % 3 === 0) await twin.readAndCompare(offset, length);
        else if (step % 7 === 0) await twin.discard(offset, length);
        else await twin.write(offset, length);
      }
      await Promise.all(copies);
      await twin.verify('after both');
      await disk.populate();
      await assertLocal(disk);
    },
  },
  {
    name: 'a disk that is read-only copies nothing, and says so',
    async run(lab) {
      const twin = await overlay(lab);
      await twin.disk.close();
      twin.disk = await lab.open({ readOnly: true });
      await failsWith('ERR_READ_ONLY', 'populate', () => twin.disk.populate());
      await failsWith('ERR_READ_ONLY', 'releaseBacking', () => twin.disk.releaseBacking());
      await failsWith('ERR_INVALID_OPTION', 'open', () => lab.open({ readOnly: true, copyOnRead: true }));
    },
  },
];

const copyingOnRead: readonly Scenario[] = [
  {
    name: 'a read that copies returns the same bytes, and copies each unit once',
    async run(lab) {
      const twin = await overlay(lab);
      await twin.write(lab.stride, lab.stride);
      const traced = new TraceFolder(lab.folder);
      await reopenCopying(lab, twin, traced);
      await twin.readAndCompare(lab.stride / 2, lab.stride);
      await twin.readAndCompare(2 * lab.stride + 511, 2);
      await twin.verify('by reads that copy');
      assert.equal(twin.disk.stats()['copiedBytes'], twin.size - lab.stride);
      await assertLocal(twin.disk);
      const isOfBase = ({ method, file }: { method: string; file: string }): boolean =>
        method === 'read' && file === baseFile;
      const before = traced.calls.filter(isOfBase).length;
      await twin.verify('by reads that find copies');
      assert.equal(traced.calls.filter(isOfBase).length, before, 'reads of the backing');
      const written = traced.calls.filter(({ method, file, purpose }) => {
        return method === 'write' && file === mainFile && purpose === 'data';
      });
      const writtenBytes = written.reduce((sum, { length }) => sum + length, 0);
      const most = twin.size + lab.unitBytes - lab.stride;
      assert.ok(writtenBytes <= most, `${writtenBytes} bytes were written for ${most} at most`);
      await twin.reopen();
    },
  },
  {
    name: 'reads that copy run beside each other and beside writes, and copy each unit once',
    async run(lab) {
      const twin = await overlay(lab, 8);
      await reopenCopying(lab, twin, new DelayedFolder(lab.folder, lab.seed));
      const reads = Array.from({ length: 40 }, () => {
        const offset = lab.random.below(3 * lab.stride);
        return twin.readAndCompare(offset, 1 + lab.random.below(lab.stride));
      });
      for (let step = 0; step < 15; step++) {
        await twin.write(4 * lab.stride + lab.random.below(3 * lab.stride), 1 + lab.random.below(lab.stride));
      }
      await Promise.all(reads);
      await twin.verify('after all of them');
      assert.ok(Number(twin.disk.stats()['copiedBytes']) <= twin.size, 'bytes copied');
      await assertLocal(twin.disk);
    },
  },
  {
    name: 'a read whose copy fails returns the bytes of the backing, and counts it',
    async run(lab) {
      const twin = await overlay(lab);
      const faulty = new FaultFolder(lab.folder);
      await reopenCopying(lab, twin, faulty);
      faulty.arm({ kind: 'ENOSPC', methods: ['write', 'zero', 'truncate'], nth: 1, lasting: true });
      await twin.readAndCompare(100, 2 * lab.stride);
      assert.ok(faulty.fired > 0, 'no copy was tried');
      assert.ok(Number(twin.disk.stats()['failedCopies']) > 0, 'failed copies');
      faulty.disarm();
      await twin.verify('when there is space again');
      await assertLocal(twin.disk);
    },
  },
];

/** A clock that a call moves on, so that every storage call seems to take so long; sleeps are noted, not slept. */
function clockOf(msPerCall: number): {
  now: () => number;
  sleep: (ms: number) => Promise<void>;
  slept: number[];
} {
  let time = 0;
  const slept: number[] = [];
  return {
    slept,
    now: () => (time += msPerCall),
    sleep: async (ms) => {
      slept.push(ms);
      time += ms;
    },
  };
}

const prefetching: readonly Scenario[] = [
  {
    name: 'a prefetch that is aborted keeps what it has, and the next one does the rest',
    async run(lab) {
      const twin = await overlay(lab, 20);
      const aborted = new AbortController();
      const { stride: slotBytes } = lab;
      const onProgress = (): void => aborted.abort();
      const first = prefetch(twin.disk, { slotBytes, throttleMaxMs: 0, signal: aborted.signal, onProgress });
      await failsWith('ERR_ABORTED', 'prefetch', () => first);
      const next = await twin.disk.nextBacked();
      assert.ok(next !== undefined && next.offset > 0, 'the abort came in the middle');
      await twin.verify('after the abort');
      await twin.reopen();
      const seen: number[] = [];
      const rest = await prefetch(twin.disk, {
        slotBytes,
        throttleMaxMs: 0,
        onProgress: ({ done }) => seen.push(done),
      });
      const copied = rest.writtenBytes + rest.zeroedBytes;
      assert.ok(copied <= twin.size - next.offset, `${copied} bytes were copied, local ones among them`);
      assert.deepEqual(
        seen,
        seen.toSorted((a, b) => a - b),
        'progress',
      );
      await assertLocal(twin.disk);
    },
  },
  {
    name: 'a prefetch ends with its disk, even while it sleeps',
    async run(lab) {
      const twin = await overlay(lab, 20);
      let asleep = (): void => undefined;
      const sleeping = new Promise<void>((resolve) => (asleep = resolve));
      const clock = {
        now: clockOf(1000).now,
        sleep: (_ms: number, signal: AbortSignal) =>
          new Promise<void>((_, reject) => {
            signal.addEventListener('abort', () => reject(new Error('woken')));
            asleep();
          }),
      };
      const running = prefetch(twin.disk, { slotBytes: lab.stride, clock, random: () => 0 });
      const failed = failsWith('ERR_CLOSED', 'prefetch', () => running);
      await sleeping;
      await twin.disk.close();
      await failed;
      twin.disk = await lab.open();
      assert.ok((await twin.disk.nextBacked()) !== undefined, 'the close came in the middle');
    },
  },
  {
    name: 'a prefetch on a slow medium pauses, and still comes to its end',
    async run(lab) {
      const twin = await overlay(lab, 20);
      const clock = clockOf(200);
      const report = await prefetch(twin.disk, { slotBytes: lab.stride, clock, random: () => 0.25 });
      assert.ok(report.pauses > 0, 'pauses');
      assert.deepEqual(new Set(clock.slept), new Set([1 + 0.25 * 30_000]), 'how long');
      await assertLocal(twin.disk);
    },
  },
];

const releasing: readonly Scenario[] = [
  {
    name: 'a backing is released when nothing needs it, and its file may go',
    when: releases,
    async run(lab) {
      const twin = await overlay(lab, 8, 6);
      await touch(lab, twin);
      await failsWith('ERR_BACKING_NEEDED', 'releaseBacking', () => twin.disk.releaseBacking());
      assert.equal((await twin.disk.info()).backing?.file, baseFile, 'a refused release changes nothing');
      await prefetch(twin.disk, { throttleMaxMs: 0 });
      await twin.disk.releaseBacking();
      assert.equal((await twin.disk.info()).backing, undefined);
      await lab.folder.remove(baseFile);
      await twin.verify('without its backing');
      await twin.disk.releaseBacking();
      await twin.discard(0, 2 * lab.stride);
      await twin.writeZeroes(5 * lab.stride, lab.stride);
      await twin.write(lab.stride / 2, 10);
      await twin.reopen();
      await twin.write(6 * lab.stride + 5, lab.stride);
      await failsWith('ERR_BACKING_MISSING', 'create', () =>
        lab.create({ file: 'new.img', backing: { file: baseFile } }),
      );
    },
  },
  {
    name: 'a release that fails can be repeated, and the disk goes on either way',
    when: releases,
    async run(lab) {
      const twin = await overlay(lab);
      const faulty = new FaultFolder(lab.folder);
      await twin.disk.close();
      twin.disk = await lab.open({ folder: faulty });
      await twin.disk.populate();
      for (let nth = 1; ; nth++) {
        assert.ok(nth < 100, 'a release makes so many calls?');
        faulty.arm({ kind: 'EIO', methods: ['write', 'flush', 'truncate', 'zero'], nth });
        const error = await failureOf(() => twin.disk.releaseBacking());
        faulty.disarm();
        if (error === undefined) break;
        assertCoded(error, `release with a failure of call ${nth}`);
        await twin.write(lab.random.below(twin.size - lab.stride), lab.stride);
        await twin.discard(lab.random.below(5) * lab.stride, lab.stride);
        await twin.verify(`after a failure of call ${nth}`);
      }
      await lab.folder.remove(baseFile);
      await twin.verify('without its backing');
      await twin.reopen();
    },
  },
  {
    name: 'a disk that was released grows into zeros',
    when: (capabilities) => releases(capabilities) && capabilities.resize !== 'none',
    async run(lab) {
      const twin = await overlay(lab, 4, 8);
      await twin.disk.populate();
      await twin.disk.releaseBacking();
      await lab.folder.remove(baseFile);
      await twin.resize(lab.size(8));
      await twin.verify('when larger');
      await twin.reopen();
    },
  },
  {
    name: 'a snapshot that needs the backing keeps it',
    when: (capabilities) => releases(capabilities) && hasInternalSnapshots(capabilities),
    async run(lab) {
      const twin = await overlay(lab);
      await twin.write(0, lab.stride);
      await twin.createSnapshot('needs');
      await twin.disk.populate();
      await twin.createSnapshot('has all');
      await twin.write(2 * lab.stride, lab.stride);
      const error = await failsWith('ERR_BACKING_NEEDED', 'release', () => twin.disk.releaseBacking());
      assert.equal(error.data.field, 'snapshot needs');
      await twin.verifySnapshots();
      await twin.deleteSnapshot('needs');
      const opened = await twin.disk.snapshots.open('has all');
      await twin.disk.releaseBacking();
      await lab.folder.remove(baseFile);
      assertSameBytes(await contentsOf(opened), twin.model.snapshot('has all'), 'the open snapshot');
      await opened.close();
      await twin.verifySnapshots();
      await twin.applySnapshot('has all');
      await twin.verify('after apply');
    },
  },
  {
    name: 'a format that keeps its backing says so',
    when: (capabilities) => !releases(capabilities),
    async run(lab) {
      const twin = await overlay(lab);
      await twin.disk.populate();
      await failsWith('ERR_UNSUPPORTED', 'releaseBacking', () => twin.disk.releaseBacking());
    },
  },
];

const absent: Scenario = {
  name: 'a format without backing files copies nothing, and says so',
  when: (capabilities) => !capabilities.backing,
  async run(lab) {
    const twin = await lab.twin();
    await twin.fill();
    await failsWith('ERR_UNSUPPORTED', 'populate', () => twin.disk.populate());
    await failsWith('ERR_UNSUPPORTED', 'releaseBacking', () => twin.disk.releaseBacking());
    await failsWith('ERR_UNSUPPORTED', 'open', () => lab.open({ copyOnRead: true }));
  },
};

const present = [...populating, ...copyingOnRead, ...prefetching, ...releasing].map(
  (scenario): Scenario => ({
    ...scenario,
    when: (capabilities) => capabilities.backing && (scenario.when?.(capabilities) ?? true),
  }),
);

export const localCopies: ScenarioGroup = {
  name: 'local copies of a backing',
  scenarios: [...present, absent],
};
