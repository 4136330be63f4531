import { DelayedFolder, pattern } from '@cowlab/conformance';
import { MemoryFolder } from '@cowlab/core';
import { describe, expect, it } from 'vitest';
import { geometryOf, ZERO } from '../src/layout.ts';
import { ChunkTable } from '../src/table.ts';
import { contents, filled, folderWith, KiB, makeImage, openImage } from './lab.ts';

const block = 4 * KiB;

describe('the table', () => {
  it('keeps runs apart that lie in different host chunks, however close', () => {
    const table = new ChunkTable(geometryOf(64 * KiB, block), 1);
    const released: [number, number][] = [];
    table.set(0, 3, 1, 95, () => undefined);
    table.set(0, 4, 1, 96, () => undefined);
    table.set(0, 5, 1, 97, () => undefined);
    table.set(0, 0, 16, ZERO, (host, count) => released.push([host, count]));
    expect(released).toEqual([
      [95, 1],
      [96, 2],
    ]);
  });

  it('ends a split when one chunk holds all blocks again', () => {
    const table = new ChunkTable(geometryOf(64 * KiB, block), 1);
    for (const at of [3, 0, 7, 15, 1, 2, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14]) {
      table.set(0, at, 1, 80 + at, () => undefined);
    }
    expect(table.whole(0)).toBe(5);
    expect(table.splitChunks).toBe(0);
  });
});

describe('an image over a base', () => {
  it.each([
    [100 * KiB, 'at a block'],
    [100 * KiB + 512, 'inside a block'],
  ])('that has been shrunk to %i (%s) and grows shows zeros where the base has bytes', async (size) => {
    const base = pattern(6, 400 * KiB);
    const folder = await folderWith(base, 'base.raw');
    await makeImage(folder, { size: base.length, backing: 'base.raw' });
    const disk = await openImage(folder);
    await disk.resize(size);
    await disk.resize(base.length + 64 * KiB);
    const expected = new Uint8Array(disk.size);
    expected.set(base.subarray(0, size));
    expect(Buffer.from(await contents(disk)).equals(expected)).toBe(true);
    await disk.close();
    const again = await openImage(folder);
    expect(Buffer.from(await contents(again)).equals(expected)).toBe(true);
    expect((await again.check()).findings).toEqual([]);
    await again.close();
  });
});

describe('flushes beside writes', () => {
  it.each([11, 12, 13])('punch no hole into a chunk that has a new tenant: seed %i', async (seed) => {
    const folder = new DelayedFolder(new MemoryFolder(), seed);
    await makeImage(folder);
    const disk = await openImage(folder);
    const half = disk.size / 2;
    await disk.write(0, pattern(1, half));
    await disk.flush();
    await disk.discard(0, half);
    const model = new Uint8Array(disk.size);
    const running: unknown[] = [disk.flush()];
    for (let at = half; at < disk.size; at += 16 * block) {
      const bytes = filled(16 * block, (at / block) % 255);
      model.set(bytes, at);
      running.push(disk.write(at, bytes));
      await new Promise((resolve) => setImmediate(resolve));
    }
    await Promise.all(running);
    expect(Buffer.from(await contents(disk)).equals(model)).toBe(true);
    await disk.close();
  });
});
