// Differences between states, told from L1 and L2 tables; and snapshots under new names, as QEMU sees them.

import { writeFile } from 'node:fs/promises';
import { CountingFolder, type DiffExtent, type Disk, totalCounts } from '@cowlab/core';
import { describe, expect, it } from 'vitest';
import {
  bufferOf,
  bytesIn,
  bytesOf,
  KIB,
  MIB,
  newImage,
  open,
  placesIn,
  put,
  Qemu,
  qemuIsMissing,
} from './lab.ts';

async function collect(disk: Disk, from: string, to?: string): Promise<DiffExtent[]> {
  const extents: DiffExtent[] = [];
  for await (const extent of disk.snapshots.diff(from, to)) extents.push(extent);
  return extents;
}

const cluster = (offset: number): DiffExtent => ({ offset, length: 64 * KIB });

describe('diff', () => {
  it.each([{}, { compat: '0.10' }])('tells single clusters, with %j', async (options) => {
    const disk = await open(await newImage(64 * MIB, options));
    await disk.write(0, bufferOf(32 * MIB, 1));
    await disk.snapshots.create('one');
    const offsets = [64 * KIB, 20 * MIB, 63 * MIB];
    for (const offset of offsets) await disk.write(offset + 99, bufferOf(10, 2));
    expect(await collect(disk, 'one')).toEqual(offsets.map(cluster));
    await disk.snapshots.create('two');
    expect(await collect(disk, 'one', 'two')).toEqual(offsets.map(cluster));
    await disk.close();
  });

  it('zeros are zeros, whether a cluster is set aside for them or not', async () => {
    const disk = await open(await newImage(MIB));
    await disk.write(0, bufferOf(256 * KIB, 1));
    await disk.snapshots.create('data');
    await disk.writeZeroes(0, 128 * KIB);
    await disk.discard(128 * KIB, 128 * KIB);
    await disk.snapshots.create('zeros');
    await disk.discard(0, 256 * KIB);
    expect(await collect(disk, 'zeros')).toEqual([]);
    expect(await collect(disk, 'data', 'zeros')).toEqual([{ offset: 0, length: 256 * KIB }]);
    await disk.close();
  });

  it('reads no L2 table that two states share, and goes on from batch to batch through others', async () => {
    // A table of 4 KiB speaks for 2 MiB.
    const folder = new CountingFolder(await newImage(512 * MIB, { cluster_size: 4 * KIB }));
    const disk = await open(folder, false, { l2_cache_size: 64 * KIB });
    for (let span = 0; span < 256; span += 1) await disk.write(span * 2 * MIB, bufferOf(4 * KIB, 1));
    await disk.snapshots.create('one');
    await disk.write(100 * 2 * MIB, bufferOf(4 * KIB, 2));
    await disk.snapshots.create('two');
    folder.reset();
    expect(await collect(disk, 'one', 'two')).toEqual([{ offset: 200 * MIB, length: 4 * KIB }]);
    const few = totalCounts(folder.reset());
    // Two L1 tables of 2 KiB, two L2 tables.
    expect([few.reads, few.readBytes]).toEqual([4, 2 * 2 * KIB + 2 * 4 * KIB]);
    for (let span = 0; span < 256; span += 1) await disk.write(span * 2 * MIB, bufferOf(4 * KIB, 3));
    await disk.snapshots.create('three');
    folder.reset();
    const steps: number[] = [];
    const onProgress = ({ done }: { done: number }): void => void steps.push(done);
    const extents = [];
    for await (const extent of disk.snapshots.diff('two', 'three', { onProgress })) extents.push(extent);
    expect(extents).toEqual(
      Array.from({ length: 256 }, (_, span) => ({ offset: span * 2 * MIB, length: 4 * KIB })),
    );
    expect(steps).toEqual([128 * MIB, 256 * MIB, 384 * MIB, 512 * MIB]);
    // Four batches, each with both L1 tables.
    expect(totalCounts(folder.reset()).reads).toBe(2 * 256 + 4 * 2);
    await disk.close();
  });

  it('answers an L1 entry with reserved bits with ERR_CORRUPT', async () => {
    const folder = await newImage(MIB);
    const disk = await open(folder);
    await disk.write(0, bufferOf(KIB, 1));
    await disk.snapshots.create('one');
    await disk.write(0, bufferOf(KIB, 2));
    await disk.close();
    const bytes = await bytesIn(folder);
    // The active L1 table stays whole; the snapshot's is the other one with the same number of entries.
    const table = Number(bytes.readBigUInt64BE(64));
    const l1 = Number(bytes.readBigUInt64BE(table));
    expect(l1).not.toBe(placesIn(bytes).l1);
    bytes[l1] = bytes.readUInt8(l1) | 0x20;
    await put(folder, bytes);
    const damaged = await open(folder, true);
    await expect(collect(damaged, 'one')).rejects.toMatchObject({
      code: 'ERR_CORRUPT',
      data: { field: 'l1_table.entry' },
    });
    await damaged.close();
  });
});

it.each(['1.1', '0.10'])(
  'a rename under compat %s writes the snapshot table anew, in 4 flushes, and reads no L2 table',
  async (compat) => {
    const folder = new CountingFolder(await newImage(MIB, { compat }));
    const disk = await open(folder);
    await disk.write(0, bufferOf(MIB, 1));
    for (const name of ['one', 'two']) await disk.snapshots.create(name);
    folder.reset();
    await disk.snapshots.rename('one', 'first');
    const { flushes, purposes } = folder.reset();
    expect(flushes).toBe(4);
    expect(purposes.snapshot.writes).toBe(1);
    expect(purposes.mapping).toMatchObject({ reads: 0, writes: 0 });
    await disk.close();
  },
);

describe.skipIf(qemuIsMissing)('with QEMU', () => {
  const qemu = Qemu.forEachTest();

  it('what it has written between its own snapshots is told, compressed clusters too', async () => {
    await writeFile(qemu.path('source.raw'), Buffer.concat([bufferOf(4 * MIB, 1), Buffer.alloc(4 * MIB)]));
    await qemu.img('convert', '-c', '-f', 'raw', '-O', 'qcow2', 'source.raw', 'disk.qcow2');
    await qemu.img('snapshot', '-c', 'one', 'disk.qcow2');
    await qemu.io('disk.qcow2', 'write -P 1 1M 64k', 'write -z 2M 128k', 'write -c -P 5 6M 64k');
    await qemu.img('snapshot', '-c', 'two', 'disk.qcow2');
    await qemu.io('disk.qcow2', 'discard 0 64k');
    const disk = await qemu.open();
    expect(await collect(disk, 'one', 'two')).toEqual([
      cluster(MIB),
      { offset: 2 * MIB, length: 128 * KIB },
      cluster(6 * MIB),
    ]);
    expect(await collect(disk, 'two')).toEqual([cluster(0)]);
    await disk.close();
  });

  it('a snapshot that it made and we renamed is the same under the new name', async () => {
    await qemu.img('create', '-f', 'qcow2', 'disk.qcow2', '40M');
    await qemu.io('disk.qcow2', 'write -P 1 0 2M');
    await qemu.img('snapshot', '-c', 'theirs', 'disk.qcow2');
    const theirs = await qemu.bytes('disk.qcow2', '-l', 'theirs');
    await qemu.io('disk.qcow2', 'write -P 2 1M 2M');
    const disk = await qemu.open();
    await disk.snapshots.rename('theirs', 'ours now');
    const present = await bytesOf(disk);
    await disk.close();
    await qemu.assertSees('disk.qcow2', present);
    const list = await qemu.img('snapshot', '-l', 'disk.qcow2');
    expect(list).toMatch(/\bours now\b/);
    expect(list).not.toMatch(/\btheirs\b/);
    expect((await qemu.bytes('disk.qcow2', '-l', 'ours now')).equals(theirs)).toBe(true);
  });
});
