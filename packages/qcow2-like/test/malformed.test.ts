// Damaged images: each a code that names file and field, and a file that is as it was.

import { type MemoryFolder, openDisk } from '@cowlab/core';
import { qcow2 } from '@cowlab/qcow2-like';
import { describe, expect, it } from 'vitest';
import { bufferOf, bytesIn, KIB, MIB, newImage, open, placesIn, put } from './lab.ts';

const CLUSTER = 4 * KIB;

/** A disk with data and a snapshot. */
async function image(): Promise<{ folder: MemoryFolder; bytes: Buffer }> {
  const folder = await newImage(8 * MIB, { cluster_size: CLUSTER });
  const disk = await open(folder);
  await disk.write(0, bufferOf(50_000, 1));
  await disk.snapshots.create('one');
  await disk.write(5000, bufferOf(50_000, 2));
  await disk.close();
  return { folder, bytes: await bytesIn(folder) };
}

type Damage = (image: Buffer) => Buffer | void;

const u32 =
  (at: number, value: number): Damage =>
  (bytes) =>
    void bytes.writeUInt32BE(value, at);
const u64 =
  (at: number, value: bigint): Damage =>
  (bytes) =>
    void bytes.writeBigUInt64BE(value, at);
const inSnapshotTable =
  (at: number, value: number): Damage =>
  (bytes) =>
    void bytes.writeUInt32BE(value, Number(bytes.readBigUInt64BE(64)) + at);

const damages: [string, Damage, string, string][] = [
  ['an empty file', () => Buffer.alloc(0), 'ERR_CORRUPT', 'header'],
  ['half a header', (bytes) => bytes.subarray(0, 90), 'ERR_CORRUPT', 'header'],
  ['a wrong magic number', u32(0, 1), 'ERR_CORRUPT', 'header.magic'],
  ['version 1', u32(4, 1), 'ERR_UNSUPPORTED', 'header.version'],
  ['version 4', u32(4, 4), 'ERR_UNSUPPORTED', 'header.version'],
  ['a backing name outside the header', u64(8, 0x10000n), 'ERR_CORRUPT', 'header.backing_file_size'],
  ['clusters of 256 bytes', u32(20, 8), 'ERR_UNSUPPORTED', 'header.cluster_bits'],
  ['clusters of 4 MiB', u32(20, 22), 'ERR_UNSUPPORTED', 'header.cluster_bits'],
  ['a size past 2^53', u64(24, 1n << 60n), 'ERR_UNSUPPORTED', 'header.size'],
  ['a size past its L1 table', u64(24, 1n << 40n), 'ERR_CORRUPT', 'header.l1_size'],
  ['encryption', u32(32, 1), 'ERR_UNSUPPORTED', 'header.crypt_method'],
  ['a huge L1 table', u32(36, 0x7fff_ffff), 'ERR_UNSUPPORTED', 'header.l1_size'],
  ['an L1 table that is not aligned', u64(40, 513n), 'ERR_CORRUPT', 'header.l1_table_offset'],
  ['an L1 table on the header', u64(40, 0n), 'ERR_CORRUPT', 'header.l1_table_offset'],
  ['an L1 table outside the file', u64(40, 1n << 40n), 'ERR_CORRUPT', 'header.l1_table_offset'],
  ['a refcount table outside', u64(48, 1n << 40n), 'ERR_CORRUPT', 'header.refcount_table_offset'],
  ['no refcount table', u32(56, 0), 'ERR_CORRUPT', 'header.refcount_table_clusters'],
  ['a huge refcount table', u32(56, 0x7fff_ffff), 'ERR_CORRUPT', 'header.refcount_table_clusters'],
  ['more snapshots than can be', u32(60, 0x7fff_ffff), 'ERR_UNSUPPORTED', 'header.nb_snapshots'],
  ['a snapshot table outside', u64(64, 1n << 40n), 'ERR_CORRUPT', 'header.snapshots_offset'],
  ['more snapshots than its table has', u32(60, 60_000), 'ERR_CORRUPT', 'snapshot_table.extra_data_size'],
  ['an unknown incompatible feature', u64(72, 1n << 40n), 'ERR_UNSUPPORTED', 'header.incompatible_features'],
  ['extended L2 entries and too small clusters', u64(72, 16n), 'ERR_UNSUPPORTED', 'header.cluster_bits'],
  ['the corrupt bit', u64(72, 2n), 'ERR_CORRUPT', 'header.incompatible_features'],
  ['refcounts of 128 bits', u32(96, 7), 'ERR_CORRUPT', 'header.refcount_order'],
  ['a header of 64 bytes', u32(100, 64), 'ERR_CORRUPT', 'header.header_length'],
  ['a header longer than its cluster', u32(100, 8192), 'ERR_CORRUPT', 'header.header_length'],
  [
    'an unknown compression',
    (bytes) => void bytes.writeUInt8(9, 104),
    'ERR_UNSUPPORTED',
    'header.compression_type',
  ],
  ['an extension without end', u32(116, 0x7fff_ffff), 'ERR_CORRUPT', 'header extension.length'],
  [
    'a snapshot with a huge L1 table',
    inSnapshotTable(8, 0x7fff_ffff),
    'ERR_CORRUPT',
    'snapshot_table.l1_size',
  ],
  [
    'a snapshot with endless extra data',
    inSnapshotTable(36, 0x7fff_ffff),
    'ERR_CORRUPT',
    'snapshot_table.extra_data_size',
  ],
];

describe('opening an image with', () => {
  it.each(damages)('%s', async (_, damage, code, field) => {
    const { folder, bytes } = await image();
    const damaged = damage(bytes) ?? bytes;
    await put(folder, damaged);
    await expect(open(folder)).rejects.toMatchObject({ code, data: { file: 'disk.qcow2', field } });
    expect((await bytesIn(folder)).equals(damaged)).toBe(true);
  });

  it('the corrupt bit can still be read', async () => {
    const { folder, bytes } = await image();
    bytes.writeUInt8(2, 79);
    await put(folder, bytes);
    const disk = await open(folder, true);
    const target = Buffer.alloc(5000);
    await disk.read(0, target);
    expect(target.equals(bufferOf(5000, 1))).toBe(true);
    await disk.close();
  });

  it('the dirty bit and a pointer that leads nowhere is refused for writing, and not modified', async () => {
    const { folder, bytes } = await image();
    bytes.writeUInt8(1, 79);
    bytes.writeBigUInt64BE(1n << 40n, placesIn(bytes).l2);
    await put(folder, bytes);
    await expect(open(folder)).rejects.toMatchObject({ code: 'ERR_CORRUPT', data: { field: 'L2 table' } });
    expect((await bytesIn(folder)).equals(bytes)).toBe(true);
  });

  it.each([
    ['/etc/passwd', 'ERR_BACKING_DENIED'],
    ['../base.raw', 'ERR_BACKING_DENIED'],
    ['nowhere.raw', 'ERR_BACKING_MISSING'],
    ['disk.qcow2', 'ERR_BACKING_CYCLE'],
    ['nbd:localhost:10809', 'ERR_UNSUPPORTED'],
    ['json:{"driver":"raw"}', 'ERR_UNSUPPORTED'],
  ])('the backing file %s', async (name, code) => {
    const { folder, bytes } = await image();
    bytes.write(name, 1024, 'latin1');
    bytes.writeBigUInt64BE(1024n, 8);
    bytes.writeUInt32BE(name.length, 16);
    await put(folder, bytes);
    const data = { file: 'disk.qcow2', field: 'header.backing_file_name' };
    await expect(open(folder)).rejects.toMatchObject({ code, data });
    expect((await bytesIn(folder)).equals(bytes)).toBe(true);
  });
});

describe('reading through', () => {
  it.each<[string, (bytes: Buffer) => void, string]>([
    [
      'an L1 entry with reserved bits',
      (bytes) => void bytes.writeUInt8(0x80 | 0x01, placesIn(bytes).l1),
      'l1_table.entry',
    ],
    [
      'an L1 entry past the end of the file',
      (bytes) => void bytes.writeBigUInt64BE((1n << 63n) | (1n << 40n), placesIn(bytes).l1),
      'l1_table.entry',
    ],
    [
      'an L2 entry past the end of the file',
      (bytes) => void bytes.writeBigUInt64BE((1n << 63n) | (1n << 40n), placesIn(bytes).l2),
      'l2_table.entry',
    ],
    [
      'an L2 entry that is not aligned',
      (bytes) => void bytes.writeUInt16BE(0x0201, placesIn(bytes).l2 + 6),
      'l2_table.entry',
    ],
    [
      'compressed data past the end of the file',
      (bytes) => void bytes.writeBigUInt64BE((1n << 62n) | (1n << 45n), placesIn(bytes).l2),
      'l2_table.entry',
    ],
    [
      'compressed data that are none',
      (bytes) => void bytes.writeBigUInt64BE((1n << 62n) | BigInt(placesIn(bytes).l1), placesIn(bytes).l2),
      'l2_table.compressed_cluster',
    ],
  ])('%s is refused, and check reports what it can', async (_, damage, field) => {
    const { folder, bytes } = await image();
    damage(bytes);
    await put(folder, bytes);
    const disk = await open(folder, true);
    const reading = async (): Promise<void> => disk.read(0, new Uint8Array(5000));
    await expect(reading()).rejects.toMatchObject({
      code: 'ERR_CORRUPT',
      data: { file: 'disk.qcow2', field },
    });
    const { corruptions, leaks } = await disk.check();
    expect(corruptions + leaks).toBeGreaterThan(0);
    await disk.close();
  });

  it.each<[string, bigint]>([
    ['owned zeros without a cluster', (1n << 63n) | 1n],
    ['owned compressed data at an odd place', (1n << 63n) | (1n << 62n) | 1n],
  ])('%s lead no write to the header', async (_, entry) => {
    const { folder, bytes } = await image();
    bytes.writeBigUInt64BE(entry, placesIn(bytes).l2 + 100 * 8);
    await put(folder, bytes);
    const disk = await open(folder);
    await disk.write(100 * CLUSTER, bufferOf(CLUSTER, 1));
    await disk.flush();
    expect((await bytesIn(folder)).subarray(0, 512).equals(bytes.subarray(0, 512))).toBe(true);
    await disk.close();
  });

  it('a table that counts its own metadata as free does not hand it out', async () => {
    const { folder, bytes } = await image();
    bytes.fill(0, placesIn(bytes).refcountBlock, placesIn(bytes).refcountBlock + 16);
    await put(folder, bytes);
    const disk = await open(folder);
    const writing = async (): Promise<void> => disk.write(4 * MIB, bufferOf(CLUSTER, 1));
    await expect(writing()).rejects.toMatchObject({
      code: 'ERR_CORRUPT',
      data: { field: 'header' },
    });
    await expect(disk.close()).resolves.toBeUndefined();
  });
});

describe('creating an image', () => {
  it.each([
    [{ cluster_size: 1000 }, 'cluster_size'],
    [{ cluster_size: 4 * MIB }, 'cluster_size'],
    [{ cluster_size: 256 }, 'cluster_size'],
    [{ refcount_bits: 3 }, 'refcount_bits'],
    [{ refcount_bits: 128 }, 'refcount_bits'],
    [{ compat: '0.10', refcount_bits: 32 }, 'refcount_bits'],
    [{ compat: '0.10', lazy_refcounts: true }, 'lazy_refcounts'],
    [{ compat: '0.10', extended_l2: true }, 'extended_l2'],
    [{ cluster_size: 8 * KIB, extended_l2: true }, 'extended_l2'],
    [{ compat: '1.2' }, 'compat'],
    [{ preallocation: 'some' }, 'preallocation'],
  ])('with %j is refused, naming the option', async (options, field) => {
    await expect(newImage(MIB, options)).rejects.toMatchObject({
      code: 'ERR_INVALID_OPTION',
      data: { field },
    });
  });

  it('too large for its clusters is refused', async () => {
    const creating = newImage(2 ** 45, { cluster_size: 512 });
    await expect(creating).rejects.toMatchObject({ code: 'ERR_TOO_LARGE', data: { field: 'size' } });
  });
});

describe('the format is probed', () => {
  it('by its magic number alone', async () => {
    const { folder } = await image();
    const disk = await openDisk({ folder, file: 'disk.qcow2' }, { drivers: [qcow2] });
    expect(disk.format).toBe('qcow2');
    await disk.close();
  });
});
