import { DelayedFolder, FaultFolder, pattern, Random } from '@cowlab/conformance';
import {
  CountingFolder,
  createDisk,
  type DiffExtent,
  type Disk,
  MemoryFolder,
  type StorageFolder,
} from '@cowlab/core';
import { describe, expect, it } from 'vitest';
import { decodeSuperblock, SLOT_BYTES } from '../src/layout.ts';
import type { FvdImage } from '../src/image.ts';
import { fvd } from '../src/index.ts';
import { contents, copyOf, file, fileBytes, filled, KiB, MiB, openImage, refusal } from './lab.ts';

/* What a publication writes of a large page of which little has changed. */

const block = 512;
/** One page: 64 chunks of 256 blocks. */
const size = 8 * MiB;
const options = { chunk_size: 128 * KiB, block_size: block };
/** Header, and the longest that a delta is beside its runs: a root of 48 bytes, headers, padding. */
const fixedBytes = 48 + 32 + 16 + 16;
const runBytes = 10;

/** Nothing is written twice: the full page has no delta yet when the test begins. */
async function scattered(folder: StorageFolder): Promise<Disk> {
  await createDisk({ folder, file }, { driver: fvd, size, options });
  const disk = await openImage(folder);
  await disk.write(0, pattern(1, size));
  // Every 16th block is zero, so that each chunk has 32 runs.
  for (let at = 0; at < size; at += 16 * block) await disk.discard(at, block);
  await disk.snapshots.create('start');
  return disk;
}

/** Its page: 64 chunks with a split of 32 runs each. */
const pageBytes = 16 + 64 * 33 * 8;

async function countedScattered(): Promise<{ disk: Disk; folder: CountingFolder }> {
  const folder = new CountingFolder(new MemoryFolder());
  const disk = await scattered(folder);
  folder.reset();
  return { disk, folder };
}

/** Places that lie apart, so that each is a run of its own. */
function apart(count: number): number[] {
  return Array.from({ length: count }, (_, i) => (16 * i + 5) * block);
}

async function claimsDeltas(folder: StorageFolder): Promise<boolean> {
  const bytes = await fileBytes(folder);
  const slots = [0, 1].map((slot) =>
    decodeSuperblock(bytes.subarray(slot * SLOT_BYTES, (slot + 1) * SLOT_BYTES), file),
  );
  return slots.toSorted((a, b) => b!.generation - a!.generation)[0]!.hasDeltas;
}

async function collect(disk: Disk, from: string, to?: string): Promise<DiffExtent[]> {
  const extents: DiffExtent[] = [];
  for await (const extent of disk.snapshots.diff(from, to)) extents.push(extent);
  return extents;
}

describe('P7: what a snapshot costs after a history', () => {
  it.each([1, 4, 16, 64])('follows the blocks that changed, not the page: %i blocks', async (count) => {
    const { disk, folder } = await countedScattered();
    for (const at of apart(count)) await disk.write(at, filled(block, 2));
    await disk.snapshots.create('next');
    const { writtenBytes, writes, readBytes } = folder.counts.purposes.mapping;
    expect(writtenBytes).toBeGreaterThan(count * runBytes);
    expect(writtenBytes).toBeLessThanOrEqual(count * runBytes + fixedBytes);
    expect({ writes, readBytes }).toEqual({ writes: 1, readBytes: 0 });
    await disk.close();
  });

  it('is at most the page when all of it has changed', async () => {
    const { disk, folder } = await countedScattered();
    for (let at = 0; at < size; at += 2 * block) await disk.write(at, filled(block, 2));
    await disk.snapshots.create('next');
    const full = 16 + 64 * 257 * 8;
    expect(folder.counts.purposes.mapping.writtenBytes).toBeLessThanOrEqual(full + fixedBytes);
    await disk.close();
  });

  it('does not grow with the deltas that there are already: a page is written whole in time', async () => {
    const { disk, folder } = await countedScattered();
    const random = new Random(5);
    const perRound = 4;
    const costs: number[] = [];
    for (let round = 0; round < 1000; round++) {
      for (let i = 0; i < perRound; i++) {
        await disk.write(random.below(size / block) * block, pattern(round, block));
      }
      await disk.snapshots.create(`s${round}`);
      costs.push(folder.reset().purposes.mapping.writtenBytes);
    }
    const total = costs.reduce((sum, bytes) => sum + bytes, 0);
    // Gathering keeps a chunk in 64 places, so the page has at most:
    const largest = 16 + 64 * 65 * 8;
    // A write changes itself, and what has been gathered for it: two runs in the delta, four at times.
    const growth = perRound * 2.5 * runBytes;
    expect(total / 1000).toBeLessThan(Math.sqrt(2 * largest * growth) + fixedBytes);
    expect(total / 1000).toBeLessThan(largest / 8);
    const wholes = costs.filter((bytes) => bytes > pageBytes);
    expect(wholes.length).toBeGreaterThan(10);
    // Never two whole ones in a row: the first of them has bought deltas.
    expect(costs.every((bytes, at) => bytes < pageBytes || costs[at + 1]! < pageBytes)).toBe(true);
    expect((await disk.check()).findings).toEqual([]);
    await disk.close();
  }, 60_000);

  it('does not depend on the session: what the deltas have taken so far is known after a reopen', async () => {
    const { disk, folder } = await countedScattered();
    await disk.close();
    const written: number[] = [];
    for (let round = 0; round < 200; round++) {
      const again = await openImage(folder);
      folder.reset();
      for (const at of [3, 999, 5000]) await again.write((at + 16 * round) * block, filled(block, round + 2));
      await again.close();
      written.push(folder.counts.purposes.mapping.writtenBytes);
    }
    const total = written.reduce((sum, bytes) => sum + bytes, 0);
    expect(total / 200).toBeLessThan(pageBytes / 8);
    expect(Math.max(...written)).toBeGreaterThan(pageBytes);
  });
});

describe('a page with a delta', () => {
  it('reads in front and snapshots as it was when each was taken, also after a reopen', async () => {
    const folder = new MemoryFolder();
    const disk = await scattered(folder);
    const kept = new Map([['start', await contents(disk)]]);
    const random = new Random(9);
    for (let round = 0; round < 30; round++) {
      for (let i = 0; i < 6; i++) {
        const at = random.below(size / block - 64) * block;
        if (i < 4) await disk.write(at, pattern(round, (1 + random.below(3)) * block));
        else if (i < 5) await disk.discard(at, (1 + random.below(60)) * block);
        else await disk.write(at, pattern(round, 40 * block));
      }
      await disk.snapshots.create(`s${round}`);
      kept.set(`s${round}`, await contents(disk));
    }
    await disk.snapshots.delete('s7');
    kept.delete('s7');
    await disk.snapshots.apply('s12');
    expect(await claimsDeltas(folder)).toBe(true);
    await disk.write(77 * block, filled(block, 9));
    await disk.close();
    const again = await openImage(folder);
    expect((await again.check()).findings).toEqual([]);
    const wanted = kept.get('s12')!.slice();
    wanted.fill(9, 77 * block, 78 * block);
    expect(Buffer.from(await contents(again)).equals(wanted)).toBe(true);
    for (const [name, bytes] of kept) {
      const snapshot = await again.snapshots.open(name);
      expect(Buffer.from(await contents(snapshot)).equals(bytes), name).toBe(true);
      await snapshot.close();
    }
    await again.close();
  });

  it('that all snapshots are deleted of gives its space back', async () => {
    const { disk } = await countedScattered();
    const lengths: number[] = [];
    for (let round = 0; round < 8; round++) {
      for (let i = 0; i < 12; i++) {
        for (const at of apart(8)) await disk.write(at, filled(block, i));
        await disk.snapshots.create(`s${i}`);
      }
      for (let i = 0; i < 12; i++) await disk.snapshots.delete(`s${i}`);
      expect((await disk.check()).findings).toEqual([]);
      lengths.push((await disk.info()).storageBytes);
    }
    expect(Math.max(...lengths.slice(2))).toBeLessThanOrEqual(lengths[1]! + 256 * KiB);
    await disk.close();
  });

  it('is claimed by the superblock from the first delta on, and not before', async () => {
    const { disk, folder } = await countedScattered();
    expect(await claimsDeltas(folder)).toBe(false);
    await disk.write(5 * block, filled(block, 2));
    await disk.snapshots.create('next');
    expect(await claimsDeltas(folder)).toBe(true);
    await disk.close();
  });

  it('that is damaged is written whole: the table in memory has all of it', async () => {
    const folder = new MemoryFolder();
    const disk = await scattered(folder);
    await disk.write(5 * block, filled(block, 2));
    await disk.snapshots.create('one');
    const at = Buffer.from(await fileBytes(folder)).indexOf('FVDD', 0, 'latin1');
    await (disk.image as FvdImage).storage.write(at + 34, Uint8Array.of(0x55), 'mapping');
    await disk.write(500 * block, filled(block, 3));
    const wanted = await contents(disk);
    await disk.snapshots.create('two');
    const after = await openImage(await copyOf(folder));
    expect(Buffer.from(await contents(after)).equals(wanted)).toBe(true);
    await expect(after.snapshots.open('one')).rejects.toThrow(refusal('page[0]'));
    await after.close();
    await disk.close();
  });

  it('that the storage fails to read is reported; nothing has happened, and the next time it does', async () => {
    const folder = new FaultFolder(new MemoryFolder());
    const disk = await scattered(folder);
    await disk.write(5 * block, filled(block, 2));
    await disk.snapshots.create('one');
    await disk.write(500 * block, filled(block, 3));
    const wanted = await contents(disk);
    folder.arm({ kind: 'EIO', methods: ['read'], purpose: 'mapping', nth: 1 });
    await expect(disk.snapshots.create('two')).rejects.toMatchObject({ code: 'ERR_IO' });
    folder.disarm();
    expect((await disk.snapshots.list()).map(({ name }) => name)).toEqual(['start', 'one']);
    await disk.snapshots.create('two');
    const after = await openImage(await copyOf(folder));
    expect(Buffer.from(await contents(after)).equals(wanted)).toBe(true);
    expect((await after.check()).findings).toEqual([]);
    await after.close();
    await disk.close();
  });

  it('may change all over while it is published: what the delta says is one moment', async () => {
    const folder = new DelayedFolder(new MemoryFolder(), 3);
    const disk = await scattered(folder);
    const random = new Random(3);
    for (let round = 0; round < 60; round++) {
      // What a flush does that finds the journal full.
      const running: unknown[] = [(disk.image as FvdImage).publish()];
      for (let i = 0; i < 20; i++) {
        const at = random.below(size / block) * block;
        const isWrite = random.below(2) === 0;
        running.push(isWrite ? disk.write(at, filled(block, round)) : disk.discard(at, block));
        if (i % 5 === 0) running.push(disk.flush());
      }
      await Promise.all(running);
      if (round % 20 === 10) await disk.snapshots.create(`s${round}`);
    }
    const wanted = await contents(disk);
    expect((await disk.check()).findings).toEqual([]);
    await disk.close();
    const again = await openImage(folder);
    expect(Buffer.from(await contents(again)).equals(wanted)).toBe(true);
    await again.close();
  });
});

describe('a publication that fails', () => {
  it.each(['mapping', 'refcount', 'header'] as const)(
    'at its %s leaves what has changed to the next one',
    async (purpose) => {
      const folder = new FaultFolder(new MemoryFolder());
      const disk = await scattered(folder);
      await disk.write(5 * block, filled(block, 2));
      await disk.snapshots.create('one');
      await disk.write(500 * block, filled(block, 3));
      folder.arm({ kind: 'EIO', methods: ['write'], purpose, nth: 1 });
      await expect(disk.snapshots.create('two')).rejects.toMatchObject({ code: 'ERR_IO' });
      folder.disarm();
      await disk.write(900 * block, filled(block, 4));
      const wanted = await contents(disk);
      await disk.snapshots.create('three');
      expect((await disk.check()).findings).toEqual([]);
      const after = await openImage(await copyOf(folder));
      expect(Buffer.from(await contents(after)).equals(wanted)).toBe(true);
      expect((await after.check()).findings).toEqual([]);
      await after.close();
      await disk.close();
    },
  );
});

describe('diff', () => {
  it('between two deltas over one page reads the deltas and not the page', async () => {
    const { disk, folder } = await countedScattered();
    await disk.write(5 * block, filled(block, 2));
    await disk.write(800 * block, filled(3 * block, 2));
    await disk.snapshots.create('one');
    await disk.write(801 * block, filled(block, 3));
    await disk.write(2000 * block, filled(block, 3));
    await disk.discard(3007 * block, block);
    await disk.snapshots.create('two');
    folder.reset();
    expect(await collect(disk, 'one', 'two')).toEqual(
      [801, 2000, 3007].map((at) => ({ offset: at * block, length: block })),
    );
    expect(folder.counts.purposes.mapping.readBytes).toBeLessThan(KiB);
    expect(await collect(disk, 'two', 'one')).toHaveLength(3);
    await disk.close();
  });

  it('between a delta and another page reads both, and tells the same as their bytes', async () => {
    const { disk } = await countedScattered();
    await disk.write(5 * block, filled(block, 2));
    await disk.snapshots.create('one');
    // All of the page changes, but for two chunks.
    await disk.write(256 * block, pattern(4, size - 512 * block));
    await disk.snapshots.create('whole');
    await disk.write(10_000 * block, filled(block, 5));
    await disk.snapshots.create('two');
    const changed = { offset: 256 * block, length: size - 512 * block };
    const first = { offset: 5 * block, length: block };
    expect(await collect(disk, 'one', 'two')).toEqual([changed]);
    expect(await collect(disk, 'start', 'two')).toEqual([first, changed]);
    expect(await collect(disk, 'start', 'one')).toEqual([first]);
    expect(await collect(disk, 'one')).toEqual([changed]);
    await disk.close();
  });
});
