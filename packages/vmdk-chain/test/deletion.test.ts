// Which way the bytes go when a snapshot is deleted, and who must not notice.

import { FaultFolder, pattern } from '@cowlab/conformance';
import {
  CountingFolder,
  createDisk,
  type Disk,
  MemoryFolder,
  openDisk,
  type StorageFolder,
} from '@cowlab/core';
import { vmdk } from '@cowlab/vmdk-chain';
import { describe, expect, it } from 'vitest';

const GRAIN = 4096;
const GRAINS = 600;
const SIZE = GRAINS * GRAIN;

const open = (folder: StorageFolder, file = 'disk.vmdk', readOnly = false): Promise<Disk> =>
  openDisk({ folder, file }, { drivers: [vmdk], format: 'vmdk', readOnly });

async function bytesOf(disk: Disk): Promise<Buffer> {
  const bytes = Buffer.alloc(disk.size);
  await disk.read(0, bytes);
  return bytes;
}

/** A disk full of bytes, with snapshots of which each holds a few grains of its own, and a hole. */
async function build(folder: StorageFolder, names: readonly string[]): Promise<Disk> {
  const options = { grain_size: GRAIN };
  await createDisk({ folder, file: 'disk.vmdk' }, { driver: vmdk, size: SIZE, options });
  const disk = await open(folder);
  await disk.write(0, pattern(1, SIZE));
  for (const [index, name] of names.entries()) {
    await disk.snapshots.create(name);
    await disk.write((100 * index + 3) * GRAIN + 77, pattern(10 + index, 2 * GRAIN));
    await disk.writeZeroes((100 * index + 50) * GRAIN, 3 * GRAIN);
  }
  await disk.flush();
  return disk;
}

async function reopened(disk: Disk, folder: StorageFolder): Promise<Disk> {
  await disk.close();
  const again = await open(folder);
  expect((await again.check()).findings).toEqual([]);
  return again;
}

describe('deleting the snapshot that holds nearly everything', () => {
  it('moves what was written since, whatever the snapshot holds', async () => {
    const folder = new CountingFolder(new MemoryFolder());
    const disk = await build(folder, ['a']);
    const before = await bytesOf(disk);
    folder.reset();
    await disk.snapshots.delete('a');
    const { data } = folder.reset().purposes;
    // Two grains and a bit were written, which lie in three; zeros move without bytes.
    expect([data.readBytes, data.writtenBytes, data.zeroes]).toEqual([3 * GRAIN, 3 * GRAIN, 1]);
    expect(disk.stats()).toMatchObject({ links: 0 });
    expect(before.equals(await bytesOf(disk))).toBe(true);
    const again = await reopened(disk, folder);
    expect(before.equals(await bytesOf(again))).toBe(true);
    await again.close();
    expect(await folder.list()).toEqual(['disk.vmdk', 'disk.vmsd']);
  });

  it('in the middle of a chain leaves every other state as it was, also those that are open', async () => {
    const folder = new MemoryFolder();
    const disk = await build(folder, ['a', 'b', 'c']);
    const opened = [
      await disk.snapshots.open('b'),
      await disk.snapshots.open('b'),
      await disk.snapshots.open('c'),
    ];
    const states = await Promise.all([disk, ...opened].map(bytesOf));
    await disk.snapshots.delete('a');
    expect(disk.stats()).toMatchObject({ links: 2 });
    for (const [index, one] of [disk, ...opened].entries()) {
      expect(states[index]!.equals(await bytesOf(one)), `state ${index}`).toBe(true);
    }
    for (const one of opened) await one.close();
    const again = await reopened(disk, folder);
    expect(await folder.list()).toEqual(['disk-000002.vmdk', 'disk-000003.vmdk', 'disk.vmdk', 'disk.vmsd']);
    const b = await again.snapshots.open('b');
    expect(states[1]!.equals(await bytesOf(b))).toBe(true);
    await b.close();
    await again.close();
  });

  it('over a base keeps what the base must not show', async () => {
    const folder = new MemoryFolder();
    const options = { grain_size: GRAIN };
    await createDisk({ folder, file: 'base.vmdk' }, { driver: vmdk, size: SIZE, options });
    const base = await open(folder, 'base.vmdk');
    await base.write(0, pattern(9, SIZE));
    await base.close();
    const backing = { file: 'base.vmdk', format: 'vmdk' };
    await createDisk({ folder, file: 'disk.vmdk' }, { driver: vmdk, options, backing });
    const disk = await open(folder);
    await disk.write(0, pattern(1, 100 * GRAIN));
    await disk.snapshots.create('a');
    await disk.writeZeroes(98 * GRAIN, 4 * GRAIN);
    await disk.write(200 * GRAIN, pattern(2, 10));
    const before = await bytesOf(disk);
    await disk.snapshots.delete('a');
    const again = await reopened(disk, folder);
    expect(again.stats()).toMatchObject({ links: 1 });
    expect(before.equals(await bytesOf(again))).toBe(true);
    await again.close();
  });

  it('can be repeated on what it has made, with writes in between', async () => {
    const folder = new MemoryFolder();
    const disk = await build(folder, []);
    for (let round = 0; round < 4; round++) {
      await disk.snapshots.create('only');
      await disk.write(round * 17 * GRAIN, pattern(round, 100));
      await disk.snapshots.delete('only');
      await disk.write(round * 19 * GRAIN, pattern(round, 100));
    }
    const before = await bytesOf(disk);
    const again = await reopened(disk, folder);
    expect(before.equals(await bytesOf(again))).toBe(true);
    await again.close();
  });
});

describe('a clone', () => {
  it('of the child finds its parent when the deleted file has taken that one’s place', async () => {
    const folder = new MemoryFolder();
    const disk = await build(folder, ['a', 'b']);
    const backing = { file: 'disk-000002.vmdk', format: 'vmdk' };
    await createDisk({ folder, file: 'clone.vmdk' }, { driver: vmdk, drivers: [vmdk], backing });
    const before = await (async () => {
      const clone = await open(folder, 'clone.vmdk', true);
      const bytes = await bytesOf(clone);
      await clone.close();
      return bytes;
    })();
    await disk.snapshots.delete('a');
    await disk.close();
    const clone = await open(folder, 'clone.vmdk');
    expect(before.equals(await bytesOf(clone))).toBe(true);
    await clone.close();
  });

  it.each(['disk-000001.vmdk', 'clone.vmdk'])('that is open (%s) keeps the file as it is', async (file) => {
    const folder = new MemoryFolder();
    const disk = await build(folder, ['a']);
    const backing = { file: 'disk-000001.vmdk', format: 'vmdk' };
    await createDisk({ folder, file: 'clone.vmdk' }, { driver: vmdk, drivers: [vmdk], backing });
    const before = await bytesOf(disk);
    const clone = await open(folder, file, true);
    const ofClone = await bytesOf(clone);
    await disk.snapshots.delete('a');
    expect(ofClone.equals(await bytesOf(clone))).toBe(true);
    expect(before.equals(await bytesOf(disk))).toBe(true);
    await clone.close();
    const again = await reopened(disk, folder);
    expect(before.equals(await bytesOf(again))).toBe(true);
    await again.close();
  });

  it('of the deleted snapshot is refused, and never reads what came later', async () => {
    const memory = new MemoryFolder();
    const folder = new FaultFolder(memory);
    const disk = await build(folder, ['a']);
    const backing = { file: 'disk-000001.vmdk', format: 'vmdk' };
    await createDisk({ folder, file: 'clone.vmdk' }, { driver: vmdk, drivers: [vmdk], backing });
    // The merge stops in its midst: the file is still there, and has got some of the disk's grains.
    folder.arm({ kind: 'EIO', methods: ['rename'], nth: 2 });
    await expect(disk.snapshots.delete('a')).rejects.toMatchObject({ code: 'ERR_IO' });
    expect(await disk.snapshots.list()).toEqual([]);
    expect(await folder.list()).toContain('disk-000001.vmdk');
    await expect(open(folder, 'clone.vmdk', true)).rejects.toMatchObject({
      code: 'ERR_CORRUPT',
      data: { field: 'descriptor.parentCID' },
    });
    await disk.close();
  });
});

describe('a merge down that fails', () => {
  it.each(['write', 'flush', 'rename', 'open', 'read'] as const)(
    'at any %s leaves a disk that goes on, and opens again',
    async (method) => {
      for (let nth = 1; ; nth++) {
        const memory = new MemoryFolder();
        const folder = new FaultFolder(memory);
        const disk = await build(folder, ['a', 'b']);
        await disk.snapshots.delete('b');
        const before = await bytesOf(disk);
        folder.arm({ kind: 'EIO', methods: [method], nth });
        const failure: unknown = await disk.snapshots.delete('a').catch((error: unknown) => error);
        folder.disarm();
        expect(before.equals(await bytesOf(disk)), `${method} ${nth}`).toBe(true);
        // With a CID of its own, over a parent that may have got the one from before.
        await disk.write(7, pattern(nth, 100));
        before.set(pattern(nth, 100), 7);
        await disk.snapshots.create('later');
        await disk.write(9 * GRAIN, pattern(5, GRAIN));
        const later = await disk.snapshots.open('later');
        expect(before.equals(await bytesOf(later)), `${method} ${nth}`).toBe(true);
        await later.close();
        before.set(pattern(5, GRAIN), 9 * GRAIN);
        await disk.close();
        const again = await open(memory);
        expect((await again.check()).corruptions).toBe(0);
        expect(before.equals(await bytesOf(again)), `${method} ${nth}`).toBe(true);
        await again.close();
        if (failure === undefined) break;
      }
    },
  );
});

it('a snapshot that could not be taken off the list keeps its file, whatever is deleted after it', async () => {
  const memory = new MemoryFolder();
  const folder = new FaultFolder(memory);
  const disk = await build(folder, ['a']);
  await disk.snapshots.apply('a');
  await disk.write(0, pattern(5, SIZE));
  await disk.snapshots.create('b');
  await disk.snapshots.apply('a');
  // `b` is a branch with nobody on it; its deletion is only the list's, and that fails.
  const b = await disk.snapshots.open('b');
  const before = await bytesOf(b);
  await b.close();
  folder.arm({ kind: 'EIO', methods: ['rename'], nth: 1 });
  await expect(disk.snapshots.delete('b')).rejects.toMatchObject({ code: 'ERR_IO' });
  await disk.snapshots.create('c');
  await disk.snapshots.apply('a');
  await disk.snapshots.delete('c');
  const again = await reopened(disk, folder);
  const kept = await again.snapshots.open('b');
  expect(before.equals(await bytesOf(kept))).toBe(true);
  await kept.close();
  await again.close();
});
