// Corruption that marks an image, an image that is marked, and QEMU on both sides.

import { type CheckReport, type Disk, type MemoryFolder, openDisk, type OptionValues } from '@cowlab/core';
import { qcow2 } from '@cowlab/qcow2-like';
import { readFile, writeFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import {
  aim,
  CLUSTER,
  expectCondemned,
  expectMarked,
  failure,
  FEATURES_AT,
  image,
  type Made,
  refused,
  structuresIn,
  VICTIM,
} from './guarded-image.ts';
import { bufferOf, bytesIn, bytesOf, KIB, MIB, open, placesIn, put, Qemu, qemuIsMissing } from './lab.ts';

describe('corruption that marks an image which is open for writing, and no other', () => {
  const victimEntry = (bytes: Buffer): number => placesIn(bytes).l2 + (VICTIM / CLUSTER) * 8;
  const damages: [string, OptionValues, (bytes: Buffer) => void, string][] = [
    [
      'an L1 entry between clusters',
      {},
      (bytes) => void bytes.writeUInt16BE(0x0200, placesIn(bytes).l1 + 6),
      'l1_table.entry',
    ],
    [
      'an L2 entry between clusters',
      {},
      (bytes) => void bytes.writeUInt16BE(0x0200, victimEntry(bytes) + 6),
      'l2_table.entry',
    ],
    [
      'a ZERO entry in version 2',
      { compat: '0.10' },
      (bytes) => void bytes.writeUInt8(1, victimEntry(bytes) + 7),
      'l2_table.entry',
    ],
  ];
  it.each(damages)('%s, that a read meets', async (_, options, damage, field) => {
    const { folder, bytes } = await image(options);
    damage(bytes);
    await put(folder, bytes);
    const target = Buffer.alloc(CLUSTER);
    const reader = await open(folder, true);
    expect(await failure(() => reader.read(VICTIM, target))).toMatchObject({ code: 'ERR_CORRUPT' });
    await reader.close();
    expect((await bytesIn(folder)).equals(bytes)).toBe(true);
    const disk = await open(folder);
    const error = await failure(() => disk.read(VICTIM, target));
    expect(error).toMatchObject({ code: 'ERR_CORRUPT', data: { file: 'disk.qcow2', field } });
    expect(await failure(() => disk.write(5 * MIB, bufferOf(100, 1)))).toMatchObject(refused);
    await disk.close();
    if (options['compat'] === '0.10') expect((await bytesIn(folder)).equals(bytes)).toBe(true);
    else await expectMarked(folder, bytes);
  });

  it('a refcount block between clusters, that an allocation meets', async () => {
    const { folder, bytes } = await image();
    bytes.writeUInt16BE(0x0200, placesIn(bytes).refcountTable + 6);
    await put(folder, bytes);
    const disk = await open(folder);
    const error = await failure(() => disk.write(7 * MIB, bufferOf(CLUSTER, 9)));
    expect(error).toMatchObject({ code: 'ERR_CORRUPT', data: { field: 'refcount table entry' } });
    await expectCondemned(disk);
    await expectMarked(folder, bytes);
  });

  it('but not reserved bits, which QEMU passes over', async () => {
    const { folder, bytes } = await image();
    bytes.writeUInt8(0x81, victimEntry(bytes));
    await put(folder, bytes);
    const disk = await open(folder);
    expect(await failure(() => disk.read(VICTIM, Buffer.alloc(100)))).toMatchObject({ code: 'ERR_CORRUPT' });
    await disk.write(7 * MIB, bufferOf(100, 1));
    await disk.close();
    expect((await bytesIn(folder)).readUInt8(FEATURES_AT)).toBe(0);
  });
});

describe('an image with the corrupt bit', () => {
  const openForRepair = (folder: MemoryFolder): Promise<Disk> =>
    openDisk({ folder, file: 'disk.qcow2' }, { drivers: [qcow2], forRepair: true });

  async function marked(damage: (bytes: Buffer) => void = () => undefined): Promise<Made> {
    const { folder, bytes } = await image();
    damage(bytes);
    bytes.writeUInt8(2, FEATURES_AT);
    await put(folder, bytes);
    return { folder, bytes };
  }

  it.each([
    ['is whole', (): void => undefined],
    [
      'has a cluster in use that is counted as free',
      (bytes: Buffer): void =>
        void bytes.writeUInt16BE(0, placesIn(bytes).refcountBlock + (placesIn(bytes).l1 / CLUSTER) * 2),
    ],
  ])('that %s loses it when a repair of all leaves nothing', async (_, damage) => {
    const { folder } = await marked(damage);
    await expect(open(folder)).rejects.toMatchObject(refused);
    const disk = await openForRepair(folder);
    expect(await failure(() => disk.write(0, bufferOf(100, 9)))).toMatchObject(refused);
    expect(await failure(() => disk.snapshots.delete('one'))).toMatchObject(refused);
    expect(await disk.check({ repair: 'all' })).toMatchObject({ corruptions: 0, leaks: 0 });
    await disk.write(0, bufferOf(100, 9));
    await disk.close();
    const again = await open(folder);
    expect((await bytesOf(again)).subarray(0, 100).equals(bufferOf(100, 9))).toBe(true);
    expect(await again.check()).toMatchObject({ corruptions: 0, leaks: 0 });
    await again.close();
  });

  it.each<[string, OptionValues]>([
    ['active L1 table', {}],
    ['active L2 table', {}],
    ['refcount block', {}],
    ['refcount table', {}],
    ['snapshot table', {}],
    ['L1 table of a snapshot', {}],
    ['L2 table of a snapshot', {}],
    ['active L1 table', { extended_l2: true, cluster_size: 16 * KIB }],
    ['active L1 table', { compat: '0.10' }],
  ])(
    'because a guest cluster lies on the %s (%j) loses it by a repair of all',
    async (structure, options) => {
      const { folder, bytes } = await image(options);
      const target = structuresIn(bytes)[structure] as number;
      const step = options['extended_l2'] === true ? 16 : 8;
      const clusterBytes = Number(options['cluster_size'] ?? CLUSTER);
      bytes.writeBigUInt64BE((1n << 63n) | BigInt(target), placesIn(bytes).l2 + step);
      if (options['compat'] !== '0.10') bytes.writeUInt8(bytes.readUInt8(FEATURES_AT) | 2, FEATURES_AT);
      await put(folder, bytes);
      const reader = await open(folder, true);
      const before = await bytesOf(reader);
      await reader.close();
      const disk = await openForRepair(folder);
      expect(await disk.check({ repair: 'all' })).toMatchObject({ corruptions: 0, leaks: 0 });
      expect((await bytesOf(disk)).equals(before)).toBe(true);
      await disk.write(clusterBytes, bufferOf(clusterBytes, 7));
      await disk.snapshots.create('two');
      await disk.snapshots.delete('one');
      await disk.close();
      const again = await open(folder);
      bufferOf(clusterBytes, 7).copy(before, clusterBytes);
      expect((await bytesOf(again)).equals(before)).toBe(true);
      expect(await again.check()).toMatchObject({ corruptions: 0, leaks: 0 });
      await again.close();
    },
  );

  it('because two tables lie on each other keeps it, and nothing is changed', async () => {
    const { folder, bytes } = await marked((whole) => {
      const { l1, refcountBlock } = placesIn(whole);
      whole.writeBigUInt64BE((1n << 63n) | BigInt(refcountBlock), l1 + 8);
    });
    const disk = await openForRepair(folder);
    expect((await disk.check({ repair: 'all' })).corruptions).toBeGreaterThan(0);
    await disk.close();
    expect((await bytesIn(folder)).equals(bytes)).toBe(true);
  });

  it.each([undefined, 'leaks'] as const)('keeps it through a check with repair %s', async (repair) => {
    const { folder, bytes } = await marked();
    const disk = await openForRepair(folder);
    const report: CheckReport = await disk.check(repair === undefined ? {} : { repair });
    expect(report).toMatchObject({ corruptions: 0, leaks: 0, repaired: 0 });
    await disk.close();
    expect((await bytesIn(folder)).equals(bytes)).toBe(true);
  });

  it('keeps it while there is something that cannot be mended', async () => {
    const { folder, bytes } = await marked((whole) => {
      whole.writeBigUInt64BE((1n << 63n) | (1n << 40n), placesIn(whole).l1 + 16);
    });
    const disk = await openForRepair(folder);
    expect((await disk.check({ repair: 'all' })).corruptions).toBeGreaterThan(0);
    expect(await failure(() => disk.write(0, bufferOf(100, 9)))).toMatchObject(refused);
    await disk.close();
    expect((await bytesIn(folder)).equals(bytes)).toBe(true);
  });
});

describe.skipIf(qemuIsMissing)('QEMU and the corrupt bit', () => {
  const qemu = Qemu.forEachTest();

  /** The cluster of the L1 table is counted as free: the next allocation takes it. */
  async function damaged(): Promise<void> {
    const { bytes } = await image();
    const { refcountBlock, l1 } = placesIn(bytes);
    bytes.writeUInt16BE(0, refcountBlock + (l1 / CLUSTER) * 2);
    await writeFile(qemu.path('disk.qcow2'), bytes);
  }

  const isCorrupt = async (): Promise<unknown> => {
    const info = JSON.parse(await qemu.img('info', '--output=json', 'disk.qcow2')) as {
      'format-specific': { data: { corrupt: boolean } };
    };
    return info['format-specific'].data.corrupt;
  };

  it('one that we set it finds, and clears when it has repaired the image', async () => {
    await damaged();
    const disk = await qemu.open();
    const error = await failure(() => disk.write(7 * MIB, bufferOf(CLUSTER, 9)));
    expect(error).toMatchObject({ code: 'ERR_CORRUPT', data: { field: 'active L1 table' } });
    await disk.close();
    expect(await isCorrupt()).toBe(true);
    await expect(qemu.io('disk.qcow2', 'write 0 512')).rejects.toThrow(/corrupt/);
    await qemu.img('check', '-r', 'all', 'disk.qcow2');
    expect(await isCorrupt()).toBe(false);
    const again = await qemu.open();
    await again.write(7 * MIB, bufferOf(CLUSTER, 9));
    await again.close();
    await qemu.img('check', 'disk.qcow2');
  });

  const sights: [string, () => Promise<void>, string][] = [
    ['an allocation', damaged, 'write 7M 4k'],
    [
      'a write in place',
      async () => {
        const { bytes } = await image();
        aim(bytes, placesIn(bytes).l1);
        await writeFile(qemu.path('disk.qcow2'), bytes);
      },
      `write ${VICTIM} 4k`,
    ],
  ];
  it.each(sights)(
    'one that it sets in %s keeps us from writing, and goes with our repair',
    async (...args) => {
      const [, damage, command] = args;
      await damage();
      await expect(qemu.io('disk.qcow2', command)).rejects.toThrow(/corrupt|Input/);
      expect(await isCorrupt()).toBe(true);
      const before = await readFile(qemu.path('disk.qcow2'));
      await expect(qemu.open()).rejects.toMatchObject(refused);
      expect((await readFile(qemu.path('disk.qcow2'))).equals(before)).toBe(true);
      const disk = await qemu.open('disk.qcow2', { forRepair: true });
      expect(await disk.check({ repair: 'all' })).toMatchObject({ corruptions: 0, leaks: 0 });
      const bytes = await bytesOf(disk);
      await disk.close();
      expect(await isCorrupt()).toBe(false);
      await qemu.assertSees('disk.qcow2', bytes);
    },
  );
});
