import { pattern } from '@cowlab/conformance';
import { CountingFolder, MemoryFolder, totalCounts, viewOf } from '@cowlab/core';
import { beforeAll, describe, expect, it } from 'vitest';
import type { FvdImage } from '../src/image.ts';
import { encodeCatalog, type Superblock } from '../src/layout.ts';
import { filled, folderWith, KiB, makeImage, newestOf, openImage, refusal, snapshotImage } from './lab.ts';

let good: Uint8Array;
let superblock: Superblock;

beforeAll(async () => {
  good = await snapshotImage();
  superblock = newestOf(good);
});

describe('check', () => {
  async function withCounts(change: (counts: Uint16Array) => void): Promise<MemoryFolder> {
    const image = good.slice();
    const { offset, bytes } = superblock.catalog;
    const catalog = image.slice(offset, offset + bytes);
    const end = viewOf(catalog).getUint32(8, true);
    const counts = new Uint16Array(catalog.slice(end).buffer);
    change(counts);
    const folder = await folderWith(image);
    const disk = await openImage(folder, true);
    const [snapshot] = await disk.snapshots.list();
    const root = {
      offset: Number(viewOf(catalog).getBigUint64(64, true)),
      bytes: Number(viewOf(catalog).getBigUint64(72, true)),
    };
    const entry = {
      id: 1,
      parent: 0,
      name: 's',
      createdAt: snapshot!.createdAt.getTime(),
      size: snapshot!.size,
      root,
    };
    await disk.close();
    image.set(encodeCatalog({ nextId: 2, current: 1, snapshots: [entry] }, counts), offset);
    return folderWith(image);
  }

  const planted: [string, 'leaks' | 'corruptions', 'leaks' | 'all', (counts: Uint16Array) => void][] = [
    ['a chunk that is counted too often', 'leaks', 'leaks', (counts) => counts[counts.length - 1]!++],
    [
      'a chunk that is counted too seldom',
      'corruptions',
      'all',
      (counts) => counts[counts.findIndex((n) => n > 0)]!--,
    ],
  ];

  it.each(planted)('finds %s among the %s, and repairs it (%s)', async (_, kind, repair, change) => {
    const folder = await withCounts(change);
    const disk = await openImage(folder);
    expect(await disk.check()).toMatchObject({ [kind]: 1, repaired: 0 });
    expect(await disk.check({ repair })).toMatchObject({ corruptions: 0, leaks: 0, repaired: 1 });
    expect((await disk.check()).findings).toEqual([]);
    await disk.close();
  });

  it('does not touch what is no leak when it is to repair leaks', async () => {
    const folder = await withCounts(planted[1]![3]);
    const disk = await openImage(folder);
    expect(await disk.check({ repair: 'leaks' })).toMatchObject({ corruptions: 1, leaks: 0, repaired: 0 });
    await disk.close();
  });

  it('finds a snapshot whose table is damaged', async () => {
    const image = good.slice();
    const rootOffset = viewOf(image).getUint32(superblock.catalog.offset + 64, true);
    image[rootOffset + 33]! ^= 1;
    const disk = await openImage(await folderWith(image), true);
    const { corruptions, findings } = await disk.check();
    expect(corruptions).toBeGreaterThan(0);
    expect(findings[0]).toMatchObject({ structure: 'snapshot', severity: 'corruption' });
    await expect(disk.snapshots.open('s')).rejects.toThrow(refusal('root'));
    await disk.close();
  });

  it('reads a state once, however many snapshots have it, and finds its damage in each', async () => {
    const folder = new CountingFolder(new MemoryFolder());
    await makeImage(folder);
    const disk = await openImage(folder);
    await disk.write(0, pattern(1, 100 * KiB));
    const readsOf = async (snapshots: number): Promise<number> => {
      for (let i = 0; i < snapshots; i++) await disk.snapshots.create(`${snapshots}-${i}`);
      folder.reset();
      expect((await disk.check()).findings).toEqual([]);
      return totalCounts(folder.counts).reads;
    };
    expect(await readsOf(20)).toBe(await readsOf(1));
    const { storage, publisher } = disk.image as FvdImage;
    await storage.write(publisher.superblock.root.offset + 33, filled(1, 0xee));
    expect((await disk.check()).corruptions).toBeGreaterThanOrEqual(21);
    await disk.close();
  });

  it('is given up when it is told to', async () => {
    const disk = await openImage(await folderWith(good.slice()));
    const signal = AbortSignal.abort();
    await expect(disk.check({ signal })).rejects.toMatchObject({ code: 'ERR_ABORTED' });
    await disk.close();
  });
});
