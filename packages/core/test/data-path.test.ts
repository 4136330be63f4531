import * as fc from 'fast-check';
import { beforeEach, describe, expect, it } from 'vitest';
import { CountingFolder, Disk, MemoryFolder, openDisk, type ReadSource, totalCounts } from '../src/index.ts';
import { HeldStorage } from './held-storage.ts';
import { PAGE_BYTES, PagedImage, type PagedOptions, paged, writePaged } from './paged-driver.ts';

/* What core does with a driver's answers, seen from the storage: which bytes it moves, and which it does not. */

const SIZE = 10 * PAGE_BYTES + 100;
let folder: CountingFolder;

beforeEach(() => {
  folder = new CountingFolder(new MemoryFolder());
});

async function make(options: Partial<PagedOptions> = {}): Promise<{ disk: Disk; image: PagedImage }> {
  const image = new PagedImage(await folder.create('image'), { size: SIZE, ...options });
  return { disk: new Disk(paged, image, 'image', false), image };
}

async function bytesOf(disk: Disk, offset = 0, length = disk.size - offset): Promise<Uint8Array> {
  const target = new Uint8Array(length).fill(0xee);
  await disk.read(offset, target);
  return target;
}

function filled(length: number, byte: number): Uint8Array {
  return new Uint8Array(length).fill(byte);
}

/** A backing of `size` bytes, byte n being n modulo 251. */
function backingOf(size: number): ReadSource {
  return {
    size,
    read: (offset, target) => {
      for (let at = 0; at < target.length; at++) target[at] = (offset + at) % 251;
    },
    resolve: (_, length) => ({ kind: 'encoded', length, depth: 0, allocated: true }),
  };
}

describe('a write', () => {
  it('to bytes that the image owns goes in place: one storage write, nothing reserved, no promise', async () => {
    const { disk, image } = await make();
    await disk.write(0, filled(PAGE_BYTES, 1));
    image.log.length = 0;
    folder.reset();
    expect(disk.write(10, filled(100, 2))).toBeUndefined();
    expect(image.log).toEqual([]);
    expect(totalCounts(folder.counts)).toMatchObject({ reads: 0, writes: 1, writtenBytes: 100 });
    expect([...(await bytesOf(disk, 9, 3))]).toEqual([1, 2, 2]);
  });

  it.each([
    [10 * PAGE_BYTES, 9 * PAGE_BYTES + 7, PAGE_BYTES - 7],
    [10 * PAGE_BYTES, 9 * PAGE_BYTES, 100],
  ])('on a disk of %i bytes at %i for %i asks for no empty range', async (size, offset, length) => {
    const { disk, image } = await make({ size });
    const asked: number[] = [];
    const map = image.map.bind(image);
    image.map = (at, bytes) => {
      asked.push(bytes);
      return map(at, bytes);
    };
    await disk.write(offset, filled(length, 1));
    expect(asked).not.toContain(0);
  });

  it('of a whole new page is placed as it is, without a promise', async () => {
    const { disk, image } = await make();
    expect(disk.write(PAGE_BYTES, filled(PAGE_BYTES, 1))).toBeUndefined();
    expect(image.log).toEqual([`reserve ${PAGE_BYTES}+${PAGE_BYTES}`, `commit ${PAGE_BYTES}`]);
    expect(totalCounts(folder.counts)).toMatchObject({ writes: 1, writtenBytes: PAGE_BYTES });
  });

  it('of a part fills the page around it from the old state, in one storage write', async () => {
    const { disk, image } = await make();
    await disk.write(0, filled(PAGE_BYTES, 7));
    image.shared.add(0);
    folder.reset();
    await disk.write(1000, filled(50, 9));
    expect(totalCounts(folder.counts)).toMatchObject({ writes: 1, writtenBytes: PAGE_BYTES });
    const expected = filled(PAGE_BYTES, 7).fill(9, 1000, 1050);
    expect(Buffer.compare(await bytesOf(disk, 0, PAGE_BYTES), expected)).toBe(0);
  });

  it('of a part fills from the backing, and with zeros past its end', async () => {
    const { disk } = await make({ backing: backingOf(5000) });
    await disk.write(4500, filled(10, 1));
    const page = await bytesOf(disk, PAGE_BYTES, PAGE_BYTES);
    for (let at = 0; at < PAGE_BYTES; at++) {
      const guest = PAGE_BYTES + at;
      expect(page[at]).toBe(guest >= 4500 && guest < 4510 ? 1 : guest < 5000 ? guest % 251 : 0);
    }
  });

  it.each([
    ['fresh space is not filled with zeros that are there already', true, undefined, 50],
    ['used space is filled with zeros', false, undefined, PAGE_BYTES],
    ['fresh space is filled where the old state has bytes', true, backingOf(SIZE), PAGE_BYTES],
    ['fresh space is filled on that side only', true, backingOf(1000), 1000 + 50],
  ])('%s', async (_, fresh, backing, writtenBytes) => {
    const { disk } = await make({ fresh, ...(backing && { backing }) });
    await disk.write(1000, filled(50, 1));
    expect(totalCounts(folder.counts)).toMatchObject({ writes: 1, writtenBytes });
  });

  it('into the last page, which the end of the disk cuts short, fills to the end of the page', async () => {
    const { disk } = await make({ backing: backingOf(SIZE) });
    await disk.write(SIZE - 50, filled(10, 1));
    expect(totalCounts(folder.counts)).toMatchObject({ writes: 1, writtenBytes: PAGE_BYTES });
    const end = await bytesOf(disk, SIZE - 51, 51);
    expect([end[0], end[1], end[11]]).toEqual([(SIZE - 51) % 251, 1, (SIZE - 40) % 251]);
  });

  it('that fails gives its space back and leaves the old bytes', async () => {
    const storage = new HeldStorage();
    const image = new PagedImage(storage, { size: SIZE });
    const disk = new Disk(paged, image, 'image', false);
    const pending = Promise.resolve(disk.write(0, filled(PAGE_BYTES, 1)));
    const failure = new Error('cable');
    await Promise.all([
      expect(pending).rejects.toBe(failure),
      storage.go(`write ${PAGE_BYTES}+${PAGE_BYTES}`, failure),
    ]);
    expect(image.log).toEqual([`reserve 0+${PAGE_BYTES}`, 'abort 0']);
    expect(await bytesOf(disk, 0, 1)).toEqual(Uint8Array.of(0));
  });

  it('whose fill cannot be read gives its space back', async () => {
    const failure = new Error('below');
    const broken: ReadSource = {
      ...backingOf(SIZE),
      read: () => {
        throw failure;
      },
    };
    const { disk, image } = await make({ backing: broken });
    await expect(disk.write(10, filled(10, 1))).rejects.toBe(failure);
    expect(image.log).toEqual(['reserve 10+10', 'abort 10']);
  });

  it('whose map fails later is the one to hear of it, and nobody else', async () => {
    const unheard: unknown[] = [];
    const listener = (reason: unknown): unknown => unheard.push(reason);
    process.on('unhandledRejection', listener);
    const { disk, image } = await make({ slowMap: true });
    image.mapError = new Error('table');
    await expect(disk.write(0, filled(10, 1))).rejects.toBe(image.mapError);
    await expect(disk.read(0, new Uint8Array(10))).rejects.toBe(image.mapError);
    await new Promise((resolve) => setTimeout(resolve, 5));
    process.off('unhandledRejection', listener);
    expect(unheard).toEqual([]);
  });
});

describe('a read', () => {
  it('of one extent is one storage read into the buffer itself, without a promise', async () => {
    const { disk } = await make();
    await disk.write(0, filled(PAGE_BYTES, 1));
    folder.reset();
    expect(disk.read(0, new Uint8Array(PAGE_BYTES))).toBeUndefined();
    expect(totalCounts(folder.counts)).toMatchObject({ reads: 1, readBytes: PAGE_BYTES });
  });

  it('of what is mapped nowhere touches no storage', async () => {
    const { disk } = await make();
    folder.reset();
    expect((await bytesOf(disk)).every((byte) => byte === 0)).toBe(true);
    expect(totalCounts(folder.counts).reads).toBe(0);
  });

  it('that fails half way waits for what is under way: the buffer is the callers again', async () => {
    const storage = new HeldStorage();
    const image = new PagedImage(storage, { size: SIZE });
    image.pages.set(0, PAGE_BYTES);
    const map = image.map.bind(image);
    const failure = new Error('second page');
    image.map = (offset, length) => {
      if (offset >= PAGE_BYTES) throw failure;
      return map(offset, length);
    };
    const disk = new Disk(paged, image, 'image', false);
    let settled = false;
    const pending = Promise.resolve(disk.read(0, new Uint8Array(2 * PAGE_BYTES))).finally(() => {
      settled = true;
    });
    pending.catch(() => undefined);
    expect(await storage.waiting()).toEqual([`read ${PAGE_BYTES}+${PAGE_BYTES}`]);
    expect(settled).toBe(false);
    await storage.goAll();
    await expect(pending).rejects.toBe(failure);
  });

  it('goes down a chain of 4,096 images', async () => {
    const depth = 4096;
    const memory = new MemoryFolder();
    for (let index = 0; index < depth - 1; index++) await writePaged(memory, `${index}`, `${index + 1}`);
    const bottom = await memory.create(String(depth - 1));
    await bottom.write(0, Uint8Array.of(42));
    await bottom.close();
    const disk = await openDisk({ folder: memory, file: '0' }, { drivers: [paged] });
    expect([...(await bytesOf(disk))]).toEqual([42]);
    expect(await disk.resolve(0, 1)).toMatchObject({ kind: 'data', depth: depth - 1 });
    await disk.close();
  });
});

describe('zeroes and discards', () => {
  it('hand whole pages to the driver, and write zeros into the partial ones', async () => {
    const { disk, image } = await make();
    await disk.write(0, filled(4 * PAGE_BYTES, 5));
    image.log.length = 0;
    folder.reset();
    await disk.writeZeroes(100, 3 * PAGE_BYTES);
    expect(image.log).toEqual([`zero ${PAGE_BYTES}+${2 * PAGE_BYTES}`]);
    const { writes, writtenBytes } = totalCounts(folder.counts);
    expect([writes, writtenBytes]).toEqual([2, PAGE_BYTES]);
    const expected = filled(4 * PAGE_BYTES, 5).fill(0, 100, 100 + 3 * PAGE_BYTES);
    expect(Buffer.compare(await bytesOf(disk, 0, expected.length), expected)).toBe(0);
  });

  it('write no zeros where zeros are', async () => {
    const { disk, image } = await make();
    await disk.writeZeroes(100, 200);
    expect(image.log).toEqual([]);
    expect(totalCounts(folder.counts).writes).toBe(0);
  });

  it('discard whole pages and leave partial ones', async () => {
    const { disk, image } = await make();
    await disk.write(0, filled(3 * PAGE_BYTES, 5));
    image.log.length = 0;
    await disk.discard(1, 2 * PAGE_BYTES);
    expect(image.log).toEqual([`discard ${PAGE_BYTES}+${PAGE_BYTES}`]);
    const expected = filled(3 * PAGE_BYTES, 5).fill(0, PAGE_BYTES, 2 * PAGE_BYTES);
    expect(Buffer.compare(await bytesOf(disk, 0, expected.length), expected)).toBe(0);
  });

  it('count the last page as whole where the disk ends in it', async () => {
    const { disk, image } = await make();
    await disk.discard(10 * PAGE_BYTES, 100);
    expect(image.log).toEqual([`discard ${10 * PAGE_BYTES}+100`]);
  });

  it('hide the backing', async () => {
    const { disk } = await make({ backing: backingOf(SIZE) });
    await disk.writeZeroes(50, SIZE - 100);
    const all = await bytesOf(disk);
    for (let at = 0; at < SIZE; at++) {
      expect(all[at]).toBe(at < 50 || at >= SIZE - 50 ? at % 251 : 0);
    }
  });
});

const request = fc.record({
  kind: fc.constantFrom('write', 'write', 'writeZeroes', 'discard', 'share'),
  offset: fc.nat(SIZE - 1),
  length: fc.integer({ min: 1, max: 3 * PAGE_BYTES }),
  byte: fc.integer({ min: 1, max: 255 }),
});

describe('any sequence of requests', () => {
  it.each([
    ['without a backing', {}],
    ['over a shorter backing', { backing: backingOf(SIZE - 6000) }],
    ['into fresh space', { fresh: true }],
    ['with a slow map', { slowMap: true, backing: backingOf(SIZE) }],
  ])('leaves what plain bytes would hold, %s', async (_, options: Partial<PagedOptions>) => {
    await fc.assert(
      fc.asyncProperty(fc.array(request, { maxLength: 15 }), async (requests) => {
        folder = new CountingFolder(new MemoryFolder());
        const { disk, image } = await make(options);
        const model = await bytesOf(disk);
        for (const { kind, offset, length: asked, byte } of requests) {
          const length = Math.min(asked, SIZE - offset);
          if (kind === 'write') {
            await disk.write(offset, filled(length, byte));
            model.fill(byte, offset, offset + length);
          } else if (kind === 'share') {
            for (const page of image.pages.keys()) image.shared.add(page);
          } else {
            await disk[kind](offset, length);
            const start = kind === 'discard' ? Math.ceil(offset / PAGE_BYTES) * PAGE_BYTES : offset;
            const end = offset + length;
            const stop = kind === 'discard' && end < SIZE ? Math.floor(end / PAGE_BYTES) * PAGE_BYTES : end;
            if (start < stop) model.fill(0, start, stop);
          }
        }
        expect(Buffer.compare(await bytesOf(disk), model)).toBe(0);
      }),
      { numRuns: 60 },
    );
  });
});
