import { CountingFolder, createDisk, type Disk, MemoryFolder, openDisk, prefetch, raw } from '@cowlab/core';
import { expect, it } from 'vitest';
import { decodeSuperblock, SLOT_BYTES } from '../src/layout.ts';
import { contents, file, fileBytes, filled, KiB, makeImage, MiB, openImage } from './lab.ts';

/* What it costs to do without a base, and what is left of it in the file. */

const baseFile = 'base.raw';
const CHUNKS = 16;

/** A disk of 16 chunks over a raw base in which every byte is 9, but for a chunk of zeros; counting begins now. */
async function overBase(): Promise<{ disk: Disk; folder: CountingFolder }> {
  const folder = new CountingFolder(new MemoryFolder());
  await createDisk({ folder, file: baseFile }, { driver: raw, size: MiB });
  const base = await openDisk({ folder, file: baseFile }, { format: 'raw' });
  await base.write(0, filled(MiB, 9));
  await base.writeZeroes(5 * 64 * KiB, 64 * KiB);
  await base.close();
  await makeImage(folder, { backing: baseFile });
  const disk = await openImage(folder);
  folder.reset();
  return { disk, folder };
}

/** The superblock that rules. */
async function superblockOf(folder: CountingFolder): Promise<ReturnType<typeof decodeSuperblock>> {
  const bytes = await fileBytes(folder);
  const slots = [0, 1].map((slot) =>
    decodeSuperblock(bytes.slice(slot * SLOT_BYTES, (slot + 1) * SLOT_BYTES), file),
  );
  return slots.toSorted((a, b) => (b?.generation ?? 0) - (a?.generation ?? 0))[0];
}

it('a copy of the base writes its bytes and no metadata; zeros it does not write', async () => {
  const { disk, folder } = await overBase();
  const report = await disk.populate();
  expect(report).toMatchObject({ writtenBytes: MiB - 64 * KiB, zeroedBytes: 64 * KiB });
  const { data, mapping, journal, header } = folder.counts.purposes;
  expect(data.writtenBytes).toBe(MiB - 64 * KiB);
  expect([mapping.writes, journal.writes, header.writes]).toEqual([0, 0, 0]);
  expect(folder.counts.flushes).toBe(0);
  await disk.close();
});

it('a prefetch ends with one journal append for all that it has copied; the next flush writes nothing', async () => {
  const { disk, folder } = await overBase();
  await prefetch(disk, { slotBytes: 64 * KiB, throttleMaxMs: 0 });
  expect(folder.counts.purposes.journal.writes).toBe(1);
  expect(folder.counts.flushes).toBe(2);
  folder.reset();
  await disk.flush();
  expect(folder.counts.flushes).toBe(1);
  await disk.close();
});

it('a chunk that was copied whole is not split, and is overwritten in place', async () => {
  const { disk, folder } = await overBase();
  await disk.populate();
  expect(disk.stats()['splitChunks']).toBe(0);
  folder.reset();
  await disk.write(3 * 64 * KiB + 5, filled(100, 1));
  expect(folder.counts.purposes.data).toMatchObject({ reads: 0, writes: 1, writtenBytes: 100 });
  await disk.close();
});

it('a release is one publication: two flushes, and a superblock without a base', async () => {
  const { disk, folder } = await overBase();
  await disk.populate();
  const before = await superblockOf(folder);
  folder.reset();
  await disk.releaseBacking();
  expect(folder.counts.flushes).toBe(2);
  expect(folder.counts.purposes.header.writes).toBe(1);
  const after = await superblockOf(folder);
  expect(before).toMatchObject({ base: baseFile, baseFormat: 'raw' });
  expect(after).toMatchObject({ base: '', baseFormat: '', generation: before!.generation + 1 });
  const newest = (await fileBytes(folder)).subarray((after!.generation % 2) * SLOT_BYTES);
  expect(Buffer.from(newest.subarray(0, SLOT_BYTES)).includes(baseFile)).toBe(false);
  await disk.close();
});

it('after a release a discarded block is absent, and its space is free again', async () => {
  const { disk, folder } = await overBase();
  await disk.populate();
  await disk.releaseBacking();
  await folder.remove(baseFile);
  await disk.discard(0, MiB);
  expect(disk.image.map(0, MiB)).toMatchObject({ kind: 'zero', allocated: false });
  await disk.flush();
  const { hostChunks } = (await superblockOf(folder))!;
  await disk.write(0, filled(MiB, 3));
  await disk.flush();
  await disk.close();
  expect((await superblockOf(folder))!.hostChunks).toBeLessThanOrEqual(hostChunks + 1);
  const again = await openImage(folder);
  expect(await contents(again)).toEqual(filled(MiB, 3));
  expect(await again.check()).toMatchObject({ corruptions: 0, leaks: 0 });
  await again.close();
});

it('what was shrunk away does not come back from the base, before or after its release', async () => {
  const { disk } = await overBase();
  await disk.resize(MiB / 2);
  await disk.populate();
  await disk.resize(MiB);
  expect(await disk.nextBacked()).toBeUndefined();
  await disk.releaseBacking();
  const bytes = await contents(disk);
  expect(bytes.subarray(MiB / 2)).toEqual(filled(MiB / 2, 0));
  expect(bytes.subarray(0, 64 * KiB)).toEqual(filled(64 * KiB, 9));
  expect(bytes.length).toBe(CHUNKS * 64 * KiB);
  await disk.close();
});
