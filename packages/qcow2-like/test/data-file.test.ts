// External data files: what is in which file, and what is refused.

import { createDisk, MemoryFolder, openDisk, type OptionValues } from '@cowlab/core';
import { qcow2 } from '@cowlab/qcow2-like';
import { describe, expect, it } from 'vitest';
import { assertReads, dataFile, file, make, rawDataFile, SIZE, work } from './data-file-images.ts';
import { bufferOf, bytesIn, bytesOf, KIB, MIB, open, placesIn, put } from './lab.ts';

describe('an image with a data file', () => {
  it.each([dataFile, rawDataFile])(
    'keeps guest bytes there, at their guest offsets, with %o',
    async (options) => {
      const folder = await make(options);
      const disk = await open(folder);
      await work(disk, 1);
      const bytes = await bytesOf(disk);
      const { files, details } = await disk.info();
      expect(files).toEqual(['disk.qcow2', 'disk.data']);
      expect(details).toMatchObject({
        'data file': 'disk.data',
        'data file raw': 'data_file_raw' in options,
      });
      await disk.close();
      await assertReads(folder, bytes);
      const image = await bytesIn(folder);
      const data = await bytesIn(folder, 'disk.data');
      expect(data).toHaveLength(SIZE);
      expect(data.subarray(3 * MIB, 3 * MIB + 64 * KIB).equals(bufferOf(64 * KIB, 4))).toBe(true);
      expect(image.includes(bufferOf(64 * KIB, 4))).toBe(false);
      // The first cluster has offset 0 there: COPIED tells it from none.
      expect(image.readBigUInt64BE(placesIn(image).l2)).toBe(0x8000_0000_0000_0000n);
    },
  );

  it('has no internal snapshots, and says which feature it is that does not allow them', async () => {
    const disk = await open(await make(dataFile));
    expect(await disk.snapshots.list()).toEqual([]);
    const refused = { code: 'ERR_UNSUPPORTED', data: { file, field: 'header.incompatible_features' } };
    await expect(disk.snapshots.create('one')).rejects.toMatchObject(refused);
    await expect(disk.snapshots.delete('one')).rejects.toMatchObject(refused);
    await disk.close();
  });

  it('has no compressed clusters', async () => {
    const disk = await open(await make(dataFile));
    expect(disk.compression).toBe('none');
    const write = disk.writeCompressed(0, Buffer.alloc(64 * KIB, 1));
    await expect(write).rejects.toMatchObject({ code: 'ERR_UNSUPPORTED' });
    await disk.close();
  });

  it('when emptied lets its backing answer, and gives the space back', async () => {
    const folder = new MemoryFolder();
    await createDisk({ folder, file: 'base.qcow2' }, { driver: qcow2, size: SIZE });
    const backing = { file: 'base.qcow2', format: 'qcow2' };
    await createDisk({ folder, file }, { driver: qcow2, backing, options: dataFile });
    const disk = await open(folder);
    await work(disk, 1);
    await disk.image.empty?.();
    expect((await bytesOf(disk)).equals(Buffer.alloc(SIZE))).toBe(true);
    expect(await disk.check()).toMatchObject({ corruptions: 0, leaks: 0, allocatedBytes: 0 });
    expect((await bytesIn(folder, 'disk.data')).equals(Buffer.alloc(SIZE))).toBe(true);
    await disk.close();
  });

  it('is one image to locks: who has one of its files has it', async () => {
    const folder = await make(dataFile);
    const disk = await open(folder);
    const asRaw = openDisk({ folder, file: 'disk.data' }, { format: 'raw' });
    await expect(asRaw).rejects.toMatchObject({ code: 'ERR_LOCKED', data: { file: 'disk.data' } });
    await disk.close();
    const reader = await openDisk({ folder, file: 'disk.data' }, { format: 'raw', readOnly: true });
    await expect(open(folder)).rejects.toMatchObject({ code: 'ERR_LOCKED', data: { file: 'disk.data' } });
    await (await open(folder, true)).close();
    await reader.close();
    await (await open(folder)).close();
  });

  it('goes over a backing file', async () => {
    const folder = new MemoryFolder();
    await createDisk({ folder, file: 'base.qcow2' }, { driver: qcow2, size: SIZE });
    const base = await openDisk({ folder, file: 'base.qcow2' }, { drivers: [qcow2] });
    await base.write(0, bufferOf(SIZE, 5));
    await base.close();
    const backing = { file: 'base.qcow2', format: 'qcow2' };
    await createDisk({ folder, file }, { driver: qcow2, backing, options: dataFile });
    const disk = await open(folder);
    await work(disk, 7);
    const bytes = await bytesOf(disk);
    expect(bytes.subarray(0, 1000).equals(bufferOf(SIZE, 5).subarray(0, 1000))).toBe(true);
    await disk.populate();
    await disk.releaseBacking();
    await disk.close();
    await folder.remove('base.qcow2');
    await assertReads(folder, bytes);
  });

  it.each([dataFile, rawDataFile])('grows and shrinks with it, with %o', async (options) => {
    const folder = await make(options);
    const disk = await open(folder);
    await disk.write(0, bufferOf(SIZE, 1));
    for (const size of [MIB + 1536, 6 * MIB, 70 * KIB + 512, SIZE]) {
      const before = await bytesOf(disk);
      await disk.resize(size);
      const bytes = await bytesOf(disk);
      const kept = Math.min(size, before.length);
      expect(bytes.subarray(0, kept).equals(before.subarray(0, kept))).toBe(true);
      expect(bytes.subarray(kept).every((byte) => byte === 0)).toBe(true);
      const data = await bytesIn(folder, 'disk.data');
      expect(data).toHaveLength(size);
      if (options === rawDataFile) expect(data.equals(bytes)).toBe(true);
    }
    const bytes = await bytesOf(disk);
    await disk.close();
    await assertReads(folder, bytes);
  });

  it.each([dataFile, rawDataFile])(
    'shows nothing of what a shrink that was cut short has left behind, with %o',
    async (options) => {
      const folder = await make(options);
      const writer = await open(folder);
      await writer.write(0, bufferOf(SIZE, 1));
      await writer.close();
      // The header says so already; the data file and the entries do not.
      const image = await bytesIn(folder);
      image.writeBigUInt64BE(BigInt(MIB + 512), 24);
      await put(folder, image);
      const disk = await open(folder);
      expect(disk.size).toBe(MIB + 512);
      await disk.resize(3 * MIB);
      const expected = Buffer.alloc(3 * MIB);
      bufferOf(SIZE, 1).copy(expected, 0, 0, MIB + 512);
      expect((await bytesOf(disk)).equals(expected)).toBe(true);
      expect((await bytesIn(folder, 'disk.data')).equals(expected)).toBe(true);
      await disk.close();
      await assertReads(folder, expected);
    },
  );
});

describe('a raw data file', () => {
  it('is the disk after every call, flushed or not', async () => {
    const folder = await make({ ...rawDataFile, cluster_size: 4096 });
    const disk = await open(folder);
    const offsets = [0, 100, 4096, 12_288, MIB + 77, SIZE - 5000];
    for (const [nth, offset] of offsets.entries()) {
      for (const change of [
        () => disk.write(offset, bufferOf(5000, nth)),
        () => disk.writeZeroes(offset + 10, 4500),
        () => disk.write(offset + 2000, bufferOf(300, nth)),
        () => disk.discard(Math.floor(offset / 4096) * 4096, 4096),
      ]) {
        await change();
        expect((await bytesIn(folder, 'disk.data')).equals(await bytesOf(disk))).toBe(true);
      }
    }
    await disk.close();
  });

  it('has all entries from the beginning: neither writes nor zeros change metadata', async () => {
    const folder = await make(rawDataFile);
    const before = await bytesIn(folder);
    const disk = await open(folder);
    await work(disk, 1);
    await disk.close();
    expect((await bytesIn(folder)).equals(before)).toBe(true);
  });

  it('of an image that lacks entries, and has others that say zero, is mapped before it is written', async () => {
    // As QEMU leaves it after writing zeros, or as it made such images before version 6.
    const folder = await make({ ...rawDataFile, cluster_size: 4096 });
    const image = await bytesIn(folder);
    const { l2 } = placesIn(image);
    image.writeBigUInt64BE(0x8000_0000_0000_0001n, l2);
    image.writeBigUInt64BE(0x8000_0000_0000_1001n, l2 + 8);
    image.writeBigUInt64BE(1n, l2 + 16);
    image.writeBigUInt64BE(0n, l2 + 24);
    await put(folder, image);
    // What a power loss after a write of QEMU's may have left.
    const data = await bytesIn(folder, 'disk.data');
    data.fill(7, 4096, 16_384);
    await put(folder, data, 'disk.data');
    const disk = await open(folder);
    expect((await bytesOf(disk)).equals(Buffer.alloc(SIZE))).toBe(true);
    await disk.write(100, bufferOf(50, 1));
    const bytes = await bytesOf(disk);
    expect((await bytesIn(folder, 'disk.data')).equals(bytes)).toBe(true);
    // Before any flush: the entries are on the disk already.
    const crashed = await bytesIn(folder);
    expect(crashed.readBigUInt64BE(l2 + 8)).toBe(0x8000_0000_0000_1000n);
    await disk.close();
    await assertReads(folder, bytes);
  });

  it('stays raw when it is opened for writing, and is not believed over a backing', async () => {
    const folder = await make(rawDataFile);
    await (await open(folder)).close();
    expect((await bytesIn(folder)).readBigUInt64BE(88)).toBe(2n);
    await createDisk({ folder, file: 'base.qcow2' }, { driver: qcow2, size: SIZE });
    await createDisk(
      { folder, file: 'over.qcow2' },
      { driver: qcow2, backing: { file: 'base.qcow2' }, options: { data_file: 'over.data' } },
    );
    const image = await bytesIn(folder, 'over.qcow2');
    image.writeBigUInt64BE(2n, 88);
    await put(folder, image);
    const disk = await open(folder);
    expect((await disk.info()).details).toMatchObject({ 'data file raw': false });
    await disk.close();
    expect((await bytesIn(folder)).readBigUInt64BE(88)).toBe(0n);
  });
});

describe('create', () => {
  it.each<[string, OptionValues, string, string]>([
    ['an unnamed raw one', { data_file_raw: true }, 'ERR_INVALID_OPTION', 'data_file_raw'],
    ['one without a name', { data_file: '' }, 'ERR_INVALID_OPTION', 'data_file'],
    ['one for version 2', { ...dataFile, compat: '0.10' }, 'ERR_INVALID_OPTION', 'data_file'],
    ['a name too long', { data_file: 'd'.repeat(400), cluster_size: 512 }, 'ERR_INVALID_OPTION', 'data_file'],
    ['one elsewhere', { data_file: '/elsewhere/disk.data' }, 'ERR_BACKING_DENIED', 'data_file'],
    ['a way out', { data_file: '../disk.data' }, 'ERR_BACKING_DENIED', 'data_file'],
    ['the image itself', { data_file: file }, 'ERR_BACKING_CYCLE', 'data_file'],
    ['one that has bytes', { data_file: 'full' }, 'ERR_EXISTS', 'data_file'],
  ])('refuses %s, and leaves everything as it was', async (_, options, code, field) => {
    const folder = new MemoryFolder();
    await put(folder, bufferOf(100, 1), 'full');
    const { cluster_size: clusterBytes = 4096 } = options;
    const made = make({ ...options, cluster_size: clusterBytes }, folder);
    await expect(made).rejects.toMatchObject({ code, data: { field } });
    expect(await folder.list()).toEqual(['full']);
    expect((await bytesIn(folder, 'full')).equals(bufferOf(100, 1))).toBe(true);
  });

  it('refuses a raw one over a backing file', async () => {
    const folder = new MemoryFolder();
    await createDisk({ folder, file: 'base.qcow2' }, { driver: qcow2, size: SIZE });
    const request = { driver: qcow2, backing: { file: 'base.qcow2' }, options: rawDataFile };
    const made = createDisk({ folder, file }, request);
    await expect(made).rejects.toMatchObject({
      code: 'ERR_INVALID_OPTION',
      data: { field: 'data_file_raw' },
    });
    expect(await folder.list()).toEqual(['base.qcow2']);
  });

  it('takes an empty file, and gives it back empty when it fails later', async () => {
    const folder = new MemoryFolder();
    await put(folder, new Uint8Array(0), 'disk.data');
    await (await open(await make(dataFile, folder))).close();
    expect(await bytesIn(folder, 'disk.data')).toHaveLength(SIZE);
    await folder.remove(file);
    await put(folder, new Uint8Array(0), 'disk.data');
    // 4 MiB in clusters of 512 bytes is fine, 2 TiB are more than an L1 table can map.
    const request = { driver: qcow2, size: 2 ** 41, options: { ...dataFile, cluster_size: 512 } };
    await expect(createDisk({ folder, file }, request)).rejects.toMatchObject({ code: 'ERR_TOO_LARGE' });
    expect(await folder.list()).toEqual(['disk.data']);
    expect(await bytesIn(folder, 'disk.data')).toHaveLength(0);
  });
});

describe('open', () => {
  it.each([
    ['that is missing', 'ERR_BACKING_MISSING', 'header extension.data_file', undefined],
    ['elsewhere', 'ERR_BACKING_DENIED', 'header extension.data_file', '/etc/hosts'],
    ['with a protocol', 'ERR_UNSUPPORTED', 'header extension.data_file', 'nbd://h/ex'],
    ['that is the image', 'ERR_BACKING_CYCLE', 'header extension.data_file', 'disk.qcow2'],
    ['without a name', 'ERR_UNSUPPORTED', 'header extension.data_file', ''],
  ])('refuses a data file %s, by its code and field', async (_, code, field, name) => {
    const folder = await make({ data_file: 'disk.dat10' });
    const image = await bytesIn(folder);
    const at = image.indexOf('disk.dat10');
    if (name === undefined) await folder.remove('disk.dat10');
    else {
      // Without a name: an extension of an unknown kind.
      if (name === '') image.writeUInt32BE(0x12345678, at - 8);
      else image.writeUInt32BE(name.length, at - 4);
      image.write(name, at);
      await put(folder, image);
    }
    for (const readOnly of [true, false]) {
      await expect(open(folder, readOnly)).rejects.toMatchObject({ code, data: { file, field } });
    }
    if (name !== undefined) expect((await bytesIn(folder)).equals(image)).toBe(true);
  });

  it.each<[string, (image: Buffer) => unknown, string]>([
    ['a raw bit without a data file', (image) => image.writeBigUInt64BE(0n, 72), 'header.autoclear_features'],
    ['internal snapshots', (image) => image.writeUInt32BE(1, 60), 'header.nb_snapshots'],
  ])('refuses %s', async (_, damage, field) => {
    const folder = await make(rawDataFile);
    const image = await bytesIn(folder);
    damage(image);
    await put(folder, image);
    await expect(open(folder, true)).rejects.toMatchObject({ data: { file, field } });
  });

  it.each<[string, bigint]>([
    ['elsewhere than at its guest offset', 0x8000_0000_0000_2000n],
    ['compressed', 0x4000_0000_0000_0000n],
  ])('reads no cluster that is %s, and check finds it', async (_, entry) => {
    const folder = await make({ ...dataFile, cluster_size: 4096 });
    const writer = await open(folder);
    await writer.write(0, bufferOf(12_288, 1));
    await writer.close();
    const image = await bytesIn(folder);
    image.writeBigUInt64BE(entry, placesIn(image).l2 + 8);
    await put(folder, image);
    const disk = await open(folder, true);
    await disk.read(0, Buffer.alloc(4096));
    const read = async (): Promise<void> => disk.read(4096, Buffer.alloc(4096));
    await expect(read()).rejects.toMatchObject({ code: 'ERR_CORRUPT', data: { field: 'l2_table.entry' } });
    expect((await disk.check()).corruptions).toBeGreaterThan(0);
    await disk.close();
  });

  it('reads no cluster past the end of a data file that was cut, and check finds it', async () => {
    const folder = await make(rawDataFile);
    await put(folder, (await bytesIn(folder, 'disk.data')).subarray(0, MIB), 'disk.data');
    const disk = await open(folder, true);
    await disk.read(0, Buffer.alloc(MIB));
    const read = async (): Promise<void> => disk.read(MIB, Buffer.alloc(10));
    await expect(read()).rejects.toMatchObject({ code: 'ERR_CORRUPT' });
    expect((await disk.check()).corruptions).toBeGreaterThan(0);
    await disk.close();
  });

  it('a check mends a COPIED flag that is missing', async () => {
    const folder = await make({ ...dataFile, cluster_size: 4096 });
    const writer = await open(folder);
    await writer.write(0, bufferOf(12_288, 1));
    await writer.close();
    const image = await bytesIn(folder);
    const at = placesIn(image).l2 + 16;
    image.writeBigUInt64BE(image.readBigUInt64BE(at) & ~(1n << 63n), at);
    await put(folder, image);
    const disk = await open(folder);
    expect(await disk.check()).toMatchObject({ corruptions: 0, leaks: 1 });
    expect(await disk.check({ repair: 'leaks' })).toMatchObject({ corruptions: 0, leaks: 0, repaired: 1 });
    await disk.close();
    await assertReads(folder, Buffer.concat([bufferOf(12_288, 1), Buffer.alloc(SIZE - 12_288)]));
  });
});
