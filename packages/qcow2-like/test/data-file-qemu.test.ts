// External data files, with QEMU on the other side.

import { existsSync } from 'node:fs';
import { mkdir, readFile, stat, truncate } from 'node:fs/promises';
import { createDisk, type OptionValues } from '@cowlab/core';
import { qcow2 } from '@cowlab/qcow2-like';
import { describe, expect, it } from 'vitest';
import { dataFile, file, rawDataFile, SIZE, work } from './data-file-images.ts';
import { bufferOf, bytesOf, KIB, MIB, Qemu, qemuIsMissing } from './lab.ts';

describe.skipIf(qemuIsMissing)('QEMU', () => {
  const qemu = Qemu.forEachTest();

  it.each<OptionValues>([
    dataFile,
    rawDataFile,
    { ...dataFile, preallocation: 'metadata', cluster_size: 4096 },
    { ...rawDataFile, cluster_size: 512, lazy_refcounts: true },
    { ...dataFile, extended_l2: true },
    { ...rawDataFile, extended_l2: true, cluster_size: 16 * KIB },
  ])('reads what we write, and goes on, with %o', async (options) => {
    const raw = options['data_file_raw'] === true;
    await createDisk(qemu.path(file), { driver: qcow2, size: SIZE, options });
    const disk = await qemu.open();
    await work(disk, 1);
    await disk.resize(6 * MIB);
    await disk.write(5 * MIB + 99, bufferOf(1000, 9));
    const bytes = await bytesOf(disk);
    await disk.close();
    await qemu.assertSees(file, bytes);
    const info: unknown = JSON.parse(await qemu.img('info', '--output=json', file));
    const data = { 'data-file': 'disk.data', 'data-file-raw': raw };
    expect(info).toMatchObject({ 'format-specific': { data } });
    if (raw) await qemu.img('compare', '-f', 'raw', '-F', 'qcow2', 'disk.data', file);
    await qemu.io(file, 'write -P 17 0 100k', 'write -z 64k 128k', 'write -P 18 5M 4k', 'discard 3M 64k');
    await qemu.img('resize', file, '7M');
    const theirs = await qemu.bytes(file);
    const again = await qemu.open();
    expect((await bytesOf(again)).equals(theirs)).toBe(true);
    await work(again, 20);
    const ours = await bytesOf(again);
    await again.close();
    await qemu.assertSees(file, ours);
    if (raw) await qemu.img('compare', '-f', 'raw', '-F', 'qcow2', 'disk.data', file);
  });

  it.each([
    'data_file=disk.data',
    'data_file=disk.data,data_file_raw=on',
    'data_file=disk.data,cluster_size=512,preallocation=metadata',
    'data_file=disk.data,data_file_raw=on,lazy_refcounts=on',
    'data_file=disk.data,extended_l2=on',
    'data_file=disk.data,extended_l2=on,cluster_size=16k,preallocation=metadata',
    'data_file=disk.data,data_file_raw=on,extended_l2=on',
  ])('writes what we read, and reads what we add, with %s', async (options) => {
    await qemu.img('create', '-f', 'qcow2', '-o', options, file, '40M');
    await qemu.io(
      file,
      'write -P 17 0 3M',
      'write -P 18 39M 1M',
      'write -z 0 64k',
      'write -z 2M 64k',
      'discard 1M 128k',
    );
    const theirs = await qemu.bytes(file);
    const disk = await qemu.open();
    expect((await bytesOf(disk)).equals(theirs)).toBe(true);
    expect(await disk.check()).toMatchObject({ corruptions: 0, leaks: 0 });
    await disk.write(100, bufferOf(300, 1));
    await disk.write(2 * MIB + 77, bufferOf(300 * KIB, 8));
    await disk.writeZeroes(39 * MIB, 512 * KIB);
    await disk.discard(MIB + 128 * KIB, MIB);
    await disk.write(20 * MIB, bufferOf(KIB, 3));
    const ours = await bytesOf(disk);
    await disk.close();
    await qemu.assertSees(file, ours);
    if (options.includes('raw')) {
      expect((await readFile(qemu.path('disk.data'))).equals(ours)).toBe(true);
      await qemu.img('compare', '-f', 'raw', '-F', 'qcow2', 'disk.data', file);
    }
  });

  it('respects our lock on the data file', async () => {
    await createDisk(qemu.path(file), { driver: qcow2, size: SIZE, options: dataFile });
    const disk = await qemu.open();
    await expect(qemu.io(file, 'read 0 1k')).rejects.toThrow(/lock/i);
    await disk.close();
  });

  it.each([dataFile, rawDataFile])(
    'a discard gives the blocks of the data file back, with %o',
    async (options) => {
      await createDisk(qemu.path(file), { driver: qcow2, size: SIZE, options });
      const disk = await qemu.open();
      await disk.write(0, bufferOf(4 * MIB, 1));
      await disk.flush();
      const before = (await stat(qemu.path('disk.data'))).blocks;
      await disk.discard(MIB, 2 * MIB);
      await disk.flush();
      const { blocks, size } = await stat(qemu.path('disk.data'));
      expect(before - blocks).toBeGreaterThanOrEqual((2 * MIB) / 512);
      expect(size).toBe(SIZE);
      await disk.close();
    },
  );

  it('finds a data file in a subfolder', async () => {
    await mkdir(qemu.path('data'));
    await createDisk(qemu.path(file), { driver: qcow2, size: SIZE, options: { data_file: 'data/disk' } });
    const disk = await qemu.open();
    await work(disk, 3);
    const bytes = await bytesOf(disk);
    await disk.close();
    expect(existsSync(qemu.path('data/disk'))).toBe(true);
    await qemu.assertSees(file, bytes);
  });

  it('reads the same from a data file that was cut where nothing points', async () => {
    await qemu.img('create', '-f', 'qcow2', '-o', 'data_file=disk.data', file, '4M');
    await qemu.io(file, 'write -P 3 0 64k');
    await truncate(qemu.path('disk.data'), MIB);
    const disk = await qemu.open(file, { readOnly: true });
    expect((await bytesOf(disk)).equals(await qemu.bytes(file))).toBe(true);
    await disk.close();
  });
});
