import { CountingFolder, CowlabError, type Disk, isCowlabError } from '@cowlab/core';
import { describe, expect, it } from 'vitest';
import { contents, file, fileBytes, filled, KiB, refusal } from './lab.ts';
import { HEADER_OFFSETS as at } from '../src/v1/layout.ts';
import { fixtureBytes, fixtures, folderOf, openToRead, put32, put64, putText } from './v1-lab.ts';

/** Of compact-base.fvd and compact-base-dirty.fvd alike. */
const tableAt = 12_288;
const journalAt = 16_384;
const TABLE_RECORD = 0xb4e6f7ac;
const BITMAP_RECORD = 0x3f2ab8ed;

type Damage = (image: Uint8Array) => Uint8Array | void;

/** Takes the terminator off a text field. */
function endless(offset: number, length: number): Damage {
  return (image) => void image.fill(0x61, offset, offset + length);
}

function records(...words: number[]): Damage {
  return (image) => {
    words.forEach((word, index) => put32(image, journalAt + 4 * index, word));
  };
}

const header: [what: string, field: string, damage: Damage, code?: string][] = [
  ['a file that ends inside the header', 'header', (image) => image.slice(0, 4335)],
  ['a disk of no bytes', 'header.virtual_disk_size', (image) => put64(image, at.virtual_disk_size, 0)],
  ['a disk of half a sector', 'header.virtual_disk_size', (image) => put64(image, at.virtual_disk_size, 256)],
  [
    'a disk of a negative size',
    'header.virtual_disk_size',
    (image) => put64(image, at.virtual_disk_size, -512),
  ],
  [
    'a disk of 2^62 bytes',
    'header.virtual_disk_size',
    (image) => put64(image, at.virtual_disk_size, 2n ** 62n),
  ],
  [
    'a disk that its table does not hold',
    'header.journal_offset',
    (image) => put64(image, at.virtual_disk_size, 2 ** 27),
  ],
  [
    'a disk that no table in the file holds',
    'header.table_offset',
    (image) => put64(image, at.virtual_disk_size, 2 ** 50),
  ],
  ['metadata inside the header', 'header.metadata_size', (image) => put64(image, at.metadata_size, 4096)],
  [
    'metadata past the end of the file',
    'header.metadata_size',
    (image) => put64(image, at.metadata_size, 2 ** 30),
  ],
  ['metadata of a broken sector', 'header.metadata_size', (image) => put64(image, at.metadata_size, 32_767)],
  ['a file that ends inside the metadata', 'header.metadata_size', (image) => image.slice(0, 20 * KiB)],
  ['a bitmap in the header', 'header.bitmap_offset', (image) => put64(image, at.bitmap_offset, 512)],
  [
    'a bitmap outside the metadata',
    'header.bitmap_offset',
    (image) => put64(image, at.bitmap_offset, 2 ** 40),
  ],
  ['a bitmap beside a sector', 'header.bitmap_offset', (image) => put64(image, at.bitmap_offset, 8200)],
  ['a bitmap that is too short', 'header.bitmap_size', (image) => put64(image, at.bitmap_size, 32)],
  [
    'a bitmap that reaches into the table',
    'header.table_offset',
    (image) => put64(image, at.bitmap_size, 8192),
  ],
  ['blocks of 0 bytes', 'header.block_size', (image) => put32(image, at.block_size, 0)],
  ['blocks of -512 bytes', 'header.block_size', (image) => put32(image, at.block_size, -512)],
  ['blocks of 1,000 bytes', 'header.block_size', (image) => put32(image, at.block_size, 1000)],
  ['a table over the bitmap', 'header.table_offset', (image) => put64(image, at.table_offset, 8192)],
  ['a table over the data', 'header.table_offset', (image) => put64(image, at.table_offset, 32_768)],
  ['chunks of 0 bytes', 'header.chunk_size', (image) => put64(image, at.chunk_size, 0)],
  ['chunks of -4,096 bytes', 'header.chunk_size', (image) => put64(image, at.chunk_size, -4096)],
  ['chunks of 100 bytes', 'header.chunk_size', (image) => put64(image, at.chunk_size, 100)],
  ['a journal over the table', 'header.journal_offset', (image) => put64(image, at.journal_offset, tableAt)],
  ['a journal past the metadata', 'header.journal_offset', (image) => put64(image, at.journal_size, 32_768)],
  ['a journal of half a sector', 'header.journal_size', (image) => put64(image, at.journal_size, 256)],
  ['a journal of -1 bytes', 'header.journal_size', (image) => put64(image, at.journal_size, -1)],
  ['no base, but data in it', 'header.base_img', (image) => putText(image, at.base_img, '')],
  ['a base without an end', 'header.base_img', endless(at.base_img, 1024)],
  ['a format without an end', 'header.base_img_fmt', endless(at.base_img_fmt, 16)],
  ['a data file without an end', 'header.data_file', endless(at.data_file, 1024)],
  [
    'a base that is not UTF-8',
    'header.base_img',
    (image) => void image.fill(0xff, at.base_img, at.base_img + 3),
    'ERR_UNSUPPORTED',
  ],
  ['a base of half a sector', 'header.base_img_size', (image) => put64(image, at.base_img_size, 256)],
  [
    'a base that has become shorter',
    'header.base_img_size',
    (image) => put64(image, at.base_img_size, 2 ** 20 + 4096),
  ],
  [
    'a base outside the folder',
    'header.base_img',
    (image) => putText(image, at.base_img, '/etc/passwd'),
    'ERR_BACKING_DENIED',
  ],
  [
    'a base that is missing',
    'header.base_img',
    (image) => putText(image, at.base_img, 'none.raw'),
    'ERR_BACKING_MISSING',
  ],
  [
    'a base that is the image itself',
    'header.base_img',
    (image) => putText(image, at.base_img, 'disk.fvd'),
    'ERR_BACKING_CYCLE',
  ],
  [
    'a command for a base',
    'header.base_img',
    (image) => putText(image, at.base_img, 'exec:touch x'),
    'ERR_UNSUPPORTED',
  ],
  [
    'a data file above the folder',
    'header.data_file',
    (image) => putText(image, at.data_file, '../data'),
    'ERR_BACKING_DENIED',
  ],
  [
    'a data file that is missing',
    'header.data_file',
    (image) => putText(image, at.data_file, 'none.raw'),
    'ERR_BACKING_MISSING',
  ],
];

const journal: typeof header = [
  ['a table record past the table', 'journal[0].first_entry', records(TABLE_RECORD, 512, 1, 5, 0)],
  ['a table record from far outside', 'journal[0].first_entry', records(TABLE_RECORD, -1, 2, 5, 6, 0)],
  ['a chunk that moves', 'journal[0].entry', records(TABLE_RECORD, 0, 1, 7, TABLE_RECORD, 0, 1, 8, 0)],
  ['a bitmap record past the disk', 'journal[0].first_sector', records(BITMAP_RECORD, 2, 4095, 0)],
  ['a bitmap record before the disk', 'journal[0].first_sector', records(BITMAP_RECORD, 2, -8, -1)],
];

describe.each([
  ['header', 'compact-base.fvd', header],
  ['journal', 'compact-base-dirty.fvd', journal],
])('a malformed image of version 1 (%s)', (_part, name, damages) => {
  it.each(damages)('%s is refused at %s, and nothing is modified', async (_what, field, damage, code) => {
    const copy = fixtureBytes(name);
    const image = damage(copy) ?? copy;
    const folder = await folderOf(image);
    await expect(openToRead(folder)).rejects.toThrow(refusal(field, code));
    expect(Buffer.compare(await fileBytes(folder), image)).toBe(0);
  });
});

describe('an image of version 1', () => {
  it('that is flat and has lost its end is refused', async () => {
    const image = fixtureBytes('noncompact-nobase.fvd').slice(0, -512);
    const opening = openToRead(await folderOf(image));
    await expect(opening).rejects.toThrow(refusal('header.virtual_disk_size'));
  });

  it.each([
    [
      'virtual_disk_size',
      'chunk_size',
      (image: Uint8Array) => put64(image, at.virtual_disk_size, (2 ** 24 + 1) * 65_536),
    ],
    ['bitmap_size', 'bitmap_size', (image: Uint8Array) => put64(image, at.bitmap_size, 2 ** 26 + 512)],
    ['journal_size', 'journal_size', (image: Uint8Array) => put64(image, at.journal_size, 2 ** 30 + 512)],
  ])(
    'with more than we hold by its %s is refused, though a sparse file supports it',
    async (_, field, enlarge) => {
      const image = fixtureBytes('compact-base.fvd');
      // Regions far apart, each with room for what the others have too little of.
      put64(image, at.bitmap_offset, 2 ** 32);
      put64(image, at.table_offset, 2 ** 33);
      put64(image, at.journal_offset, 2 ** 34);
      put64(image, at.metadata_size, 2 ** 36);
      enlarge(image);
      const memory = await folderOf(image);
      const storage = await memory.open(file, { readOnly: false });
      await storage.truncate(2 ** 37);
      await storage.close();
      const folder = new CountingFolder(memory);
      await expect(openToRead(folder)).rejects.toThrow(refusal(`header.${field}`, 'ERR_UNSUPPORTED'));
      expect(folder.counts.purposes.header.readBytes).toBeLessThan(16 * KiB);
    },
  );
});

/** Host chunks of 64 KiB: 4 of them have data. */
const damagedTables: [what: string, damage: Damage, chunks: number[]][] = [
  ['a chunk outside the file', (image) => put32(image, tableAt, 4), [0]],
  ['a chunk of the highest number', (image) => put32(image, tableAt, 0x7fffffff), [0]],
  ['two mappings to one chunk', (image) => put32(image, tableAt, 1), [0, 3]],
  ['two mappings to one chunk, one marked dirty', (image) => put32(image, tableAt, 0x8000_0001), [0, 3]],
  ['a file that ends inside its last chunk', (image) => image.slice(0, -512), [24]],
];

describe('a table of version 1 with damage', () => {
  it.each(damagedTables)(
    '%s: the chunks are refused, the others read, check finds it',
    async (_, damage, chunks) => {
      const copy = fixtureBytes('compact-base.fvd');
      const disk = await openToRead(await folderOf(damage(copy) ?? copy));
      const whole = await openToRead(await folderOf(fixtureBytes('compact-base.fvd')));
      for (let chunk = 0; chunk < 32; chunk++) {
        const bytes = new Uint8Array(64 * KiB);
        const reading = (async () => disk.read(chunk * 64 * KiB, bytes))();
        if (chunks.includes(chunk)) await expect(reading).rejects.toThrow(refusal(`table[${chunk}]`));
        else {
          await reading;
          const sound = filled(64 * KiB, 1);
          await whole.read(chunk * 64 * KiB, sound);
          expect(Buffer.compare(bytes, sound)).toBe(0);
        }
      }
      const { corruptions, findings } = await disk.check();
      expect(corruptions).toBe(chunks.length);
      for (const chunk of chunks) {
        const message = expect.stringContaining(`guest chunk ${chunk} `) as string;
        expect(findings).toContainEqual(expect.objectContaining({ structure: 'table', message }));
      }
      await disk.close();
      await whole.close();
    },
  );

  it('a host chunk below the highest that nothing uses is a leak', async () => {
    const image = fixtureBytes('compact-base.fvd');
    put32(image, tableAt, -1);
    const disk = await openToRead(await folderOf(image));
    expect(await disk.check()).toMatchObject({ corruptions: 0, leaks: 1 });
    await disk.close();
  });
});

describe('a journal of version 1', () => {
  it.each([
    ['a record that breaks off at the end of its sector', [TABLE_RECORD, 0, 126, 9]],
    ['a record of nothing', [TABLE_RECORD, 0, 0, 9]],
    ['what is no record', [0x12345678, 1, 2, 3]],
    ['a length of four thousand million', [TABLE_RECORD, 0, -1, 9]],
  ])('with %s: the sector is dropped, the others count, check finds it', async (_, words) => {
    const image = fixtureBytes('compact-nobase-dirty.fvd');
    const before = await openToRead(await folderOf(fixtureBytes('compact-nobase-dirty.fvd')));
    // Its fourth sector has the write of 512 bytes at 0.
    const sector = 12_288 + 3 * 512;
    words.forEach((word, index) => put32(image, sector + 4 * index, word));
    const disk = await openToRead(await folderOf(image));
    const expected = await contents(before);
    expected.fill(0, 0, 512);
    expect(Buffer.compare(await contents(disk), expected)).toBe(0);
    const { corruptions, leaks, findings } = await disk.check();
    // The chunk that the sector told of is used by nothing now.
    expect({ corruptions, leaks }).toEqual({ corruptions: 1, leaks: 1 });
    expect(findings).toContainEqual(
      expect.objectContaining({ structure: 'journal', severity: 'corruption' }),
    );
    await disk.close();
    await before.close();
  });

  it('of an image that was closed cleanly is not looked at', async () => {
    const image = fixtureBytes('compact-base.fvd');
    records(TABLE_RECORD, 512, 1, 5, 0)(image);
    const disk = await openToRead(await folderOf(image));
    expect((await disk.check()).findings).toEqual([]);
    await disk.close();
  });

  it('that tells of blocks when all data are in the image already is replayed without them', async () => {
    const image = fixtureBytes('compact-base-dirty.fvd');
    put32(image, at.all_data_in_fvd_img, 1);
    const disk = await openToRead(await folderOf(image));
    expect((await contents(disk)).subarray(1024, 2048)).toEqual(filled(1024, 0xf1));
    await disk.close();
  });

  it('that a crash did not leave is not missed', async () => {
    const image = fixtureBytes('compact-base-dirty.fvd');
    put64(image, at.journal_size, 0);
    const disk = await openToRead(await folderOf(image));
    const base = fixtureBytes('base.raw');
    const bytes = await contents(disk);
    expect(Buffer.compare(bytes.subarray(0, base.length), base)).toBe(0);
    expect((await disk.info()).details).toMatchObject({ 'clean shutdown': false });
    await disk.close();
  });
});

/** A generator of numbers below `limit`; the same for the same seed. */
function random(seed: number): (limit: number) => number {
  let state = seed;
  return (limit) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * limit);
  };
}

/** Reads what a disk of any size can be asked for in bounded time. */
async function tour(disk: Disk): Promise<void> {
  let extents = 0;
  for await (const extent of disk.extents()) {
    expect(extent.length).toBeGreaterThan(0);
    extents++;
  }
  expect(extents).toBeLessThan(10_000);
  const piece = new Uint8Array(Math.min(disk.size, 2 * KiB * KiB));
  await disk.read(disk.size - piece.length, piece);
  await disk.read(0, piece);
}

/** Whether the image can be read or is refused as it should be; throws for everything else. */
async function judge(open: () => Promise<Disk>): Promise<'read' | 'refused'> {
  try {
    const disk = await open();
    try {
      await disk.check();
      await tour(disk);
      return 'read';
    } finally {
      await disk.close();
    }
  } catch (error) {
    if (!isCowlabError(error)) throw error;
    expect(error.data.field, error.message).toBeDefined();
    return 'refused';
  }
}

describe.each(fixtures)('$file with flipped bits in its metadata', (fixture) => {
  const image = fixtureBytes(fixture.file);

  it.each([1, 2, 3, 4])('opens or is refused with a code and a field (seed %i)', async (seed) => {
    const next = random(seed);
    const seen = { refused: 0, read: 0 };
    for (let round = 0; round < 60; round++) {
      const copy = image.slice();
      for (let flips = 1 + next(3); flips > 0; flips--) {
        // Half of the flips hit sizes and offsets of the header.
        const start = next(2) === 0 ? next(28) : next(Math.min(copy.length, 32 * KiB));
        const place = start < 8 ? 1068 + next(40) : start;
        copy[place]! ^= 1 << next(8);
      }
      const folder = await folderOf(copy);
      seen[await judge(() => openToRead(folder))]++;
      expect(Buffer.compare(await fileBytes(folder), copy)).toBe(0);
    }
    expect(seen.read).toBeGreaterThan(0);
    expect(seen.refused).toBeGreaterThan(0);
  });
});

describe('the judge of flipped bits', () => {
  it.each([
    ['an error without a code', new RangeError('Offset is outside the bounds of the DataView')],
    ['an error that names no field', new CowlabError('ERR_CORRUPT', 'something is wrong')],
  ])('does not let pass %s', async (_, error) => {
    await expect(judge(() => Promise.reject(error))).rejects.toThrow();
  });
});
