// streamOptimized disks: written once, in order; read by us and QEMU, QEMU's read by us; what damaged ones do.

import { execFile, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { deflateSync } from 'node:zlib';
import { FaultFolder, Random } from '@cowlab/conformance';
import {
  createDisk,
  type Disk,
  isCowlabError,
  MemoryFolder,
  openDisk,
  type OptionValues,
  type StorageFolder,
} from '@cowlab/core';
import { vmdk } from '@cowlab/vmdk-chain';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { CrashFolder, type Fate } from './crash-folder.ts';

/** Rejects, or throws at once, with that code. */
const failsWith = (code: string, what: string, call: () => unknown): Promise<void> =>
  expect((async () => call())(), what).rejects.toMatchObject({ code });

const KIB = 1024;
const MIB = 1024 * KIB;
const GRAIN = 64 * KIB;
const SECTOR = 512;
const run = promisify(execFile);
const qemuIsMissing = spawnSync('qemu-img', ['--version']).status !== 0;

const open = (folder: StorageFolder, readOnly = false): Promise<Disk> =>
  openDisk({ folder, file: 'disk.vmdk' }, { drivers: [vmdk], format: 'vmdk', readOnly });

async function newStream(size: number, options: OptionValues = {}): Promise<MemoryFolder> {
  const folder = new MemoryFolder();
  const all = { subformat: 'streamOptimized', ...options };
  await createDisk({ folder, file: 'disk.vmdk' }, { driver: vmdk, size, options: all });
  return folder;
}

async function bytesOf(disk: Disk): Promise<Buffer> {
  const bytes = Buffer.alloc(disk.size);
  await disk.read(0, bytes);
  return bytes;
}

async function fileIn(folder: MemoryFolder): Promise<Buffer> {
  const storage = await folder.open('disk.vmdk', { readOnly: true });
  const bytes = Buffer.alloc(storage.size());
  await storage.read(0, bytes);
  await storage.close();
  return bytes;
}

async function put(folder: MemoryFolder, bytes: Uint8Array): Promise<void> {
  await folder.remove('disk.vmdk');
  const storage = await folder.create('disk.vmdk');
  await storage.write(0, bytes);
  await storage.close();
}

const text = (length: number, seed: number): Buffer => Buffer.alloc(length, `grain ${seed} of the disk, `);

/** Some grains of 70 MiB, so that three tables are in use: repetitive ones, and one that is not. */
async function written(folder: StorageFolder): Promise<Buffer> {
  const disk = await open(folder);
  const expected = Buffer.alloc(disk.size);
  const write = async (offset: number, bytes: Buffer): Promise<void> => {
    expect(await disk.writeCompressed(offset, bytes)).toBe(bytes.length);
    bytes.copy(expected, offset);
  };
  await write(0, text(3 * GRAIN, 1));
  await write(5 * GRAIN, randomBytes(2 * GRAIN));
  await write(33 * MIB, text(GRAIN, 2));
  await write(disk.size - (disk.size % GRAIN), text(disk.size % GRAIN, 3));
  await disk.close();
  return expected;
}

const SIZE = 70 * MIB + 5 * SECTOR;
/** What became of a disk that `bytes` were being written to. */
async function outcomeOf(folder: StorageFolder, bytes: Buffer): Promise<string> {
  let disk: Disk;
  try {
    disk = await open(folder, true);
  } catch (error) {
    return isCowlabError(error, 'ERR_CORRUPT') ? 'refused' : String(error);
  }
  const found = await bytesOf(disk);
  await disk.close();
  return found.equals(bytes) ? 'whole' : found.equals(Buffer.alloc(bytes.length)) ? 'as new' : 'torn';
}

const inFile = (bytes: Buffer, sector: number): number => bytes.readUInt32LE(sector * SECTOR + 8);

describe('a stream-optimized disk', () => {
  it('reads as zeros when it is new, and as it was written when it is complete', async () => {
    const folder = await newStream(SIZE);
    const empty = await open(folder, true);
    expect((await bytesOf(empty)).equals(Buffer.alloc(SIZE))).toBe(true);
    expect(await empty.check()).toMatchObject({ corruptions: 0, leaks: 0, allocatedBytes: 0 });
    expect((await empty.info()).details['create type']).toBe('streamOptimized');
    await empty.close();
    const expected = await written(folder);
    const disk = await open(folder, true);
    expect((await bytesOf(disk)).equals(expected)).toBe(true);
    expect(await disk.check()).toMatchObject({ corruptions: 0, leaks: 0, allocatedBytes: 7 * GRAIN });
    const small = Buffer.alloc(100);
    await disk.read(5 * GRAIN + 777, small);
    expect(small.equals(expected.subarray(5 * GRAIN + 777, 5 * GRAIN + 877))).toBe(true);
    await disk.close();
  });

  it('that nobody wrote to stays one that can be written', async () => {
    const folder = await newStream(MIB);
    const before = await fileIn(folder);
    await (await open(folder)).close();
    expect((await fileIn(folder)).equals(before)).toBe(true);
    await written(folder).catch(() => undefined);
  });

  it('takes compressed writes only, each unit once and in order, and says so', async () => {
    const folder = await newStream(4 * MIB);
    const disk = await open(folder);
    expect(disk.compression).toBe('only');
    const bytes = text(GRAIN, 1);
    await disk.writeCompressed(GRAIN, bytes);
    await failsWith('ERR_UNSUPPORTED', 'an earlier one', () => disk.writeCompressed(0, bytes));
    await failsWith('ERR_UNSUPPORTED', 'the same', () => disk.writeCompressed(GRAIN, bytes));
    await failsWith('ERR_UNSUPPORTED', 'write', () => disk.write(2 * GRAIN, bytes));
    await failsWith('ERR_UNSUPPORTED', 'writeZeroes', () => disk.writeZeroes(2 * GRAIN, GRAIN));
    await failsWith('ERR_UNSUPPORTED', 'discard', () => disk.discard(0, 2 * GRAIN));
    await failsWith('ERR_UNSUPPORTED', 'read', () => disk.read(0, new Uint8Array(10)));
    await failsWith('ERR_UNSUPPORTED', 'a snapshot', () => disk.snapshots.create('one'));
    await disk.writeCompressed(3 * GRAIN, bytes);
    await disk.close();
    const again = await open(folder, true);
    expect((await bytesOf(again)).subarray(GRAIN, 2 * GRAIN).equals(bytes)).toBe(true);
    expect(again.compression).toBe('none');
    await again.close();
    await failsWith('ERR_UNSUPPORTED', 'opening a complete one for writing', () => open(folder));
    const base = { file: 'disk.vmdk', format: 'vmdk' };
    const options = { subformat: 'streamOptimized' };
    await failsWith('ERR_UNSUPPORTED', 'one over a backing', () =>
      createDisk({ folder, file: 'top.vmdk' }, { driver: vmdk, backing: base, options }),
    );
  });

  it('can be the parent of one that is written', async () => {
    const folder = await newStream(SIZE);
    const expected = await written(folder);
    const backing = { file: 'disk.vmdk', format: 'vmdk' };
    await createDisk({ folder, file: 'top.vmdk' }, { driver: vmdk, backing });
    const top = await openDisk({ folder, file: 'top.vmdk' }, { drivers: [vmdk] });
    const bytes = text(1000, 9);
    await top.write(GRAIN + 500, bytes);
    bytes.copy(expected, GRAIN + 500);
    await top.snapshots.create('kept');
    await top.write(6 * GRAIN, bytes);
    bytes.copy(expected, 6 * GRAIN);
    await top.snapshots.delete('kept');
    expect((await bytesOf(top)).equals(expected)).toBe(true);
    expect(await top.check()).toMatchObject({ corruptions: 0, leaks: 0 });
    await top.close();
  });

  it('written by several calls at once is in their order', async () => {
    const folder = await newStream(8 * MIB);
    const disk = await open(folder);
    const parts = Array.from({ length: 4 }, (_, nth) => text(2 * MIB, nth));
    await Promise.all(parts.map((bytes, nth) => disk.writeCompressed(nth * 2 * MIB, bytes)));
    await disk.close();
    const again = await open(folder, true);
    expect((await bytesOf(again)).equals(Buffer.concat(parts))).toBe(true);
    await again.close();
  });

  it.each(['EIO', 'ENOSPC'] as const)(
    'whose writing fails with %s anywhere is whole, or is refused',
    async (kind) => {
      for (let nth = 1, isDone = false; !isDone; nth += 1) {
        const inner = await newStream(4 * MIB);
        const folder = new FaultFolder(inner);
        const bytes = text(4 * MIB, 5);
        const disk = await open(folder);
        folder.arm({ kind, methods: ['write', 'flush', 'truncate'], nth });
        const failures: unknown[] = [];
        for (const at of [0, 2 * MIB]) {
          await disk
            .writeCompressed(at, bytes.subarray(at, at + 2 * MIB))
            .catch((error: unknown) => failures.push(error));
        }
        await disk.close().catch((error: unknown) => failures.push(error));
        isDone = folder.fired === 0;
        folder.disarm();
        if (isDone) expect(failures).toEqual([]);
        else expect(failures.length).toBeGreaterThan(0);
        expect(['as new', 'whole', 'refused']).toContain(await outcomeOf(inner, bytes));
      }
    },
  );

  const fates: readonly Fate[] = ['kept', 'lost', 'by chance'];
  /** Grains beside each other under one table, and one grain under each of two. */
  const shapes = [
    { size: 4 * GRAIN, grain: GRAIN, writes: [0, 2 * GRAIN], length: 2 * GRAIN },
    { size: 4 * MIB, grain: 4 * KIB, writes: [0, 3 * MIB], length: 4 * KIB },
  ];
  it.each(fates.flatMap((fate) => shapes.map((shape) => [fate, shape] as const)))(
    'whose writing power cuts off anywhere (what was not flushed is %s) is as new, whole, or refused: %o',
    async (fate, { size, grain, writes, length }) => {
      const bytes = Buffer.alloc(size);
      for (const at of writes) text(length, 5).copy(bytes, at);
      const outcomes = new Set<string>();
      const seeds = fate === 'by chance' ? 60 : 1;
      for (let nth = 1, isOver = false; !isOver; nth += 1) {
        for (let seed = 0; seed < seeds; seed += 1) {
          const inner = await newStream(size, { grain_size: grain });
          const folder = new CrashFolder(inner);
          const disk = await open(folder);
          folder.cutAt(nth);
          for (const at of writes)
            await disk.writeCompressed(at, bytes.subarray(at, at + length)).catch(() => undefined);
          await disk.close().catch(() => undefined);
          isOver = !folder.isOff;
          await folder.settle(fate, new Random(nth * seeds + seed));
          outcomes.add(await outcomeOf(inner, bytes));
        }
      }
      expect([...outcomes].filter((one) => !['as new', 'whole', 'refused'].includes(one))).toEqual([]);
      expect(outcomes).toContain('whole');
      expect(outcomes).toContain('refused');
    },
  );

  it('cut anywhere is refused', async () => {
    const folder = await newStream(4 * MIB);
    const disk = await open(folder);
    await disk.writeCompressed(0, text(4 * MIB, 1));
    await disk.close();
    const whole = await fileIn(folder);
    for (let length = 0; length < whole.length; length += 100) {
      await put(folder, whole.subarray(0, length));
      await failsWith('ERR_CORRUPT', `of ${length} bytes`, () => open(folder, true));
    }
  });
});

/** Sector 128 is the first grain's; the directory and the footer are the last things in the file. */
const damages: readonly (readonly [string, (bytes: Buffer) => void, string])[] = [
  ['another grain', (bytes) => void bytes.writeUInt32LE(128, 128 * SECTOR), 'grain.lba'],
  ['a grain past the disk', (bytes) => void bytes.writeUInt32LE(0xffff_ffff, 128 * SECTOR + 4), 'grain.lba'],
  ['no bytes', (bytes) => void bytes.writeUInt32LE(0, 128 * SECTOR + 8), 'grain.size'],
  ['4 GiB of bytes', (bytes) => void bytes.writeUInt32LE(0xffff_ffff, 128 * SECTOR + 8), 'grain.size'],
  ['fewer bytes than it has', (bytes) => void bytes.writeUInt32LE(60, 128 * SECTOR + 8), 'grain.data'],
  [
    'a byte that is another',
    (bytes) => void bytes.writeUInt8(bytes.readUInt8(128 * SECTOR + 60) ^ 1, 128 * SECTOR + 60),
    'grain.data',
  ],
  [
    'more than a grain',
    (bytes) => {
      const bomb = deflateSync(Buffer.alloc(64 * MIB));
      bytes.writeUInt32LE(Math.min(bomb.length, 2 * GRAIN), 128 * SECTOR + 8);
      bomb.copy(bytes, 128 * SECTOR + 12);
    },
    'grain.data',
  ],
];

describe('a grain that says', () => {
  it.each(damages)(
    '%s is refused by name, check reports it, and nothing else is',
    async (_, damage, field) => {
      const folder = await newStream(SIZE);
      const expected = await written(folder);
      const bytes = await fileIn(folder);
      damage(bytes);
      await put(folder, bytes);
      const disk = await open(folder, true);
      const reading = async (): Promise<void> => disk.read(100, new Uint8Array(10));
      await expect(reading()).rejects.toMatchObject({
        code: 'ERR_CORRUPT',
        data: { file: 'disk.vmdk', field },
      });
      const target = Buffer.alloc(10);
      await disk.read(33 * MIB, target);
      expect(target.equals(expected.subarray(33 * MIB, 33 * MIB + 10))).toBe(true);
      expect((await disk.check()).corruptions).toBeGreaterThan(0);
      await disk.close();
    },
  );

  it('it is somewhere that no table knows is a leak; a marker that is none is corruption', async () => {
    const folder = await newStream(SIZE);
    await written(folder);
    const bytes = await fileIn(folder);
    // The first table's first entry goes: it lies behind the grains that it maps.
    const table = bytes.indexOf(Buffer.from([0x80, 0, 0, 0, 0x81, 0, 0, 0]), 128 * SECTOR);
    expect(table % SECTOR).toBe(0);
    const without = Buffer.from(bytes);
    without.writeUInt32LE(0, table);
    await put(folder, without);
    const disk = await open(folder, true);
    expect(await disk.check()).toMatchObject({ corruptions: 0, leaks: 1 });
    await disk.close();
    const lost = Buffer.from(bytes);
    lost.writeUInt32LE(77, table - SECTOR + 12);
    await put(folder, lost);
    const other = await open(folder, true);
    const { findings } = await other.check();
    expect(findings.map(({ structure }) => structure)).toContain('marker');
    await other.close();
  });
});

describe('a header of a stream', () => {
  const footerAt = (bytes: Buffer): number => bytes.length - 2 * SECTOR;
  it.each<[string, (bytes: Buffer) => void, string, string]>([
    [
      'with markers and without compression',
      (bytes) => void bytes.writeUInt32LE(0x2_0001, footerAt(bytes) + 8),
      'ERR_UNSUPPORTED',
      'header.flags',
    ],
    [
      'with another algorithm',
      (bytes) => void bytes.writeUInt16LE(2, footerAt(bytes) + 77),
      'ERR_UNSUPPORTED',
      'header.compressAlgorithm',
    ],
    [
      'whose footer knows no directory',
      (bytes) => void bytes.fill(0xff, footerAt(bytes) + 56, footerAt(bytes) + 64),
      'ERR_CORRUPT',
      'footer.gdOffset',
    ],
    [
      'whose footer is none',
      (bytes) => void bytes.fill(0, footerAt(bytes), footerAt(bytes) + 4),
      'ERR_CORRUPT',
      'footer.magicNumber',
    ],
    [
      'whose footer has no marker',
      (bytes) => void bytes.writeUInt32LE(2, footerAt(bytes) - SECTOR + 12),
      'ERR_CORRUPT',
      'footer.marker',
    ],
    [
      'whose end has no marker',
      (bytes) => void bytes.writeUInt32LE(1, bytes.length - SECTOR + 8),
      'ERR_CORRUPT',
      'footer.marker',
    ],
    [
      'whose directory lies outside',
      (bytes) => void bytes.writeUInt32LE(0x7fff_ffff, footerAt(bytes) + 56),
      'ERR_CORRUPT',
      'header.gdOffset',
    ],
  ])('%s is refused by name', async (_, damage, code, field) => {
    const folder = await newStream(SIZE);
    await written(folder);
    const bytes = await fileIn(folder);
    expect(inFile(bytes, 128)).toBeGreaterThan(0);
    damage(bytes);
    await put(folder, bytes);
    for (const readOnly of [true, false])
      await expect(open(folder, readOnly)).rejects.toMatchObject({
        code,
        data: { file: 'disk.vmdk', field },
      });
  });
});

describe.skipIf(qemuIsMissing)('QEMU', () => {
  let folder: string;
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'cowlab-stream-'));
  });
  afterEach(() => rm(folder, { recursive: true, force: true }));
  const img = async (...args: string[]): Promise<string> =>
    (await run('qemu-img', args, { cwd: folder })).stdout;
  const openFile = (readOnly: boolean): Promise<Disk> =>
    openDisk(join(folder, 'disk.vmdk'), { drivers: [vmdk], format: 'vmdk', readOnly });

  it.each([4 * KIB, GRAIN, MIB])('reads what we write, with grains of %i bytes', async (grain_size) => {
    const bytes = Buffer.concat([
      text(3 * MIB, 1),
      Buffer.alloc(40 * MIB),
      randomBytes(MIB),
      text(700 * SECTOR, 2),
    ]);
    await writeFile(join(folder, 'source.raw'), bytes);
    const options = { subformat: 'streamOptimized', grain_size };
    await createDisk(join(folder, 'disk.vmdk'), { driver: vmdk, size: bytes.length, options });
    const disk = await openFile(false);
    expect(disk.unitBytes).toBe(grain_size);
    await disk.writeCompressed(0, bytes.subarray(0, 3 * MIB));
    await disk.writeCompressed(43 * MIB, bytes.subarray(43 * MIB));
    await disk.close();
    await img('compare', '-f', 'raw', '-F', 'vmdk', 'source.raw', 'disk.vmdk');
    const info: unknown = JSON.parse(await img('info', '--output=json', 'disk.vmdk'));
    expect(info).toMatchObject({ 'format-specific': { data: { 'create-type': 'streamOptimized' } } });
    expect(await img('check', '-f', 'vmdk', 'disk.vmdk')).toContain('No errors');
  });

  it('wrote what we read', async () => {
    const bytes = Buffer.concat([
      text(3 * MIB, 1),
      Buffer.alloc(40 * MIB),
      randomBytes(MIB),
      text(700 * SECTOR, 2),
    ]);
    await writeFile(join(folder, 'source.raw'), bytes);
    const subformat = 'subformat=streamOptimized';
    await img('convert', '-f', 'raw', '-O', 'vmdk', '-o', subformat, 'source.raw', 'disk.vmdk');
    const before = await readFile(join(folder, 'disk.vmdk'));
    const disk = await openFile(true);
    expect((await bytesOf(disk)).equals(bytes)).toBe(true);
    expect(await disk.check()).toMatchObject({ corruptions: 0, leaks: 0 });
    await disk.close();
    await failsWith('ERR_UNSUPPORTED', 'opening it for writing', () => openFile(false));
    expect((await readFile(join(folder, 'disk.vmdk'))).equals(before)).toBe(true);
  });
});
