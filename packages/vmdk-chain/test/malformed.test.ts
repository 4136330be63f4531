// Damaged images: each a code that names file and field, and a file that is as it was.

import { createDisk, type Disk, isCowlabError, MemoryFolder, openDisk } from '@cowlab/core';
import { vmdk } from '@cowlab/vmdk-chain';
import { describe, expect, it } from 'vitest';

const SIZE = 80 * 1024 * 1024;
const SECTOR = 512;

async function bytesIn(folder: MemoryFolder, file: string): Promise<Buffer> {
  const storage = await folder.open(file, { readOnly: true });
  const bytes = Buffer.alloc(storage.size());
  await storage.read(0, bytes);
  await storage.close();
  return bytes;
}

async function put(folder: MemoryFolder, file: string, bytes: Uint8Array): Promise<void> {
  if (await folder.exists(file)) await folder.remove(file);
  const storage = await folder.create(file);
  await storage.write(0, bytes);
  await storage.close();
}

const open = (folder: MemoryFolder, file = 'disk.vmdk', readOnly = false): Promise<Disk> =>
  openDisk({ folder, file }, { drivers: [vmdk], format: 'vmdk', readOnly });

/** A folder with `disk.vmdk` on the snapshot file `disk-000001.vmdk`, both with some data. */
async function chain(): Promise<MemoryFolder> {
  const folder = new MemoryFolder();
  await createDisk({ folder, file: 'disk.vmdk' }, { driver: vmdk, size: SIZE });
  const disk = await open(folder);
  await disk.write(0, Buffer.alloc(70_000, 1));
  await disk.snapshots.create('one');
  await disk.write(5000, Buffer.alloc(70_000, 2));
  await disk.close();
  return folder;
}

/** Where the header says that the (primary, redundant) grain directory lies. */
const directoryAt = (image: Buffer, which: 'gd' | 'rgd'): number =>
  image.readUInt32LE(which === 'gd' ? 56 : 48) * SECTOR;

/** Where the first table of a directory lies. */
const tableAt = (image: Buffer, which: 'gd' | 'rgd'): number =>
  image.readUInt32LE(directoryAt(image, which)) * SECTOR;

type Damage = (image: Buffer) => Buffer | void;

const text = (from: string | RegExp, to: string): Damage => {
  return (image) => {
    const old = image.toString('latin1', SECTOR, SECTOR * 21);
    const changed = old.replace(from, to);
    expect(changed).not.toBe(old);
    Buffer.from(changed.slice(0, old.length).padEnd(old.length, '\0'), 'latin1').copy(image, SECTOR);
  };
};

const damages: [string, Damage, string, string][] = [
  ['an empty file', () => Buffer.alloc(0), 'ERR_CORRUPT', 'header.magicNumber'],
  ['a wrong magic number', (image) => void image.writeUInt32LE(1, 0), 'ERR_CORRUPT', 'header.magicNumber'],
  ['a COWD extent', (image) => void image.write('COWD', 0), 'ERR_UNSUPPORTED', 'createType'],
  ['a version of the future', (image) => void image.writeUInt32LE(4, 4), 'ERR_UNSUPPORTED', 'header.version'],
  ['version 3 for writing', (image) => void image.writeUInt32LE(3, 4), 'ERR_UNSUPPORTED', 'header.version'],
  [
    'a transfer as text',
    (image) => void image.writeUInt8(0x0d, 75 - 1),
    'ERR_CORRUPT',
    'header.newLineChars',
  ],
  ['no capacity', (image) => void image.fill(0, 12, 20), 'ERR_UNSUPPORTED', 'header.capacity'],
  ['a capacity past 2^53', (image) => void image.fill(0xff, 12, 20), 'ERR_CORRUPT', 'header.capacity'],
  [
    'a capacity beyond its directory',
    (image) => void image.writeUInt8(1, 16),
    'ERR_CORRUPT',
    'header.gdOffset',
  ],
  ['a grain of no size', (image) => void image.writeUInt32LE(0, 20), 'ERR_CORRUPT', 'header.grainSize'],
  ['a grain of 3 sectors', (image) => void image.writeUInt32LE(3, 20), 'ERR_CORRUPT', 'header.grainSize'],
  ['a huge grain', (image) => void image.writeUInt32LE(1 << 18, 20), 'ERR_UNSUPPORTED', 'header.grainSize'],
  ['empty grain tables', (image) => void image.writeUInt32LE(0, 44), 'ERR_CORRUPT', 'header.numGTEsPerGT'],
  [
    'short grain tables',
    (image) => void image.writeUInt32LE(128, 44),
    'ERR_UNSUPPORTED',
    'header.numGTEsPerGT',
  ],
  ['no descriptor', (image) => void image.writeUInt32LE(0, 28), 'ERR_UNSUPPORTED', 'header.descriptorOffset'],
  [
    'a far descriptor',
    (image) => void image.writeUInt32LE(1e6, 28),
    'ERR_CORRUPT',
    'header.descriptorOffset',
  ],
  ['a huge descriptor', (image) => void image.writeUInt32LE(1e6, 36), 'ERR_CORRUPT', 'header.descriptorSize'],
  ['a directory outside', (image) => void image.writeUInt32LE(1e6, 56), 'ERR_CORRUPT', 'header.gdOffset'],
  ['a second one outside', (image) => void image.writeUInt32LE(1e6, 48), 'ERR_CORRUPT', 'header.rgdOffset'],
  ['metadata past the end', (image) => void image.writeUInt32LE(1e6, 64), 'ERR_CORRUPT', 'header.overHead'],
  ['compressed grains', (image) => void image.writeUInt8(1, 10), 'ERR_UNSUPPORTED', 'header.flags'],
  ['a file cut in its metadata', (image) => image.subarray(0, 12_000), 'ERR_CORRUPT', 'header.overHead'],
  [
    'a table outside the file',
    (image) => void image.writeUInt32LE(0x7fffffff, directoryAt(image, 'gd')),
    'ERR_CORRUPT',
    'grain directory[0]',
  ],
  [
    'a second table outside the file',
    (image) => void image.writeUInt32LE(0x7fffffff, directoryAt(image, 'rgd')),
    'ERR_CORRUPT',
    'redundant grain directory[0]',
  ],
  [
    'two tables on one another',
    (image) => void image.writeUInt32LE(tableAt(image, 'gd') / SECTOR + 3, directoryAt(image, 'gd') + 4),
    'ERR_CORRUPT',
    'grain directory[1]',
  ],
  [
    'a capacity of more tables than sense',
    (image) => void image.writeUInt32LE(2 ** 10, 16),
    'ERR_UNSUPPORTED',
    'header.capacity',
  ],
  ['no createType', text(/createType=.*\n/, ''), 'ERR_CORRUPT', 'descriptor.createType'],
  [
    'a flat disk inside a sparse one',
    text('monolithicSparse', 'monolithicFlat'),
    'ERR_UNSUPPORTED',
    'descriptor.createType',
  ],
  ['two extents', text(/(RW .*\n)/, '$1$1'), 'ERR_UNSUPPORTED', 'descriptor.extent'],
  ['no CID', text(/\nCID=.*\n/, '\n'), 'ERR_CORRUPT', 'descriptor.CID'],
  ['a CID of letters', text(/\nCID=.*\n/, '\nCID=hello\n'), 'ERR_CORRUPT', 'descriptor.CID'],
  ['no parentCID', text(/parentCID=.*\n/, ''), 'ERR_CORRUPT', 'descriptor.parentCID'],
  ['another parentCID', text(/parentCID=.*\n/, 'parentCID=1\n'), 'ERR_CORRUPT', 'descriptor.parentCID'],
  ['no hint', text(/parentFileNameHint=.*\n/, ''), 'ERR_CORRUPT', 'descriptor.parentFileNameHint'],
  [
    'a hint to nowhere',
    text('"disk-000001', '"disk-000009'),
    'ERR_BACKING_MISSING',
    'descriptor.parentFileNameHint',
  ],
  [
    'a hint outside',
    text('"disk-000001', '"../disk-1'),
    'ERR_BACKING_DENIED',
    'descriptor.parentFileNameHint',
  ],
  [
    'itself as parent',
    text('"disk-000001.vmdk', '"disk.vmdk'),
    'ERR_BACKING_CYCLE',
    'descriptor.parentFileNameHint',
  ],
];

describe('opening an image with', () => {
  it.each(damages)('%s', async (_, damage, code, field) => {
    const folder = await chain();
    const image = await bytesIn(folder, 'disk.vmdk');
    const damaged = damage(image) ?? image;
    await put(folder, 'disk.vmdk', damaged);
    await expect(open(folder)).rejects.toMatchObject({ code, data: { file: 'disk.vmdk', field } });
    expect((await bytesIn(folder, 'disk.vmdk')).equals(damaged)).toBe(true);
  });
});

describe('a grain table entry', () => {
  /** Puts `sector` into the first table of the disk, in both copies, and for the second grain too when asked. */
  async function withEntry(sector: (image: Buffer) => number, entry = 0): Promise<MemoryFolder> {
    const folder = await chain();
    const image = await bytesIn(folder, 'disk.vmdk');
    for (const which of ['gd', 'rgd'] as const) {
      image.writeUInt32LE(sector(image), tableAt(image, which) + entry * 4);
    }
    await put(folder, 'disk.vmdk', image);
    return folder;
  }

  it.each([
    ['outside the file', () => 0x7fffffff],
    ['inside the metadata', () => 30],
    ['that says zeros where the header does not allow it', () => 1],
  ])('%s is corrupt when it is read, and found by check', async (_, sector) => {
    const folder = await withEntry(sector);
    const image = await bytesIn(folder, 'disk.vmdk');
    image.writeUInt32LE(image.readUInt32LE(8) & ~4, 8);
    await put(folder, 'disk.vmdk', image);
    const disk = await open(folder);
    const failure = await Promise.resolve()
      .then(() => disk.read(0, Buffer.alloc(512)))
      .catch((error: unknown) => error);
    expect(isCowlabError(failure, 'ERR_CORRUPT')).toBe(true);
    expect(failure).toMatchObject({ data: { file: 'disk.vmdk', field: 'grain table[0][0]' } });
    expect((await disk.check()).corruptions).toBe(1);
    await disk.close();
  });

  it('to the place of another grain is found by check', async () => {
    const folder = await withEntry((image) => image.readUInt32LE(tableAt(image, 'gd')), 1);
    const disk = await open(folder);
    const report = await disk.check();
    expect(report.corruptions).toBe(1);
    expect(report.findings[0]).toMatchObject({ structure: 'grain', file: 'disk.vmdk' });
    await disk.close();
  });

  it('whose second copy is behind is found by check, and is no corruption', async () => {
    const folder = await chain();
    const image = await bytesIn(folder, 'disk.vmdk');
    image.writeUInt32LE(0, tableAt(image, 'rgd'));
    await put(folder, 'disk.vmdk', image);
    const disk = await open(folder, 'disk.vmdk', true);
    expect(await disk.check()).toMatchObject({ corruptions: 0, leaks: 1 });
    await disk.close();
  });
});

describe('check finds', () => {
  const structures: [string, Damage, string, string][] = [
    [
      'a second directory that lacks a table',
      (image) => void image.writeUInt32LE(0, directoryAt(image, 'rgd') + 4),
      'corruption',
      'grain directory',
    ],
    [
      'a table that serves as both copies',
      (image) => void image.writeUInt32LE(tableAt(image, 'gd') / SECTOR, directoryAt(image, 'rgd')),
      'corruption',
      'grain table',
    ],
    [
      'a table inside the descriptor',
      (image) => void image.writeUInt32LE(12, directoryAt(image, 'rgd')),
      'corruption',
      'grain table',
    ],
    [
      'a second directory on the first',
      (image) => void image.writeUInt32LE(image.readUInt32LE(56), 48),
      'corruption',
      'redundant grain directory',
    ],
    [
      'a directory inside the descriptor',
      (image) => {
        const at = directoryAt(image, 'rgd');
        image.copy(image, 20 * SECTOR, at, at + SECTOR);
        image.writeUInt32LE(20, 48);
      },
      'corruption',
      'redundant grain directory',
    ],
    [
      'a grain past the end of the disk',
      (image) => {
        const last = image.readUInt32LE(directoryAt(image, 'gd') + 8) * SECTOR;
        image.writeUInt32LE(image.readUInt32LE(tableAt(image, 'gd')), last + 511 * 4);
      },
      'corruption',
      'grain table',
    ],
    [
      'a grain that no table refers to',
      (image) => Buffer.concat([image, Buffer.alloc(64 * 1024, 1)]),
      'leak',
      'grain',
    ],
    [
      'an extent line of another size',
      text(`RW ${SIZE / SECTOR}`, `RW ${SIZE / SECTOR + 1}`),
      'corruption',
      'descriptor',
    ],
  ];

  it.each(structures)('%s', async (_, damage, severity, structure) => {
    const folder = await chain();
    const image = await bytesIn(folder, 'disk.vmdk');
    await put(folder, 'disk.vmdk', damage(image) ?? image);
    const disk = await open(folder, 'disk.vmdk', true);
    const { findings } = await disk.check();
    expect(findings).toContainEqual(expect.objectContaining({ severity, structure, file: 'disk.vmdk' }));
    await disk.close();
  });

  it('nothing in what was not damaged', async () => {
    const disk = await open(await chain());
    expect((await disk.check()).findings).toEqual([]);
    await disk.close();
  });
});

describe('a snapshot directory', () => {
  it.each([
    ['a number that is none', /uid = "1"/, 'uid = "one"', 'snapshot0.uid'],
    [
      'more snapshots than it lists',
      /numSnapshots = "1"/,
      'numSnapshots = "9999999999"',
      'snapshot.numSnapshots',
    ],
    ['a file outside the folder', /disk-000001/, '../disk', 'snapshot0.disk0.fileName'],
    ['a time out of range', /createTimeHigh = "/, 'createTimeHigh = "99999', 'snapshot0.createTimeHigh'],
  ])('with %s is corrupt, and the disk can be read', async (_, from, to, field) => {
    const folder = await chain();
    const original = (await bytesIn(folder, 'disk.vmsd')).toString();
    await put(folder, 'disk.vmsd', Buffer.from(original.replace(from, to)));
    const disk = await open(folder);
    const expected = { code: 'ERR_CORRUPT', data: { file: 'disk.vmsd', field } };
    await expect(disk.snapshots.list()).rejects.toMatchObject(expected);
    await expect(disk.snapshots.create('two')).rejects.toMatchObject(expected);
    expect((await disk.check()).corruptions).toBe(1);
    const target = Buffer.alloc(1);
    await disk.read(5000, target);
    expect(target[0]).toBe(2);
    await disk.close();
  });

  it('whose file is missing is found by check', async () => {
    const folder = await chain();
    const disk = await open(folder);
    await disk.snapshots.apply('one');
    await disk.snapshots.create('two');
    await disk.snapshots.apply('one');
    await folder.remove('disk-000002.vmdk');
    const report = await disk.check();
    expect(report.findings).toMatchObject([{ severity: 'corruption', file: 'disk-000002.vmdk' }]);
    await expect(disk.snapshots.open('two')).rejects.toMatchObject({ code: 'ERR_NOT_FOUND' });
    await disk.close();
  });
});
