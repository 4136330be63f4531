// What operations cost, in storage calls: the figures that the benchmark rests on.

import { CountingFolder, type Disk, type OptionValues, type StorageCounts, totalCounts } from '@cowlab/core';
import { describe, expect, it } from 'vitest';
import { bufferOf, KIB, MIB, newImage, open } from './lab.ts';

const SIZE = 64 * MIB;

async function opened(
  options: OptionValues = {},
  openOptions: OptionValues = {},
): Promise<{ disk: Disk; folder: CountingFolder }> {
  const folder = new CountingFolder(await newImage(SIZE, options));
  const disk = await open(folder, false, openOptions);
  folder.reset();
  return { disk, folder };
}

/** What was counted since the last call, and nothing else. */
async function costOf(folder: CountingFolder, run: () => Promise<void>): Promise<StorageCounts> {
  folder.reset();
  await run();
  return folder.reset();
}

describe('storage calls', () => {
  it('an overwrite of what the disk owns is one write, and its flush one flush', async () => {
    const { disk, folder } = await opened();
    await disk.write(0, bufferOf(MIB, 1));
    await disk.flush();
    await disk.flush();
    const cost = await costOf(folder, async () => {
      await disk.write(4 * KIB, bufferOf(4 * KIB, 2));
      await disk.flush();
    });
    expect(totalCounts(cost)).toMatchObject({ reads: 0, writes: 1, writtenBytes: 4 * KIB, zeroes: 0 });
    expect(cost.flushes).toBe(1);
    await disk.close();
  });

  it('with a data file, an overwrite costs the same, and allocating writes one flush more', async () => {
    const { disk, folder } = await opened({ data_file: 'data' });
    await disk.write(0, bufferOf(MIB, 1));
    await disk.flush();
    await disk.flush();
    const overwrite = await costOf(folder, async () => {
      await disk.write(4 * KIB, bufferOf(4 * KIB, 2));
      await disk.flush();
    });
    expect(totalCounts(overwrite)).toMatchObject({ reads: 0, writes: 1, writtenBytes: 4 * KIB });
    expect(overwrite.flushes).toBe(1);
    const allocating = await costOf(folder, async () => {
      for (let n = 1; n <= 16; n += 1) await disk.write(n * 256 * KIB + MIB, bufferOf(4 * KIB, n));
      await disk.flush();
    });
    expect(allocating.purposes.data).toMatchObject({ writes: 16, writtenBytes: 16 * 4 * KIB });
    expect(allocating.purposes.mapping.writes).toBe(1);
    expect(allocating.purposes.refcount.writes).toBe(0);
    expect(allocating.flushes).toBe(3);
    await disk.close();
  });

  it('with a raw data file, every write and every zero is one call, and a flush one flush', async () => {
    const { disk, folder } = await opened({ data_file: 'data', data_file_raw: true });
    await disk.read(0, Buffer.alloc(1));
    const cost = await costOf(folder, async () => {
      await disk.write(33 * MIB, bufferOf(4 * KIB, 2));
      await disk.writeZeroes(34 * MIB, MIB);
      await disk.flush();
    });
    expect(totalCounts(cost)).toMatchObject({ reads: 0, writes: 1, writtenBytes: 4 * KIB, zeroes: 1 });
    expect(cost.flushes).toBe(1);
    await disk.close();
  });

  it('a read of what is mapped is one read, and reading on is one read as long as clusters lie together', async () => {
    const { disk, folder } = await opened();
    await disk.write(0, bufferOf(2 * MIB, 1));
    const cost = await costOf(folder, async () => {
      await disk.read(0, Buffer.alloc(2 * MIB));
      await disk.read(77, Buffer.alloc(5));
    });
    expect(totalCounts(cost)).toMatchObject({ reads: 2, writes: 0 });
    await disk.close();
  });

  it('many allocating writes share the metadata writes and the two flushes of one flush', async () => {
    const { disk, folder } = await opened();
    await disk.write(0, bufferOf(KIB, 1));
    await disk.flush();
    await disk.flush();
    const cost = await costOf(folder, async () => {
      for (let n = 1; n <= 64; n += 1) await disk.write(n * 256 * KIB, bufferOf(4 * KIB, n));
      await disk.flush();
    });
    expect(cost.purposes.data.writes).toBe(64);
    expect(cost.purposes.mapping.writes).toBeLessThanOrEqual(2);
    expect(cost.purposes.refcount.writes).toBeLessThanOrEqual(2);
    expect(cost.flushes).toBe(2);
    await disk.close();
  });

  it('a first write into a part of a cluster is one write, and waits for nothing', async () => {
    const { disk, folder } = await opened();
    await disk.write(0, bufferOf(KIB, 1));
    const cost = await costOf(folder, async () => {
      expect(disk.write(64 * KIB + 512, bufferOf(4 * KIB, 2))).toBeUndefined();
    });
    expect(totalCounts(cost)).toMatchObject({ reads: 0, writes: 1, writtenBytes: 4 * KIB, zeroes: 0 });
    await disk.close();
  });

  it('the first write after a snapshot reads and writes the cluster once, and its count', async () => {
    const { disk, folder } = await opened();
    await disk.write(0, bufferOf(MIB, 1));
    await disk.snapshots.create('kept');
    const cost = await costOf(folder, async () => {
      await disk.write(4 * KIB, bufferOf(4 * KIB, 2));
      await disk.flush();
    });
    expect(cost.purposes.data).toMatchObject({ reads: 2, writes: 1, writtenBytes: 64 * KIB });
    expect(cost.purposes.refcount.writes).toBeGreaterThan(0);
    await disk.close();
  });

  it('an open reads the snapshots in pieces, not one by one', async () => {
    const { disk, folder } = await opened({ cluster_size: 4 * KIB });
    for (let n = 0; n < 200; n += 1) await disk.snapshots.create(`snapshot ${n}`);
    await disk.close();
    const cost = await costOf(folder, async () => {
      const again = await open(folder, true);
      expect(await again.snapshots.list()).toHaveLength(200);
      await again.close();
    });
    expect(cost.purposes.snapshot.reads).toBe(1);
  });

  it('lazy refcounts keep counts out of every flush, and write them at close', async () => {
    const { disk, folder } = await opened({ lazy_refcounts: true });
    const running = await costOf(folder, async () => {
      for (let n = 0; n < 16; n += 1) {
        await disk.write(n * MIB, bufferOf(4 * KIB, n));
        await disk.flush();
      }
    });
    expect(running.purposes.refcount.writes).toBe(0);
    const closing = await costOf(folder, () => disk.close());
    expect(closing.purposes.refcount.writes).toBeGreaterThan(0);
  });
});

describe('check', () => {
  it('reads each L2 table and each refcount block once, however many snapshots share them', async () => {
    const clusterBytes = 4 * KIB;
    const { disk, folder } = await opened({ cluster_size: clusterBytes });
    await disk.write(0, bufferOf(SIZE, 1));
    for (let n = 0; n < 20; n += 1) {
      await disk.write(n * 3 * MIB, bufferOf(clusterBytes, n));
      await disk.snapshots.create(`s${n}`);
    }
    await disk.close();
    const reader = await open(folder, true);
    const cost = await costOf(folder, async () => {
      expect(await reader.check()).toMatchObject({ corruptions: 0, leaks: 0 });
    });
    // 32 tables of the disk; each snapshot has the one that a write after the snapshot before has copied.
    const tables = 32 + 19;
    const l1Bytes = 21 * 32 * 8;
    expect(cost.purposes.mapping.readBytes).toBe(tables * clusterBytes + l1Bytes);
    const info = await reader.info();
    const blocks = Math.ceil(info.storageBytes / clusterBytes / (clusterBytes / 2)) + 1;
    const refcountTableTwice = 2 * clusterBytes;
    expect(cost.purposes.refcount.readBytes).toBeLessThanOrEqual(blocks * clusterBytes + refcountTableTwice);
    expect(totalCounts(cost)).toMatchObject({ writes: 0 });
    await reader.close();
  });
});

describe('the overlap check', () => {
  it('costs no storage call, whatever it guards', async () => {
    const counts: StorageCounts[] = [];
    for (const level of ['none', 'constant', 'cached', 'all']) {
      const { disk, folder } = await opened({}, { overlap_check: level });
      for (let n = 0; n < 8; n += 1) await disk.write(n * 5 * MIB, bufferOf(200 * KIB, n));
      await disk.flush();
      await disk.snapshots.create('kept');
      counts.push(
        await costOf(folder, async () => {
          for (let n = 0; n < 16; n += 1) await disk.write(n * 3 * MIB + 100, bufferOf(70 * KIB, n));
          await disk.discard(10 * MIB, 5 * MIB);
          await disk.flush();
          await disk.write(0, bufferOf(4 * KIB, 1));
          await disk.flush();
        }),
      );
      await disk.close();
    }
    for (const each of counts) expect(each).toEqual(counts[0]);
  });
});

describe('memory', () => {
  it('stays within the caches, however much is read and written', async () => {
    const clusterBytes = 4 * KIB;
    const caches = { l2_cache_size: 32 * KIB, refcount_cache_size: 16 * KIB };
    const { disk } = await opened({ cluster_size: clusterBytes }, caches);
    const bytes = bufferOf(clusterBytes, 1);
    let most = 0;
    for (let offset = 0; offset < SIZE; offset += 64 * KIB) {
      await disk.write(offset, bytes);
      most = Math.max(most, disk.stats().residentMetadataBytes);
    }
    const l1AndTable = 3 * clusterBytes;
    expect(most).toBeLessThanOrEqual(2 * (32 + 16) * KIB + l1AndTable);
    for (let offset = 0; offset < SIZE; offset += 64 * KIB) {
      const found = Buffer.alloc(clusterBytes);
      await disk.read(offset, found);
      expect(found.equals(bytes)).toBe(true);
    }
    expect(await disk.check()).toMatchObject({ corruptions: 0, leaks: 0 });
    await disk.close();
  });
});

describe('preallocated metadata', () => {
  it('gives every cluster its place, without writing a byte of data, and every write goes there', async () => {
    const { disk, folder } = await opened({ preallocation: 'metadata' });
    expect((await disk.check()).allocatedBytes).toBe(SIZE);
    const cost = await costOf(folder, async () => {
      await disk.write(33 * MIB, bufferOf(4 * KIB, 1));
      await disk.flush();
    });
    expect(cost.purposes.mapping.writes + cost.purposes.refcount.writes).toBe(0);
    await disk.close();
  });
});
