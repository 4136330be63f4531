// Extended L2 entries: what a subcluster answers, what a write copies, and what cannot be; QEMU goes on where we stopped.

import { writeFile } from 'node:fs/promises';
import {
  CountingFolder,
  createDisk,
  type Disk,
  MemoryFolder,
  openDisk,
  type OptionValues,
  raw,
  type StorageFolder,
} from '@cowlab/core';
import { qcow2 } from '@cowlab/qcow2-like';
import { describe, expect, it } from 'vitest';
import { bufferOf, bytesIn, bytesOf, KIB, MIB, open, placesIn, put, Qemu, qemuIsMissing } from './lab.ts';

const CLUSTER = 128 * KIB;
const SUB = 4 * KIB;
const SIZE = 4 * MIB;
const extended: OptionValues = { extended_l2: true, cluster_size: CLUSTER };
const standard: OptionValues = { cluster_size: CLUSTER };
const drivers = [qcow2, raw];
const base = bufferOf(SIZE - 50 * KIB, 99);

/** A disk over a raw backing that is a bit shorter. */
async function overlay(options: OptionValues): Promise<CountingFolder> {
  const folder = new MemoryFolder();
  await put(folder, base, 'base.raw');
  const backing = { file: 'base.raw', format: 'raw' };
  await createDisk(
    { folder, file: 'disk.qcow2' },
    { driver: qcow2, drivers, size: SIZE, backing, options: { ...options } },
  );
  return new CountingFolder(folder);
}

const openOverlay = (folder: StorageFolder, readOnly = false): Promise<Disk> =>
  openDisk({ folder, file: 'disk.qcow2' }, { drivers, format: 'qcow2', readOnly });

/** What answers where, in subclusters: `data 3` is three of them in a row. Depth 1 is the backing. */
async function kindsOf(disk: Disk, offset: number, length: number): Promise<string[]> {
  const kinds: string[] = [];
  for await (const extent of disk.extents(offset, length)) {
    const { kind, depth } = extent;
    kinds.push(`${depth === 0 ? kind : 'backing'} ${extent.length / SUB}`);
  }
  return kinds;
}

describe('over a backing file, a write of 4 KiB into a cluster of 128 KiB', () => {
  it.each([
    ['on a subcluster', 10 * SUB, extended, { readBytes: 0, writtenBytes: SUB }],
    ['across two', 10 * SUB + 1000, extended, { readBytes: SUB, writtenBytes: 2 * SUB }],
    ['in the middle', 10 * SUB, standard, { readBytes: CLUSTER - SUB, writtenBytes: CLUSTER }],
  ])('%s at %i with %j copies no more than it has to', async (_, offset, options, expected) => {
    const folder = await overlay(options);
    const disk = await openOverlay(folder);
    folder.reset();
    await disk.write(offset, bufferOf(SUB, 1));
    const { data } = folder.reset().purposes;
    expect(data).toMatchObject(expected);
    await disk.flush();
    folder.reset();
    await disk.write(20 * SUB, bufferOf(SUB, 2));
    await disk.flush();
    const { data: more, refcount } = folder.reset().purposes;
    expect(more).toMatchObject({ readBytes: 0, writes: 1, writtenBytes: SUB });
    expect(refcount.writes).toBe(0);
    await disk.close();
  });
});

describe('a cluster', () => {
  it('is mapped by subcluster: its own bytes, zeros, and what shows through', async () => {
    const folder = await overlay(extended);
    const disk = await openOverlay(folder);
    const expected = Buffer.concat([base, Buffer.alloc(SIZE - base.length)]);
    const write = async (offset: number, length: number): Promise<void> => {
      await disk.write(offset, bufferOf(length, offset));
      expected.set(bufferOf(length, offset), offset);
    };
    await write(2 * SUB, 3 * SUB);
    await write(31 * SUB, 2 * SUB);
    await disk.writeZeroes(8 * SUB, SUB);
    expected.fill(0, 8 * SUB, 9 * SUB);
    await disk.discard(3 * SUB, SUB);
    expected.fill(0, 3 * SUB, 4 * SUB);
    const kinds = ['backing 2', 'data 1', 'zero 1', 'data 1', 'backing 3', 'zero 1', 'backing 22', 'data 2'];
    expect(await kindsOf(disk, 0, CLUSTER + SUB)).toEqual(kinds);
    expect((await bytesOf(disk)).equals(expected)).toBe(true);
    await disk.close();
    const again = await openOverlay(folder);
    expect(await kindsOf(again, 0, CLUSTER + SUB)).toEqual(kinds);
    expect((await bytesOf(again)).equals(expected)).toBe(true);
    expect(await again.check()).toMatchObject({ corruptions: 0, leaks: 0, allocatedBytes: 2 * CLUSTER });
    await again.close();
  });

  it('is given back with its last subcluster', async () => {
    const folder = await overlay(extended);
    const disk = await openOverlay(folder);
    await disk.write(0, bufferOf(3 * SUB, 1));
    await disk.discard(SUB, 31 * SUB);
    expect((await disk.check()).allocatedBytes).toBe(CLUSTER);
    await disk.discard(0, SUB);
    expect(await disk.check()).toMatchObject({ corruptions: 0, leaks: 0, allocatedBytes: 0 });
    expect((await bytesOf(disk)).subarray(0, CLUSTER).every((byte) => byte === 0)).toBe(true);
    await disk.close();
  });

  it('that a snapshot shares is copied by its allocated subclusters, neighbours in one write with the new bytes', async () => {
    const folder = await overlay(extended);
    const disk = await openOverlay(folder);
    for (const [first, count] of [
      [0, 2],
      [9, 1],
      [11, 2],
      [31, 1],
    ] as const)
      await disk.write(first * SUB, bufferOf(count * SUB, first));
    await disk.snapshots.create('one');
    const before = await bytesOf(disk);
    folder.reset();
    await disk.write(10 * SUB, bufferOf(SUB, 77));
    const { data } = folder.reset().purposes;
    // Subclusters 0 and 1, 9 to 12, and 31.
    expect(data).toMatchObject({ writes: 3, readBytes: 6 * SUB, writtenBytes: 7 * SUB });
    const kinds = ['data 2', 'backing 7', 'data 4', 'backing 18', 'data 1'];
    expect(await kindsOf(disk, 0, CLUSTER)).toEqual(kinds);
    const one = await disk.snapshots.open('one');
    expect((await bytesOf(one)).equals(before)).toBe(true);
    await one.close();
    before.set(bufferOf(SUB, 77), 10 * SUB);
    expect((await bytesOf(disk)).equals(before)).toBe(true);
    expect(await disk.check()).toMatchObject({ corruptions: 0, leaks: 0 });
    await disk.close();
  });

  it('that a snapshot shares is not copied for zeros: the entry alone changes', async () => {
    const folder = await overlay(extended);
    const disk = await openOverlay(folder);
    await disk.write(0, bufferOf(4 * SUB, 1));
    await disk.snapshots.create('one');
    folder.reset();
    await disk.writeZeroes(SUB, SUB);
    await disk.discard(2 * SUB, SUB);
    expect(folder.reset().purposes.data).toMatchObject({ reads: 0, writes: 0, zeroes: 0 });
    expect(await kindsOf(disk, 0, CLUSTER)).toEqual(['data 1', 'zero 2', 'data 1', 'backing 28']);
    await disk.snapshots.delete('one');
    expect(await disk.check()).toMatchObject({ corruptions: 0, leaks: 0 });
    await disk.close();
  });

  it('of many in a row is read and written in one call', async () => {
    const folder = await overlay(extended);
    const disk = await openOverlay(folder);
    folder.reset();
    await disk.write(3 * SUB, bufferOf(5 * CLUSTER, 1));
    const found = Buffer.alloc(5 * CLUSTER);
    await disk.read(3 * SUB, found);
    expect(found.equals(bufferOf(5 * CLUSTER, 1))).toBe(true);
    expect(folder.reset().purposes.data).toMatchObject({ reads: 1, writes: 1 });
    await disk.close();
  });
});

/** A disk with one table, whose first entry has subclusters 0 and 1, and whose second entry is empty. */
async function damaged(damage: (bytes: Buffer, entry: number) => void): Promise<MemoryFolder> {
  const folder = new MemoryFolder();
  await createDisk({ folder, file: 'disk.qcow2' }, { driver: qcow2, size: SIZE, options: extended });
  const disk = await open(folder);
  await disk.write(0, bufferOf(2 * SUB, 1));
  await disk.close();
  const bytes = await bytesIn(folder);
  damage(bytes, placesIn(bytes).l2);
  await put(folder, bytes);
  return folder;
}

describe('a bitmap that cannot be', () => {
  it.each<[string, (bytes: Buffer, entry: number) => void, number, boolean]>([
    [
      'with a subcluster that is allocated and zero',
      (bytes, at) => void bytes.writeUInt32BE(1, at + 8),
      0,
      false,
    ],
    [
      'with subclusters of no cluster',
      (bytes, at) => void bytes.writeUInt32BE(4, at + 16 + 12),
      CLUSTER,
      true,
    ],
    [
      'beside a compressed cluster',
      // A descriptor of the same place, so that the counts are right.
      (bytes, at) => void bytes.writeUInt8(0x40, at),
      0,
      true,
    ],
  ])('%s is ERR_CORRUPT, found, and mended where it means one thing', async (_, damage, offset, mended) => {
    const folder = await damaged(damage);
    const disk = await open(folder);
    const about = { code: 'ERR_CORRUPT', data: { field: 'l2_table.subcluster_bitmap' } };
    const reading = async (): Promise<void> => disk.read(offset, Buffer.alloc(SUB));
    await expect(reading()).rejects.toMatchObject(about);
    const writing = async (): Promise<void> => disk.write(offset + 20 * SUB, Buffer.alloc(SUB));
    await expect(writing()).rejects.toMatchObject(about);
    await expect(disk.writeZeroes(offset, CLUSTER)).rejects.toMatchObject(about);
    const { findings } = await disk.check();
    const found = { severity: 'corruption', structure: 'subcluster bitmap', repaired: false };
    expect(findings).toContainEqual(expect.objectContaining(found));
    const repair = await disk.check({ repair: 'all' });
    expect(repair.findings).toContainEqual(expect.objectContaining({ ...found, repaired: mended }));
    const left = (await disk.check()).findings.filter(({ structure }) => structure === found.structure);
    expect(left.length).toBe(mended ? 0 : 1);
    // What was made a compressed cluster has no data that could be decoded.
    if (mended && offset > 0) await reading();
    await disk.close();
  });

  it('hinders no repair of what else there is', async () => {
    const folder = await damaged((bytes, at) => {
      bytes.writeUInt32BE(1, at + 8);
      bytes.writeUInt16BE(7, placesIn(bytes).refcountBlock + 60);
    });
    const disk = await open(folder);
    expect(await disk.check()).toMatchObject({ corruptions: 1, leaks: 1 });
    expect(await disk.check({ repair: 'all' })).toMatchObject({ corruptions: 1, leaks: 0, repaired: 1 });
    await disk.close();
  });
});

it('an entry with COPIED and no cluster never leads a write to the header', async () => {
  const folder = await damaged((bytes, at) => void bytes.writeUInt32BE(0x8000_0000, at + 16));
  const disk = await open(folder);
  const writing = async (): Promise<void> => disk.write(CLUSTER, Buffer.alloc(SUB));
  await expect(writing()).rejects.toMatchObject({ code: 'ERR_CORRUPT', data: { field: 'l2_table.entry' } });
  await disk.close();
});

it.each([
  ['its own subclusters', 0],
  ['others of the cluster', 20 * SUB],
])('a cluster that lies on metadata is not written to: %s', async (_, offset) => {
  const folder = await damaged((bytes, at) => {
    bytes.writeBigUInt64BE((1n << 63n) | BigInt(placesIn(bytes).l1), at);
  });
  const before = await bytesIn(folder);
  const disk = await open(folder);
  const writing = async (): Promise<void> => disk.write(offset, bufferOf(SUB, 3));
  await expect(writing()).rejects.toMatchObject({ code: 'ERR_CORRUPT', data: { field: 'active L1 table' } });
  await disk.close();
  const after = await bytesIn(folder);
  // The corrupt bit beside that of extended L2 entries, and nothing else.
  expect(after.readUInt8(79)).toBe(16 + 2);
  expect(after.subarray(512).equals(before.subarray(512))).toBe(true);
});

describe('diff', () => {
  it('tells single subclusters', async () => {
    const folder = await overlay(extended);
    const disk = await openOverlay(folder);
    await disk.snapshots.create('empty');
    await disk.write(5 * SUB, bufferOf(SUB, 1));
    await disk.writeZeroes(9 * SUB, SUB);
    const extents = [];
    for await (const extent of disk.snapshots.diff('empty')) extents.push(extent);
    expect(extents).toEqual([
      { offset: 5 * SUB, length: SUB },
      { offset: 9 * SUB, length: SUB },
    ]);
    await disk.close();
  });
});

describe.skipIf(qemuIsMissing)('with QEMU', () => {
  const qemu = Qemu.forEachTest();
  const seed = Number(process.env['COWLAB_SEED'] ?? 1);

  it.each([16 * KIB, 64 * KIB, 128 * KIB, 2 * MIB])(
    `clusters of %i bytes are written by turns, over a backing, with snapshots (seed ${seed})`,
    async (clusterBytes) => {
      const random = new Random(seed * 1000 + clusterBytes);
      const size = 8 * clusterBytes + 5 * 512;
      await writeFile(qemu.path('base.raw'), bufferOf(6 * clusterBytes + 512, 5));
      const option = `extended_l2=on,cluster_size=${clusterBytes}`;
      const create = ['-f', 'qcow2', '-o', option, '-b', 'base.raw', '-F', 'raw', 'disk.qcow2', `${size}`];
      await qemu.img('create', ...create);
      const kept = new Map<string, Buffer>();
      for (let round = 0; round < 4; round += 1) {
        await qemu.io('disk.qcow2', ...Array.from({ length: 12 }, () => qemuCommand(random, size)));
        const theirs = await qemu.bytes('disk.qcow2');
        await qemu.img('snapshot', '-c', `q${round}`, 'disk.qcow2');
        kept.set(`q${round}`, Buffer.from(theirs));
        const disk = await qemu.open('disk.qcow2', { drivers });
        expect((await bytesOf(disk)).equals(theirs)).toBe(true);
        for (let step = 0; step < 12; step += 1) await ourCommand(random, disk, theirs);
        await disk.snapshots.create(`c${round}`);
        kept.set(`c${round}`, Buffer.from(theirs));
        for (let step = 0; step < 6; step += 1) await ourCommand(random, disk, theirs);
        if (round === 2)
          for (const name of ['q0', 'c1']) {
            await disk.snapshots.delete(name);
            kept.delete(name);
          }
        expect((await bytesOf(disk)).equals(theirs)).toBe(true);
        expect(await disk.check()).toMatchObject({ corruptions: 0, leaks: 0 });
        await disk.close();
        await qemu.assertSees('disk.qcow2', theirs);
      }
      for (const [name, bytes] of kept) {
        expect((await qemu.bytes('disk.qcow2', '-l', name)).equals(bytes)).toBe(true);
      }
    },
    60_000,
  );

  it('a part of a compressed cluster can be zeroed, discarded and written', async () => {
    const contents = bufferOf(6 * CLUSTER, 1);
    await writeFile(qemu.path('source.raw'), contents);
    const option = `extended_l2=on,cluster_size=${CLUSTER}`;
    await qemu.img('convert', '-c', '-f', 'raw', '-O', 'qcow2', '-o', option, 'source.raw', 'disk.qcow2');
    const disk = await qemu.open('disk.qcow2', { drivers });
    await disk.snapshots.create('compressed');
    await disk.writeZeroes(3 * SUB, 2 * SUB);
    contents.fill(0, 3 * SUB, 5 * SUB);
    await disk.discard(CLUSTER + 30 * SUB, 4 * SUB);
    contents.fill(0, CLUSTER + 30 * SUB, CLUSTER + 34 * SUB);
    await disk.write(4 * CLUSTER + 5000, bufferOf(100, 2));
    contents.set(bufferOf(100, 2), 4 * CLUSTER + 5000);
    await disk.discard(5 * CLUSTER, CLUSTER);
    contents.fill(0, 5 * CLUSTER);
    expect((await bytesOf(disk)).equals(contents)).toBe(true);
    await disk.close();
    await qemu.assertSees('disk.qcow2', contents);
    expect((await qemu.bytes('disk.qcow2', '-l', 'compressed')).equals(bufferOf(6 * CLUSTER, 1))).toBe(true);
  });

  it('a preallocated overlay that it made shows its backing, and a write takes no space', async () => {
    await writeFile(qemu.path('base.raw'), base);
    const option = `extended_l2=on,cluster_size=${CLUSTER},preallocation=metadata`;
    await qemu.img(
      'create',
      '-f',
      'qcow2',
      '-o',
      option,
      '-b',
      'base.raw',
      '-F',
      'raw',
      'disk.qcow2',
      `${SIZE}`,
    );
    const disk = await qemu.open('disk.qcow2', { drivers });
    const expected = Buffer.concat([base, Buffer.alloc(SIZE - base.length)]);
    expect((await bytesOf(disk)).equals(expected)).toBe(true);
    const { imageEndBytes } = await disk.check();
    await disk.write(CLUSTER + SUB + 100, bufferOf(2 * CLUSTER, 1));
    expected.set(bufferOf(2 * CLUSTER, 1), CLUSTER + SUB + 100);
    await disk.writeZeroes(8 * CLUSTER, SUB);
    expected.fill(0, 8 * CLUSTER, 8 * CLUSTER + SUB);
    expect(await disk.check()).toMatchObject({ corruptions: 0, leaks: 0, imageEndBytes });
    await disk.close();
    await qemu.assertSees('disk.qcow2', expected);
  });

  it.each(['metadata', 'falloc', 'full'])(
    'a preallocated overlay (%s) that we made has places for all, and shows its backing',
    async (preallocation) => {
      await writeFile(qemu.path('base.raw'), base);
      await createDisk(qemu.path('disk.qcow2'), {
        driver: qcow2,
        drivers,
        size: SIZE,
        backing: { file: 'base.raw', format: 'raw' },
        options: { ...extended, preallocation },
      });
      const expected = Buffer.concat([base, Buffer.alloc(SIZE - base.length)]);
      await qemu.assertSees('disk.qcow2', expected);
      const disk = await qemu.open('disk.qcow2', { drivers });
      const { imageEndBytes, allocatedBytes } = await disk.check();
      expect(allocatedBytes).toBe(SIZE);
      await disk.write(3 * CLUSTER + 100, bufferOf(5000, 1));
      expected.set(bufferOf(5000, 1), 3 * CLUSTER + 100);
      expect(await disk.check()).toMatchObject({ corruptions: 0, leaks: 0, imageEndBytes });
      await disk.close();
      await qemu.assertSees('disk.qcow2', expected);
    },
  );

  it('a disk is made larger and smaller, and no byte that was out of sight comes back', async () => {
    await createDisk(qemu.path('disk.qcow2'), { driver: qcow2, size: 2 * CLUSTER, options: extended });
    const disk = await qemu.open('disk.qcow2', { drivers });
    await disk.write(0, bufferOf(2 * CLUSTER, 1));
    await disk.snapshots.create('large');
    for (const size of [
      CLUSTER + 7 * SUB + 512,
      CLUSTER + 100 * SUB,
      3 * SUB + 1024,
      CLUSTER - 512,
      3 * CLUSTER,
    ]) {
      await disk.resize(size);
      const bytes = await bytesOf(disk);
      const kept = Math.min(3 * SUB + 1024, size);
      expect(bytes.subarray(0, kept).equals(bufferOf(2 * CLUSTER, 1).subarray(0, kept))).toBe(true);
    }
    const expected = Buffer.alloc(3 * CLUSTER);
    expected.set(bufferOf(3 * SUB + 1024, 1));
    await disk.close();
    await qemu.assertSees('disk.qcow2', expected);
  });
});

/** Small numbers from a seed. */
class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  below(limit: number): number {
    this.#state = (Math.imul(this.#state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((this.#state / 2 ** 32) * limit);
  }
}

/** A range of sectors, mostly some subclusters long. */
function rangeIn(random: Random, size: number): [offset: number, length: number] {
  const offset = random.below(size / 512) * 512;
  const most = random.below(4) === 0 ? size / 4 : size / 64;
  const length = (1 + random.below(Math.floor(most / 512))) * 512;
  return [offset, Math.min(length, size - offset)];
}

function qemuCommand(random: Random, size: number): string {
  const [offset, length] = rangeIn(random, size);
  const kinds = [`write -P ${1 + random.below(255)}`, 'write -z', 'write -zu', 'discard'];
  return `${kinds[random.below(6)] ?? kinds[0]} ${offset} ${length}`;
}

/** Does something to the disk, and the same to its model. */
async function ourCommand(random: Random, disk: Disk, model: Buffer): Promise<void> {
  const [offset, length] = rangeIn(random, disk.size);
  const kind = random.below(6);
  if (kind === 0) {
    await disk.writeZeroes(offset, length);
    model.fill(0, offset, offset + length);
  } else if (kind === 1) {
    const unit = disk.unitBytes;
    const first = Math.ceil(offset / unit) * unit;
    const end = offset + length === disk.size ? disk.size : Math.floor((offset + length) / unit) * unit;
    await disk.discard(offset, length);
    if (first < end) model.fill(0, first, end);
  } else {
    const bytes = bufferOf(length, random.below(256));
    await disk.write(offset, bytes);
    model.set(bytes, offset);
  }
}
