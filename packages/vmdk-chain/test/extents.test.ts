// Disks put together from extents of several kinds, sizes and files, as others describe them.

import { pattern } from '@cowlab/conformance';
import { createDisk, type Disk, isCowlabError, MemoryFolder, openDisk } from '@cowlab/core';
import { vmdk } from '@cowlab/vmdk-chain';
import { describe, expect, it } from 'vitest';

const SECTOR = 512;
const KIB = 1024;
const FILE = 'disk.vmdk';

function descriptorOf(lines: readonly string[], createType = 'custom'): string {
  return [
    '# Disk DescriptorFile',
    'version=1',
    'CID=12345678',
    'parentCID=ffffffff',
    `createType="${createType}"`,
    '',
    ...lines,
    '',
    'ddb.adapterType = "ide"',
    '',
  ].join('\n');
}

async function put(folder: MemoryFolder, file: string, bytes: Uint8Array): Promise<void> {
  const storage = await folder.create(file);
  await storage.write(0, bytes);
  await storage.close();
}

async function textIn(folder: MemoryFolder, file: string): Promise<string> {
  const storage = await folder.open(file, { readOnly: true });
  const bytes = Buffer.alloc(storage.size());
  await storage.read(0, bytes);
  await storage.close();
  return bytes.toString('latin1');
}

/** Files of all kinds, 64 KiB each, and a descriptor that names what is asked for. */
async function folderOf(lines: readonly string[], createType?: string): Promise<MemoryFolder> {
  const folder = new MemoryFolder();
  for (const [index, name] of ['a.bin', 'b.bin', 'c.bin'].entries()) {
    await put(folder, name, pattern(index + 1, 64 * KIB));
  }
  for (const [file, size, grains] of [
    ['s1.vmdk', 64 * KIB, 4096],
    ['s2.vmdk', 36 * KIB, 4096],
    ['s3.vmdk', 64 * KIB, 8192],
    ['s4.vmdk', 63 * KIB, 4096],
  ] as const) {
    const options = { grain_size: grains };
    await createDisk({ folder, file }, { driver: vmdk, size, options });
  }
  await put(folder, FILE, Buffer.from(descriptorOf(lines, createType), 'latin1'));
  return folder;
}

const open = (folder: MemoryFolder, readOnly = false): Promise<Disk> =>
  openDisk({ folder, file: FILE }, { drivers: [vmdk], format: 'vmdk', readOnly });

async function bytesOf(disk: Disk): Promise<Buffer> {
  const bytes = Buffer.alloc(disk.size);
  await disk.read(0, bytes);
  return bytes;
}

/** The code that a call ends with; it may fail before it gives a promise. */
async function codeOf(call: () => unknown): Promise<string | undefined> {
  try {
    await call();
  } catch (error) {
    return isCowlabError(error) ? error.code : String(error);
  }
  return undefined;
}

const mixed = [
  'RW 16 FLAT "a.bin" 8',
  'RW 72 SPARSE "s2.vmdk"',
  'RW 8 ZERO',
  'RDONLY 64 FLAT "b.bin" 0',
  'RW 128 SPARSE "s1.vmdk"',
];

describe('a disk of extents of all kinds', () => {
  it('reads each where it lies, and takes what is written across their ends', async () => {
    const folder = await folderOf(mixed);
    const disk = await open(folder);
    expect(disk.size).toBe((16 + 72 + 8 + 64 + 128) * SECTOR);
    const expected = Buffer.alloc(disk.size);
    expected.set(pattern(1, 64 * KIB).subarray(8 * SECTOR, 24 * SECTOR));
    expected.set(pattern(2, 32 * KIB), 96 * SECTOR);
    expect((await bytesOf(disk)).equals(expected)).toBe(true);
    // From the flat one into the sparse one, and from that to its end.
    for (const [at, length, tag] of [
      [10 * SECTOR, 20 * SECTOR, 11],
      [87 * SECTOR, SECTOR, 12],
      [200 * SECTOR + 7, 5000, 13],
    ] as const) {
      await disk.write(at, pattern(tag, length));
      expected.set(pattern(tag, length), at);
    }
    await disk.close();
    const again = await open(folder, true);
    expect((await bytesOf(again)).equals(expected)).toBe(true);
    expect((await again.check()).findings).toEqual([]);
    await again.close();
  });

  it('refuses writes to what is read-only or zeros, and goes on', async () => {
    const disk = await open(await folderOf(mixed));
    expect(await codeOf(() => disk.write(100 * SECTOR, Buffer.alloc(SECTOR, 1)))).toBe('ERR_READ_ONLY');
    expect(await codeOf(() => disk.write(90 * SECTOR, Buffer.alloc(SECTOR, 1)))).toBe('ERR_UNSUPPORTED');
    await disk.write(0, Buffer.alloc(SECTOR, 1));
    await disk.close();
  });

  it('takes writes anywhere once it stands on a snapshot, which keeps its files', async () => {
    const folder = await folderOf(mixed);
    const disk = await open(folder);
    const before = await bytesOf(disk);
    await disk.snapshots.create('one');
    await disk.write(90 * SECTOR, pattern(5, 20 * SECTOR));
    const snapshot = await disk.snapshots.open('one');
    expect((await bytesOf(snapshot)).equals(before)).toBe(true);
    await snapshot.close();
    const after = Buffer.from(before);
    after.set(pattern(5, 20 * SECTOR), 90 * SECTOR);
    expect((await bytesOf(disk)).equals(after)).toBe(true);
    // A link that cannot take everything is copied up, and only what is its own is removed.
    await disk.snapshots.delete('one');
    expect((await bytesOf(disk)).equals(after)).toBe(true);
    expect((await disk.info()).details['create type']).toBe('monolithicSparse');
    await disk.close();
    expect(await folder.list()).toContain('b.bin');
    expect(await folder.list()).not.toContain('s1.vmdk');
  });

  it('does not open, read or write what has no access', async () => {
    const disk = await open(await folderOf(['NOACCESS 16 FLAT "nowhere.bin" 0', 'RW 16 FLAT "a.bin" 0']));
    const target = Buffer.alloc(SECTOR);
    expect(await codeOf(() => disk.read(0, target))).toBe('ERR_UNSUPPORTED');
    expect(await codeOf(() => disk.write(0, target))).toBe('ERR_UNSUPPORTED');
    await disk.read(16 * SECTOR, target);
    expect(target.equals(pattern(1, SECTOR))).toBe(true);
    await disk.close();
  });

  it('may have two parts of one file, which is opened once', async () => {
    const folder = await folderOf(['RW 16 FLAT "a.bin" 16', 'RW 16 FLAT "a.bin" 0']);
    const disk = await open(folder);
    await disk.write(15 * SECTOR, pattern(9, 2 * SECTOR));
    await disk.close();
    const bytes = Buffer.from(await textIn(folder, 'a.bin'), 'latin1');
    expect(bytes.subarray(31 * SECTOR, 32 * SECTOR).equals(pattern(9, 2 * SECTOR).subarray(0, SECTOR))).toBe(
      true,
    );
    expect(bytes.subarray(0, SECTOR).equals(pattern(9, 2 * SECTOR).subarray(SECTOR))).toBe(true);
  });

  it('whose sparse extent begins inside a grain is read, and not opened to be written', async () => {
    const folder = await folderOf(['RW 126 SPARSE "s4.vmdk"', 'RW 128 SPARSE "s1.vmdk"']);
    await expect(open(folder)).rejects.toMatchObject({
      code: 'ERR_UNSUPPORTED',
      data: { field: 'descriptor.extent[1]' },
    });
    const disk = await open(folder, true);
    expect(disk.size).toBe(254 * SECTOR);
    expect((await disk.check()).findings).toEqual([]);
    await disk.close();
  });

  it.each(['MONOLITHICFLAT', 'twogbmaxextentflat', 'Custom'])(
    'may write its type as %s',
    async (createType) => {
      const disk = await open(await folderOf(['RW 16 FLAT "a.bin" 0'], createType));
      expect((await disk.info()).details['create type']).toBe(createType);
      await disk.close();
    },
  );
});

describe('a descriptor is refused', () => {
  it.each([
    ['VMFS', 'RW 128 VMFS "a.bin" 0'],
    ['VMFSSPARSE', 'RW 128 VMFSSPARSE "a.bin"'],
    ['SESPARSE', 'RW 128 SESPARSE "a.bin"'],
    ['VMFSRDM', 'RW 128 VMFSRDM "a.bin"'],
    ['VMFSRAW', 'RW 128 VMFSRAW "a.bin"'],
  ])('for an extent of type %s, by name', async (type, line) => {
    await expect(open(await folderOf([line]))).rejects.toMatchObject({
      code: 'ERR_UNSUPPORTED',
      data: { file: FILE, field: 'descriptor.extent[0]', value: type },
    });
  });

  it.each(['vmfs', 'vmfsSparse', 'seSparse', 'vmfsRawDeviceMap', 'fullDevice', 'streamOptimized'])(
    'for the type %s, by name',
    async (createType) => {
      await expect(open(await folderOf(['RW 16 FLAT "a.bin" 0'], createType))).rejects.toMatchObject({
        code: 'ERR_UNSUPPORTED',
        data: { file: FILE, field: 'descriptor.createType', value: createType },
      });
    },
  );

  it.each([
    ['a flat extent past the end of its file', 'RW 121 FLAT "a.bin" 8', 'ERR_CORRUPT'],
    ['an offset that is larger than any file', 'RW 8 FLAT "a.bin" 9999999999999999', 'ERR_CORRUPT'],
    ['a flat extent without an offset', 'RW 8 FLAT "a.bin"', 'ERR_CORRUPT'],
    ['no sectors', 'RW 0 FLAT "a.bin" 0', 'ERR_CORRUPT'],
    ['a negative number', 'RW -8 FLAT "a.bin" 0', 'ERR_CORRUPT'],
    ['a number that is none', 'RW many FLAT "a.bin" 0', 'ERR_CORRUPT'],
    ['more sectors than a number can be', 'RW 9999999999999999 ZERO', 'ERR_CORRUPT'],
    ['a name without quotes', 'RW 8 FLAT a.bin 0', 'ERR_CORRUPT'],
    ['a name that does not end', 'RW 8 FLAT "a.bin 0', 'ERR_CORRUPT'],
    ['no name', 'RW 8 SPARSE', 'ERR_CORRUPT'],
    ['a sparse extent with an offset', 'RW 128 SPARSE "s1.vmdk" 0', 'ERR_CORRUPT'],
    ['a sparse extent of other sectors than its header has', 'RW 120 SPARSE "s1.vmdk"', 'ERR_CORRUPT'],
    ['more sectors than its header has', 'RW 136 SPARSE "s1.vmdk"', 'ERR_CORRUPT'],
    ['a file that is not there', 'RW 8 FLAT "nowhere.bin" 0', 'ERR_BACKING_MISSING'],
    ['a name that leads outside', 'RW 8 FLAT "../a.bin" 0', 'ERR_BACKING_DENIED'],
    ['an absolute name', 'RW 8 FLAT "/etc/passwd" 0', 'ERR_BACKING_DENIED'],
    ['the descriptor itself', `RW 1 FLAT "${FILE}" 0`, 'ERR_BACKING_CYCLE'],
    ['an address', 'RW 8 FLAT "nbd://elsewhere" 0', 'ERR_UNSUPPORTED'],
  ])('for %s', async (_, line, code) => {
    const folder = await folderOf(['RW 8 ZERO', line]);
    const before = await textIn(folder, FILE);
    for (const readOnly of [true, false]) {
      await expect(open(folder, readOnly)).rejects.toMatchObject({
        code,
        data: { file: FILE, field: 'descriptor.extent[1]' },
      });
    }
    expect(await textIn(folder, FILE)).toBe(before);
    // Nothing was left open or locked.
    await (await folder.open('a.bin', { readOnly: false, lock: 'exclusive' })).close();
  });

  it('for a line that is no extent, with its number', async () => {
    await expect(open(await folderOf(['RW 8 ZERO', 'RW eight ZERO']))).rejects.toMatchObject({
      message: expect.stringContaining('line 8'),
      data: { line: 8, value: 'RW eight ZERO' },
    });
  });

  it.each([
    [
      'flat extents that lie on one another',
      ['RW 16 FLAT "a.bin" 0', 'RW 16 FLAT "a.bin" 15'],
      'ERR_CORRUPT',
    ],
    [
      'a sparse file that is named twice',
      ['RW 128 SPARSE "s1.vmdk"', 'RW 128 SPARSE "s1.vmdk"'],
      'ERR_CORRUPT',
    ],
    ['a file that is flat and sparse', ['RW 8 FLAT "s1.vmdk" 0', 'RW 128 SPARSE "s1.vmdk"'], 'ERR_CORRUPT'],
    ['grains of two sizes', ['RW 128 SPARSE "s1.vmdk"', 'RW 128 SPARSE "s3.vmdk"'], 'ERR_UNSUPPORTED'],
  ])('for %s', async (_, lines, code) => {
    await expect(open(await folderOf(lines))).rejects.toMatchObject({
      code,
      data: { field: 'descriptor.extent[1]' },
    });
  });

  it('without an extent, and with too many', async () => {
    const data = { field: 'descriptor.extent' };
    await expect(open(await folderOf([]))).rejects.toMatchObject({ code: 'ERR_CORRUPT', data });
    const many = Array.from({ length: 8193 }, () => 'RW 8 ZERO');
    await expect(open(await folderOf(many))).rejects.toMatchObject({ code: 'ERR_UNSUPPORTED', data });
  });
});

describe('a disk of several files', () => {
  const subformats = ['monolithicFlat', 'twoGbMaxExtentFlat', 'twoGbMaxExtentSparse'];
  const size = 200 * KIB;

  async function make(subformat: string): Promise<{ folder: MemoryFolder; disk: Disk; files: string[] }> {
    const folder = new MemoryFolder();
    const options = { subformat, grain_size: 4096, extent_size: 64 * KIB };
    await createDisk({ folder, file: FILE }, { driver: vmdk, size, options });
    return { folder, disk: await open(folder), files: await folder.list() };
  }

  it('has the names that QEMU gives its files', async () => {
    const names = async (subformat: string): Promise<string[]> => (await make(subformat)).files;
    expect(await names('monolithicFlat')).toEqual(['disk-flat.vmdk', 'disk.vmdk']);
    expect(await names('twoGbMaxExtentFlat')).toEqual([
      ...[1, 2, 3, 4].map((number) => `disk-f00${number}.vmdk`),
      'disk.vmdk',
    ]);
    expect((await names('twoGbMaxExtentSparse'))[0]).toBe('disk-s001.vmdk');
  });

  it.each(subformats)('%s is of its kind again when its snapshots are gone', async (subformat) => {
    const { folder, disk, files } = await make(subformat);
    await disk.write(1000, pattern(1, 150 * KIB));
    await disk.snapshots.create('one');
    await disk.write(60 * KIB, pattern(2, 10 * KIB));
    await disk.writeZeroes(100 * KIB, 20 * KIB);
    await disk.snapshots.create('two');
    await disk.write(64 * KIB - 5, pattern(3, 10));
    const expected = await bytesOf(disk);
    await disk.snapshots.delete('two');
    await disk.snapshots.delete('one');
    expect((await bytesOf(disk)).equals(expected)).toBe(true);
    expect((await disk.info()).details['create type']).toBe(subformat);
    await disk.write(0, pattern(4, 100));
    expected.set(pattern(4, 100));
    await disk.close();
    expect(await folder.list()).toEqual([...files, 'disk.vmsd'].toSorted());
    const again = await open(folder);
    expect((await bytesOf(again)).equals(expected)).toBe(true);
    expect((await again.check()).findings).toEqual([]);
    await again.close();
  });

  it.each(subformats)(
    '%s leaves its files when another state is applied that does not need them',
    async (subformat) => {
      const { folder, disk } = await make(subformat);
      await disk.write(0, pattern(1, size));
      await disk.snapshots.create('one');
      await disk.snapshots.create('two');
      await disk.snapshots.apply('one');
      await disk.snapshots.delete('two');
      expect((await bytesOf(disk)).equals(pattern(1, size))).toBe(true);
      await disk.snapshots.delete('one');
      expect((await bytesOf(disk)).equals(pattern(1, size))).toBe(true);
      const files = (await folder.list()).filter((name) => !name.endsWith('.vmsd'));
      expect((await disk.info()).files.toSorted()).toEqual(files);
      await disk.close();
    },
  );

  it('that is flat has no parent, made with one or given one later', async () => {
    const { folder, disk } = await make('monolithicFlat');
    await disk.close();
    const backing = { file: FILE, format: 'vmdk' };
    const request = { driver: vmdk, backing, options: { subformat: 'monolithicFlat' } };
    await expect(createDisk({ folder, file: 'child.vmdk' }, request)).rejects.toMatchObject({
      code: 'ERR_UNSUPPORTED',
      data: { field: 'backing file' },
    });
    expect(await folder.exists('child-flat.vmdk')).toBe(false);
    await createDisk({ folder, file: 'other.vmdk' }, { driver: vmdk, size });
    const again = await open(folder);
    await expect(again.rebase({ file: 'other.vmdk', format: 'vmdk' })).rejects.toMatchObject({
      code: 'ERR_UNSUPPORTED',
      data: { field: 'backing file' },
    });
    await again.close();
  });

  it('is not made over a file that is there, and what was made of it is taken back', async () => {
    const folder = new MemoryFolder();
    await put(folder, 'disk-s002.vmdk', Buffer.alloc(10));
    const options = { subformat: 'twoGbMaxExtentSparse', grain_size: 4096, extent_size: 64 * KIB };
    const request = { driver: vmdk, size, options };
    await expect(createDisk({ folder, file: FILE }, request)).rejects.toMatchObject({ code: 'ERR_EXISTS' });
    expect(await folder.list()).toEqual(['disk-s002.vmdk']);
  });

  it('refuses extents that are no whole grains, or too large', async () => {
    for (const extent_size of [4096 + SECTOR, 2048, 4 * 1024 ** 3]) {
      const request = { driver: vmdk, size, options: { grain_size: 4096, extent_size } };
      await expect(createDisk({ folder: new MemoryFolder(), file: FILE }, request)).rejects.toMatchObject({
        code: 'ERR_INVALID_OPTION',
        data: { field: 'extent_size' },
      });
    }
  });
});
