import type { Lab } from '../lab.ts';
import { pattern } from '../random.ts';
import { type GuestEvent, resized } from './contract.ts';
import { CrashFolder } from './crash-folder.ts';
import { baseFile, Guest, openIn, otherFile } from './guest.ts';
import { PageFolder } from './page-folder.ts';
import type { History } from './verify.ts';
import type { CrashWorkload } from './workloads.ts';

async function createBacking(lab: Lab, folder: PageFolder, file: string, size: number): Promise<Uint8Array> {
  const bytes = pattern(lab.random.below(0x4000_0000), size);
  await lab.create({ folder, file, size });
  const base = await lab.open({ folder, file });
  await base.write(0, bytes);
  await base.close();
  return bytes;
}

/** A new image, over a backing where the workload has one; what the disk reads as. */
async function createImage(lab: Lab, folder: PageFolder, workload: CrashWorkload): Promise<Uint8Array> {
  const size = lab.size(workload.strides ?? 24);
  if (workload.backing === undefined) {
    await lab.create({ folder, size });
    return new Uint8Array(size);
  }
  const backingBytes = workload.backing * lab.stride;
  const bytes = await createBacking(lab, folder, baseFile, backingBytes);
  if (workload.otherBacking === true) await createBacking(lab, folder, otherFile, backingBytes);
  await lab.create({ folder, size, backing: { file: baseFile, format: lab.driver.name } });
  return resized(bytes, size);
}

/** Runs the workload; what reached the folder meanwhile, and what the guest may count on. */
export async function recordHistory(lab: Lab, workload: CrashWorkload): Promise<History> {
  const inner = new PageFolder();
  const { random, stride } = lab;
  const start = {
    disk: await createImage(lab, inner, workload),
    snapshots: new Map(),
    backing: 'named',
  } as const;
  const preparing = await openIn(lab, inner, { readOnly: false });
  const before = new Guest(preparing, { position: 0 }, start, { random, stride });
  await workload.prepare?.(before);
  await before.close();
  const folder = new CrashFolder(inner);
  if (workload.runClosed !== undefined) {
    await workload.runClosed(lab, folder);
    const events: GuestEvent[] = [...before.snapshots].flatMap(([name, disk]) => [
      { kind: 'creating', name, disk, at: 0 },
      { kind: 'created', name, disk, at: 0 },
    ]);
    return {
      log: folder.log,
      events: [{ kind: 'flushed', disk: before.model, at: 0 }, ...events],
      opened: 0,
    };
  }
  const disk = await openIn(lab, folder, { readOnly: false, copyOnRead: workload.copyOnRead === true });
  const opened = folder.position;
  const { model, snapshots } = before;
  const guest = new Guest(disk, folder, { ...start, disk: model, snapshots }, { random, stride });
  for (const [index, event] of guest.events.entries()) guest.events[index] = { ...event, at: 0 };
  await workload.run?.(guest);
  await guest.close();
  return { log: folder.log, events: guest.events, opened };
}
