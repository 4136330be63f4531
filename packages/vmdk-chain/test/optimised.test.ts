// Chains that are read as one map: what a read costs, what is held for it, and who may change a link that rests.

import { pattern } from '@cowlab/conformance';
import {
  CountingFolder,
  createDisk,
  type Disk,
  MemoryFolder,
  openDisk,
  type StorageFolder,
} from '@cowlab/core';
import { vmdk } from '@cowlab/vmdk-chain';
import { expect, it } from 'vitest';

const GRAIN = 4096;
const SPAN = 512 * GRAIN;

interface How {
  readonly readOnly?: boolean;
  readonly open_links?: number;
  readonly grain_table_cache?: number;
}

const open = (folder: StorageFolder, { readOnly = false, ...options }: How = {}): Promise<Disk> =>
  openDisk(
    { folder, file: 'disk.vmdk' },
    { drivers: [vmdk], format: 'vmdk', readOnly, options: { chain: 'optimised', ...options } },
  );

const openNaive = (folder: StorageFolder): Promise<Disk> =>
  openDisk({ folder, file: 'disk.vmdk' }, { drivers: [vmdk], format: 'vmdk', readOnly: true });

async function create(folder: StorageFolder, size: number): Promise<void> {
  const options = { grain_size: GRAIN };
  await createDisk({ folder, file: 'disk.vmdk' }, { driver: vmdk, size, options });
}

/** A disk whose first bytes are at the bottom of `depth` links, each of which has a grain of its own. */
async function chainOf(folder: StorageFolder, depth: number, size = SPAN): Promise<void> {
  await create(folder, size);
  const disk = await open(folder);
  await disk.write(0, pattern(1, 100 * GRAIN));
  for (let index = 0; index < depth; index++) {
    await disk.snapshots.create(`s${index}`);
    await disk.write((100 + index) * GRAIN, pattern(index, GRAIN));
  }
  await disk.close();
}

async function bytesOf(disk: Disk): Promise<Buffer> {
  const bytes = Buffer.alloc(disk.size);
  await disk.read(0, bytes);
  return bytes;
}

it('a read of the bottom makes the same calls under one link and under two hundred', async () => {
  const counts = [];
  for (const depth of [1, 200]) {
    const folder = new CountingFolder(new MemoryFolder());
    await chainOf(folder, depth);
    const disk = await open(folder);
    await disk.read(0, Buffer.alloc(GRAIN));
    folder.reset();
    for (let at = 0; at < 100 * GRAIN; at += GRAIN) {
      expect(disk.read(at, Buffer.alloc(GRAIN)), 'a promise').toBeUndefined();
    }
    counts.push(folder.reset().purposes);
    await disk.close();
  }
  expect(counts[1]).toEqual(counts[0]);
  expect(counts[0]).toMatchObject({ data: { reads: 100 }, mapping: { reads: 0 } });
});

it('reads what the naive chain reads, with a few files open whatever is asked', async () => {
  const folder = new MemoryFolder();
  await chainOf(folder, 120);
  const naive = await openNaive(folder);
  const expected = await bytesOf(naive);
  await naive.close();
  for (const readOnly of [true, false]) {
    const disk = await open(folder, { open_links: 5, readOnly });
    for (let at = 250 * GRAIN; at >= 0; at -= GRAIN) {
      const target = Buffer.alloc(GRAIN);
      await disk.read(at, target);
      expect(target.equals(expected.subarray(at, at + GRAIN)), `at ${at}`).toBe(true);
      expect(disk.stats()['openFiles']).toBeLessThanOrEqual(6);
    }
    expect((await disk.check()).findings).toEqual([]);
    expect(disk.stats()).toMatchObject({ links: 120 });
    await disk.close();
  }
});

it('the map takes no more than its cache, and is made anew where it has no room', async () => {
  const folder = new MemoryFolder();
  const spans = 64;
  await create(folder, spans * SPAN);
  const first = await open(folder);
  for (let span = 0; span < spans; span++) await first.write(span * SPAN + GRAIN, pattern(span, GRAIN));
  await first.snapshots.create('a');
  await first.snapshots.create('b');
  await first.close();
  const disk = await open(folder, { grain_table_cache: 0 });
  const most = 16 * (3072 + 8);
  const empty = disk.stats().residentMetadataBytes;
  for (let round = 0; round < 2; round++) {
    for (let span = 0; span < spans; span++) {
      const target = Buffer.alloc(GRAIN);
      await disk.read(span * SPAN + GRAIN, target);
      expect(target.equals(pattern(span, GRAIN)), `span ${span}`).toBe(true);
      // The disk's own tables have as many slots, and no entries.
      expect(disk.stats().residentMetadataBytes - empty).toBeLessThanOrEqual(most);
    }
  }
  await disk.close();
});

it('every change of the chain shows at once, in the disk and in snapshots that are open', async () => {
  const folder = new MemoryFolder();
  await chainOf(folder, 6);
  const disk = await open(folder, { open_links: 1 });
  const states = new Map<string, Buffer>();
  for (const { name } of await disk.snapshots.list()) {
    const snapshot = await disk.snapshots.open(name);
    states.set(name, await bytesOf(snapshot));
    await snapshot.close();
  }
  const opened = await disk.snapshots.open('s4');
  const expectAll = async (current: Buffer): Promise<void> => {
    expect(current.equals(await bytesOf(disk)), 'the disk').toBe(true);
    expect(states.get('s4')!.equals(await bytesOf(opened)), 's4').toBe(true);
  };
  let current = await bytesOf(disk);
  for (const name of ['s0', 's2', 's5']) {
    await disk.snapshots.delete(name);
    await expectAll(current);
  }
  await disk.snapshots.apply('s1');
  current = states.get('s1')!;
  await expectAll(current);
  await disk.write(5, pattern(77, GRAIN));
  current = await bytesOf(disk);
  await disk.snapshots.create('new');
  await expectAll(current);
  await disk.snapshots.delete('s1');
  await expectAll(current);
  await opened.close();
  await disk.close();
  const naive = await openNaive(folder);
  expect(current.equals(await bytesOf(naive))).toBe(true);
  expect((await naive.check()).findings).toEqual([]);
  await naive.close();
});

it('a link that was written to while it rested is not read', async () => {
  const folder = new MemoryFolder();
  await chainOf(folder, 10);
  const disk = await open(folder, { open_links: 2 });
  await bytesOf(disk);
  const other = await openDisk({ folder, file: 'disk-000001.vmdk' }, { drivers: [vmdk], format: 'vmdk' });
  await other.write(0, pattern(9, GRAIN));
  await other.close();
  await expect(bytesOf(disk)).rejects.toMatchObject({
    code: 'ERR_CORRUPT',
    data: { file: 'disk-000001.vmdk', field: 'descriptor.CID' },
  });
  await disk.close();
});

it('a base of another size is read link by link', async () => {
  const folder = new MemoryFolder();
  const options = { grain_size: GRAIN };
  await createDisk({ folder, file: 'base.vmdk' }, { driver: vmdk, size: SPAN / 2, options });
  const base = await openDisk({ folder, file: 'base.vmdk' }, { drivers: [vmdk], format: 'vmdk' });
  await base.write(0, pattern(3, SPAN / 2));
  await base.close();
  const backing = { file: 'base.vmdk', format: 'vmdk' };
  await createDisk({ folder, file: 'disk.vmdk' }, { driver: vmdk, size: SPAN, options, backing });
  const disk = await open(folder);
  await disk.snapshots.create('a');
  const bytes = await bytesOf(disk);
  expect(bytes.subarray(0, SPAN / 2).equals(pattern(3, SPAN / 2))).toBe(true);
  expect(bytes.subarray(SPAN / 2).every((byte) => byte === 0)).toBe(true);
  await disk.close();
});
