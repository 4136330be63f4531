import assert from 'node:assert/strict';
import { type DiffExtent, isCowlabError } from '@cowlab/core';
import { failsWith, failureOf } from '../expect.ts';
import { FaultFolder } from '../fault-folder.ts';
import type { Lab } from '../lab.ts';
import { hasSnapshots, type Scenario, type ScenarioGroup } from '../subject.ts';
import type { Twin } from '../twin.ts';

/** All that was touched, in whole pieces that a write copies; nothing else may be reported. */
function assertWithin(
  extents: readonly DiffExtent[],
  touched: readonly [number, number][],
  { subject, unitBytes }: Lab,
): void {
  const unit = subject.copyBytes ?? unitBytes;
  for (const { offset, length } of extents) {
    const isTouched = (at: number): boolean =>
      touched.some(([start, bytes]) => at + unit > start && at < start + bytes);
    for (let at = offset - (offset % unit); at < offset + length; at += unit) {
      assert.ok(isTouched(at), `the piece at ${at} is reported, and nothing was written there`);
    }
  }
}

async function collect(twin: Twin, from: string, to?: string): Promise<DiffExtent[]> {
  const extents: DiffExtent[] = [];
  for await (const extent of twin.disk.snapshots.diff(from, to)) extents.push(extent);
  return extents;
}

/** Every pair of states, in both directions, and the disk as it is. */
async function verifyAll(twin: Twin): Promise<void> {
  const names = [...twin.model.snapshots.keys()];
  for (const from of names) {
    await twin.verifyDiff(from);
    for (const to of names) {
      assert.deepEqual(await twin.verifyDiff(from, to), await twin.verifyDiff(to, from));
    }
  }
}

/** One of each kind of change. */
async function change(twin: Twin, lab: Lab): Promise<void> {
  const { random, stride } = lab;
  const offset = random.below(4) * stride + random.below(stride);
  const kind = random.below(4);
  if (kind === 0) await twin.writeZeroes(offset, stride + 100);
  else if (kind === 1) await twin.discard(offset, 2 * stride);
  else await twin.write(offset, 1 + random.below(stride));
}

/** False when the format refuses to resize what has snapshots, or to shrink. */
async function resizes(twin: Twin, size: number): Promise<boolean> {
  try {
    await twin.disk.resize(size);
  } catch {
    await failsWith('ERR_UNSUPPORTED', 'resize', () => twin.disk.resize(size));
    return false;
  }
  twin.model.resize(size);
  return true;
}

const present: readonly Scenario[] = [
  {
    name: 'states that nothing was written between do not differ',
    async run(lab) {
      const twin = await lab.twin();
      await twin.createSnapshot('empty');
      assert.deepEqual(await twin.verifyDiff('empty'), []);
      await twin.fill();
      await twin.createSnapshot('full');
      await twin.createSnapshot('full too');
      const isNothing = async (): Promise<void> => {
        assert.deepEqual(await twin.verifyDiff('full'), []);
        assert.deepEqual(await twin.verifyDiff('full', 'full too'), []);
        assert.deepEqual(await twin.verifyDiff('full', 'full'), []);
      };
      await isNothing();
      await twin.reopen();
      await isNothing();
      await twin.write(0, lab.stride);
      await twin.applySnapshot('full');
      await isNothing();
    },
  },
  {
    name: 'the units that were written, zeroed or discarded differ, and no others',
    async run(lab) {
      const twin = await lab.twin({ strides: 12 });
      await twin.fill();
      await twin.createSnapshot('before');
      const touched: [number, number][] = [];
      const check = async (offset: number, length: number): Promise<void> => {
        touched.push([offset, length]);
        assertWithin(await twin.verifyDiff('before'), touched, lab);
      };
      await twin.write(lab.stride, 1);
      await check(lab.stride, 1);
      await twin.write(3 * lab.stride - 700, 1400);
      await check(3 * lab.stride - 700, 1400);
      await twin.writeZeroes(5 * lab.stride, lab.stride);
      await check(5 * lab.stride, lab.stride);
      await twin.discard(7 * lab.stride, 2 * lab.stride);
      await check(7 * lab.stride, 2 * lab.stride);
      await twin.write(twin.size - 1, 1);
      await check(twin.size - 1, 1);
      await twin.createSnapshot('after');
      assertWithin(await twin.verifyDiff('before', 'after'), touched, lab);
      assert.deepEqual(await twin.verifyDiff('after'), []);
    },
  },
  {
    name: 'after any history no pair of states differs where it is not told',
    async run(lab) {
      const twin = await lab.twin();
      for (let round = 0; round < 6; round++) {
        for (let step = 0; step < 3; step++) await change(twin, lab);
        await twin.createSnapshot(`s${round}`);
        if (round % 2 === 1) await twin.applySnapshot(`s${lab.random.below(round + 1)}`);
        await change(twin, lab);
      }
      await verifyAll(twin);
      await twin.deleteSnapshot('s2');
      await twin.deleteSnapshot('s0');
      await verifyAll(twin);
      await twin.reopen();
      await verifyAll(twin);
    },
  },
  {
    name: 'nor after one in which the disk changes its size, over a backing file',
    place: 'memory',
    when: ({ resize, backing }) => resize === 'both' && backing,
    async run(lab) {
      const base = await lab.twin({ file: 'base.img', strides: 4 });
      await base.fill();
      await base.disk.close();
      lab.release(base);
      const backing = { file: 'base.img', format: lab.driver.name };
      const twin = await lab.twin({ backing, initial: base.model.bytes });
      for (let round = 0; round < 6; round++) {
        const size = lab.size(1 + lab.random.below(8));
        if (!(await resizes(twin, size))) return;
        await twin.write(lab.random.below(size - 100), 100);
        await twin.createSnapshot(`s${round}`);
        if (round % 2 === 1) await twin.applySnapshot(`s${lab.random.below(round + 1)}`);
        await twin.discard(0, lab.random.below(twin.size));
      }
      await verifyAll(twin);
    },
  },
  {
    name: 'what was flushed before a power loss is told after it, read-only too',
    place: 'memory',
    async run(lab) {
      const twin = await lab.twin();
      await twin.fill();
      await twin.createSnapshot('kept');
      await twin.write(2 * lab.stride, lab.stride);
      await twin.disk.flush();
      const folder = await lab.copyFolder();
      for (const readOnly of [true, false]) {
        const disk = await lab.open({ folder, readOnly });
        let covered = 0;
        for await (const { offset, length } of disk.snapshots.diff('kept')) {
          const end = Math.min(offset + length, 3 * lab.stride);
          covered += Math.max(0, end - Math.max(offset, 2 * lab.stride));
        }
        assert.equal(covered, lab.stride, readOnly ? 'read-only' : 'for writing');
        await disk.close();
      }
    },
  },
  {
    name: 'states over a backing file differ where one hides it',
    when: ({ backing }) => backing,
    async run(lab) {
      const base = await lab.twin({ file: 'base.img' });
      await base.fill();
      await base.disk.close();
      lab.release(base);
      const backing = { file: 'base.img', format: lab.driver.name };
      const twin = await lab.twin({ backing, initial: base.model.bytes });
      await twin.createSnapshot('nothing');
      await twin.writeZeroes(lab.stride, lab.stride);
      await twin.createSnapshot('zeros');
      await twin.write(3 * lab.stride + 5, 10);
      await verifyAll(twin);
      assert.notDeepEqual(await twin.verifyDiff('nothing', 'zeros'), []);
    },
  },
  {
    name: 'the bytes that only the larger of two states has differ',
    // A judge may not read snapshots of another size than the disk's.
    place: 'memory',
    when: ({ resize }) => resize !== 'none',
    async run(lab) {
      const twin = await lab.twin();
      await twin.fill();
      await twin.createSnapshot('small');
      for (const [name, size] of [
        ['large', lab.size(9)],
        ['smaller', lab.size(3)],
        ['large again', lab.size(8)],
      ] as const) {
        if (!(await resizes(twin, size))) continue;
        await twin.verifyDiff('small');
        await twin.write(Math.min(size, lab.size(6)) - 3000, 2000);
        await twin.createSnapshot(name);
      }
      await verifyAll(twin);
    },
  },
  {
    name: 'no data are read for it',
    place: 'memory',
    async run(lab) {
      const folder = new FaultFolder(lab.folder);
      const twin = await lab.twin({ folder });
      await twin.fill();
      await twin.createSnapshot('one');
      await twin.write(lab.stride, 2 * lab.stride);
      await twin.createSnapshot('two');
      await twin.write(4 * lab.stride, lab.stride);
      await twin.reopen();
      folder.arm({ kind: 'EIO', methods: ['read'], nth: 1, purpose: 'data', lasting: true });
      await verifyAll(twin);
      folder.disarm();
    },
  },
  {
    name: 'the disk can be read, written and snapshot while the answer is taken',
    async run(lab) {
      const twin = await lab.twin({ strides: 12 });
      await twin.createSnapshot('before');
      for (let stride = 0; stride < 12; stride += 2) await twin.write(stride * lab.stride, lab.stride);
      await twin.createSnapshot('after');
      const after = await twin.disk.snapshots.open('after');
      let count = 0;
      for await (const { offset, length } of twin.disk.snapshots.diff('before', 'after')) {
        const bytes = new Uint8Array(length);
        await after.read(offset, bytes);
        assert.deepEqual(bytes, twin.model.snapshot('after').slice(offset, offset + length));
        await twin.write(offset, 10);
        await twin.createSnapshot(`during ${count++}`);
      }
      assert.ok(count > 0, 'something differs');
      await after.close();
    },
  },
  {
    name: 'states that are not there, an aborted signal and a closed disk are refused',
    async run(lab) {
      const twin = await lab.twin();
      await twin.createSnapshot('there');
      await failsWith('ERR_SNAPSHOT_NOT_FOUND', 'from', () => collect(twin, 'absent'));
      await failsWith('ERR_SNAPSHOT_NOT_FOUND', 'to', () => collect(twin, 'there', 'absent'));
      await failsWith('ERR_ABORTED', 'signal', () =>
        twin.disk.snapshots.diff('there', undefined, { signal: AbortSignal.abort() }).next(),
      );
      const begun = twin.disk.snapshots.diff('there');
      await twin.reopen();
      await failsWith('ERR_CLOSED', 'closed', () => begun.next());
    },
  },
  {
    name: 'an error while metadata are read reaches the caller',
    place: 'memory',
    async run(lab) {
      const folder = new FaultFolder(lab.folder);
      const twin = await lab.twin({ folder });
      await twin.write(0, lab.stride);
      await twin.createSnapshot('one');
      await twin.write(0, lab.stride);
      await twin.createSnapshot('two');
      await twin.reopen();
      for (let nth = 1; ; nth++) {
        folder.arm({ kind: 'EIO', methods: ['open', 'read'], nth });
        const failure = await failureOf(() => collect(twin, 'one', 'two'));
        if (folder.fired === 0) break;
        assert.ok(isCowlabError(failure, 'ERR_IO'), `read ${nth}: ${String(failure)}`);
      }
      folder.disarm();
      assert.notDeepEqual(await twin.verifyDiff('one', 'two'), []);
    },
  },
];

const absent: readonly Scenario[] = [
  {
    name: 'a format that cannot tell what differs says so',
    when: ({ diff }) => !diff,
    async run(lab) {
      const twin = await lab.twin();
      if (hasSnapshots(lab.capabilities)) await twin.createSnapshot('one');
      await failsWith('ERR_UNSUPPORTED', 'diff', () => collect(twin, 'one'));
    },
  },
];

export const snapshotDiff: ScenarioGroup = {
  name: 'differences between states',
  scenarios: [
    ...present.map(
      (scenario): Scenario => ({
        ...scenario,
        when: (capabilities) => capabilities.diff && (scenario.when?.(capabilities) ?? true),
      }),
    ),
    ...absent,
  ],
};
