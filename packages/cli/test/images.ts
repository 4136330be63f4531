import { type BlockDriver, type Disk, openDisk } from '@cowlab/core';
import { drivers } from '../src/formats.ts';
import { mustRun } from './lab.ts';

export const MiB: number = 1024 * 1024;

export const formats: string[] = drivers.map(({ name }) => name);

/** The formats whose capabilities say so. */
export function formatsWith(has: (capabilities: BlockDriver['capabilities']) => boolean): string[] {
  return drivers.filter(({ capabilities }) => has(capabilities)).map(({ name }) => name);
}

/** The formats that qemu-img knows too. */
export const judged: string[] = formats.filter((name) => ['raw', 'qcow2', 'vmdk'].includes(name));

/** Changes an image through the library, as a guest would. */
async function edit(file: string, format: string, change: (disk: Disk) => Promise<void>): Promise<void> {
  const disk = await openDisk(file, { drivers, format });
  await change(disk);
  await disk.close();
}

export async function fill(
  file: string,
  format: string,
  offset: number,
  length: number,
  byte: number,
): Promise<void> {
  await edit(file, format, async (disk) => disk.write(offset, new Uint8Array(length).fill(byte)));
}

/** A 16 MiB image with bytes 1 at 1 MiB (64 KiB), 2 at 5 MiB + 1000 (3 bytes), 3 in the last 4 KiB. */
export async function makeSample(file: string, format: string): Promise<void> {
  await mustRun('create', '-q', '-f', format, file, '16M');
  await fill(file, format, MiB, 65_536, 1);
  await fill(file, format, 5 * MiB + 1000, 3, 2);
  await fill(file, format, 16 * MiB - 4096, 4096, 3);
}

/** A format that images of `format` can have under them; VMDK chains are VMDK all the way down. */
export function baseFormatOf(format: string): string {
  return format === 'vmdk' ? 'vmdk' : 'raw';
}
