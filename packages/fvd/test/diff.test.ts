import { type DiffExtent, type Disk, MemoryFolder, totalCounts } from '@cowlab/core';
import { describe, expect, it } from 'vitest';
import { copyOf, countedDisk, file, KiB, makeImage, MiB, openImage } from './lab.ts';

const TiB = 2 ** 40;
const large = { preallocation: 'metadata' };

async function collect(disk: Disk, from: string, to?: string): Promise<DiffExtent[]> {
  const extents: DiffExtent[] = [];
  for await (const extent of disk.snapshots.diff(from, to)) extents.push(extent);
  return extents;
}

const block = (offset: number): DiffExtent => ({ offset, length: 4 * KiB });

describe('diff', () => {
  it('tells single blocks, whatever the size of a chunk', async () => {
    const { disk } = await countedDisk({ size: 64 * MiB, options: {} });
    await disk.write(0, new Uint8Array(32 * MiB).fill(1));
    await disk.snapshots.create('one');
    const offsets = [0, 5 * MiB + 8 * KiB, 17 * MiB - 4 * KiB, 63 * MiB];
    for (const offset of offsets) await disk.write(offset + 100, new Uint8Array(7).fill(2));
    expect(await collect(disk, 'one')).toEqual(offsets.map(block));
    await disk.snapshots.create('two');
    expect(await collect(disk, 'one', 'two')).toEqual(offsets.map(block));
    await disk.close();
  });

  it('joins neighbours across chunks, pages and batches into one extent', async () => {
    const { disk } = await countedDisk({ size: 2048 * MiB, options: { chunk_size: 64 * KiB } });
    await disk.snapshots.create('empty');
    // A page has the entries of 256 chunks, 16 MiB here.
    await disk.write(15 * MiB, new Uint8Array(34 * MiB).fill(1));
    expect(await collect(disk, 'empty')).toEqual([{ offset: 15 * MiB, length: 34 * MiB }]);
    await disk.close();
  });

  it('without a base, zeros and nothing are the same', async () => {
    const { disk } = await countedDisk();
    await disk.snapshots.create('empty');
    await disk.write(0, new Uint8Array(64 * KiB).fill(1));
    await disk.snapshots.create('full');
    await disk.writeZeroes(0, 64 * KiB);
    expect(await collect(disk, 'empty')).toEqual([]);
    expect(await collect(disk, 'full')).toEqual([{ offset: 0, length: 64 * KiB }]);
    await disk.close();
  });

  it('of a 1 TiB disk reads both roots and the pages that differ, and no data', async () => {
    const { disk, folder } = await countedDisk({ size: TiB, options: large });
    await disk.snapshots.create('one');
    const offsets = Array.from({ length: 64 }, (_, index) => index * 16 * 1024 * MiB + 4 * KiB);
    for (const offset of offsets) await disk.write(offset, new Uint8Array(4 * KiB).fill(1));
    await disk.snapshots.create('two');
    folder.reset();
    expect(await collect(disk, 'one', 'two')).toEqual(offsets.map(block));
    const { mapping, snapshot, data } = folder.reset().purposes;
    // Roots of 4,096 pages, 32 KiB each; 64 pages of some dozens of bytes on either side, read through small gaps.
    expect(mapping.readBytes).toBeLessThan(2 * 33 * KiB + 2 * 128 * KiB);
    expect(mapping.reads).toBeLessThan(16);
    expect(snapshot.readBytes).toBeLessThan(4 * KiB);
    expect(data.reads).toBe(0);
    // What is the same is not even looked at.
    expect(await collect(disk, 'two')).toEqual([]);
    expect(folder.reset().purposes.mapping.readBytes).toBe(32 + 32 * KiB);
    await disk.close();
  });

  it('of a 1 TiB disk with a change in every page goes on from batch to batch', async () => {
    const { disk, folder } = await countedDisk({ size: TiB, options: large });
    await disk.snapshots.create('one');
    const pages = 4096;
    for (let page = 0; page < pages; page++) {
      await disk.write(page * 256 * MiB, new Uint8Array(4 * KiB).fill(1));
    }
    await disk.snapshots.create('two');
    folder.reset();
    const told: number[] = [];
    const onProgress = ({ done }: { done: number }): void => void told.push(done);
    let count = 0;
    for await (const extent of disk.snapshots.diff('one', 'two', { onProgress })) {
      expect(extent).toEqual(block(count++ * 256 * MiB));
    }
    expect(count).toBe(pages);
    expect(told).toEqual([1, 2, 3, 4].map((quarter) => (quarter * TiB) / 4));
    expect(totalCounts(folder.reset()).readBytes).toBeLessThan(2 * MiB);
    await disk.close();
  });

  it('sees what only the journal has, when the image is opened read-only after a power loss', async () => {
    const inner = new MemoryFolder();
    await makeImage(inner);
    const disk = await openImage(inner);
    await disk.write(0, new Uint8Array(MiB).fill(1));
    await disk.snapshots.create('one');
    await disk.write(40 * KiB, new Uint8Array(4 * KiB).fill(2));
    await disk.flush();
    // Nothing is closed: what a power loss now would leave.
    const reader = await openImage(await copyOf(inner), true);
    expect(await collect(reader, 'one')).toEqual([block(40 * KiB)]);
    await reader.close();
    await disk.close();
  });

  it('answers a damaged page with ERR_CORRUPT and its number', async () => {
    const folder = new MemoryFolder();
    await makeImage(folder);
    const disk = await openImage(folder);
    await disk.snapshots.create('empty');
    await disk.write(0, new Uint8Array(64 * KiB).fill(1));
    await disk.snapshots.create('full');
    await disk.write(0, new Uint8Array(64 * KiB).fill(2));
    await disk.snapshots.create('last');
    await disk.close();
    const storage = await folder.open(file, { readOnly: false });
    const bytes = new Uint8Array(storage.size());
    await storage.read(0, bytes);
    // The first page that was written is that of `full`.
    const at = Buffer.from(bytes).indexOf('FVDP', 0, 'latin1');
    await storage.write(at + 20, Uint8Array.of(0x55));
    await storage.close();
    const damaged = await openImage(folder, true);
    await expect(collect(damaged, 'empty', 'full')).rejects.toMatchObject({
      code: 'ERR_CORRUPT',
      data: { field: 'page[0]' },
    });
    expect(await collect(damaged, 'empty', 'last')).toEqual([{ offset: 0, length: 64 * KiB }]);
    await damaged.close();
  });
});
