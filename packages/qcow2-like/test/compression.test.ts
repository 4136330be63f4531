// Compressed clusters: how they are packed, that QEMU reads ours and we read its, and what damaged ones do.

import { randomBytes } from 'node:crypto';
import { stat, writeFile } from 'node:fs/promises';
import { deflateRawSync } from 'node:zlib';
import { createDisk, type Disk, type OptionValues } from '@cowlab/core';
import { qcow2 } from '@cowlab/qcow2-like';
import { describe, expect, it } from 'vitest';
import {
  bufferOf,
  bytesIn,
  bytesOf,
  KIB,
  MIB,
  newImage,
  open,
  placesIn,
  put,
  Qemu,
  qemuIsMissing,
} from './lab.ts';

const CLUSTER = 64 * KIB;

/** Repetitive bytes, some that are not, and a hole. */
const sample = (length: number): Buffer => {
  const bytes = bufferOf(length, 3);
  randomBytes(200 * KIB).copy(bytes, 5 * CLUSTER + 100);
  return bytes.fill(0, 12 * CLUSTER, 15 * CLUSTER);
};

async function writeCompressed(disk: Disk, bytes: Uint8Array): Promise<void> {
  const step = 2 * MIB;
  for (let at = 0; at < bytes.length; at += step) {
    await disk.writeCompressed(at, bytes.subarray(at, at + step));
  }
}

/** The first `count` entries of the first L2 table. */
async function entriesIn(folder: Awaited<ReturnType<typeof newImage>>, count: number): Promise<bigint[]> {
  const image = await bytesIn(folder);
  const { l2 } = placesIn(image);
  return Array.from({ length: count }, (_, index) => image.readBigUInt64BE(l2 + index * 8));
}

describe('compressed clusters', () => {
  it('lie byte after byte, many in one host cluster, which is counted once for each', async () => {
    const folder = await newImage(16 * MIB);
    const disk = await open(folder);
    await disk.writeCompressed(0, bufferOf(10 * CLUSTER, 1));
    await disk.close();
    const entries = await entriesIn(folder, 10);
    const offsets = entries.map((entry) => Number(entry & 0x003f_ffff_ffff_ffffn));
    expect(entries.every((entry) => entry >> 62n === 1n)).toBe(true);
    expect(offsets).toEqual(offsets.toSorted((a, b) => a - b));
    expect(new Set(offsets.map((offset) => Math.floor(offset / CLUSTER))).size).toBe(1);
    const image = await bytesIn(folder);
    const { refcountBlock } = placesIn(image);
    const host = Math.floor((offsets[0] as number) / CLUSTER);
    expect(image.readUInt16BE(refcountBlock + host * 2)).toBe(10);
  });

  it.each([
    [1, 1],
    [4, 4],
    [8, 16],
    [16, 256],
  ])('with counts of %i bits at most %i share a host cluster', async (bits, most) => {
    const folder = await newImage(32 * MIB, { refcount_bits: bits });
    const disk = await open(folder);
    await disk.writeCompressed(0, Buffer.alloc(300 * CLUSTER, 7));
    expect(await disk.check()).toMatchObject({ corruptions: 0, leaks: 0 });
    await disk.close();
    const hosts = new Map<bigint, number>();
    for (const entry of await entriesIn(folder, 300)) {
      const host = (entry & 0x003f_ffff_ffff_ffffn) / BigInt(CLUSTER);
      hosts.set(host, (hosts.get(host) ?? 0) + 1);
    }
    expect(Math.max(...hosts.values())).toBe(most);
  });

  it('of which all are gone leave their host cluster free, and it is filled anew from its start', async () => {
    const folder = await newImage(16 * MIB);
    const disk = await open(folder);
    await disk.writeCompressed(0, bufferOf(10 * CLUSTER, 1));
    await disk.flush();
    const [first] = await entriesIn(folder, 1);
    await disk.discard(0, 10 * CLUSTER);
    await disk.flush();
    expect(await disk.check()).toMatchObject({ corruptions: 0, leaks: 0 });
    await disk.writeCompressed(0, bufferOf(CLUSTER, 2));
    await disk.close();
    const [again] = await entriesIn(folder, 1);
    const offsetOf = (entry: bigint | undefined): bigint => (entry as bigint) & 0x003f_ffff_ffff_ffffn;
    expect(offsetOf(again)).toBe(offsetOf(first));
  });

  it.each([
    [{ compat: '0.10', compression_type: 'zstd' }, 'compression_type'],
    [{ compression_type: 'lzma' }, 'compression_type'],
  ])('with %j are refused, naming the option', async (options, field) => {
    await expect(newImage(MIB, options)).rejects.toMatchObject({
      code: 'ERR_INVALID_OPTION',
      data: { field },
    });
  });

  it.each<[string, OptionValues, (bytes: Buffer) => void]>([
    ['zstd without the feature bit', { compression_type: 'zstd' }, (bytes) => void bytes.writeUInt8(0, 79)],
    ['the feature bit without zstd', {}, (bytes) => void bytes.writeUInt8(8, 79)],
  ])('%s is refused', async (_, options, damage) => {
    const folder = await newImage(MIB, options);
    const bytes = await bytesIn(folder);
    damage(bytes);
    await put(folder, bytes);
    const data = { file: 'disk.qcow2', field: 'header.compression_type' };
    await expect(open(folder)).rejects.toMatchObject({ code: 'ERR_CORRUPT', data });
  });
});

describe('a compressed cluster', () => {
  /** An image whose first cluster is stored as `stored`, with an entry of so many sectors. */
  async function imageWith(stored: Uint8Array, options: OptionValues = {}): Promise<Disk> {
    const folder = await newImage(MIB, options);
    const disk = await open(folder);
    await disk.writeCompressed(0, Buffer.concat([randomBytes(30_000), Buffer.alloc(CLUSTER - 30_000)]));
    await disk.close();
    const bytes = await bytesIn(folder);
    const { l2 } = placesIn(bytes);
    const offset = Number(bytes.readBigUInt64BE(l2) & 0x003f_ffff_ffff_ffffn);
    Buffer.from(stored).copy(bytes, offset);
    await put(folder, bytes);
    return open(folder, true);
  }

  it.each<[string, () => Uint8Array]>([
    ['that decodes to more than a cluster', () => deflateRawSync(Buffer.alloc(20 * MIB))],
    ['that decodes to less', () => deflateRawSync(Buffer.alloc(CLUSTER - 1))],
    [
      'that is cut',
      () =>
        Buffer.concat([deflateRawSync(randomBytes(29_000)).subarray(0, 20_000), Buffer.alloc(10_000, 0xff)]),
    ],
    ['that is of an unknown block type', () => Buffer.alloc(100, 0xff)],
  ])('%s is refused by name, and the rest of the disk is not', async (_, stored) => {
    const disk = await imageWith(stored());
    const reading = async (): Promise<void> => disk.read(0, new Uint8Array(10));
    const data = { file: 'disk.qcow2', field: 'l2_table.compressed_cluster' };
    await expect(reading()).rejects.toMatchObject({ code: 'ERR_CORRUPT', data });
    await disk.read(CLUSTER, new Uint8Array(10));
    await disk.close();
  });

  it('of deflate in an image of zstd is refused', async () => {
    const disk = await imageWith(deflateRawSync(Buffer.alloc(CLUSTER)), { compression_type: 'zstd' });
    const reading = async (): Promise<void> => disk.read(0, new Uint8Array(10));
    await expect(reading()).rejects.toMatchObject({ code: 'ERR_CORRUPT' });
    await disk.close();
  });
});

describe.skipIf(qemuIsMissing)('QEMU', () => {
  const qemu = Qemu.forEachTest();

  const variants: OptionValues[] = [
    { compression_type: 'zlib', cluster_size: 512 },
    ...['zlib', 'zstd'].flatMap((compression_type) =>
      [4 * KIB, CLUSTER, 2 * MIB].map((cluster_size) => ({ compression_type, cluster_size })),
    ),
  ];

  it.each<OptionValues>([
    ...variants,
    { compat: '0.10' },
    { refcount_bits: 1 },
    { compression_type: 'zstd', lazy_refcounts: true },
  ])('reads what we compress, before and after changes and snapshots, with %j', async (options) => {
    const bytes = sample(9 * MIB + 512);
    await createDisk(qemu.path('disk.qcow2'), { driver: qcow2, size: bytes.length, options });
    const disk = await qemu.open();
    await writeCompressed(disk, bytes);
    await disk.flush();
    await disk.close();
    await qemu.assertSees('disk.qcow2', bytes);
    const again = await qemu.open();
    const snapshots = options.refcount_bits !== 1;
    if (snapshots) await again.snapshots.create('kept');
    await again.write(70_000, bufferOf(200_000, 9));
    await again.discard(2 * MIB, 2 * MIB);
    await again.writeCompressed(4 * MIB, bufferOf(2 * MIB, 11));
    const changed = await bytesOf(again);
    await again.close();
    await qemu.assertSees('disk.qcow2', changed);
    if (snapshots) expect((await qemu.bytes('disk.qcow2', '-l', 'kept')).equals(bytes)).toBe(true);
  });

  it.each(variants)('made what we read and change, with %j', async ({ compression_type, cluster_size }) => {
    const bytes = sample(9 * MIB);
    await writeFile(qemu.path('source.raw'), bytes);
    const option = `compression_type=${compression_type},cluster_size=${cluster_size}`;
    await qemu.img('convert', '-c', '-f', 'raw', '-O', 'qcow2', '-o', option, 'source.raw', 'disk.qcow2');
    const disk = await qemu.open();
    expect((await bytesOf(disk)).equals(bytes)).toBe(true);
    expect(await disk.check()).toMatchObject({ corruptions: 0, leaks: 0 });
    expect((await disk.info()).details['compression type']).toBe(compression_type);
    await disk.writeCompressed(2 * MIB, bufferOf(4 * MIB, 4));
    await disk.write(100, bufferOf(70_000, 6));
    const changed = await bytesOf(disk);
    await disk.close();
    await qemu.assertSees('disk.qcow2', changed);
  });

  it.each(['zlib', 'zstd'])(
    'goes on compressing (%s) where we stopped, and we where it did',
    async (type) => {
      const options = { compression_type: type };
      await createDisk(qemu.path('disk.qcow2'), { driver: qcow2, size: 8 * MIB, options });
      const disk = await qemu.open();
      await disk.writeCompressed(0, bufferOf(MIB, 1));
      await disk.close();
      await qemu.io('disk.qcow2', 'write -c -P 7 1M 64k', 'write -c -P 8 7M 64k', 'write -P 9 300k 10k');
      const theirs = await qemu.bytes('disk.qcow2');
      const again = await qemu.open();
      expect((await bytesOf(again)).equals(theirs)).toBe(true);
      await again.writeCompressed(2 * MIB, bufferOf(MIB, 2));
      const ours = await bytesOf(again);
      await again.close();
      await qemu.assertSees('disk.qcow2', ours);
    },
  );

  it('packs no better than we do', async () => {
    const bytes = sample(16 * MIB);
    await writeFile(qemu.path('source.raw'), bytes);
    await qemu.img('convert', '-c', '-f', 'raw', '-O', 'qcow2', 'source.raw', 'theirs.qcow2');
    await createDisk(qemu.path('disk.qcow2'), { driver: qcow2, size: bytes.length });
    const disk = await qemu.open();
    await writeCompressed(disk, bytes);
    await disk.close();
    const [ours, theirs] = [await stat(qemu.path('disk.qcow2')), await stat(qemu.path('theirs.qcow2'))];
    expect(ours.size).toBeLessThanOrEqual(theirs.size + 2 * CLUSTER);
  });
});
