import { readFileSync } from 'node:fs';
import {
  CountingFolder,
  createDisk,
  type Disk,
  type DiskExtent,
  MemoryFolder,
  openDisk,
  viewOf,
} from '@cowlab/core';
import { describe, expect, it } from 'vitest';
import { fvd } from '../src/index.ts';
import { contents, file, fileBytes, filled, folderWith, KiB, makeImage, openImage, refusal } from './lab.ts';
import { HEADER_OFFSETS as at } from '../src/v1/layout.ts';
import { fixtureBytes, fixtures, folderOf, openToRead, put32, put64, putText, sha256 } from './v1-lab.ts';

/** Where compact-base.fvd has its bitmap and its data. */
const bitmapAt = 8192;
const dataAt = 32_768;

async function extentsOf(disk: Disk): Promise<DiskExtent[]> {
  const extents: DiskExtent[] = [];
  for await (const extent of disk.extents()) extents.push(extent);
  return extents;
}

describe.each(fixtures)('version 1: $file', (fixture) => {
  const image = fixtureBytes(fixture.file);

  it('is what the manifest describes', () => {
    expect(sha256(image)).toBe(fixture.file_sha256);
  });

  it('reads as the original program reads it, and reading writes nothing', async () => {
    const memory = await folderOf(image);
    const folder = new CountingFolder(memory);
    const disk = await openToRead(folder);
    expect(disk.size).toBe(fixture.virtual_size);
    expect(sha256(await contents(disk))).toBe(fixture.raw_sha256);
    await disk.flush();
    await disk.close();
    const { flushes, folderCalls, purposes } = folder.counts;
    const changes = Object.values(purposes).map(({ writes, zeroes, discards }) => writes + zeroes + discards);
    expect([flushes, folderCalls, ...changes].every((count) => count === 0)).toBe(true);
    expect(sha256(await fileBytes(memory))).toBe(fixture.file_sha256);
  });

  it('reads the same in pieces of any size', async () => {
    const disk = await openToRead(await folderOf(image));
    const whole = await contents(disk);
    for (const step of [1000, 4096, 66_000]) {
      const parts = new Uint8Array(disk.size);
      for (let start = 0; start < disk.size; start += step) {
        await disk.read(start, parts.subarray(start, Math.min(start + step, disk.size)));
      }
      expect(Buffer.compare(parts, whole)).toBe(0);
    }
    await disk.close();
  });

  it('has extents that cover the disk, and zeros where they say so', async () => {
    const disk = await openToRead(await folderOf(image));
    const whole = await contents(disk);
    let end = 0;
    for (const { offset, length, kind } of await extentsOf(disk)) {
      expect(offset).toBe(end);
      end += length;
      if (kind === 'zero') expect(whole.subarray(offset, end).every((byte) => byte === 0)).toBe(true);
    }
    expect(end).toBe(disk.size);
    await disk.close();
  });

  it('checks clean and says what it is', async () => {
    const disk = await openToRead(await folderOf(image));
    expect(await disk.check()).toMatchObject({ corruptions: 0, leaks: 0, findings: [] });
    const dirty = fixture.state.startsWith('dirty');
    const { details, backing, files } = await disk.info();
    expect(details).toMatchObject({ version: 1, 'clean shutdown': !dirty });
    expect((details['replayed journal sectors'] ?? 0) !== 0).toBe(dirty);
    expect(backing?.file).toBe(fixture.base ?? undefined);
    expect(files).toEqual([file]);
    await disk.close();
  });

  it('is not opened for writing, and stays as it is', async () => {
    const folder = await folderOf(image);
    await expect(openImage(folder)).rejects.toThrow(refusal('header.version', 'ERR_UNSUPPORTED'));
    await expect(openImage(folder)).rejects.toThrow('version 1 images can only be read; convert it');
    expect(sha256(await fileBytes(folder))).toBe(fixture.file_sha256);
  });

  it('has no snapshots, and none can be made', async () => {
    const disk = await openToRead(await folderOf(image));
    expect(await disk.snapshots.list()).toEqual([]);
    await expect(disk.snapshots.open('s')).rejects.toMatchObject({ code: 'ERR_SNAPSHOT_NOT_FOUND' });
    await expect(disk.snapshots.create('s')).rejects.toMatchObject({ code: 'ERR_READ_ONLY' });
    await expect(disk.snapshots.delete('s')).rejects.toMatchObject({ code: 'ERR_READ_ONLY' });
    await expect(disk.snapshots.apply('s')).rejects.toMatchObject({ code: 'ERR_READ_ONLY' });
    await disk.close();
  });

  it('can be the base of an image of version 2', async () => {
    const folder = await folderOf(image);
    const below = { file, format: 'fvd' };
    await createDisk({ folder, file: 'top.fvd' }, { driver: fvd, backing: below, drivers: [fvd] });
    const top = await openDisk({ folder, file: 'top.fvd' }, { drivers: [fvd] });
    expect(sha256(await contents(top))).toBe(fixture.raw_sha256);
    await top.write(0, filled(100, 1));
    await top.close();
    expect(sha256(await fileBytes(folder))).toBe(fixture.file_sha256);
  });
});

describe('an image of version 1', () => {
  it('that was never written reads as zeros where it has no data yet', async () => {
    const image = fixtureBytes('noncompact-nobase.fvd').slice(0, 8192);
    const disk = await openToRead(await folderOf(image));
    expect((await contents(disk)).every((byte) => byte === 0)).toBe(true);
    expect(await extentsOf(disk)).toMatchObject([{ length: disk.size, kind: 'zero', allocated: false }]);
    expect(await disk.check()).toMatchObject({ allocatedBytes: 0, imageEndBytes: 8192 });
    await disk.close();
  });

  it('that has all data needs its base no more', async () => {
    const image = fixtureBytes('compact-base.fvd');
    put32(image, at.all_data_in_fvd_img, 1);
    putText(image, at.base_img, 'gone.raw');
    const disk = await openToRead(await folderWith(image));
    expect((await contents(disk)).subarray(512, 1024)).toEqual(filled(512, 0xb1));
    expect((await disk.info()).backing).toBeUndefined();
    await disk.close();
  });

  it('that ends before its base does reads up to its own end', async () => {
    const whole = await read(fixtureBytes('compact-base.fvd'));
    const image = fixtureBytes('compact-base.fvd');
    put64(image, at.virtual_disk_size, 512 * KiB);
    expect(await read(image)).toEqual(whole.subarray(0, 512 * KiB));
  });

  it('is read however far out in a sparse file its chunks lie', async () => {
    const image = fixtureBytes('compact-nobase.fvd');
    put64(image, at.virtual_disk_size, 4096);
    put64(image, at.chunk_size, 512);
    const chunks = [2 ** 31 - 2, 2 ** 27, 0];
    chunks.forEach((host, chunk) => put32(image, 8192 + 4 * chunk, host));
    const folder = await folderWith(image);
    const storage = await folder.open(file, { readOnly: false });
    for (const [chunk, host] of chunks.entries()) {
      await storage.write(28_672 + host * 512, filled(512, chunk + 1));
    }
    await storage.close();
    const disk = await openToRead(folder);
    const bytes = await contents(disk);
    chunks.forEach((_, chunk) => expect(bytes[chunk * 512]).toBe(chunk + 1));
    expect(await disk.check()).toMatchObject({ corruptions: 0, leaks: 2 });
    await disk.close();
  });

  it('takes nothing of a base from behind the size that is recorded for it', async () => {
    const image = fixtureBytes('compact-base.fvd');
    // The end is in the middle of a block, and of a chunk without a place.
    const end = 128 * KiB + 512;
    put64(image, at.base_img_size, end);
    const bytes = await read(image);
    expect(bytes.subarray(64 * KiB, end)).toEqual(fixtureBytes('base.raw').subarray(64 * KiB, end));
    expect(bytes.subarray(end, 192 * KiB)).toEqual(filled(192 * KiB - end, 0));
  });

  it('of which a copied block reaches into a chunk without a place has the bytes of the base there', async () => {
    const image = fixtureBytes('compact-base.fvd');
    const base = fixtureBytes('base.raw');
    // Blocks of 60 KiB over chunks of 64 KiB: of block 1, which is in the image, 56 KiB lie in chunk 1, which has no place.
    put32(image, at.block_size, 60 * KiB);
    image.fill(0, bitmapAt, bitmapAt + 3);
    image[bitmapAt] = 0b11;
    const bytes = await read(image);
    const chunk = fixtureBytes('compact-base.fvd').subarray(dataAt, dataAt + 64 * KiB);
    expect(bytes.subarray(0, 64 * KiB)).toEqual(chunk);
    expect(bytes.subarray(64 * KiB, 512 * KiB)).toEqual(base.subarray(64 * KiB, 512 * KiB));
  });

  it.each([
    ['compact', 'compact-nobase.fvd'],
    ['flat', 'noncompact-nobase.fvd'],
  ])('finds its data in a file of their own (%s)', async (_, name) => {
    const { disk, folder } = await openSplit(name, 'raw');
    expect(sha256(await contents(disk))).toBe(fixtures.find((each) => each.file === name)?.raw_sha256);
    expect((await disk.info()).files).toEqual([file, 'data.raw']);
    expect((await disk.check()).findings).toEqual([]);
    await disk.close();
    expect(await folder.list()).toEqual(['data.raw', file]);
  });

  it('takes a data file of no named format for raw, and refuses one that a guest may have disguised', async () => {
    const { disk, folder } = await openSplit('compact-nobase.fvd', '');
    await disk.close();
    const data = await folder.open('data.raw', { readOnly: false });
    const inner = new MemoryFolder();
    await makeImage(inner);
    await data.write(0, await fileBytes(inner));
    await data.close();
    await expect(openToRead(folder)).rejects.toThrow(refusal('header.data_file_fmt', 'ERR_UNSUPPORTED'));
  });

  it('that names a shell command is read, and the command is only mentioned', async () => {
    const image = fixtureBytes('compact-nobase.fvd');
    putText(image, at.add_storage_cmd, 'builtin:lvextend');
    const disk = await openToRead(await folderOf(image));
    expect((await disk.info()).details).toMatchObject({ 'storage command ignored': true });
    await disk.close();
  });

  it('keeps a table entry, 4 bytes a chunk, and a bit a block in memory, and nothing else', async () => {
    const disk = await openToRead(await folderOf(fixtureBytes('compact-base.fvd')));
    const blocks = Math.ceil(fixtureBytes('base.raw').length / 4096);
    const expected = 4 * 32 + 4 * Math.ceil(blocks / 32);
    expect(disk.stats()).toMatchObject({ residentMetadataBytes: expected, tableBytes: 128 });
    await disk.close();
  });
});

describe('FORMAT.md', () => {
  it('has every field of the header of version 1 that is decoded, where it is decoded', () => {
    const text = readFileSync(new URL('../FORMAT.md', import.meta.url), 'utf8');
    const section = text.slice(text.indexOf('## 10. Version 1'));
    const rows = [...section.matchAll(/^\| (\d+) \| [\d,]+ \| `(\w+)` \|/gm)].map(
      ([, offset, field]) => [field, Number(offset)] as const,
    );
    expect(Object.fromEntries(rows)).toEqual({ magic: 0, version: 4, ...at });
  });
});

/** The fixture with its data cut off into `data.raw`. */
async function openSplit(name: string, format: string): Promise<{ disk: Disk; folder: MemoryFolder }> {
  const image = fixtureBytes(name);
  const metadataBytes = Number(viewOf(image).getBigInt64(at.metadata_size, true));
  putText(image, at.data_file, 'data.raw');
  putText(image, at.data_file_fmt, format);
  const folder = await folderWith(image.slice(0, metadataBytes));
  const data = await folder.create('data.raw');
  await data.write(0, image.subarray(metadataBytes));
  await data.close();
  return { disk: await openToRead(folder), folder };
}

async function read(image: Uint8Array): Promise<Uint8Array> {
  const disk = await openToRead(await folderOf(image));
  const bytes = await contents(disk);
  await disk.close();
  return bytes;
}
