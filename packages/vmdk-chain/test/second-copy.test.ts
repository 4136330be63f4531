// The second copy of directory and tables, where the first is damaged: read on, told by check, put right by a repair.

import {
  type Awaitable,
  CowlabError,
  createDisk,
  type Disk,
  isCowlabError,
  MemoryFolder,
  openDisk,
} from '@cowlab/core';
import { InterceptedFolder, pattern, type StorageCall } from '@cowlab/conformance';
import { vmdk } from '@cowlab/vmdk-chain';
import { describe, expect, it } from 'vitest';

const SECTOR = 512;
const GRAIN = 4096;
/** Three grain tables. */
const SIZE = 5 * 1024 * 1024;
const FILE = 'disk.vmdk';

async function bytesIn(folder: MemoryFolder, file: string): Promise<Buffer> {
  const storage = await folder.open(file, { readOnly: true });
  const bytes = Buffer.alloc(storage.size());
  await storage.read(0, bytes);
  await storage.close();
  return bytes;
}

async function change(folder: MemoryFolder, damage: (image: Buffer) => void, file = FILE): Promise<void> {
  const image = await bytesIn(folder, file);
  damage(image);
  const storage = await folder.open(file, { readOnly: false });
  await storage.write(0, image);
  await storage.close();
}

interface Opening {
  readonly readOnly?: boolean;
  readonly forRepair?: boolean;
}

const open = (folder: MemoryFolder, options: Opening = {}): Promise<Disk> =>
  openDisk({ folder, file: FILE }, { drivers: [vmdk], format: 'vmdk', ...options });

async function bytesOf(disk: Disk): Promise<Buffer> {
  const bytes = Buffer.alloc(disk.size);
  await disk.read(0, bytes);
  return bytes;
}

/** A disk with something in each table, closed; and what it reads as. */
async function make(subformat = 'monolithicSparse'): Promise<{ folder: MemoryFolder; expected: Buffer }> {
  const folder = new MemoryFolder();
  const options = { grain_size: GRAIN, subformat };
  await createDisk({ folder, file: FILE }, { driver: vmdk, size: SIZE, options });
  const disk = await open(folder);
  await disk.write(0, pattern(1, 3 * GRAIN));
  await disk.write(2 * 1024 * 1024 + 700, pattern(2, 2 * GRAIN));
  await disk.write(SIZE - 900, pattern(3, 900));
  const expected = await bytesOf(disk);
  await disk.close();
  return { folder, expected };
}

const directoryAt = (image: Buffer, field: 'gd' | 'rgd'): number =>
  image.readUInt32LE(field === 'gd' ? 56 : 48) * SECTOR;
const tableAt = (image: Buffer, field: 'gd' | 'rgd', index: number): number =>
  image.readUInt32LE(directoryAt(image, field) + index * 4) * SECTOR;

interface Damage {
  readonly what: string;
  readonly damage: (image: Buffer) => void;
  readonly structure: string;
  /** A writer is refused, but for a repair. */
  readonly isRefused: boolean;
  readonly isRepaired: boolean;
}

const damages: readonly Damage[] = [
  {
    what: 'a directory entry that leads out of the file',
    damage: (image) => void image.writeUInt32LE(0x7fffffff, directoryAt(image, 'gd') + 4),
    structure: 'grain directory',
    isRefused: true,
    isRepaired: true,
  },
  {
    what: 'two directory entries that lead to one table',
    damage: (image) =>
      void image.copy(
        image,
        directoryAt(image, 'gd') + 4,
        directoryAt(image, 'gd'),
        directoryAt(image, 'gd') + 4,
      ),
    structure: 'grain directory',
    isRefused: true,
    isRepaired: true,
  },
  {
    what: 'a directory that is gone',
    damage: (image) => void image.fill(0xff, directoryAt(image, 'gd'), directoryAt(image, 'gd') + 12),
    structure: 'grain directory',
    isRefused: true,
    isRepaired: true,
  },
  {
    what: 'a header that leads nowhere',
    damage: (image) => void image.writeUInt32LE(0x7fffffff, 56),
    structure: 'header',
    isRefused: true,
    isRepaired: false,
  },
  {
    what: 'a grain table of rubbish',
    damage: (image) => void image.fill(0xee, tableAt(image, 'gd', 1), tableAt(image, 'gd', 1) + 2048),
    structure: 'grain table',
    isRefused: false,
    isRepaired: true,
  },
];

describe.each(damages)('with $what', ({ damage, structure, isRefused, isRepaired }) => {
  it.each(['monolithicSparse', 'twoGbMaxExtentSparse'])(
    'a %s disk reads as before, and check tells',
    async (subformat) => {
      const { folder, expected } = await make(subformat);
      await change(folder, damage, subformat === 'monolithicSparse' ? FILE : 'disk-s001.vmdk');
      const disk = await open(folder, { readOnly: true });
      expect((await bytesOf(disk)).equals(expected)).toBe(true);
      const report = await disk.check();
      expect(report.corruptions).toBeGreaterThan(0);
      expect(report.findings[0]).toMatchObject({ severity: 'corruption', structure, repaired: false });
      await disk.close();
    },
  );

  it('a writer is refused, or mends what it writes', async () => {
    const { folder, expected } = await make();
    await change(folder, damage);
    if (isRefused) {
      await expect(open(folder)).rejects.toMatchObject({ code: 'ERR_CORRUPT' });
      return;
    }
    const disk = await open(folder);
    await disk.write(3 * 1024 * 1024, pattern(4, GRAIN));
    expected.set(pattern(4, GRAIN), 3 * 1024 * 1024);
    await disk.close();
    const again = await open(folder);
    expect((await bytesOf(again)).equals(expected)).toBe(true);
    expect((await again.check()).findings).toEqual([]);
    await again.close();
  });

  it('a repair puts it right, or leaves it as it is', async () => {
    const { folder, expected } = await make();
    await change(folder, damage);
    const disk = await open(folder, { forRepair: true });
    const report = await disk.check({ repair: 'all' });
    await disk.close();
    if (!isRepaired) {
      expect(report).toMatchObject({ repaired: 0 });
      return;
    }
    expect(report).toMatchObject({ corruptions: 0, leaks: 0 });
    expect(report.repaired).toBeGreaterThan(0);
    const again = await open(folder);
    expect((await bytesOf(again)).equals(expected)).toBe(true);
    expect((await again.check()).findings).toEqual([]);
    await again.write(3 * 1024 * 1024, pattern(4, GRAIN));
    await again.close();
  });
});

it('a second copy that is behind is written again by a repair', async () => {
  const { folder } = await make();
  await change(folder, (image) => void image.fill(0, tableAt(image, 'rgd', 0), tableAt(image, 'rgd', 0) + 8));
  const disk = await open(folder);
  expect(await disk.check()).toMatchObject({ corruptions: 0, leaks: 1 });
  expect(await disk.check({ repair: 'all' })).toMatchObject({ corruptions: 0, leaks: 0, repaired: 1 });
  await disk.close();
});

it('damage of both copies is refused where it is met', async () => {
  const { folder } = await make();
  await change(folder, (image) => {
    for (const field of ['gd', 'rgd'] as const)
      image.fill(0xee, tableAt(image, field, 1), tableAt(image, field, 1) + 2048);
  });
  const disk = await open(folder);
  const failure = await Promise.resolve()
    .then(() => disk.read(2 * 1024 * 1024, Buffer.alloc(512)))
    .catch((error: unknown) => error);
  expect(isCowlabError(failure, 'ERR_CORRUPT')).toBe(true);
  expect(await disk.check({ repair: 'all' })).toMatchObject({ repaired: 0 });
  await disk.close();
});

it('a table that the medium does not give out is an error, and written again by a repair', async () => {
  const { folder, expected } = await make();
  const at = tableAt(await bytesIn(folder, FILE), 'gd', 1);
  /** Each read of the table fails until it has been written. */
  class WornFolder extends InterceptedFolder {
    #isWritten = false;

    override intercept<T>(call: StorageCall, run: () => Awaitable<T>): Awaitable<T> {
      const isThere = call.offset <= at && at < call.offset + call.length;
      if (call.method === 'write' && isThere) this.#isWritten = true;
      if (call.method === 'read' && isThere && !this.#isWritten) throw new CowlabError('ERR_IO', 'worn out');
      return run();
    }
  }
  const worn = new WornFolder(folder);
  const disk = await openDisk({ folder: worn, file: FILE }, { drivers: [vmdk], format: 'vmdk' });
  const read = async (): Promise<Buffer> => bytesOf(disk);
  await expect(read()).rejects.toMatchObject({ code: 'ERR_IO' });
  expect(await disk.check({ repair: 'all' })).toMatchObject({ corruptions: 0, repaired: 1 });
  expect((await read()).equals(expected)).toBe(true);
  await disk.close();
});
