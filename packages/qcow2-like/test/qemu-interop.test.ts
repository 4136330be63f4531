// QEMU as the judge: what we write it reads, what it writes we read, and both go on where the other stopped.

import { readFile, rm, writeFile } from 'node:fs/promises';
import { createDisk, type OptionValues, prefetch } from '@cowlab/core';
import { qcow2 } from '@cowlab/qcow2-like';
import { describe, expect, it } from 'vitest';
import { bufferOf, bytesOf, KIB, MIB, Qemu, qemuIsMissing } from './lab.ts';

const SIZE = 40 * MIB;
const qemu = Qemu.forEachTest();

async function readWhole(file: string): Promise<Buffer> {
  const disk = await qemu.open(file, { readOnly: true });
  const bytes = await bytesOf(disk);
  expect(await disk.check()).toMatchObject({ corruptions: 0, leaks: 0 });
  await disk.close();
  return bytes;
}

it.skipIf(qemuIsMissing && !process.env['CI'])(
  'qemu-img is here to judge (Debian: apt-get install qemu-utils)',
  () => {
    expect(qemuIsMissing).toBe(false);
  },
);

describe.skipIf(qemuIsMissing)('QEMU reads what we write', () => {
  it.each<OptionValues>([
    {},
    { cluster_size: 512 },
    { cluster_size: 2 * MIB },
    { compat: '0.10' },
    { refcount_bits: 8, cluster_size: 4 * KIB },
    { refcount_bits: 64 },
    { lazy_refcounts: true },
    { preallocation: 'metadata' },
    { extended_l2: true },
    { extended_l2: true, cluster_size: 16 * KIB, refcount_bits: 8 },
    { extended_l2: true, cluster_size: 2 * MIB, lazy_refcounts: true },
    { extended_l2: true, preallocation: 'metadata' },
  ])('a disk and its snapshots, with %j', async (options) => {
    await createDisk(qemu.path('disk.qcow2'), { driver: qcow2, size: SIZE, options });
    const disk = await qemu.open();
    await disk.write(1000, bufferOf(200 * KIB, 1));
    await disk.write(SIZE - 700, bufferOf(700, 2));
    await disk.snapshots.create('first');
    const first = await bytesOf(disk);
    await disk.writeZeroes(64 * KIB, 3 * MIB);
    await disk.write(9 * MIB + 5, bufferOf(MIB, 3));
    await disk.snapshots.create('second');
    await disk.discard(0, 10 * MIB);
    await disk.write(33 * MIB, bufferOf(10, 4));
    const top = await bytesOf(disk);
    await disk.snapshots.delete('second');
    await disk.close();
    await qemu.assertSees('disk.qcow2', top);
    expect((await qemu.bytes('disk.qcow2', '-l', 'first')).equals(first)).toBe(true);
    expect(await qemu.img('snapshot', '-l', 'disk.qcow2')).toMatch(/\bfirst\b/);
  });

  it('the header tells it version, backing file, and widths', async () => {
    await createDisk(qemu.path('base.qcow2'), { driver: qcow2, size: SIZE });
    const backing = { file: 'base.qcow2', format: 'qcow2' };
    const options = { refcount_bits: 32, lazy_refcounts: true, cluster_size: 128 * KIB };
    await createDisk(qemu.path('disk.qcow2'), { driver: qcow2, backing, options });
    const info: unknown = JSON.parse(await qemu.img('info', '--output=json', 'disk.qcow2'));
    expect(info).toMatchObject({
      format: 'qcow2',
      'virtual-size': SIZE,
      'cluster-size': 128 * KIB,
      'backing-filename': 'base.qcow2',
      'backing-filename-format': 'qcow2',
      'format-specific': {
        data: { compat: '1.1', 'lazy-refcounts': true, 'refcount-bits': 32, corrupt: false },
      },
    });
  });

  it.each([
    [64 * KIB, 'compat=1.1'],
    [512, 'compat=1.1,cluster_size=512'],
    [64 * KIB, 'compat=0.10'],
  ])(
    'the names of features as it has them itself, in clusters of %i bytes and %s',
    async (clusterBytes, given) => {
      const options = {
        cluster_size: clusterBytes,
        ...(given === 'compat=0.10' && { compat: '0.10' }),
      };
      await createDisk(qemu.path('disk.qcow2'), { driver: qcow2, size: SIZE, options });
      await qemu.img('create', '-q', '-f', 'qcow2', '-o', given, 'theirs.qcow2', '40M');
      const [ours, theirs] = await Promise.all([
        readFile(qemu.path('disk.qcow2')),
        readFile(qemu.path('theirs.qcow2')),
      ]);
      const namesIn = (image: Buffer): string => {
        const at = image.subarray(0, clusterBytes).indexOf(Buffer.from([0x68, 0x03, 0xf8, 0x57]));
        return at < 0 ? '' : image.toString('latin1', at, at + 8 + image.readUInt32BE(at + 4));
      };
      expect(namesIn(ours)).toBe(namesIn(theirs));
      expect(namesIn(ours).length > 0).toBe(given === 'compat=1.1');
    },
  );

  it('writes of ours over a backing file that it made', async () => {
    await qemu.img('create', '-f', 'qcow2', 'base.qcow2', '40M');
    await qemu.io('base.qcow2', 'write -P 1 0 1M', 'write -P 2 20M 64k');
    await createDisk(qemu.path('disk.qcow2'), {
      driver: qcow2,
      backing: { file: 'base.qcow2', format: 'qcow2' },
    });
    const disk = await qemu.open();
    await disk.write(100, bufferOf(5000, 5));
    await disk.writeZeroes(20 * MIB, 64 * KIB);
    await disk.discard(512 * KIB, 64 * KIB);
    const bytes = await bytesOf(disk);
    await disk.close();
    expect(bytes[300 * KIB]).toBe(1);
    expect(bytes[20 * MIB]).toBe(0);
    await qemu.assertSees('disk.qcow2', bytes);
  });

  it('a disk that we made larger, and one that we made smaller', async () => {
    await createDisk(qemu.path('disk.qcow2'), { driver: qcow2, size: MIB, options: { cluster_size: 512 } });
    const disk = await qemu.open();
    await disk.write(0, bufferOf(MIB, 1));
    await disk.snapshots.create('small');
    await disk.resize(64 * MIB);
    await disk.write(63 * MIB, bufferOf(1000, 2));
    const grown = await bytesOf(disk);
    await disk.close();
    await qemu.assertSees('disk.qcow2', grown);
    const again = await qemu.open();
    await again.resize(512 * KIB);
    const shrunk = await bytesOf(again);
    const small = await again.snapshots.open('small');
    expect((await bytesOf(small)).equals(bufferOf(MIB, 1))).toBe(true);
    await again.close();
    await qemu.assertSees('disk.qcow2', shrunk);
  });
});

describe.skipIf(qemuIsMissing)('we read what QEMU writes', () => {
  it.each([
    'compat=1.1',
    'compat=0.10',
    'cluster_size=512',
    'refcount_bits=1',
    'preallocation=metadata',
    'lazy_refcounts=on',
    'extended_l2=on',
    'extended_l2=on,cluster_size=16k',
    'extended_l2=on,preallocation=metadata',
  ])('a disk made with %s, and it reads what we add', async (option) => {
    await qemu.img('create', '-f', 'qcow2', '-o', option, 'disk.qcow2', '40M');
    await qemu.io(
      'disk.qcow2',
      'write -P 17 1M 3M',
      'write -P 18 39M 1M',
      'write -z 2M 64k',
      'discard 3M 128k',
    );
    const theirs = await qemu.bytes('disk.qcow2');
    expect((await readWhole('disk.qcow2')).equals(theirs)).toBe(true);
    const disk = await qemu.open();
    await disk.write(2 * MIB + 77, bufferOf(300 * KIB, 8));
    const ours = await bytesOf(disk);
    await disk.close();
    await qemu.assertSees('disk.qcow2', ours);
  });

  it.each(['compat=1.1', 'compat=0.10', 'compat=1.1,cluster_size=512', 'extended_l2=on,cluster_size=128k'])(
    'an overlay made with %s, whose base we copy and release',
    async (option) => {
      await writeFile(qemu.path('base.raw'), Buffer.concat([bufferOf(3 * MIB, 1), Buffer.alloc(2 * MIB)]));
      const overlay = ['-f', 'qcow2', '-o', option, '-b', 'base.raw', '-F', 'raw', 'disk.qcow2', '6M'];
      await qemu.img('create', ...overlay);
      await qemu.io('disk.qcow2', 'write -P 17 1M 64k', 'write -z 2M 64k');
      const theirs = await qemu.bytes('disk.qcow2');
      const disk = await qemu.open();
      await prefetch(disk, { throttleMaxMs: 0 });
      await disk.releaseBacking();
      await disk.close();
      await rm(qemu.path('base.raw'));
      await qemu.assertSees('disk.qcow2', theirs);
      const info = JSON.parse(await qemu.img('info', '--output=json', 'disk.qcow2')) as object;
      expect(Object.keys(info).filter((key) => key.includes('backing'))).toEqual([]);
    },
  );

  it.each(['compat=1.1', 'extended_l2=on'])(
    'snapshots of its own and of ours in one image with %s, deleted by either',
    async (option) => {
      await qemu.img('create', '-f', 'qcow2', '-o', option, 'disk.qcow2', '40M');
      await qemu.io('disk.qcow2', 'write -P 1 0 2M');
      await qemu.img('snapshot', '-c', 'theirs', 'disk.qcow2');
      await qemu.io('disk.qcow2', 'write -P 2 1M 2M');
      const theirs = await qemu.bytes('disk.qcow2', '-l', 'theirs');
      const disk = await qemu.open();
      expect((await disk.snapshots.list()).map(({ name }) => name)).toEqual(['theirs']);
      await disk.snapshots.create('ours');
      await disk.write(1_500_000, bufferOf(MIB, 3));
      const opened = await disk.snapshots.open('theirs');
      expect((await bytesOf(opened)).equals(theirs)).toBe(true);
      await disk.close();
      await qemu.img('snapshot', '-d', 'ours', 'disk.qcow2');
      await qemu.img('check', 'disk.qcow2');
      const again = await qemu.open();
      await again.snapshots.create('last');
      await again.snapshots.apply('theirs');
      await again.snapshots.delete('theirs');
      await again.close();
      await qemu.assertSees('disk.qcow2', theirs);
      expect(await qemu.img('snapshot', '-l', 'disk.qcow2')).toMatch(/\blast\b/);
    },
  );

  it.each(['compat=1.1', 'extended_l2=on'])(
    'compressed clusters with %s, which a write replaces',
    async (option) => {
      const raw = Buffer.concat([bufferOf(3 * MIB, 1), Buffer.alloc(MIB), bufferOf(100_000, 2)]);
      const padded = Buffer.concat([raw, Buffer.alloc(512 - (raw.length % 512))]);
      await writeFile(qemu.path('source.raw'), padded);
      await qemu.img('convert', '-c', '-f', 'raw', '-O', 'qcow2', '-o', option, 'source.raw', 'disk.qcow2');
      expect((await readWhole('disk.qcow2')).equals(padded)).toBe(true);
      const disk = await qemu.open();
      await disk.snapshots.create('compressed');
      await disk.write(70_000, bufferOf(200_000, 9));
      const ours = await bytesOf(disk);
      await disk.close();
      await qemu.assertSees('disk.qcow2', ours);
      expect((await qemu.bytes('disk.qcow2', '-l', 'compressed')).equals(padded)).toBe(true);
    },
  );
});
