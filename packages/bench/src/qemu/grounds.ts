import fs from 'node:fs';
import path from 'node:path';
import { openDisk } from '@cowlab/core';
import { drivers } from '../formats.ts';
import { fill, IMAGE_FILE, type Lab } from '../lab.ts';
import { type Target, qemuImg } from './tools.ts';

/*
 * The images that both sides work on. QEMU makes them, so that neither side has the layout that it likes better:
 *
 *   filled       every byte written; stays what it is under reads and overwrites
 *   empty        nothing written; made anew before each batch
 *   first pass   every cluster held by a snapshot (QCOW2) or by a parent (VMDK); made anew before each batch
 *
 * Everything is on the device before a stopwatch starts: nobody pays for what another one wrote.
 */

export interface Ground extends Target {
  /** Before every batch. */
  prepare(): Promise<void>;
}

async function create(format: string, file: string, ...rest: string[]): Promise<void> {
  await fs.promises.mkdir(path.dirname(file), { recursive: true });
  await qemuImg('create', '-q', '-f', format, ...rest.slice(0, -1), file, ...rest.slice(-1));
}

async function makeFilled(format: string, file: string, bytes: number): Promise<void> {
  await create(format, file, String(bytes));
  const disk = await openDisk(file, { drivers, format });
  await fill(disk, 0, bytes, () => undefined);
  await disk.close();
}

/** Sees every file of a folder to the device. */
export async function settle(folder: string): Promise<void> {
  for (const name of await fs.promises.readdir(folder)) {
    const file = await fs.promises.open(path.join(folder, name), 'r+');
    await file.datasync();
    await file.close();
  }
}

/** `name` is of the folder, which no other ground has. */
export async function filledGround(lab: Lab, format: string, name: string, bytes: number): Promise<Ground> {
  const folder = lab.path(name);
  const file = path.join(folder, IMAGE_FILE);
  await makeFilled(format, file, bytes);
  return { format, file, prepare: () => settle(folder) };
}

export function emptyGround(lab: Lab, format: string, name: string, bytes: number): Ground {
  const folder = lab.path(name);
  const file = path.join(folder, IMAGE_FILE);
  const prepare = async (): Promise<void> => {
    await lab.discard(folder);
    await create(format, file, String(bytes));
    await settle(folder);
  };
  return { format, file, prepare };
}

const BASE_FILE = 'base.img';

export async function firstPassGround(
  lab: Lab,
  format: string,
  name: string,
  bytes: number,
): Promise<Ground> {
  const kept = lab.path(`${name}-kept`);
  const folder = lab.path(name);
  const file = path.join(folder, IMAGE_FILE);
  await fs.promises.mkdir(folder, { recursive: true });
  if (format === 'vmdk') {
    await makeFilled(format, path.join(folder, BASE_FILE), bytes);
    const prepare = async (): Promise<void> => {
      await fs.promises.rm(file, { force: true });
      await qemuImg('create', '-q', '-f', format, '-b', BASE_FILE, '-F', format, file);
      await settle(folder);
    };
    return { format, file, prepare };
  }
  const original = path.join(kept, IMAGE_FILE);
  await makeFilled(format, original, bytes);
  await qemuImg('snapshot', '-c', 'held', original);
  const prepare = async (): Promise<void> => {
    await fs.promises.copyFile(original, file);
    await settle(folder);
  };
  return { format, file, prepare };
}
