import assert from 'node:assert/strict';
import type { StorageFolder } from '@cowlab/core';
import { DelayedFolder } from '../delayed-folder.ts';
import { assertCoded, assertSameBytes, failsWith, failureOf } from '../expect.ts';
import { FaultFolder } from '../fault-folder.ts';
import { type Lab, mainFile } from '../lab.ts';
import { hasSnapshots, type Scenario, type ScenarioGroup } from '../subject.ts';
import { contentsOf, type Twin } from '../twin.ts';

/*
 * Compacting gives free space at the end of a file back. Nothing that can be read changes by it, at no moment of it; what
 * a power loss leaves of it is among the workloads of the crash explorer.
 * A disk here has some *pieces*: a piece is what a driver sets aside space by, at least an allocation unit.
 */

const moves = ({ compact }: Lab['capabilities']): boolean => compact === 'move';

async function pieceBytesOf(lab: Lab): Promise<number> {
  await lab.create({ file: 'probe.img' });
  const disk = await lab.open({ file: 'probe.img' });
  const { reserveBytes = 0, unitBytes } = disk.image;
  await disk.close();
  await lab.folder.remove('probe.img');
  return Math.max(reserveBytes, unitBytes, lab.stride);
}

interface Filled {
  readonly twin: Twin;
  readonly piece: number;
}

/** A disk of some pieces, all of them written one after the other, flushed. */
async function filled(lab: Lab, pieces: number, folder: StorageFolder = lab.folder): Promise<Filled> {
  const piece = await pieceBytesOf(lab);
  const twin = await lab.twin({ size: pieces * piece, folder });
  for (let at = 0; at < pieces; at++) await twin.write(at * piece, piece);
  await twin.disk.flush();
  return { twin, piece };
}

async function fileBytes(lab: Lab, folder = lab.folder): Promise<number> {
  const storage = await folder.open(mainFile, { readOnly: true });
  const bytes = storage.size();
  await storage.close();
  return bytes;
}

/** Compacts, and looks at what it says of the file. */
async function compactAndVerify(lab: Lab, twin: Twin, options: { move?: boolean } = {}): Promise<number> {
  await twin.disk.flush();
  const before = await fileBytes(lab);
  const report = await twin.compact(options);
  const after = await fileBytes(lab);
  assert.deepEqual([report.bytesBefore, report.bytesAfter], [before, after], 'the lengths in the report');
  const least = Math.max(twin.disk.image.reserveBytes ?? 0, twin.disk.unitBytes);
  // The last unit may not have been written to its end before.
  assert.ok(after < before + least, `the file grew from ${before} to ${after} bytes`);
  await twin.verify('after compact');
  await lab.assertClean(twin.disk);
  return before - after;
}

const trimming: readonly Scenario[] = [
  {
    name: 'space that is free at the end is given back, without moving data',
    async run(lab) {
      const { twin, piece } = await filled(lab, 10);
      await twin.discard(4 * piece, 6 * piece);
      const gained = await compactAndVerify(lab, twin, { move: false });
      assert.ok(gained >= 5 * piece, `${gained} bytes of ${6 * piece} free ones were given back`);
      assert.equal(await compactAndVerify(lab, twin, { move: false }), 0, 'nothing is left to give back');
      await twin.write(3 * piece + 100, 4 * piece);
      await twin.reopen();
      await twin.verify('when it has grown again');
    },
  },
  {
    name: 'a disk that is full and one that is empty are compacted too',
    async run(lab) {
      const { twin, piece } = await filled(lab, 3);
      await compactAndVerify(lab, twin);
      await twin.discard(0, 3 * piece);
      await compactAndVerify(lab, twin);
      await twin.reopen();
      await compactAndVerify(lab, twin);
    },
  },
  {
    name: 'space that only a deleted snapshot had is given back',
    when: hasSnapshots,
    async run(lab) {
      const { twin, piece } = await filled(lab, 2);
      await twin.createSnapshot('kept');
      await twin.fill();
      await twin.createSnapshot('deleted');
      for (let at = 0; at < 2; at++) await twin.write(at * piece, piece);
      await twin.applySnapshot('kept');
      await twin.deleteSnapshot('deleted');
      const gained = await compactAndVerify(lab, twin);
      assert.ok(gained >= piece, `${gained} bytes were given back`);
      await twin.verifySnapshots();
    },
  },
];

const moving: readonly Scenario[] = [
  {
    name: 'data move into free places before them when asked, and only then',
    when: moves,
    async run(lab) {
      const { twin, piece } = await filled(lab, 12);
      for (const at of [0, 2, 3, 5, 6, 7]) await twin.discard(at * piece, piece);
      await twin.disk.flush();
      const still = await twin.compact({ move: false });
      assert.equal(still.movedBytes, 0, 'bytes that moved unasked');
      const gained = await compactAndVerify(lab, twin);
      assert.ok(gained >= 5 * piece, `${gained} bytes of ${6 * piece} free ones were given back`);
      await twin.write(2 * piece + 5, piece);
      await twin.reopen();
    },
  },
  {
    name: 'snapshots read as before, open ones too',
    when: (capabilities) => moves(capabilities) && hasSnapshots(capabilities),
    async run(lab) {
      const { twin, piece } = await filled(lab, 6);
      await twin.createSnapshot('first');
      await twin.write(piece / 2, 2 * piece);
      await twin.createSnapshot('second');
      const opened = await twin.disk.snapshots.open('first');
      await twin.fill();
      await twin.discard(0, 3 * piece);
      await compactAndVerify(lab, twin);
      assertSameBytes(await contentsOf(opened), twin.model.snapshot('first'), 'the open snapshot');
      await opened.close();
      await twin.verifySnapshots();
      await twin.deleteSnapshot('first');
      await compactAndVerify(lab, twin);
      await twin.applySnapshot('second');
      await compactAndVerify(lab, twin);
      await twin.write(100, 2 * piece);
      await twin.reopen();
    },
  },
  {
    name: 'random histories with compacting among them read as the model does',
    async run(lab) {
      const { twin, piece } = await filled(lab, 5);
      const small = hasSnapshots(lab.capabilities) ? ['one', 'two', 'three'] : [];
      for (let step = 0; step < 60; step++) {
        const offset = lab.random.below(twin.size - piece);
        const choice = lab.random.below(6);
        if (choice < 3) await twin.write(offset, 1 + lab.random.below(lab.random.pick([600, piece])));
        else if (choice < 4)
          await twin.discard(offset, 2 * piece - 1 > twin.size - offset ? piece : 2 * piece - 1);
        else if (choice < 5 && small.length > 0) await toggleSnapshot(lab, twin, lab.random.pick(small));
        else await compactAndVerify(lab, twin, {});
      }
      await twin.verifySnapshots();
    },
  },
  {
    name: 'an abort leaves a good image, and the next call does the rest',
    async run(lab) {
      const { twin, piece } = await filled(lab, 12);
      await twin.discard(0, 7 * piece);
      const aborted = new AbortController();
      // Where nothing moves there is no step to be told of.
      if (!moves(lab.capabilities)) aborted.abort();
      const { signal } = aborted;
      await failsWith('ERR_ABORTED', 'compact', () =>
        twin.compact({ signal, onProgress: () => aborted.abort() }),
      );
      await twin.verify('after the abort');
      await lab.assertClean(twin.disk);
      await twin.reopen();
      await compactAndVerify(lab, twin);
    },
  },
  {
    name: 'requests beside it are neither lost nor disturbed',
    async run(lab) {
      const { twin, piece } = await filled(lab, 8, new DelayedFolder(lab.folder, lab.seed));
      await twin.discard(piece, 4 * piece);
      const compacted = [twin.compact(), twin.compact()];
      for (let step = 0; step < 12; step++) {
        const offset = lab.random.below(twin.size - piece);
        if (step % 3 === 0) await twin.readAndCompare(offset, piece);
        else await twin.write(offset, 1 + lab.random.below(piece));
        if (step === 6) compacted.push(twin.compact());
      }
      await Promise.all(compacted);
      await twin.verify('after all of them');
    },
  },
];

async function toggleSnapshot(lab: Lab, twin: Twin, name: string): Promise<void> {
  if (!twin.model.snapshots.has(name)) await twin.createSnapshot(name);
  else if (lab.random.below(3) === 0) await twin.applySnapshot(name);
  else await twin.deleteSnapshot(name);
}

/** A disk with holes before its data, over a snapshot where there are any. */
async function holed(lab: Lab, folder: StorageFolder): Promise<Filled> {
  const { twin, piece } = await filled(lab, 2, folder);
  if (hasSnapshots(lab.capabilities)) await twin.createSnapshot('kept');
  await twin.fill();
  if (hasSnapshots(lab.capabilities)) await twin.createSnapshot('gone');
  await twin.write(piece / 2, piece);
  if (hasSnapshots(lab.capabilities)) await twin.deleteSnapshot('gone');
  await twin.write(0, 700);
  await twin.disk.flush();
  return { twin, piece };
}

const surviving: readonly Scenario[] = [
  {
    name: 'a compact that fails anywhere leaves the image as it reads, and can be repeated',
    async run(lab) {
      const faulty = new FaultFolder(lab.folder);
      const { twin, piece } = await holed(lab, faulty);
      for (const kind of ['EIO', 'ENOSPC'] as const) {
        for (let nth = 1; ; nth++) {
          assert.ok(nth < 200, 'a compact makes so many calls?');
          faulty.arm({ kind, methods: ['write', 'flush', 'truncate', 'zero', 'read'], nth });
          const error = await failureOf(() => twin.compact());
          faulty.disarm();
          if (error === undefined) break;
          assertCoded(error, `compact with a failure of call ${nth}`);
          await twin.verify(`after a failure of call ${nth}`);
          if (nth % 3 === 0) await twin.reopen();
          await twin.write(lab.random.below(piece), piece);
          await twin.discard(lab.random.below(2) * piece, piece);
          await lab.assertClean(twin.disk);
        }
      }
      await twin.verifySnapshots();
    },
  },
];

const refusing: readonly Scenario[] = [
  {
    name: 'a disk that is read-only is not compacted',
    async run(lab) {
      const { twin } = await filled(lab, 1);
      await twin.disk.close();
      twin.disk = await lab.open({ readOnly: true });
      await failsWith('ERR_READ_ONLY', 'compact', () => twin.compact());
    },
  },
  {
    name: 'a format that only trims says so when data are to be moved',
    when: ({ compact }) => compact === 'trim',
    async run(lab) {
      const { twin } = await filled(lab, 1);
      await failsWith('ERR_UNSUPPORTED', 'compact', () => twin.compact({ move: true }));
    },
  },
];

const absent: Scenario = {
  name: 'a format that does not compact says so, and changes nothing',
  when: ({ compact }) => compact === 'none',
  async run(lab) {
    const { twin } = await filled(lab, 2);
    const before = await fileBytes(lab);
    for (const move of [false, true])
      await failsWith('ERR_UNSUPPORTED', 'compact', () => twin.compact({ move }));
    assert.equal(await fileBytes(lab), before);
  },
};

const present = [...trimming, ...moving, ...surviving, ...refusing].map(
  (scenario): Scenario => ({
    ...scenario,
    when: (capabilities) => capabilities.compact !== 'none' && (scenario.when?.(capabilities) ?? true),
  }),
);

export const compaction: ScenarioGroup = { name: 'compact', scenarios: [...present, absent] };
