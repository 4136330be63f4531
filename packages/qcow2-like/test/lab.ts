import { execFile, spawnSync } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import {
  createDisk,
  type Disk,
  MemoryFolder,
  openDisk,
  type OpenDiskOptions,
  type OptionValues,
  type StorageFolder,
} from '@cowlab/core';
import { qcow2 } from '@cowlab/qcow2-like';
import { afterEach, beforeEach } from 'vitest';

const run = promisify(execFile);

export const KIB = 1024;
export const MIB: number = 1024 * KIB;

export const qemuIsMissing: boolean = spawnSync('qemu-img', ['--version']).status !== 0;

export async function bytesIn(folder: MemoryFolder, file = 'disk.qcow2'): Promise<Buffer> {
  const storage = await folder.open(file, { readOnly: true });
  const bytes = Buffer.alloc(storage.size());
  await storage.read(0, bytes);
  await storage.close();
  return bytes;
}

export async function put(folder: MemoryFolder, bytes: Uint8Array, file = 'disk.qcow2'): Promise<void> {
  if (await folder.exists(file)) await folder.remove(file);
  const storage = await folder.create(file);
  await storage.write(0, bytes);
  await storage.close();
}

export function open(folder: StorageFolder, readOnly = false, options: OptionValues = {}): Promise<Disk> {
  return openDisk({ folder, file: 'disk.qcow2' }, { drivers: [qcow2], format: 'qcow2', readOnly, options });
}

/** A folder with a new `disk.qcow2`. */
export async function newImage(size: number, options: OptionValues = {}): Promise<MemoryFolder> {
  const folder = new MemoryFolder();
  await createDisk({ folder, file: 'disk.qcow2' }, { driver: qcow2, size, options });
  return folder;
}

export async function bytesOf(disk: Disk): Promise<Buffer> {
  const bytes = Buffer.alloc(disk.size);
  await disk.read(0, bytes);
  return bytes;
}

/** Bytes that say where they were written. */
export function bufferOf(length: number, seed: number): Buffer {
  const bytes = Buffer.alloc(length);
  for (let i = 0; i < length; i += 1) bytes[i] = (i * 7 + seed * 31 + (i >> 9)) & 0xff;
  return bytes;
}

/** The first L1 and L2 table and the first refcount block, as the header has them. */
export function placesIn(image: Buffer): {
  l1: number;
  l2: number;
  refcountTable: number;
  refcountBlock: number;
} {
  const at = (offset: number): number => Number(image.readBigUInt64BE(offset) & 0x00ff_ffff_ffff_fe00n);
  const l1 = at(40);
  const refcountTable = at(48);
  return { l1, l2: at(l1), refcountTable, refcountBlock: at(refcountTable) };
}

/** QEMU's tools in one folder of the file system, and our driver beside them. */
export class Qemu {
  folder = '';

  /** In a new folder for each test, which goes with it. */
  static forEachTest(): Qemu {
    const qemu = new Qemu();
    beforeEach(async () => {
      qemu.folder = await mkdtemp(join(tmpdir(), 'cowlab-qcow2-'));
    });
    afterEach(() => rm(qemu.folder, { recursive: true, force: true }));
    return qemu;
  }

  path(name: string): string {
    return join(this.folder, name);
  }

  open(file = 'disk.qcow2', options: OpenDiskOptions = {}): Promise<Disk> {
    return openDisk(this.path(file), { drivers: [qcow2], format: 'qcow2', ...options });
  }

  async img(...args: string[]): Promise<string> {
    const { stdout } = await run('qemu-img', args, { cwd: this.folder });
    return stdout;
  }

  async io(file: string, ...commands: string[]): Promise<void> {
    const args = ['-f', 'qcow2', ...commands.flatMap((one) => ['-c', one]), file];
    const { stdout } = await run('qemu-io', args, { cwd: this.folder });
    if (/failed|error/i.test(stdout)) throw new Error(stdout);
  }

  /** What QEMU reads from an image, or from a snapshot in it. */
  async bytes(file: string, ...options: string[]): Promise<Buffer> {
    await this.img('convert', '-f', 'qcow2', '-O', 'raw', ...options, file, 'converted.raw');
    return readFile(this.path('converted.raw'));
  }

  /** Fails unless QEMU finds the image clean and equal to `expected`. */
  async assertSees(file: string, expected: Uint8Array): Promise<void> {
    await this.img('check', '-f', 'qcow2', file);
    await writeFile(this.path('expected.raw'), expected);
    await this.img('compare', '-f', 'qcow2', '-F', 'raw', file, 'expected.raw');
  }
}
