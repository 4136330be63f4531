// Differences between states, told from the grain tables of the files that only one of them has.

import {
  CountingFolder,
  createDisk,
  type DiffExtent,
  type Disk,
  MemoryFolder,
  openDisk,
  totalCounts,
} from '@cowlab/core';
import { vmdk } from '@cowlab/vmdk-chain';
import { expect, it } from 'vitest';

const GRAIN = 4096;
/** What one grain table speaks for. */
const SPAN = 512 * GRAIN;

async function newDisk(size: number): Promise<{ disk: Disk; folder: CountingFolder }> {
  const folder = new CountingFolder(new MemoryFolder());
  await createDisk({ folder, file: 'disk.vmdk' }, { driver: vmdk, size, options: { grain_size: GRAIN } });
  const disk = await openDisk({ folder, file: 'disk.vmdk' }, { drivers: [vmdk], format: 'vmdk' });
  return { disk, folder };
}

async function collect(disk: Disk, from: string, to?: string): Promise<DiffExtent[]> {
  const extents: DiffExtent[] = [];
  for await (const extent of disk.snapshots.diff(from, to)) extents.push(extent);
  return extents;
}

const grain = (index: number): DiffExtent => ({ offset: index * GRAIN, length: GRAIN });
const bytes = new Uint8Array(GRAIN).fill(1);

it('the grains of the links between two states differ, and no others', async () => {
  const { disk } = await newDisk(4 * SPAN);
  for (let index = 0; index < 6; index++) {
    await disk.write(index * 100 * GRAIN + 7, new Uint8Array(9).fill(index));
    await disk.snapshots.create(`s${index}`);
  }
  expect(await collect(disk, 's0', 's1')).toEqual([grain(100)]);
  expect(await collect(disk, 's1', 's4')).toEqual([grain(200), grain(300), grain(400)]);
  expect(await collect(disk, 's5')).toEqual([]);
  await disk.snapshots.delete('s2');
  expect(await collect(disk, 's1', 's3')).toEqual([grain(200), grain(300)]);
  await disk.close();
});

it('of two branches, both have their part in it, and what lies below them has none', async () => {
  const { disk } = await newDisk(4 * SPAN);
  await disk.write(0, bytes);
  await disk.snapshots.create('root');
  await disk.write(10 * GRAIN, bytes);
  await disk.snapshots.create('left');
  await disk.snapshots.apply('root');
  await disk.write(20 * GRAIN, bytes);
  await disk.snapshots.create('right');
  await disk.write(30 * GRAIN, bytes);
  expect(await collect(disk, 'left', 'right')).toEqual([grain(10), grain(20)]);
  expect(await collect(disk, 'left')).toEqual([grain(10), grain(20), grain(30)]);
  // Their common part goes into each of them: they share nothing any more, and the answer is still whole.
  await disk.snapshots.delete('root');
  expect(await collect(disk, 'left', 'right')).toEqual([grain(0), grain(10), grain(20)]);
  await disk.close();
});

it('zeros and nothing are the same where nothing lies below', async () => {
  const { disk } = await newDisk(SPAN);
  await disk.snapshots.create('root');
  await disk.writeZeroes(0, 2 * GRAIN);
  await disk.snapshots.create('zeros');
  await disk.snapshots.apply('root');
  await disk.write(GRAIN, bytes);
  await disk.snapshots.create('nothing');
  expect(await collect(disk, 'zeros', 'nothing')).toEqual([{ offset: 0, length: 2 * GRAIN }]);
  await disk.snapshots.delete('root');
  expect(await collect(disk, 'zeros', 'nothing')).toEqual([grain(1)]);
  await disk.close();
});

it('only tables of the links between are read, and no data', async () => {
  const { disk, folder } = await newDisk(64 * SPAN);
  for (let index = 0; index < 64; index++) await disk.write(index * SPAN, bytes);
  for (const name of ['one', 'two', 'three', 'four']) {
    await disk.snapshots.create(name);
    await disk.write(SPAN * name.length, bytes);
  }
  await disk.close();
  const again = await openDisk(
    { folder, file: 'disk.vmdk' },
    { drivers: [vmdk], format: 'vmdk', readOnly: true },
  );
  folder.reset();
  expect(await collect(again, 'two', 'three')).toEqual([{ offset: 3 * SPAN, length: GRAIN }]);
  const counts = folder.reset();
  // Tables that lie together are read together.
  expect(counts.purposes.mapping.reads).toBeLessThanOrEqual(8);
  expect(counts.purposes.mapping.readBytes).toBeLessThanOrEqual(64 * 2048);
  expect(counts.purposes.data.reads).toBe(0);
  expect(totalCounts(counts).reads).toBeLessThan(8 + 8);
  await again.close();
});

it('a long disk is told from batch to batch', async () => {
  const { disk } = await newDisk(5000 * SPAN);
  await disk.snapshots.create('one');
  const indexes = [0, 511, 512, 1_000_000, 2_559_999];
  for (const index of indexes) await disk.write(index * GRAIN, bytes);
  const steps: number[] = [];
  const onProgress = ({ done }: { done: number }): void => void steps.push(done / SPAN);
  const extents: DiffExtent[] = [];
  for await (const extent of disk.snapshots.diff('one', undefined, { onProgress })) extents.push(extent);
  expect(extents).toEqual([
    grain(0),
    { offset: 511 * GRAIN, length: 2 * GRAIN },
    grain(1_000_000),
    grain(2_559_999),
  ]);
  expect(steps).toEqual([4096, 5000]);
  await disk.close();
});

it('a rename writes the list of snapshots anew, and touches no other file', async () => {
  const { disk, folder } = await newDisk(4 * SPAN);
  await disk.write(0, bytes);
  for (const name of ['one', 'two']) await disk.snapshots.create(name);
  folder.reset();
  await disk.snapshots.rename('one', 'first');
  const counts = folder.reset();
  expect(totalCounts(counts).writes).toBe(1);
  expect(counts.purposes.snapshot.writes).toBe(1);
  expect([counts.flushes, counts.folderFlushes]).toEqual([1, 1]);
  await disk.close();
});

/** Writes a field of a file's header, behind the disk's back. */
async function setHeader(folder: CountingFolder, file: string, at: number, value: number): Promise<void> {
  const storage = await folder.open(file, { readOnly: false });
  const field = new DataView(new ArrayBuffer(4));
  field.setUint32(0, value, true);
  await storage.write(at, new Uint8Array(field.buffer));
  await storage.close();
}

it.each(['disk.vmdk', 'disk-000001.vmdk', 'disk-000002.vmdk'])(
  'states of two sizes are not compared: %s says that it is larger',
  async (file) => {
    const { disk, folder } = await newDisk(SPAN);
    for (const name of ['one', 'two']) {
      await disk.write(0, bytes);
      await disk.snapshots.create(name);
    }
    await disk.close();
    await setHeader(folder, file, 12, 4 * (SPAN / 512));
    const again = await openDisk({ folder, file: 'disk.vmdk' }, { drivers: [vmdk], format: 'vmdk' });
    const error = await collect(again, 'one', 'two').catch((reason: unknown) => reason);
    expect(error).toMatchObject({ code: 'ERR_UNSUPPORTED', data: { field: 'header.capacity' } });
    await again.close();
  },
);

it('states of two sizes of grains are not compared, by a disk that has none either', async () => {
  const { disk, folder } = await newDisk(2 * SPAN);
  await disk.snapshots.create('root');
  await disk.snapshots.create('left');
  await disk.snapshots.apply('root');
  await disk.write(0, bytes);
  await disk.snapshots.create('right');
  await disk.close();
  await setHeader(folder, 'disk-000002.vmdk', 20, (2 * GRAIN) / 512);
  const options = { subformat: 'monolithicFlat' };
  await createDisk({ folder, file: 'flat.vmdk' }, { driver: vmdk, size: 2 * SPAN, options });
  await folder.rename('flat.vmdk', 'disk.vmdk');
  const again = await openDisk({ folder, file: 'disk.vmdk' }, { drivers: [vmdk], format: 'vmdk' });
  const error = await collect(again, 'left', 'right').catch((reason: unknown) => reason);
  expect(error).toMatchObject({ code: 'ERR_UNSUPPORTED', data: { field: 'header.grainSize' } });
  await again.close();
});
