import { beforeEach, describe, expect, it } from 'vitest';
import {
  CountingFolder,
  createDisk,
  Disk,
  MemoryFolder,
  openDisk,
  raw,
  type ReadSource,
  totalCounts,
} from '../src/index.ts';
import { PAGE_BYTES, PagedImage, type PagedOptions, paged } from './paged-driver.ts';

/* What a local copy asks of the backing and of the driver, seen from both. */

const PAGES = 10;
const SIZE = PAGES * PAGE_BYTES + 100;
let folder: CountingFolder;

beforeEach(() => {
  folder = new CountingFolder(new MemoryFolder());
});

interface Made {
  readonly disk: Disk;
  readonly image: PagedImage;
}

async function make(options: Partial<PagedOptions>, copyOnRead = false): Promise<Made> {
  const image = new PagedImage(await folder.create('image'), { size: SIZE, ...options });
  return { disk: new Disk(paged, image, 'image', false, { copyOnRead }), image };
}

/** A backing whose page n holds byte n + 1, or zeros where it says so; `known`: its mapping says so, too. */
function backingOf(
  size: number,
  zeros: readonly number[] = [],
  known = false,
): ReadSource & { readonly reads: string[] } {
  const isZero = (offset: number): boolean => zeros.includes(Math.floor(offset / PAGE_BYTES));
  const reads: string[] = [];
  return {
    reads,
    size,
    read: (offset, target) => {
      reads.push(`${offset}+${target.length}`);
      for (let at = 0; at < target.length; at++) {
        const page = Math.floor((offset + at) / PAGE_BYTES);
        target[at] = isZero(offset + at) ? 0 : page + 1;
      }
    },
    resolve: (offset, asked) => {
      const length = Math.min(asked, PAGE_BYTES - (offset % PAGE_BYTES));
      const kind = known && isZero(offset) ? 'zero' : 'encoded';
      return { kind, length, depth: 0, allocated: true };
    },
  };
}

const changes = ({ log }: PagedImage): string[] => log.filter((entry) => !entry.startsWith('reserve'));

describe('populate', () => {
  it('takes zeros that the backing knows of as a mapping, and reads nothing for them', async () => {
    const backing = backingOf(3 * PAGE_BYTES, [1], true);
    const { disk, image } = await make({ backing });
    const report = await disk.populate();
    expect(changes(image)).toEqual([
      'commit 0',
      `zero ${PAGE_BYTES}+${PAGE_BYTES}`,
      `commit ${2 * PAGE_BYTES}`,
    ]);
    expect(backing.reads).toEqual([`0+${PAGE_BYTES}`, `${2 * PAGE_BYTES}+${PAGE_BYTES}`]);
    expect(report).toMatchObject({ readBytes: 2 * PAGE_BYTES, zeroedBytes: PAGE_BYTES });
  });

  it('takes units of zeros that it has read as mappings', async () => {
    const { disk, image } = await make({ backing: backingOf(3 * PAGE_BYTES, [0, 2]) });
    await disk.populate();
    expect(changes(image)).toEqual([
      `zero 0+${PAGE_BYTES}`,
      `commit ${PAGE_BYTES}`,
      `zero ${2 * PAGE_BYTES}+${PAGE_BYTES}`,
    ]);
  });

  it('reads no holes of a raw backing', async () => {
    const base = { folder, file: 'base' };
    await createDisk(base, { driver: raw, size: SIZE });
    const backing = await openDisk(base, { format: 'raw' });
    const { disk, image } = await make({ backing });
    folder.reset();
    await disk.populate();
    expect(totalCounts(folder.counts).reads).toBe(0);
    expect(image.log.every((entry) => entry.startsWith('zero'))).toBe(true);
  });

  it('lets be what lies past the end of the backing, and takes the unit that its end cuts', async () => {
    const { disk, image } = await make({ backing: backingOf(PAGE_BYTES + 10) });
    await disk.populate();
    expect(changes(image)).toEqual(['commit 0', `commit ${PAGE_BYTES}`]);
    const found = new Uint8Array(12);
    await disk.read(PAGE_BYTES + 9, found);
    expect([...found.subarray(0, 2)]).toEqual([2, 0]);
  });

  it('takes whole units for a range that cuts them, and no others', async () => {
    const { disk, image } = await make({ backing: backingOf(SIZE) });
    await disk.populate(PAGE_BYTES + 1, PAGE_BYTES);
    expect(changes(image)).toEqual([`commit ${PAGE_BYTES}`, `commit ${2 * PAGE_BYTES}`]);
    await disk.populate(SIZE - 1, 1);
    expect(image.log.at(-1)).toBe(`commit ${PAGES * PAGE_BYTES}`);
  });

  it('stops between steps when it is aborted or the disk is closed', async () => {
    const { disk } = await make({ backing: backingOf(SIZE) });
    const signal = AbortSignal.abort(new Error('enough'));
    await expect(disk.populate(0, SIZE, { signal })).rejects.toMatchObject({ code: 'ERR_ABORTED' });
    const running = disk.populate();
    const closed = disk.close();
    await expect(running).rejects.toMatchObject({ code: 'ERR_CLOSED' });
    await closed;
    expect(disk.closing.aborted).toBe(true);
  });

  it('asks about a bounded part of a large disk at a time', async () => {
    const size = 2 ** 40;
    const { disk, image } = await make({ size, backing: backingOf(size) });
    const asked: number[] = [];
    const map = image.map.bind(image);
    image.map = (offset, length) => {
      asked.push(length);
      return map(offset, length);
    };
    expect(await disk.nextBacked(PAGE_BYTES)).toMatchObject({ offset: PAGE_BYTES });
    await disk.populate(size / 2, 3 * PAGE_BYTES);
    expect(Math.max(...asked)).toBeLessThanOrEqual(64 * 1024 * 1024);
  });

  it('is refused outside of the disk', async () => {
    const { disk } = await make({ backing: backingOf(SIZE) });
    await expect(disk.populate(0, SIZE + 1)).rejects.toThrow(RangeError);
    await expect(disk.populate(-1, 1)).rejects.toThrow(RangeError);
  });
});

describe('a read that copies', () => {
  it.each([false, true])('asks the backing once for whole units (slow map: %s)', async (slowMap) => {
    const backing = backingOf(SIZE);
    const { disk, image } = await make({ backing, slowMap }, true);
    const found = new Uint8Array(2);
    await disk.read(PAGE_BYTES - 1, found);
    expect([...found]).toEqual([1, 2]);
    await disk.read(10, found);
    expect([...found]).toEqual([1, 1]);
    expect(backing.reads).toEqual([`0+${PAGE_BYTES}`, `${PAGE_BYTES}+${PAGE_BYTES}`]);
    expect(changes(image)).toEqual(['commit 0', `commit ${PAGE_BYTES}`]);
    expect(disk.stats()).toMatchObject({ copiedBytes: 2 * PAGE_BYTES, failedCopies: 0 });
  });

  it('of local bytes returns without a promise', async () => {
    const { disk } = await make({ backing: backingOf(SIZE) }, true);
    await disk.populate();
    expect(disk.read(5, new Uint8Array(100))).toBeUndefined();
  });

  it('past the end of the backing copies nothing', async () => {
    const { disk, image } = await make({ backing: backingOf(PAGE_BYTES) }, true);
    expect(disk.read(PAGE_BYTES, new Uint8Array(PAGE_BYTES))).toBeUndefined();
    expect(image.log).toEqual([]);
  });

  it('falls back to the bytes that were asked for when the rest of the unit cannot be read', async () => {
    const whole = backingOf(SIZE);
    const scratched: ReadSource = {
      ...whole,
      read: (offset, target) => {
        if (offset + target.length > 100) throw new Error('scratched');
        return whole.read(offset, target);
      },
    };
    const { disk, image } = await make({ backing: scratched }, true);
    const found = new Uint8Array(3);
    await disk.read(50, found);
    expect([...found]).toEqual([1, 1, 1]);
    expect(disk.stats()).toMatchObject({ copiedBytes: 0, failedCopies: 1 });
    expect(image.log).toEqual([]);
    await expect(async () => disk.read(200, found)).rejects.toThrow('scratched');
  });
});
