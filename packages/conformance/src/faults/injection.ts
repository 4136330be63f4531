import assert from 'node:assert/strict';
import { type Disk, MemoryFolder, type StorageFolder } from '@cowlab/core';
import { assertSameBytes, failureOf } from '../expect.ts';
import { type Fault, FaultFolder } from '../fault-folder.ts';
import type { Lab } from '../lab.ts';
import { baseFile } from '../overlay.ts';
import { pattern, type Random } from '../random.ts';
import { contentsOf } from '../twin.ts';
import { assertReported, Guest, sectorNotIn } from './guest.ts';
import { after, type DiskState, perform } from './steps.ts';
import type { Workload } from './workloads.ts';

/*
 * The n-th storage call of a workload fails. A point is one n; every point starts from a copy of the same files.
 *
 *     once      the step is tried again, and works or fails with a code; then the rest, and the disk closes
 *     lasting   every later call of these kinds fails as well, until the disk is closed
 *     a pair    a second call fails, a few calls after the first: in the driver's handling of the first, often
 *
 *     always    whoever called was told; the image reopens; what had been flushed is there, each other sector is as it
 *               was or became; snapshots are whole; check finds nothing, or leaks where the driver declares them for a
 *               power loss and the disk could not be closed; the image takes writes again
 */

/** The files before, and what they hold. */
export interface Stage {
  readonly files: MemoryFolder;
  readonly start: DiskState;
}

export async function setStage(lab: Lab, workload: Workload): Promise<Stage> {
  const { strides = 8, overBase = false, crashed = false } = workload;
  const files = new MemoryFolder();
  const size = lab.size(strides);
  let bytes: Uint8Array = new Uint8Array(size);
  if (overBase) {
    bytes = pattern(77, size);
    bytes.fill(0, 2 * lab.stride, 4 * lab.stride);
    await lab.create({ file: baseFile, size, folder: files });
    const base = await lab.open({ file: baseFile, folder: files });
    await base.write(0, bytes.subarray(0, 2 * lab.stride));
    await base.write(4 * lab.stride, bytes.subarray(4 * lab.stride));
    await base.close();
  }
  const backing = overBase ? { backing: { file: baseFile, format: lab.driver.name } } : {};
  await lab.create({ folder: files, size, ...backing });
  const disk = await lab.open({ folder: files });
  let start: DiskState = { bytes, snapshots: new Map() };
  for (const step of workload.prepare(lab)) {
    await perform(disk, step);
    start = after(start, step, disk.unitBytes);
  }
  const left = crashed ? await lab.copyFolder(files) : files;
  await disk.close();
  return { files: left, start };
}

/** How many calls of a workload a fault like this can hit. */
export async function countCalls(
  lab: Lab,
  workload: Workload,
  stage: Stage,
  fault: Omit<Fault, 'nth'>,
): Promise<number> {
  const { folder } = await runStruck(lab, workload, stage, { ...fault, nth: Number.POSITIVE_INFINITY });
  return folder.matching;
}

/** All points, or so many of them, spread evenly from a random first one. */
export function choosePoints(count: number, most: number, random: Random): number[] {
  if (count <= most) return Array.from({ length: count }, (_, index) => index + 1);
  const first = random.below(count);
  return Array.from(
    { length: most },
    (_, index) => ((first + Math.floor((index * count) / most)) % count) + 1,
  );
}

/** What is left of a struck run. */
interface Struck {
  readonly folder: FaultFolder;
  readonly guest: Guest;
  readonly closing: unknown;
}

/** The workload with one fault, up to and with the close. */
async function runStruck(lab: Lab, workload: Workload, stage: Stage, fault: Fault): Promise<Struck> {
  const { struck = 'steps', copyOnRead = false } = workload;
  const folder = new FaultFolder(await lab.copyFolder(stage.files));
  const lasting = fault.lasting === true;
  if (struck === 'open') folder.arm(fault);
  const disk = await openStruck(lab, folder, fault, copyOnRead);
  const guest = new Guest({ disk, folder, start: stage.start, kind: fault.kind, lasting, quiet: copyOnRead });
  if (struck === 'open') folder.disarm();
  if (struck === 'steps') folder.arm(fault);
  for (const step of workload.act(lab)) await guest.step(step);
  if (!lasting) {
    const seen = await folder.suspended(() => contentsOf(disk));
    assertSameBytes(seen, guest.visible.bytes, 'the disk before it is closed');
  }
  if (struck === 'close') folder.arm(fault);
  const before = folder.fired;
  const closing = await lab.closeAnyway(disk);
  assertReported(closing, folder.struck.slice(before), fault.kind, 'close');
  assert.ok(closing === undefined || folder.fired > 0, `close fails without a fault: ${String(closing)}`);
  folder.disarm();
  assert.deepEqual(folder.openFiles, [], 'files that were not closed');
  return { folder, guest, closing };
}

/** Opens the image; where that fails it has let go of all files, and can be done again. */
async function openStruck(lab: Lab, folder: FaultFolder, fault: Fault, copyOnRead: boolean): Promise<Disk> {
  for (;;) {
    const before = folder.fired;
    let disk: Disk | undefined;
    const failure = await failureOf(async () => (disk = await lab.open({ folder, copyOnRead })));
    assertReported(failure, folder.struck.slice(before), fault.kind, 'open');
    if (disk !== undefined) return disk;
    assert.ok(folder.fired > before, `open fails without a fault: ${String(failure)}`);
    assert.deepEqual(folder.openFiles, [], 'files that a failed open has not closed');
    if (fault.lasting === true) folder.disarm();
  }
}

/** One point. Throws when something is not as it has to be. */
export async function runPoint(
  lab: Lab,
  workload: Workload,
  stage: Stage,
  fault: Fault,
): Promise<{ readonly fired: number; readonly refused: number }> {
  const { folder, guest, closing } = await runStruck(lab, workload, stage, fault);
  const isWell = closing === undefined && guest.isCertain;
  // A second failure strikes the tidying up after the first: that may stay undone.
  const isTidy = fault.second === undefined && workload.crashed !== true && workload.switches !== true;
  const allowed = isWell && isTidy ? 'clean' : lab.capabilities.afterPowerLoss;
  await verifyAnew(lab, folder.inner, isWell ? [guest.visible] : guest.possible, allowed);
  return { fired: folder.fired, refused: guest.refused };
}

/** The image, opened anew from its bare files, is one of these states. */
async function verifyAnew(
  lab: Lab,
  folder: StorageFolder,
  possible: readonly DiskState[],
  allowed: 'clean' | 'leaks',
): Promise<void> {
  await letGoOfBacking(lab, folder);
  const disk = await lab.open({ folder });
  const bytes = await contentsOf(disk);
  const known = possible.map((state) => state.bytes);
  assert.ok(
    known.some(({ length }) => length === bytes.length),
    `the disk has ${bytes.length} bytes`,
  );
  assert.equal(sectorNotIn(bytes, known), undefined, 'the offset of a sector that was never there');
  await verifySnapshots(disk, possible);
  await lab.assertClean(disk, allowed);
  // The image is in use again, as if nothing had happened.
  const written = pattern(9, 2 * lab.stride);
  await disk.write(lab.stride, written);
  bytes.set(written, lab.stride);
  assert.equal(await lab.closeAnyway(disk), undefined, 'close after reopening');
  const again = await lab.open({ folder, readOnly: true });
  assertSameBytes(await contentsOf(again), bytes, 'a write after reopening');
  await lab.assertClean(again, allowed);
  await lab.closeAnyway(again);
}

/** A backing that the image names no longer goes: nothing may miss it. */
async function letGoOfBacking(lab: Lab, folder: StorageFolder): Promise<void> {
  if (!(await folder.exists(baseFile))) return;
  const disk = await lab.open({ folder, readOnly: true });
  const { backing } = await disk.info();
  await lab.closeAnyway(disk);
  if (backing === undefined) await folder.remove(baseFile);
}

async function verifySnapshots(disk: Disk, possible: readonly DiskState[]): Promise<void> {
  const names = (await disk.snapshots.list()).map(({ name }) => name);
  const lost = [...(possible[0]?.snapshots.keys() ?? [])].find(
    (name) => !names.includes(name) && possible.every(({ snapshots }) => snapshots.has(name)),
  );
  assert.equal(lost, undefined, 'a snapshot that is lost');
  for (const name of names) {
    const kept = possible.flatMap(({ snapshots }) => snapshots.get(name) ?? []);
    assert.ok(kept.length > 0, `there is a snapshot ${name}`);
    const snapshot = await disk.snapshots.open(name);
    const bytes = await contentsOf(snapshot);
    await snapshot.close();
    assert.equal(sectorNotIn(bytes, kept), undefined, `the offset of a wrong sector of snapshot ${name}`);
  }
}
