import { InterceptedFolder, pattern, Random, type StorageCall, TraceFolder } from '@cowlab/conformance';
import {
  type Awaitable,
  CountingFolder,
  type Disk,
  MemoryFolder,
  type StorageCounts,
  totalCounts,
} from '@cowlab/core';
import { describe, expect, it } from 'vitest';
import { contents, copyOf, countedDisk, filled, KiB, makeImage, MiB, openImage } from './lab.ts';

const GiB = 1024 * MiB;
const block = 4 * KiB;

/** Chunks of 1 MiB as in real life, every one of them mapped. */
const mapped = { size: GiB, options: { preallocation: 'metadata' } };

async function takeSnapshots(disk: Disk, count: number): Promise<void> {
  for (let i = 0; i < count; i++) await disk.snapshots.create(`s${i}`);
}

/** Writes, reads, discards and flushes all over the disk. */
async function useDisk(disk: Disk): Promise<void> {
  const random = new Random(7);
  const target = new Uint8Array(3 * block);
  for (let i = 0; i < 200; i++) {
    const offset = random.below(disk.size / block - 3) * block;
    await disk.write(offset, pattern(i, block * (1 + random.below(3))));
    await disk.read(random.below(disk.size / block - 3) * block, target);
    if (i % 20 === 0) await disk.discard(random.below(disk.size / MiB) * MiB, MiB);
    if (i % 10 === 0) await disk.flush();
  }
}

function refcountCalls({ purposes }: StorageCounts): number {
  const { reads, writes } = purposes.refcount;
  return reads + writes + purposes.snapshot.reads + purposes.snapshot.writes;
}

describe('P1: refcounts are for creating and deleting snapshots', () => {
  it.each([0, 1, 30])(
    'no refcount is read or written between open and close, with %i snapshots',
    async (count) => {
      const { disk, folder } = await countedDisk(mapped);
      await takeSnapshots(disk, count);
      folder.reset();
      await useDisk(disk);
      expect(refcountCalls(folder.counts)).toBe(0);
      await disk.close();
      expect(refcountCalls(folder.counts)).toBe(0);
    },
  );

  it('an image that never had a snapshot has no refcounts', async () => {
    const { disk, folder } = await countedDisk(mapped);
    await useDisk(disk);
    await disk.close();
    const again = await openImage(folder);
    expect(refcountCalls(folder.counts)).toBe(0);
    await again.close();
  });

  it('open reads the refcounts once', async () => {
    const { disk, folder } = await countedDisk(mapped);
    await takeSnapshots(disk, 3);
    await disk.close();
    folder.reset();
    await (await openImage(folder)).close();
    expect(folder.counts.purposes.refcount).toMatchObject({ reads: 1, writes: 0 });
  });
});

describe('P2: resident metadata do not grow with the number of snapshots', () => {
  it('is 4 bytes a chunk, 2 bits a host chunk, and little more; at 200 snapshots within 1 % of none', async () => {
    const size = 64 * GiB;
    const { disk, folder } = await countedDisk({ ...mapped, size });
    const { residentMetadataBytes: before } = disk.stats();
    const chunks = size / MiB;
    expect(before).toBeGreaterThanOrEqual(chunks * 4 + chunks / 4);
    expect(before).toBeLessThan(chunks * 4.5 + 4096);
    await takeSnapshots(disk, 200);
    const after = disk.stats().residentMetadataBytes;
    expect(Math.abs(after / before - 1)).toBeLessThan(0.01);
    await disk.close();
    const again = await openImage(folder);
    expect(Math.abs(again.stats().residentMetadataBytes / before - 1)).toBeLessThan(0.01);
    await again.close();
  });
});

describe('P3: overwriting what the front owns', () => {
  it.each([0, 1, 30])(
    'is one storage write of these bytes and nothing else, with %i snapshots',
    async (count) => {
      const { disk, folder } = await countedDisk(mapped);
      await takeSnapshots(disk, count);
      const offsets = [0, 5 * MiB + block, 77 * MiB + 200 * block];
      const writeAll = async (): Promise<void> => {
        for (const offset of offsets) await disk.write(offset, filled(block, 1));
      };
      await writeAll();
      // What is written now shares its host chunk with blocks that the last snapshot reaches.
      if (count > 0) await disk.snapshots.create('last');
      await writeAll();
      await disk.flush();
      folder.reset();
      for (const offset of offsets) {
        await disk.write(offset, filled(block, 2));
        await disk.write(offset + 100, filled(1000, 3));
      }
      expect(totalCounts(folder.counts)).toEqual({
        reads: 0,
        readBytes: 0,
        writes: 2 * offsets.length,
        writtenBytes: offsets.length * (block + 1000),
        zeroes: 0,
        discards: 0,
      });
      folder.reset();
      await disk.flush();
      expect(totalCounts(folder.counts).writes).toBe(0);
      expect(folder.counts.flushes).toBe(1);
      await disk.close();
    },
  );
});

describe('P4: group commit', () => {
  it('first writes write no metadata; one flush appends all mapping changes at once, between two storage flushes', async () => {
    const trace = new TraceFolder(new MemoryFolder());
    await makeImage(trace);
    const disk = await openImage(trace);
    trace.calls.length = 0;
    for (let i = 0; i < 40; i++) await disk.write(i * 6 * block, filled(block, i + 1));
    expect(trace.calls.every(({ method, purpose }) => method === 'write' && purpose === 'data')).toBe(true);
    trace.calls.length = 0;
    await disk.flush();
    const steps = trace.calls.map(({ method, purpose }) =>
      method === 'flush' ? 'flush' : `${method} ${purpose}`,
    );
    expect(steps).toEqual(['flush', 'write journal', 'flush']);
    await disk.close();
  });
});

describe('P5: copy-on-write by block', () => {
  it.each([1, 30])(
    'an aligned write after %i snapshots writes its bytes once and reads nothing',
    async (count) => {
      const { disk, folder } = await countedDisk(mapped);
      await takeSnapshots(disk, count);
      folder.reset();
      for (const offset of [0, 9 * MiB + 3 * block, GiB - block]) await disk.write(offset, filled(block, 9));
      await disk.write(20 * MiB + block, filled(8 * block, 9));
      const { reads, writes, writtenBytes } = totalCounts(folder.counts);
      expect({ reads, writes, writtenBytes }).toEqual({ reads: 0, writes: 4, writtenBytes: 11 * block });
      await disk.close();
    },
  );

  it('an unaligned write fills the blocks it touches, at most', async () => {
    const { disk, folder } = await countedDisk();
    const before = pattern(1, disk.size);
    await disk.write(0, before);
    await disk.snapshots.create('s');
    folder.reset();
    await disk.write(block + 100, filled(block, 9));
    const { readBytes, writes, writtenBytes } = totalCounts(folder.counts);
    expect({ writes, writtenBytes }).toEqual({ writes: 1, writtenBytes: 2 * block });
    expect(readBytes).toBeLessThanOrEqual(2 * block);
    before.fill(9, block + 100, 2 * block + 100);
    expect(Buffer.from(await contents(disk)).equals(before)).toBe(true);
    await disk.close();
  });
});

describe('P7: snapshot operations move no data', () => {
  it.each([1, 50])(
    'create, apply and delete touch metadata only, in few calls, with %i snapshots',
    async (count) => {
      const { disk, folder } = await countedDisk({ ...mapped, size: 64 * GiB });
      await takeSnapshots(disk, count);
      await disk.write(0, filled(block, 1));
      await disk.flush();
      const operations = [
        () => disk.snapshots.create('new'),
        () => disk.snapshots.apply('s0'),
        () => disk.snapshots.delete('new'),
      ];
      for (const run of operations) {
        folder.reset();
        await run();
        const { counts } = folder;
        expect(counts.purposes.data).toMatchObject({ reads: 0, writes: 0, zeroes: 0 });
        const { reads, writes, readBytes, writtenBytes } = totalCounts(counts);
        expect(reads + writes).toBeLessThan(15);
        // 64 Ki chunks: 128 KiB of counts, 2 KiB of root, 256 pages of some 32 bytes.
        expect(readBytes + writtenBytes).toBeLessThan(600 * KiB);
        expect(counts.flushes).toBeLessThanOrEqual(2);
      }
      await disk.close();
    },
  );

  it('what changed is written again, and nothing beside it', async () => {
    const { disk, folder } = await countedDisk({ ...mapped, size: 64 * GiB });
    await takeSnapshots(disk, 2);
    await disk.write(5 * GiB, filled(block, 1));
    folder.reset();
    await disk.snapshots.create('after a write');
    // One of 256 pages, and a root with 8 bytes for each of them.
    expect(folder.counts.purposes.mapping.writtenBytes).toBeLessThan(256 * 8 + 512);
    await disk.close();
  });

  it('a thousand snapshots of a disk that nobody writes to take a directory entry each', async () => {
    const { disk, folder } = await countedDisk({ ...mapped, size: 4 * GiB });
    await disk.snapshots.create('first');
    await disk.snapshots.create('second');
    const { storageBytes } = await disk.info();
    folder.reset();
    await takeSnapshots(disk, 1000);
    expect((await disk.info()).storageBytes).toBe(storageBytes);
    expect(folder.counts.purposes.mapping.writtenBytes).toBe(0);
    folder.reset();
    expect(await disk.snapshots.list()).toHaveLength(1002);
    const { snapshot } = folder.counts.purposes;
    expect(snapshot.readBytes).toBeLessThan(1002 * 64 + KiB);
    await disk.close();
  });
});

describe('P8: nothing leaks', () => {
  it('what was written, discarded, branched and deleted leaves a file no longer than its live data need', async () => {
    const { disk, folder } = await countedDisk();
    const lengths: number[] = [];
    for (let round = 0; round < 12; round++) {
      await disk.write(0, pattern(round, disk.size));
      await disk.snapshots.create('kept');
      await disk.write(0, pattern(round + 100, disk.size));
      await disk.snapshots.apply('kept');
      await disk.snapshots.delete('kept');
      await disk.discard(0, disk.size);
      await disk.flush();
      expect((await disk.check()).findings).toEqual([]);
      lengths.push((await disk.info()).storageBytes);
    }
    expect(new Set(lengths.slice(2)).size).toBe(1);
    await disk.close();
    const again = await openImage(folder);
    expect((await again.check()).leaks).toBe(0);
    await again.close();
  });
});

/** A folder on a file system that cannot punch holes. */
class KeepingFolder extends InterceptedFolder {
  override intercept<T>(call: StorageCall, run: () => Awaitable<T>): Awaitable<T> {
    return call.method === 'discard' ? (undefined as T) : run();
  }
}

describe('P10: a chunk that is reused', () => {
  it('never shows what was there before, even where a discard has no effect', async () => {
    const folder = new KeepingFolder(new MemoryFolder());
    await makeImage(folder);
    const disk = await openImage(folder);
    await disk.write(0, filled(disk.size, 0xaa));
    await disk.flush();
    await disk.discard(0, disk.size);
    await disk.flush();
    // A small piece in every chunk: the rest of its block comes from no former tenant.
    for (let offset = 0; offset < disk.size; offset += 64 * KiB)
      await disk.write(offset + 700, filled(100, 1));
    const found = await contents(disk);
    expect(found.every((byte) => byte === 0 || byte === 1)).toBe(true);
    await disk.close();
  });

  it('is not reused before the record that freed it is durable', async () => {
    const folder = new MemoryFolder();
    await makeImage(folder);
    const disk = await openImage(folder);
    const kept = pattern(1, 8 * 64 * KiB);
    await disk.write(0, kept);
    await disk.flush();
    await disk.discard(0, kept.length);
    // Not flushed: these must not go where the old bytes are.
    await disk.write(kept.length, pattern(2, kept.length));
    const after = await openImage(await copyOf(folder));
    expect(
      Buffer.from(await contents(after))
        .subarray(0, kept.length)
        .equals(kept),
    ).toBe(true);
    await after.close();
    await disk.close();
  });
});

describe('P11: open', () => {
  it.each([0, 50])(
    'reads table, refcounts and journal once, in few pieces, with %i snapshots',
    async (count) => {
      const folder = new CountingFolder(new MemoryFolder());
      await makeImage(folder, { ...mapped, size: 64 * GiB });
      const disk = await openImage(folder);
      await takeSnapshots(disk, count);
      await disk.close();
      folder.reset();
      const again = await openImage(folder, true);
      const { reads, readBytes, writes } = totalCounts(folder.counts);
      expect(reads).toBeLessThanOrEqual(10);
      expect(readBytes).toBeLessThan(300 * KiB);
      expect(writes).toBe(0);
      await again.close();
    },
  );

  it('read-only replays the journal of a dirty image in memory, and writes nothing', async () => {
    const folder = new MemoryFolder();
    await makeImage(folder);
    const disk = await openImage(folder);
    const written = pattern(4, 300 * KiB);
    await disk.write(5000, written);
    await disk.flush();
    const trace = new TraceFolder(await copyOf(folder));
    const reader = await openImage(trace, true);
    const found = Buffer.from(await contents(reader));
    expect(found.subarray(5000, 5000 + written.length).equals(written)).toBe(true);
    expect((await reader.check()).findings).toEqual([]);
    await reader.close();
    const changes = trace.calls.filter(({ method }) => !['open', 'read', 'close', 'exists'].includes(method));
    expect(changes).toEqual([]);
    await disk.close();
  });

  it('a snapshot opens without touching the front', async () => {
    const { disk, folder } = await countedDisk(mapped);
    await takeSnapshots(disk, 2);
    await disk.write(0, filled(block, 1));
    folder.reset();
    const snapshot = await disk.snapshots.open('s0');
    expect(totalCounts(folder.counts)).toMatchObject({ writes: 0, zeroes: 0, discards: 0 });
    const { reads } = folder.counts.purposes.refcount;
    expect(reads).toBe(0);
    await snapshot.close();
    await disk.close();
  });
});
