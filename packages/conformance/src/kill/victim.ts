import { writeSync } from 'node:fs';
import { type BlockDriver, type Disk, type ImageLocation, openDisk } from '@cowlab/core';
import { pattern, Random } from '../random.ts';
import { chooseStep, type Step } from './steps.ts';

/* The process that is to be killed: it works on a disk until that happens. */

/** What a victim is to do. */
export interface VictimOrder {
  /** The driver's name. */
  readonly driver: string;
  readonly workload: string;
  readonly seed: number;
  /** The image, a file. */
  readonly file: string;
  readonly stride: number;
}

const standardOutput = 1;

/** Says a line, and is not back before the system has it: what was said is heard, whatever becomes of this process. */
function say(line: string): void {
  writeSync(standardOutput, `${line}\n`);
}

/** What a victim says when a step has returned. */
export const doneLine = 'done';

async function namesIn({ capabilities, snapshots }: Disk): Promise<string[]> {
  return capabilities.snapshots === 'none' ? [] : (await snapshots.list()).map(({ name }) => name);
}

async function doStep(disk: Disk, step: Step): Promise<void> {
  switch (step.kind) {
    case 'write':
      return disk.write(step.offset, pattern(step.tag, step.length));
    case 'writeZeroes':
    case 'discard':
      return disk[step.kind](step.offset, step.length);
    case 'create':
      return void (await disk.snapshots.create(step.name));
    case 'delete':
    case 'apply':
      return disk.snapshots[step.kind](step.name);
    case 'rename':
      return disk.snapshots.rename(step.name, step.newName);
    case 'resize':
      return disk.resize(step.size);
    case 'flush':
      return disk.flush();
    default:
      return disk.close();
  }
}

/**
 * The whole of a victim's program: opens the image, and does one step after the other; says each before it begins, and
 * when it has returned. Never comes back; rejects when a step fails. `image` is the order's file, unless a victim means
 * to deceive.
 */
export async function runVictim(
  driver: BlockDriver,
  order: VictimOrder,
  image: ImageLocation = order.file,
): Promise<never> {
  const { workload, seed, stride } = order;
  const random = new Random(seed);
  const open = (): Promise<Disk> => openDisk(image, { drivers: [driver], format: driver.name });
  let disk = await open();
  for (let count = random.below(0x4000_0000); ; count += 1) {
    const { size, capabilities } = disk;
    const snapshots = await namesIn(disk);
    const step = chooseStep(workload, { random, capabilities, stride, size, snapshots, count });
    say(JSON.stringify(step));
    await doStep(disk, step);
    if (step.kind === 'reopen') disk = await open();
    say(doneLine);
  }
}
