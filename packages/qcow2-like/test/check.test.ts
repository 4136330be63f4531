// Planted damage of each structure: found, named, and repaired where it can be.

import type { CheckReport, MemoryFolder } from '@cowlab/core';
import { describe, expect, it } from 'vitest';
import { bufferOf, bytesIn, bytesOf, KIB, MIB, newImage, open, placesIn, put } from './lab.ts';

const CLUSTER = 4 * KIB;

async function image(options = {}): Promise<{ folder: MemoryFolder; bytes: Buffer; contents: Buffer }> {
  const folder = await newImage(8 * MIB, { cluster_size: CLUSTER, ...options });
  const disk = await open(folder);
  await disk.write(0, bufferOf(50_000, 1));
  await disk.snapshots.create('one');
  await disk.write(5000, bufferOf(9000, 2));
  const contents = await bytesOf(disk);
  await disk.close();
  return { folder, bytes: await bytesIn(folder), contents };
}

async function check(folder: MemoryFolder, repair?: 'leaks' | 'all'): Promise<CheckReport> {
  const disk = await open(folder, repair === undefined);
  try {
    return await disk.check(repair === undefined ? {} : { repair });
  } finally {
    await disk.close();
  }
}

/** Sets the 16-bit refcount of a host cluster. */
function setCount(bytes: Buffer, cluster: number, count: number): void {
  bytes.writeUInt16BE(count, placesIn(bytes).refcountBlock + cluster * 2);
}

/** The host cluster behind the n-th entry of the first active L2 table. */
function dataCluster(bytes: Buffer, index: number): number {
  return Number(bytes.readBigUInt64BE(placesIn(bytes).l2 + index * 8) & 0x00ff_ffff_ffff_fe00n) / CLUSTER;
}

const damages: [string, (bytes: Buffer) => void, 'corruption' | 'leak', string][] = [
  ['a count that is too low', (bytes) => setCount(bytes, dataCluster(bytes, 0), 1), 'corruption', 'refcount'],
  [
    'a cluster in use that is counted as free',
    (bytes) => setCount(bytes, dataCluster(bytes, 1), 0),
    'corruption',
    'refcount',
  ],
  ['a count that is too high', (bytes) => setCount(bytes, dataCluster(bytes, 2), 7), 'leak', 'refcount'],
  [
    'a free cluster that is counted',
    (bytes) => setCount(bytes, bytes.length / CLUSTER + 3, 1),
    'leak',
    'refcount',
  ],
  [
    'a missing refcount block',
    (bytes) => void bytes.writeBigUInt64BE(0n, placesIn(bytes).refcountTable),
    'corruption',
    'refcount',
  ],
  [
    'a refcount block past the end of the file',
    (bytes) => void bytes.writeBigUInt64BE(1n << 40n, placesIn(bytes).refcountTable),
    'corruption',
    'refcount block',
  ],
  [
    'a refcount block that counts nothing and lies between clusters',
    (bytes) => void bytes.writeBigUInt64BE(512n, placesIn(bytes).refcountTable + 8),
    'corruption',
    'refcount block',
  ],
  [
    'COPIED on a shared cluster',
    (bytes) => void bytes.writeUInt8(0x80, placesIn(bytes).l2 + 6 * 8),
    'corruption',
    'COPIED flag',
  ],
  [
    'COPIED missing on an L2 table',
    (bytes) => void bytes.writeUInt8(0, placesIn(bytes).l1),
    'leak',
    'COPIED flag',
  ],
];

describe('check', () => {
  it.each(damages)('finds and repairs %s', async (_, damage, severity, structure) => {
    const { folder, bytes, contents } = await image();
    damage(bytes);
    await put(folder, bytes);
    const found = await check(folder);
    expect(found.findings).toContainEqual(expect.objectContaining({ severity, structure, repaired: false }));
    expect((await bytesIn(folder)).equals(bytes)).toBe(true);
    const repaired = await check(folder, 'all');
    expect(repaired).toMatchObject({ corruptions: 0, leaks: 0 });
    expect(repaired.repaired).toBe(found.corruptions + found.leaks);
    expect(await check(folder)).toMatchObject({ corruptions: 0, leaks: 0, repaired: 0 });
    const disk = await open(folder);
    expect((await bytesOf(disk)).equals(contents)).toBe(true);
    await disk.snapshots.delete('one');
    await disk.close();
    expect(await check(folder)).toMatchObject({ corruptions: 0, leaks: 0 });
  });

  it('repairs leaks alone when asked to', async () => {
    const { folder, bytes } = await image();
    setCount(bytes, dataCluster(bytes, 0), 1);
    setCount(bytes, dataCluster(bytes, 2), 7);
    await put(folder, bytes);
    expect(await check(folder, 'leaks')).toMatchObject({ corruptions: 1, leaks: 0, repaired: 1 });
  });

  it('repairs nothing while a pointer leads nowhere: what it should lead to would be given away', async () => {
    const { folder, bytes } = await image();
    bytes.writeBigUInt64BE((1n << 63n) | (1n << 40n), placesIn(bytes).l1);
    await put(folder, bytes);
    const report = await check(folder, 'all');
    expect(report.repaired).toBe(0);
    expect(report.corruptions).toBeGreaterThan(0);
    expect((await bytesIn(folder)).equals(bytes)).toBe(true);
  });

  it('finds two mappings to one cluster', async () => {
    const { folder, bytes } = await image();
    const { l2 } = placesIn(bytes);
    bytes.copy(bytes, l2 + 30 * 8, l2 + 8, l2 + 16);
    await put(folder, bytes);
    const { findings } = await check(folder);
    const hostOffset = dataCluster(bytes, 1) * CLUSTER;
    expect(findings).toContainEqual(expect.objectContaining({ severity: 'corruption', hostOffset }));
  });

  it('holds the bookkeeping for stale while the dirty bit is set, and an open for writing sets it right', async () => {
    const { folder, bytes, contents } = await image({ lazy_refcounts: true });
    bytes.writeUInt8(1, 79);
    bytes.fill(0, placesIn(bytes).refcountBlock + 6, placesIn(bytes).refcountBlock + 40);
    await put(folder, bytes);
    const stale = await check(folder);
    expect(stale.corruptions).toBe(0);
    expect(stale.leaks).toBeGreaterThan(0);
    const disk = await open(folder);
    expect((await bytesOf(disk)).equals(contents)).toBe(true);
    await disk.close();
    expect(await check(folder)).toMatchObject({ corruptions: 0, leaks: 0 });
    expect((await bytesIn(folder)).readUInt8(79)).toBe(0);
  });
});
