// What an image takes of its file system: space that is set aside at create, and space that is given back.

import { stat } from 'node:fs/promises';
import { createDisk, type Disk, MemoryFolder, type OptionValues } from '@cowlab/core';
import { qcow2 } from '@cowlab/qcow2-like';
import { describe, expect, it } from 'vitest';
import { bufferOf, bytesOf, KIB, MIB, Qemu, qemuIsMissing } from './lab.ts';

const SIZE = 16 * MIB;
const file = 'disk.qcow2';
const qemu = Qemu.forEachTest();

async function make(options: OptionValues = {}): Promise<Disk> {
  await createDisk(qemu.path(file), { driver: qcow2, size: SIZE, options });
  return qemu.open();
}

/** Bytes that the file system has set aside for a file. */
async function takenBytes(name = file): Promise<number> {
  return (await stat(qemu.path(name))).blocks * 512;
}

describe('preallocation', () => {
  it.each([
    ['off', 0, MIB],
    ['metadata', 0, MIB],
    ['falloc', SIZE, SIZE + MIB],
    ['full', SIZE, SIZE + MIB],
  ])('%s takes as much as it says, and reads as zeros', async (preallocation, least, most) => {
    const disk = await make({ preallocation });
    const taken = await takenBytes();
    expect(taken).toBeGreaterThanOrEqual(least);
    expect(taken).toBeLessThanOrEqual(most);
    const { size } = await stat(qemu.path(file));
    const mapped = preallocation === 'off' ? 0 : SIZE;
    expect(size).toBeGreaterThanOrEqual(mapped);
    expect(await disk.check()).toMatchObject({ corruptions: 0, leaks: 0, allocatedBytes: mapped });
    expect((await bytesOf(disk)).equals(Buffer.alloc(SIZE))).toBe(true);
    await disk.write(3 * MIB + 7, bufferOf(2 * MIB, 1));
    await disk.flush();
    // Where it was set aside, a write takes nothing.
    if (least > 0) expect((await takenBytes()) - taken).toBeLessThan(64 * KIB);
    await disk.close();
  });

  it.each(['metadata', 'falloc', 'full'])(
    '%s of a data file takes its space there',
    async (preallocation) => {
      const disk = await make({ preallocation, data_file: 'disk.data' });
      expect(await takenBytes()).toBeLessThan(MIB);
      const taken = await takenBytes('disk.data');
      expect(taken).toBe(preallocation === 'metadata' ? 0 : SIZE);
      expect((await disk.check()).allocatedBytes).toBe(SIZE);
      await disk.close();
    },
  );

  it.each(['metadata', 'falloc', 'full'])(
    '%s over a backing file is refused, and leaves no file',
    async (preallocation) => {
      const memory = new MemoryFolder();
      await createDisk({ folder: memory, file: 'base' }, { driver: qcow2, size: SIZE });
      const request = { driver: qcow2, backing: { file: 'base' }, options: { preallocation } };
      await expect(createDisk({ folder: memory, file }, request)).rejects.toMatchObject({
        code: 'ERR_INVALID_OPTION',
        data: { field: 'preallocation' },
      });
      expect(await memory.list()).toEqual(['base']);
    },
  );

  it
    .skipIf(qemuIsMissing)
    .each<OptionValues>([
      { preallocation: 'falloc' },
      { preallocation: 'full', cluster_size: 4096 },
      { preallocation: 'falloc', data_file: 'disk.data' },
      { preallocation: 'full', data_file: 'disk.data', data_file_raw: true },
      { preallocation: 'falloc', compat: '0.10' },
      { preallocation: 'falloc', extended_l2: true },
      { preallocation: 'full', extended_l2: true, data_file: 'disk.data' },
    ])('QEMU finds everything mapped, and takes the same space itself, with %o', async (options) => {
    const disk = await make(options);
    const bytes = await bytesOf(disk);
    await disk.close();
    await qemu.assertSees(file, bytes);
    const [only, ...rest] = JSON.parse(await qemu.img('map', '--output=json', file)) as {
      readonly length: number;
      readonly present: boolean;
    }[];
    const lengths = [only!, ...rest].filter(({ present }) => present).map(({ length }) => length);
    expect(lengths.reduce((sum, length) => sum + length, 0)).toBe(SIZE);
    const given = Object.entries(options).map(([name, value]) =>
      `${name}=${String(value)}`.replace('true', 'on'),
    );
    const theirs = given.join().replace('disk.data', 'theirs.data');
    await qemu.img('create', '-f', 'qcow2', '-o', theirs, 'theirs.qcow2', String(SIZE));
    const pairs = [[file, 'theirs.qcow2'], ...(options['data_file'] ? [['disk.data', 'theirs.data']] : [])];
    for (const [our, their] of pairs) {
      expect(Math.abs((await takenBytes(our)) - (await takenBytes(their)))).toBeLessThan(MIB);
    }
  });
});

describe('space comes back to the file system', () => {
  const rooms = (before: number, after: number): number => Math.round((before - after) / MIB);

  it('by a discard', async () => {
    const disk = await make();
    await disk.write(0, bufferOf(SIZE, 1));
    await disk.flush();
    const before = await takenBytes();
    await disk.discard(2 * MIB, 8 * MIB);
    await disk.flush();
    expect(rooms(before, await takenBytes())).toBe(8);
    await disk.close();
  });

  it('by a delete of a snapshot, as much as nobody else has', async () => {
    const disk = await make();
    await disk.write(0, bufferOf(SIZE, 1));
    await disk.snapshots.create('one');
    await disk.write(4 * MIB, bufferOf(6 * MIB, 2));
    await disk.discard(12 * MIB, MIB);
    await disk.flush();
    const before = await takenBytes();
    await disk.snapshots.delete('one');
    expect(rooms(before, await takenBytes())).toBe(7);
    await disk.close();
  });

  it('by an apply of a snapshot: what the disk alone had', async () => {
    const disk = await make();
    await disk.write(0, bufferOf(4 * MIB, 1));
    await disk.snapshots.create('one');
    await disk.write(0, bufferOf(9 * MIB, 2));
    await disk.flush();
    const before = await takenBytes();
    await disk.snapshots.apply('one');
    expect(rooms(before, await takenBytes())).toBe(9);
    await disk.close();
  });

  it.each<OptionValues>([{}, { compat: '0.10' }, { lazy_refcounts: true }, { cluster_size: 4096 }])(
    'by becoming smaller, with %o',
    async (options) => {
      const disk = await make(options);
      await disk.write(0, bufferOf(SIZE, 1));
      await disk.flush();
      const before = await takenBytes();
      await disk.resize(5 * MIB);
      expect(rooms(before, await takenBytes())).toBe(11);
      await disk.close();
    },
  );

  it('by becoming smaller, with a data file', async () => {
    const disk = await make({ data_file: 'disk.data', data_file_raw: true });
    await disk.write(0, bufferOf(SIZE, 1));
    await disk.flush();
    await disk.resize(5 * MIB);
    expect(await takenBytes('disk.data')).toBe(5 * MIB);
    await disk.close();
  });

  it.skipIf(qemuIsMissing)(
    'by a discard of compressed clusters, as soon as their host clusters are free',
    async () => {
      await createDisk(qemu.path('source.qcow2'), { driver: qcow2, size: SIZE });
      const source = await qemu.open('source.qcow2');
      // Every other byte is noise, so that compression saves about a half.
      const half = Buffer.alloc(SIZE);
      for (let at = 0, noise = 1; at < SIZE; at += 2) {
        noise = (Math.imul(noise, 1_103_515_245) + 12_345) | 0;
        half[at] = noise >>> 16;
      }
      await source.write(0, half);
      await source.close();
      await qemu.img('convert', '-c', '-O', 'qcow2', 'source.qcow2', file);
      const disk = await qemu.open();
      const before = await takenBytes();
      await disk.discard(0, SIZE);
      await disk.flush();
      expect(before).toBeGreaterThan(4 * MIB);
      expect(await takenBytes()).toBeLessThan(MIB);
      await disk.close();
      await qemu.img('check', file);
    },
  );
});
