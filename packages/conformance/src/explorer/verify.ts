import assert from 'node:assert/strict';
import type { CheckReport, Disk } from '@cowlab/core';
import { assertSameBytes } from '../expect.ts';
import type { Lab } from '../lab.ts';
import type { Random } from '../random.ts';
import { hasSnapshots } from '../subject.ts';
import { contentsOf } from '../twin.ts';
import { assertDisk, assertSnapshots, type Contract, type GuestEvent } from './contract.ts';
import { type CrashLog, CrashFolder } from './crash-folder.ts';
import { baseFile, Guest, openIn, otherFile, type StartingPoint } from './guest.ts';
import type { PageFolder } from './page-folder.ts';

/*
 * The questions asked of every state that a power loss leaves. It
 *
 *     opens read-only, and for writing, to the same bytes
 *     has no corruption, and leaks only where the driver declares them
 *     is what the contract of the moment says: disk, snapshots, backing
 *     takes a write, a flush, a snapshot and a close, and has exactly that when it is opened again
 *
 * The last is recorded, so that a power loss during recovery can be looked at in its turn.
 */

/** A piece of work: what reached the folder, and what the guest may count on. */
export interface History {
  readonly log: CrashLog;
  readonly events: readonly GuestEvent[];
  /** The position when the disk was open. */
  readonly opened: number;
}

async function assertChecked(lab: Lab, disk: Disk): Promise<CheckReport> {
  return lab.assertClean(disk, lab.capabilities.afterPowerLoss);
}

/** Reads everything there is, and compares it with the contract. */
async function inspect(lab: Lab, folder: PageFolder, contract: Contract): Promise<StartingPoint> {
  let disk = await openIn(lab, folder, { readOnly: true });
  let backing: StartingPoint['backing'] = 'named';
  if (contract.backing !== 'named') {
    const { backing: named } = await disk.info();
    // A chain's own files are under the disk as well, listed or not, and are not let go of.
    const isNamed = named?.file === baseFile || named?.file === otherFile;
    assert.ok(!isNamed || contract.backing === 'either', 'the backing that was released is named');
    if (!isNamed) {
      // Nothing may come from it any more.
      await disk.close();
      for (const file of [baseFile, otherFile]) if (await folder.exists(file)) await folder.remove(file);
      disk = await openIn(lab, folder, { readOnly: true });
      backing = 'released';
    }
  }
  const bytes = await contentsOf(disk);
  assertDisk(bytes, contract);
  const snapshots = new Map<string, Uint8Array>();
  for (const { id, name } of await disk.snapshots.list()) {
    const snapshot = await disk.snapshots.open(id);
    snapshots.set(name, await contentsOf(snapshot));
    await snapshot.close();
  }
  assertSnapshots(snapshots, contract);
  await assertChecked(lab, disk);
  await disk.close();
  return { disk: bytes, snapshots, backing };
}

function freeName({ snapshots }: Guest): string {
  let name = 'after a crash';
  while (snapshots.has(name)) name += ' again';
  return name;
}

/** The first things that are done to an image after a crash: opened for writing, and used. */
async function goOn(
  lab: Lab,
  folder: CrashFolder,
  found: StartingPoint,
  random: Random,
): Promise<{ guest: Guest; opened: number }> {
  const disk = await openIn(lab, folder, { readOnly: false });
  const opened = folder.position;
  const guest = new Guest(disk, folder, found, { random, stride: lab.stride });
  // Whatever opening did must not show: the guest counts on what was found before it.
  for (const [index, event] of guest.events.entries()) guest.events[index] = { ...event, at: 0 };
  assertSameBytes(await contentsOf(disk), found.disk, 'the disk opened for writing');
  await assertChecked(lab, disk);
  await guest.writeSome(0, guest.strides, 12);
  await guest.flush();
  if (hasSnapshots(lab.capabilities)) await guest.create(freeName(guest));
  await guest.writeSome(0, guest.strides, 4);
  await guest.close();
  return { guest, opened };
}

/** Throws where the state is not as it must be. Returns what recovering from it wrote. */
export async function verifyState(
  lab: Lab,
  state: PageFolder,
  contract: Contract,
  random: Random,
): Promise<History> {
  const found = await inspect(lab, state, contract);
  const folder = new CrashFolder(state);
  const { guest, opened } = await goOn(lab, folder, found, random);
  const snapshots = [...guest.snapshots].map(([name, disk]) => ({ names: [name], disk, required: true }));
  const { backing } = found;
  await inspect(lab, state, { key: '', alternatives: [[guest.model]], snapshots, backing });
  return { log: folder.log, events: guest.events, opened };
}
