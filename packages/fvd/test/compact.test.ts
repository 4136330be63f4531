import { FaultFolder } from '@cowlab/conformance';
import { type Disk, MemoryFolder } from '@cowlab/core';
import { describe, expect, it } from 'vitest';
import { decodeSuperblock, SLOT_BYTES, type Superblock } from '../src/layout.ts';
import { contents, copyOf, file, fileBytes, filled, folderWith, KiB, makeImage, openImage } from './lab.ts';

const chunk = 64 * KiB;

async function superblockOf(folder: MemoryFolder): Promise<Superblock> {
  const bytes = await fileBytes(folder);
  const slots = [0, 1].map((slot) =>
    decodeSuperblock(bytes.subarray(slot * SLOT_BYTES, (slot + 1) * SLOT_BYTES), file),
  );
  return slots.reduce((a, b) => ((b?.generation ?? 0) > (a?.generation ?? 0) ? b : a))!;
}

/** A disk of 16 chunks, each full of its number from 1. */
async function fullDisk(folder: MemoryFolder): Promise<Disk> {
  await makeImage(folder);
  const disk = await openImage(folder);
  for (let at = 0; at < 16; at++) await disk.write(at * chunk, filled(chunk, at + 1));
  return disk;
}

/** Without a list of differences, which for a million bytes takes minutes. */
function expectSame(actual: Uint8Array, expected: Uint8Array): void {
  expect(Buffer.compare(actual, expected)).toBe(0);
}

describe('compact', () => {
  it('lets hostChunks fall to what is in use, and cuts the file to it', async () => {
    const folder = new MemoryFolder();
    const disk = await fullDisk(folder);
    await disk.flush();
    const { hostChunks } = await superblockOf(folder);
    await disk.discard(8 * chunk, 8 * chunk);
    const { bytesAfter, movedBytes } = await disk.compact();
    const after = await superblockOf(folder);
    expect(after.hostChunks).toBeLessThanOrEqual(2 + 8 + 1);
    expect(after.hostChunks).not.toBe(hostChunks);
    expect(bytesAfter).toBe(after.hostChunks * chunk);
    expect(movedBytes).toBe(0);
    await disk.close();
  });

  it('moves no more than what lies behind the end of what stays', async () => {
    const folder = new MemoryFolder();
    const disk = await fullDisk(folder);
    await disk.discard(2 * chunk, 3 * chunk);
    await disk.flush();
    const { movedBytes } = await disk.compact({ move: true });
    expect(movedBytes).toBeLessThanOrEqual(3 * chunk);
    expect((await disk.check()).corruptions).toBe(0);
    await disk.close();
  });

  it('leaves what a snapshot reaches, and everything before it, until the snapshot is deleted', async () => {
    const folder = new MemoryFolder();
    const disk = await fullDisk(folder);
    await disk.snapshots.create('all');
    await disk.discard(0, disk.size);
    await disk.write(0, filled(chunk, 99));
    const held = await disk.compact({ move: true });
    expect(held.bytesAfter).toBeGreaterThanOrEqual(18 * chunk);
    await disk.snapshots.delete('all');
    const { bytesAfter } = await disk.compact({ move: true });
    // Superblock with its log, journal, one chunk of data, catalog, and a chunk of the log.
    expect(bytesAfter).toBeLessThanOrEqual(5 * chunk);
    expectSame((await contents(disk)).subarray(0, chunk), filled(chunk, 99));
    await disk.close();
    const again = await openImage(folder, true);
    expect(await again.check()).toMatchObject({ corruptions: 0, leaks: 0 });
    await again.close();
  });

  it('keeps what a preallocated disk has as holes as zeros, also over what a free chunk still holds', async () => {
    const folder = new MemoryFolder();
    const options = {
      chunk_size: chunk,
      block_size: 4 * KiB,
      journal_size: chunk,
      preallocation: 'metadata',
    };
    await makeImage(folder, { options });
    const faulty = new FaultFolder(folder);
    const disk = await openImage(faulty);
    faulty.arm({ kind: 'EIO', methods: ['discard'], nth: 1, lasting: true });
    await disk.write(0, filled(8 * chunk, 7));
    await disk.discard(0, 8 * chunk);
    await disk.compact({ move: true });
    expectSame(await contents(disk), new Uint8Array(disk.size));
    await disk.close();
  });

  it("an image whose file is longer than its superblock says opens, and its rest is nobody's", async () => {
    const folder = new MemoryFolder();
    const disk = await fullDisk(folder);
    await disk.discard(4 * chunk, 12 * chunk);
    await disk.compact();
    const expected = await contents(disk);
    await disk.close();
    const bytes = await fileBytes(folder);
    const longer = await folderWith(Buffer.concat([bytes, filled(5 * chunk + 100, 0xee)]));
    const reader = await openImage(longer, true);
    expectSame(await contents(reader), expected);
    expect(await reader.check()).toMatchObject({ corruptions: 0, leaks: 0 });
    await reader.close();
    const writer = await openImage(longer);
    await writer.write(9 * chunk + 100, filled(100, 3));
    expected.fill(3, 9 * chunk + 100, 9 * chunk + 200);
    expectSame(await contents(writer), expected);
    const crashed = await openImage(await copyOf(longer), true);
    await crashed.close();
    expect((await writer.compact()).bytesAfter).toBeLessThanOrEqual(bytes.length + 2 * chunk);
    await writer.close();
  });
});
