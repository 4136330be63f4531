import { execFile } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { promisify } from 'node:util';
import { createDisk, openDisk } from '@cowlab/core';
import { drivers } from '../formats.ts';
import { fill, IMAGE_FILE, type Lab } from '../lab.ts';
import { breathe } from '../measure.ts';

/*
 * The images that are served and converted: one content in four formats. Whoever works on one has a copy of it, and
 * all copies are made by the same call and are read once: how a file came into the page cache decides how fast it is
 * written to there. (A page of Linux' cache may have 4 KiB or 2 MiB; writing 4 KiB into one of the latter took seven
 * times as long on ext4 in Linux 6.18.)
 */

const run = promisify(execFile);

const imageFormats = ['raw', 'qcow2', 'fvd', 'vmdk'];

export interface Images {
  /** A file that nobody else has, in a folder of its own, in the page cache. */
  copy(format: string, name: string): Promise<string>;
  /** The original, to be read only. */
  original(format: string): string;
}

/** Makes an image of so many bytes in each format, all of them written. */
export async function makeImages(lab: Lab, name: string, bytes: number): Promise<Images> {
  const original = (format: string): string => path.join(lab.path(`${name}-${format}`), IMAGE_FILE);
  for (const format of imageFormats) {
    const made = await newFile(lab, `${name}-${format}-made`);
    await createImage(format, made, bytes);
    const disk = await openDisk(made, { drivers, format });
    await fill(disk, 0, bytes, () => undefined);
    await disk.close();
    await copyWarm(made, await newFile(lab, `${name}-${format}`));
    await lab.discard(path.dirname(made));
  }
  const copy = async (format: string, as: string): Promise<string> => {
    const file = await newFile(lab, as);
    await copyWarm(original(format), file);
    return file;
  };
  return { copy, original };
}

export async function newFile(lab: Lab, name: string): Promise<string> {
  const folder = lab.path(name);
  await fs.promises.mkdir(folder);
  return path.join(folder, IMAGE_FILE);
}

/** With the options that each format has without any. QEMU makes those that it knows. */
export async function createImage(format: string, file: string, bytes: number): Promise<void> {
  if (format !== 'fvd') return void (await run('qemu-img', ['create', '-q', '-f', format, file, `${bytes}`]));
  const driver = drivers.find(({ name }) => name === format)!;
  await createDisk(file, { driver, size: bytes, options: {} });
}

const READ_BYTES = 1024 * 1024;

async function copyWarm(from: string, to: string): Promise<void> {
  await fs.promises.copyFile(from, to);
  const file = await fs.promises.open(to, 'r+');
  try {
    await file.datasync();
    const target = Buffer.alloc(READ_BYTES);
    while ((await file.read(target, 0, READ_BYTES, null)).bytesRead > 0) await breathe();
  } finally {
    await file.close();
  }
}
