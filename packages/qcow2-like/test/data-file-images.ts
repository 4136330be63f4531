import { createDisk, type Disk, MemoryFolder, type OptionValues, type StorageFolder } from '@cowlab/core';
import { qcow2 } from '@cowlab/qcow2-like';
import { expect } from 'vitest';
import { bufferOf, bytesOf, KIB, MIB, open } from './lab.ts';

export const SIZE: number = 4 * MIB + 512;
export const file = 'disk.qcow2';
export const dataFile: { data_file: string } = { data_file: 'disk.data' };
export const rawDataFile: { data_file: string; data_file_raw: boolean } = {
  ...dataFile,
  data_file_raw: true,
};

export async function make(options: OptionValues, folder = new MemoryFolder()): Promise<MemoryFolder> {
  await createDisk({ folder, file }, { driver: qcow2, size: SIZE, options });
  return folder;
}

/** Reads as the disk that was opened, and is clean. */
export async function assertReads(folder: StorageFolder, expected: Uint8Array): Promise<void> {
  const disk = await open(folder, true);
  expect((await bytesOf(disk)).equals(expected)).toBe(true);
  expect(await disk.check()).toMatchObject({ corruptions: 0, leaks: 0 });
  await disk.close();
}

/** One of everything that changes a disk. */
export async function work(disk: Disk, seed: number): Promise<void> {
  await disk.write(1000, bufferOf(300 * KIB, seed));
  await disk.write(SIZE - 700, bufferOf(700, seed + 1));
  await disk.writeZeroes(64 * KIB, 128 * KIB);
  await disk.discard(256 * KIB, 64 * KIB);
  await disk.write(70 * KIB, bufferOf(10 * KIB, seed + 2));
  await disk.writeZeroes(2 * MIB + 100, 70 * KIB);
  await disk.write(3 * MIB, bufferOf(64 * KIB, seed + 3));
}
