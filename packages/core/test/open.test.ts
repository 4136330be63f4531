import fs from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  type BlockDriver,
  createDisk,
  type CreateDiskOptions,
  MemoryFolder,
  openDisk,
  raw,
} from '../src/index.ts';
import { native } from '../src/native.ts';
import { capabilities, paged, writePaged } from './paged-driver.ts';
import { scratchFolder } from './scratch.ts';

const scratch = scratchFolder();
const MIB = 1024 * 1024;

describe('openDisk', () => {
  it('finds the format in the first bytes, and raw where nothing is found', async () => {
    const folder = new MemoryFolder();
    await writePaged(folder, 'a');
    await createDisk({ folder, file: 'b' }, { driver: raw, size: 1000 });
    await (await folder.create('empty')).close();
    for (const [file, format, size] of [
      ['a', 'paged', MIB],
      ['b', 'raw', 1000],
      ['empty', 'raw', 0],
    ] as const) {
      const disk = await openDisk({ folder, file }, { drivers: [paged] });
      expect([disk.format, disk.size]).toEqual([format, size]);
      await disk.close();
    }
  });

  it('takes the format that it is told instead', async () => {
    const folder = new MemoryFolder();
    await writePaged(folder, 'a');
    const disk = await openDisk({ folder, file: 'a' }, { drivers: [paged], format: 'raw' });
    expect([disk.format, disk.size]).toEqual(['raw', 4]);
    await disk.close();
  });

  it('says which formats there are when told one that it does not know', async () => {
    const folder = new MemoryFolder();
    await writePaged(folder, 'a');
    const opened = openDisk({ folder, file: 'a' }, { drivers: [paged], format: 'vhdx' });
    await expect(opened).rejects.toMatchObject({ code: 'ERR_UNKNOWN_FORMAT', data: { value: 'vhdx' } });
    await expect(opened).rejects.toThrow('paged, raw');
  });

  it('checks the options of the driver', async () => {
    const folder = new MemoryFolder();
    await writePaged(folder, 'a');
    const opened = openDisk({ folder, file: 'a' }, { drivers: [paged], options: { cache: 1 } });
    await expect(opened).rejects.toMatchObject({ code: 'ERR_INVALID_OPTION', data: { field: 'cache' } });
  });

  it('opens a file by its path, with either kind of I/O', async () => {
    const file = path.join(scratch, 'by-path.raw');
    await createDisk(file, { driver: raw, size: MIB });
    for (const io of ['sync', 'threads'] as const) {
      const disk = await openDisk(file, { io });
      await disk.write(5, Uint8Array.of(1, 2, 3));
      const target = new Uint8Array(3);
      const pending = disk.read(5, target);
      expect(pending instanceof Promise).toBe(io === 'threads');
      await pending;
      expect([...target]).toEqual([1, 2, 3]);
      await disk.close();
    }
  });

  it('says that there is no such file', async () => {
    const opened = openDisk(path.join(scratch, 'gone'));
    await expect(opened).rejects.toMatchObject({ code: 'ERR_NOT_FOUND', data: { file: 'gone' } });
  });

  it('opens a format that is only read only for reading', async () => {
    const folder = new MemoryFolder();
    await writePaged(folder, 'a');
    const reader: BlockDriver = { ...paged, capabilities: { ...capabilities, write: false } };
    const location = { folder, file: 'a' };
    await expect(openDisk(location, { drivers: [reader] })).rejects.toMatchObject({
      code: 'ERR_UNSUPPORTED',
    });
    await (await openDisk(location, { drivers: [reader], readOnly: true })).close();
    const created = createDisk({ folder, file: 'b' }, { driver: reader, size: 1 });
    await expect(created).rejects.toMatchObject({ code: 'ERR_UNSUPPORTED' });
    expect(await folder.list()).toEqual(['a']);
  });
});

describe('createDisk', () => {
  it('makes a raw disk of zeros that takes no space', async () => {
    const file = path.join(scratch, 'sparse.raw');
    await createDisk(file, { driver: raw, size: 1024 * MIB });
    const { size, blocks } = fs.statSync(file);
    expect(size).toBe(1024 * MIB);
    expect(blocks * 512).toBeLessThan(MIB);
    const disk = await openDisk(file, { readOnly: true });
    expect((await disk.info()).storageBytes).toBeLessThanOrEqual(native === undefined ? size : MIB);
    await disk.close();
  });

  it.each(['falloc', 'full'])(
    'takes the space of a raw disk at once with preallocation=%s',
    async (preallocation) => {
      const file = path.join(scratch, `${preallocation}.raw`);
      const size = 70 * MIB + 1000;
      await createDisk(file, { driver: raw, size, options: { preallocation } });
      const { size: length, blocks } = fs.statSync(file);
      expect(length).toBe(size);
      expect(blocks * 512).toBeGreaterThanOrEqual(size);
      expect(fs.readFileSync(file).equals(Buffer.alloc(size))).toBe(true);
    },
  );

  it('refuses a name that is taken, and leaves the file alone', async () => {
    const file = path.join(scratch, 'taken');
    fs.writeFileSync(file, 'mine');
    await expect(createDisk(file, { driver: raw, size: 1 })).rejects.toMatchObject({ code: 'ERR_EXISTS' });
    expect(fs.readFileSync(file, 'utf8')).toBe('mine');
  });

  it('takes the size of the backing when none is given', async () => {
    const folder = new MemoryFolder();
    await createDisk({ folder, file: 'base' }, { driver: raw, size: 12_345 });
    await createDisk({ folder, file: 'top' }, { driver: paged, backing: { file: 'base', format: 'raw' } });
    const disk = await openDisk({ folder, file: 'top' }, { drivers: [paged] });
    expect(disk.size).toBe(12_345);
    await disk.close();
  });

  it('rounds the size of the backing up to one that the format can have', async () => {
    const folder = new MemoryFolder();
    await createDisk({ folder, file: 'base' }, { driver: raw, size: 1221 });
    let asked = 0;
    const coarse: BlockDriver = {
      ...paged,
      capabilities: { ...capabilities, sizeMultiple: 512 },
      create: async (_folder, _file, { size }) => {
        asked = size;
      },
    };
    await createDisk({ folder, file: 'top' }, { driver: coarse, backing: { file: 'base', format: 'raw' } });
    expect(asked).toBe(1536);
  });

  const raised: [string, CreateDiskOptions, object][] = [
    ['no size', { driver: raw }, { code: 'ERR_INVALID_OPTION', data: { field: 'size' } }],
    ['size 0', { driver: raw, size: 0 }, { code: 'ERR_INVALID_OPTION' }],
    ['half a byte', { driver: raw, size: 0.5 }, { code: 'ERR_INVALID_OPTION' }],
    ['a size past the limit', { driver: paged, size: 2 ** 41 }, { code: 'ERR_INVALID_OPTION' }],
    ['an unknown option', { driver: raw, size: 1, options: { x: 1 } }, { code: 'ERR_INVALID_OPTION' }],
    [
      'a backing where there are none',
      { driver: raw, backing: { file: 'base' } },
      { code: 'ERR_UNSUPPORTED' },
    ],
    ['a missing backing', { driver: paged, backing: { file: 'gone' } }, { code: 'ERR_BACKING_MISSING' }],
    [
      'a missing backing, size given',
      { driver: paged, size: 1, backing: { file: 'gone' } },
      { code: 'ERR_BACKING_MISSING' },
    ],
    [
      'a backing elsewhere',
      { driver: paged, backing: { file: '/etc/passwd' } },
      { code: 'ERR_BACKING_DENIED' },
    ],
    [
      'a driver that fails half way',
      { driver: paged, size: 1, options: { fail: true } },
      { message: 'the disk fell off the table' },
    ],
  ];

  it.each(raised)('leaves no file behind after %s', async (_, options, error) => {
    const folder = new MemoryFolder();
    await createDisk({ folder, file: 'base' }, { driver: raw, size: 1000 });
    await expect(createDisk({ folder, file: 'new' }, options)).rejects.toMatchObject(error);
    expect(await folder.list()).toEqual(['base']);
  });

  it('takes a file back that was made for a part of the image, when the create fails after it', async () => {
    const folder = new MemoryFolder();
    await (await folder.create('empty')).close();
    const driver: BlockDriver = {
      ...raw,
      create: async (inFolder, file, request) => {
        for (const name of ['new.part', 'empty']) {
          const part = await request.createPart(name, 'part');
          await part.write(0, Uint8Array.of(1));
          await part.close();
        }
        await raw.create(inFolder, file, request);
        throw new Error('too late');
      },
    };
    const created = createDisk({ folder, file: 'a' }, { driver, size: 512 });
    await expect(created).rejects.toThrow('too late');
    expect(await folder.list()).toEqual(['empty']);
    expect((await folder.open('empty', { readOnly: true })).size()).toBe(0);
  });

  it('refuses a size that is no multiple of what the format can', async () => {
    const driver: BlockDriver = { ...raw, capabilities: { ...raw.capabilities, sizeMultiple: 512 } };
    const created = createDisk({ folder: new MemoryFolder(), file: 'a' }, { driver, size: 513 });
    await expect(created).rejects.toThrow('multiple of 512');
  });
});
