import assert from 'node:assert/strict';
import { type Capabilities, type Disk, isCowlabError } from '@cowlab/core';
import { assertCoded, assertSameBytes, failureOf } from '../expect.ts';
import { type Fault, FaultFolder, type FaultKind } from '../fault-folder.ts';
import type { StorageCall } from '../intercepted-folder.ts';
import { type Lab, mainFile } from '../lab.ts';
import { pattern } from '../random.ts';
import { hasSnapshots, type Scenario, type ScenarioGroup } from '../subject.ts';
import { contentsOf } from '../twin.ts';

/*
 * What a failed call may leave. The n-th call below fails while the disk does its work, for every n until the
 * work gets through untouched.
 *
 *     the fault fired      →  some call failed, with the code of the fault
 *     it passed again      →  the disk closes; the image reopens and checks clean
 *     it lasts, or a       →  whatever close says, the image reopens: no corruption, leaks only where the
 *     switch is in doubt      driver declares them for a power loss
 *     always               →  every sector is as before or as after the work, and so is the size
 */

type Methods = readonly StorageCall['method'][];

const sectorBytes = 512;
/** More than any work below takes: who needs more is not tried to the end, and fails. */
const maxFaults = 500;
const spaceTaking: Methods = ['write', 'zero', 'truncate', 'create'];
const anyRead: Methods = ['read', 'open', 'list'];
const anyChange: Methods = [
  'write',
  'zero',
  'truncate',
  'flush',
  'create',
  'rename',
  'link',
  'remove',
  'flushFolder',
];

interface Work {
  readonly when: (capabilities: Capabilities) => boolean;
  /** Brings the disk into the state before. */
  prepare(disk: Disk, lab: Lab): Promise<void>;
  act(disk: Disk, lab: Lab): Promise<void>;
  /** Where a switch is in doubt after a failure, the driver may leave what it may leave after a power loss. */
  readonly switches?: boolean;
}

async function writeAndKeep(disk: Disk, lab: Lab): Promise<void> {
  await disk.write(0, pattern(1, 4 * lab.stride));
  await disk.flush();
  if (hasSnapshots(lab.capabilities)) await disk.snapshots.create('kept');
}

const overwriting: Work = {
  when: () => true,
  prepare: writeAndKeep,
  async act(disk, lab) {
    await disk.writeZeroes(2 * lab.stride, lab.stride);
    await disk.discard(3 * lab.stride, lab.stride);
    await disk.flush();
    // What was given back may be taken again here, and must not be seen.
    await disk.write(512, pattern(2, lab.stride));
    await disk.write(4 * lab.stride + 1024, pattern(3, 1024));
    await disk.flush();
  },
};

const snapshotting: Work = {
  when: hasSnapshots,
  prepare: writeAndKeep,
  async act(disk, lab) {
    await disk.snapshots.create('made');
    await disk.write(0, pattern(4, lab.stride));
    await disk.snapshots.delete('kept');
    await disk.flush();
  },
};

const applying: Work = {
  when: hasSnapshots,
  async prepare(disk, lab) {
    await writeAndKeep(disk, lab);
    await disk.write(lab.stride - 512, pattern(5, 3 * lab.stride));
  },
  async act(disk) {
    await disk.snapshots.apply('kept');
  },
};

const renaming: Work = {
  when: ({ renameSnapshots }) => renameSnapshots,
  prepare: writeAndKeep,
  async act(disk, lab) {
    await disk.write(0, pattern(6, lab.stride));
    await disk.snapshots.rename('kept', 'renamed');
  },
};

const growing: Work = {
  switches: true,
  when: ({ resize }) => resize !== 'none',
  async prepare(disk, lab) {
    await disk.write(0, pattern(1, 3 * lab.stride));
    await disk.flush();
  },
  async act(disk, lab) {
    await disk.resize(lab.size(40));
  },
};

const codeOf = { EIO: 'ERR_IO', ENOSPC: 'ERR_NO_SPACE', short: 'ERR_NO_SPACE' } as const;

/** The disk's bytes before and after the work, and those of the snapshots before it. */
interface Rehearsal {
  readonly states: readonly Uint8Array[];
  readonly kept: Uint8Array | undefined;
}

function assertOldOrNew(actual: Uint8Array, states: readonly Uint8Array[], what: string): void {
  const sizes = states.map((state) => state.length);
  assert.ok(sizes.includes(actual.length), `${what}: the disk has ${actual.length} bytes`);
  const zeros = new Uint8Array(sectorBytes);
  for (let start = 0; start < actual.length; start += sectorBytes) {
    const sector = actual.subarray(start, start + sectorBytes);
    const known = states.some((state) => {
      const old = state.subarray(start, start + sectorBytes);
      return Buffer.compare(sector, old.length === 0 ? zeros.subarray(0, sector.length) : old) === 0;
    });
    assert.ok(known, `${what}: the sector at ${start} is neither old nor new`);
  }
}

async function snapshotContents(disk: Disk, name: string): Promise<Uint8Array> {
  const snapshot = await disk.snapshots.open(name);
  const bytes = await contentsOf(snapshot);
  await snapshot.close();
  return bytes;
}

/** What the work does without faults. */
async function rehearse(lab: Lab, work: Work): Promise<Rehearsal> {
  await lab.create({ file: 'rehearsal.img' });
  const disk = await lab.open({ file: 'rehearsal.img' });
  await work.prepare(disk, lab);
  const before = await contentsOf(disk);
  const hasOne = (await disk.snapshots.list()).length > 0;
  const kept = hasOne ? await snapshotContents(disk, 'kept') : undefined;
  await work.act(disk, lab);
  const states = [before, await contentsOf(disk)];
  await disk.close();
  return { states, kept };
}

async function removeAll(lab: Lab): Promise<void> {
  for (const name of await lab.folder.list()) await lab.folder.remove(name);
}

/** One run of the work with one fault; says whether the fault was met at all. */
async function runWith(lab: Lab, work: Work, fault: Fault, rehearsal: Rehearsal): Promise<boolean> {
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
  const allowed =
    fault.lasting === true || work.switches === true ? lab.capabilities.afterPowerLoss : 'clean';
  await verifyAfter(lab, what, allowed, rehearsal);
  await removeAll(lab);
  return met;
}

async function verifyAfter(
  lab: Lab,
  what: string,
  allowed: 'clean' | 'leaks',
  { states, kept }: Rehearsal,
): Promise<void> {
  const disk = await lab.open();
  try {
    await lab.assertClean(disk, allowed);
  } catch (error) {
    throw new Error(`${what}: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
  }
  assertOldOrNew(await contentsOf(disk), states, what);
  for (const { name } of await disk.snapshots.list()) {
    // A snapshot that the work itself makes is of the state before, too.
    assertSameBytes(await snapshotContents(disk, name), kept ?? states[0]!, `${what}: snapshot ${name}`);
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

interface Strike {
  readonly kind: FaultKind;
  readonly methods: Methods;
}

const broken: Strike = { kind: 'EIO', methods: anyChange };
const full: Strike = { kind: 'ENOSPC', methods: spaceTaking };
const half: Strike = { kind: 'short', methods: ['write'] };
const unreadable: Strike = { kind: 'EIO', methods: anyRead };

/** `lasting`: until the disk is closed. */
function faultScenario(name: string, work: Work, strikes: readonly Strike[], lasting: boolean): Scenario {
  return {
    name: `${name}, ${lasting ? 'and it lasts' : 'once'}`,
    // Faults are injected above the storage: what lies below makes no difference to them.
    place: 'memory',
    when: work.when,
    async run(lab) {
      const rehearsal = await rehearse(lab, work);
      await removeAll(lab);
      for (const strike of strikes) {
        let met = true;
        for (let nth = 1; met; nth++) {
          assert.ok(nth <= maxFaults, `${strike.kind}: the work makes more than ${maxFaults} calls`);
          met = await runWith(lab, work, { ...strike, nth, lasting }, rehearsal);
        }
      }
    },
  };
}

const writing = 'an error in the middle of writes reaches the caller and leaves a clean image';
const making = 'an error while snapshots are made and deleted leaves them wholly there or not at all';
const goingBack = 'an error while a snapshot is applied leaves the disk before or after it';
const calling = 'an error while a snapshot is renamed leaves it whole under a name';
const enlarging = 'an error while the disk grows leaves it before or after that';

const scenarios: readonly Scenario[] = [
  faultScenario(writing, overwriting, [broken, full, half, unreadable], false),
  faultScenario(writing, overwriting, [broken, full], true),
  faultScenario(making, snapshotting, [broken, full, half, unreadable], false),
  faultScenario(making, snapshotting, [broken, full], true),
  faultScenario(goingBack, applying, [broken, full, half, unreadable], false),
  faultScenario(goingBack, applying, [broken, full], true),
  faultScenario(calling, renaming, [broken, full, half, unreadable], false),
  faultScenario(calling, renaming, [broken, full], true),
  faultScenario(enlarging, growing, [broken, full, half], false),
  faultScenario(enlarging, growing, [broken, full], true),
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
