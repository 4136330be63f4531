import assert from 'node:assert/strict';
import { type Disk, isCowlabError } from '@cowlab/core';
import { assertCoded, assertSameBytes, failureOf } from '../expect.ts';
import { type Fault, FaultFolder, type FaultKind } from '../fault-folder.ts';
import type { StorageCall } from '../intercepted-folder.ts';
import { type Lab, mainFile } from '../lab.ts';
import { pattern } from '../random.ts';
import { hasSnapshots, type Scenario, type ScenarioGroup } from '../subject.ts';
import { contentsOf } from '../twin.ts';

/*
 * What a failed call may leave. The n-th write (or flush) below fails while the disk does its work, for
 * every n until the work gets through untouched.
 *
 *     the fault fired      →  some call failed, with the code of the fault
 *     it passed again      →  the disk closes; the image reopens and checks clean
 *     it lasts             →  whatever close says, the image reopens: no corruption, leaks only where the
 *                             driver declares them for a power loss
 *     always               →  every sector is as before or as after the work
 */

const sectorBytes = 512;
const maxFaults = 40;
const spaceTaking: readonly StorageCall['method'][] = ['write'];
const anyChange: readonly StorageCall['method'][] = [
  'write',
  'zero',
  'flush',
  'create',
  'rename',
  'link',
  'flushFolder',
];

interface Work {
  /** Brings the disk into the state before. */
  prepare(disk: Disk, lab: Lab): Promise<void>;
  act(disk: Disk, lab: Lab): Promise<void>;
}

const overwriting: Work = {
  async prepare(disk, lab) {
    await disk.write(0, pattern(1, 3 * lab.stride));
    await disk.flush();
    if (hasSnapshots(lab.capabilities)) await disk.snapshots.create('kept');
  },
  async act(disk, lab) {
    await disk.write(512, pattern(2, lab.stride));
    await disk.write(4 * lab.stride + 1024, pattern(3, 1024));
    await disk.flush();
    await disk.writeZeroes(2 * lab.stride, lab.stride);
    await disk.flush();
  },
};

const snapshotting: Work = {
  prepare: (disk, lab) => overwriting.prepare(disk, lab),
  async act(disk, lab) {
    await disk.snapshots.create('made');
    await disk.write(0, pattern(4, lab.stride));
    await disk.snapshots.delete('kept');
    await disk.flush();
  },
};

const codeOf = { EIO: 'ERR_IO', ENOSPC: 'ERR_NO_SPACE', short: 'ERR_NO_SPACE' } as const;

function assertOldOrNew(actual: Uint8Array, states: readonly Uint8Array[], what: string): void {
  for (let start = 0; start < actual.length; start += sectorBytes) {
    const sector = actual.subarray(start, start + sectorBytes);
    const known = states.some(
      (state) => Buffer.compare(sector, state.subarray(start, start + sectorBytes)) === 0,
    );
    assert.ok(known, `${what}: the sector at ${start} is neither old nor new`);
  }
}

/** The disk's bytes before and after the work, as a rehearsal without faults leaves them. */
async function statesOf(lab: Lab, work: Work): Promise<{ states: Uint8Array[]; kept: Uint8Array }> {
  await lab.create({ file: 'rehearsal.img' });
  const disk = await lab.open({ file: 'rehearsal.img' });
  await work.prepare(disk, lab);
  const kept = await contentsOf(disk);
  await work.act(disk, lab);
  const states = [kept, await contentsOf(disk)];
  await disk.close();
  return { states, kept };
}

async function removeAll(lab: Lab): Promise<void> {
  for (const name of await lab.folder.list()) await lab.folder.remove(name);
}

/** One run of the work with one fault; says whether the fault was met at all. */
async function runWith(
  lab: Lab,
  work: Work,
  fault: Fault,
  states: Uint8Array[],
  kept: Uint8Array,
): Promise<boolean> {
  const what = `${fault.kind} at ${fault.methods.join('/')} ${fault.nth}`;
  const folder = new FaultFolder(lab.folder);
  await lab.create();
  const disk = await lab.open({ folder });
  await work.prepare(disk, lab);
  folder.arm(fault);
  const failure = await failureOf(() => work.act(disk, lab));
  const met = folder.fired > 0;
  if (met) {
    assert.ok(isCowlabError(failure, codeOf[fault.kind]), `${what} was not reported: ${String(failure)}`);
  } else assert.equal(failure, undefined, `${what}: failed without a fault`);
  if (fault.lasting !== true) folder.disarm();
  assertCoded(await lab.closeAnyway(disk), `${what}: close`);
  folder.disarm();
  await verifyAfter(lab, what, fault, states, kept);
  await removeAll(lab);
  return met;
}

async function verifyAfter(
  lab: Lab,
  what: string,
  fault: Fault,
  states: readonly Uint8Array[],
  kept: Uint8Array,
): Promise<void> {
  const disk = await lab.open();
  try {
    await lab.assertClean(disk, fault.lasting === true ? lab.capabilities.afterPowerLoss : 'clean');
  } catch (error) {
    throw new Error(`${what}: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
  }
  assertOldOrNew(await contentsOf(disk), states, what);
  for (const { name } of await disk.snapshots.list()) {
    const snapshot = await disk.snapshots.open(name);
    assertSameBytes(await contentsOf(snapshot), kept, `${what}: snapshot ${name}`);
    await snapshot.close();
  }
  // The image is in use again, as if nothing had happened.
  const bytes = pattern(9, 2 * lab.stride);
  await disk.write(lab.stride, bytes);
  await disk.close();
  const again = await lab.open({ file: mainFile, readOnly: true });
  const found = new Uint8Array(bytes.length);
  await again.read(lab.stride, found);
  assertSameBytes(found, bytes, `${what}: a write after reopening`);
  await again.close();
}

function faultScenario(name: string, work: Work, kinds: readonly FaultKind[], lasting: boolean): Scenario {
  return {
    name: `${name}, ${lasting ? 'and it lasts' : 'once'}`,
    // Faults are injected above the storage: what lies below makes no difference to them.
    place: 'memory',
    when: (capabilities) => work === overwriting || hasSnapshots(capabilities),
    async run(lab) {
      const { states, kept } = await statesOf(lab, work);
      await removeAll(lab);
      for (const kind of kinds) {
        const methods = kind === 'EIO' ? anyChange : spaceTaking;
        let met = true;
        for (let nth = 1; met && nth <= maxFaults; nth++) {
          met = await runWith(lab, work, { kind, methods, nth, lasting }, states, kept);
          assert.ok(met || nth > 1, `${kind}: no call below was made`);
        }
      }
    },
  };
}

const writing = 'an error in the middle of writes reaches the caller and leaves a clean image';
const making = 'an error while snapshots are made and deleted leaves them wholly there or not at all';

const scenarios: readonly Scenario[] = [
  faultScenario(writing, overwriting, ['EIO', 'ENOSPC', 'short'], false),
  faultScenario(writing, overwriting, ['EIO', 'ENOSPC'], true),
  faultScenario(making, snapshotting, ['EIO', 'ENOSPC'], false),
  faultScenario(making, snapshotting, ['EIO'], true),
  {
    name: 'an error while reading reaches the caller, and the next read is fine',
    place: 'memory',
    async run(lab) {
      const folder = new FaultFolder(lab.folder);
      const twin = await lab.twin({ folder });
      await twin.fill();
      await twin.reopen();
      folder.arm({ kind: 'EIO', methods: ['read'], nth: 1, purpose: 'data' });
      const failure = await failureOf(() => twin.disk.read(lab.stride, new Uint8Array(lab.stride)));
      assert.ok(isCowlabError(failure, 'ERR_IO'), `expected ERR_IO, but: ${String(failure)}`);
      folder.disarm();
      await twin.verify('after the fault');
    },
  },
  {
    name: 'an error while opening reaches the caller, lets go of every file and changes none',
    place: 'memory',
    async run(lab) {
      const twin = await lab.twin();
      await twin.fill();
      if (hasSnapshots(lab.capabilities)) await twin.createSnapshot('kept');
      await twin.disk.close();
      const before = await lab.files();
      const folder = new FaultFolder(lab.folder);
      let met = true;
      for (let nth = 1; met; nth++) {
        folder.arm({ kind: 'EIO', methods: ['open', 'read'], nth });
        const failure = await failureOf(() => lab.open({ folder }));
        met = failure !== undefined;
        if (met) {
          assert.ok(
            isCowlabError(failure, 'ERR_IO'),
            `fault ${nth}: expected ERR_IO, but: ${String(failure)}`,
          );
          assert.deepEqual(folder.openFiles, [], `fault ${nth}: files that were not closed`);
          for (const [name, bytes] of await lab.files()) {
            assertSameBytes(bytes, before.get(name) ?? new Uint8Array(0), `fault ${nth}: ${name}`);
          }
        }
        folder.disarm();
      }
      await lab.closeAll();
      twin.disk = await lab.open();
    },
  },
];

export const faults: ScenarioGroup = { name: 'faults', scenarios };
