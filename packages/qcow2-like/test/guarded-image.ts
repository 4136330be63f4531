import { type Disk, type MemoryFolder, type OptionValues, readU64BE, viewOf } from '@cowlab/core';
import { expect } from 'vitest';
import { bufferOf, bytesIn, KIB, MIB, newImage, open, placesIn, put } from './lab.ts';

export const CLUSTER: number = 4 * KIB;
/** Of the guest: mapped, and nobody else's. */
export const VICTIM: number = 6 * CLUSTER;
/** The byte of the header that has the dirty bit and the corrupt bit. */
export const FEATURES_AT = 79;

export interface Made {
  readonly folder: MemoryFolder;
  readonly bytes: Buffer;
}

/** A disk with a snapshot whose L2 table it shares no more, and which has two tables of its own. */
export async function image(options: OptionValues = {}): Promise<Made> {
  const folder = await newImage(8 * MIB, { cluster_size: CLUSTER, ...options });
  const disk = await open(folder);
  await disk.write(0, bufferOf(50_000, 1));
  await disk.snapshots.create('one');
  await disk.write(0, bufferOf(50_000, 2));
  await disk.write(4 * MIB, bufferOf(CLUSTER, 3));
  await disk.close();
  return { folder, bytes: await bytesIn(folder) };
}

export const at = (bytes: Buffer, offset: number): number =>
  Number(bytes.readBigUInt64BE(offset) & 0x00ff_ffff_ffff_fe00n);

/** Where structures lie, by the names that errors give them. */
export function structuresIn(bytes: Buffer): Record<string, number> {
  const { l1, l2, refcountTable, refcountBlock } = placesIn(bytes);
  const snapshotTable = readU64BE(viewOf(bytes), 64);
  const snapshotL1 = readU64BE(viewOf(bytes), snapshotTable);
  return {
    'active L1 table': l1,
    'active L2 table': l2,
    'refcount table': refcountTable,
    'refcount block': refcountBlock,
    'snapshot table': snapshotTable,
    'L1 table of a snapshot': snapshotL1,
    'L2 table of a snapshot': at(bytes, snapshotL1),
  };
}

/** Points the victim's L2 entry to a structure, as if it owned it. */
export function aim(bytes: Buffer, target: number): void {
  bytes.writeBigUInt64BE((1n << 63n) | BigInt(target), placesIn(bytes).l2 + (VICTIM / CLUSTER) * 8);
}

export async function aimed(
  structure: string,
  options: OptionValues = {},
): Promise<Made & { target: number }> {
  const { folder, bytes } = await image(options);
  const target = structuresIn(bytes)[structure] as number;
  aim(bytes, target);
  await put(folder, bytes);
  return { folder, bytes, target };
}

export async function failure(run: () => unknown): Promise<unknown> {
  try {
    await run();
  } catch (error) {
    return error;
  }
  return undefined;
}

/** The image's bytes are as before, but for the corrupt bit. */
export async function expectMarked(folder: MemoryFolder, before: Buffer): Promise<void> {
  const after = await bytesIn(folder);
  expect(after.readUInt8(FEATURES_AT) & 2).toBe(2);
  after.writeUInt8(before.readUInt8(FEATURES_AT), FEATURES_AT);
  expect(after.equals(before)).toBe(true);
}

export const refused: { code: string; data: { field: string } } = {
  code: 'ERR_CORRUPT',
  data: { field: 'header.incompatible_features' },
};

/** Every change is refused, reading goes on, closing writes nothing. */
export async function expectCondemned(disk: Disk): Promise<void> {
  expect(await failure(() => disk.write(0, bufferOf(100, 9)))).toMatchObject(refused);
  expect(await failure(() => disk.write(7 * MIB, bufferOf(100, 9)))).toMatchObject(refused);
  expect(await failure(() => disk.discard(0, CLUSTER))).toMatchObject(refused);
  expect(await failure(() => disk.flush())).toMatchObject(refused);
  expect(await failure(() => disk.snapshots.create('more'))).toMatchObject(refused);
  expect(await failure(() => disk.snapshots.delete('one'))).toMatchObject(refused);
  expect(await failure(() => disk.resize(16 * MIB))).toMatchObject(refused);
  const target = Buffer.alloc(CLUSTER);
  await disk.read(0, target);
  expect(target.equals(bufferOf(50_000, 2).subarray(0, CLUSTER))).toBe(true);
  await disk.close();
}
