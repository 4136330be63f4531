// Dirty bitmaps that QEMU keeps in an image: what we write is in them, as QEMU would have it there, or they say that they
// are not to be trusted.

import { type ChildProcess, spawn } from 'node:child_process';
import { copyFile, readFile, writeFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { TraceFolder } from '@cowlab/conformance';
import { MemoryFolder, readU64BE, viewOf } from '@cowlab/core';
import { describe, expect, it } from 'vitest';
import { bufferOf, bytesIn, bytesOf, KIB, MIB, open, put, Qemu, qemuIsMissing } from './lab.ts';

const qemu = Qemu.forEachTest();

interface Run {
  readonly offset: number;
  readonly length: number;
}

/** What a bitmap holds, as QEMU serves it. */
async function dirty(file: string, bitmap: string): Promise<Run[]> {
  const socket = qemu.path('nbd.sock');
  const args = ['-r', '-t', '-f', 'qcow2', '-B', bitmap, '-k', socket, qemu.path(file)];
  const server: ChildProcess = spawn('qemu-nbd', args, { stdio: ['ignore', 'ignore', 'pipe'] });
  let problem = '';
  server.stderr?.on('data', (text: Buffer) => (problem += text.toString()));
  const ended = new Promise<void>((resolve) => void server.once('exit', () => resolve()));
  try {
    const source = `driver=nbd,server.type=unix,server.path=${socket},x-dirty-bitmap=qemu:dirty-bitmap:${bitmap}`;
    for (;;) {
      try {
        const extents = JSON.parse(await qemu.img('map', '--output=json', '--image-opts', source)) as {
          start: number;
          length: number;
          data: boolean;
        }[];
        return extents.filter(({ data }) => !data).map(({ start, length }) => ({ offset: start, length }));
      } catch (error) {
        if (server.exitCode !== null) throw new Error(problem, { cause: error });
        await delay(20);
      }
    }
  } finally {
    server.kill();
    await ended;
  }
}

interface Shown {
  readonly name: string;
  readonly granularity: number;
  readonly flags: string[];
}

async function shown(file = 'disk.qcow2'): Promise<Shown[]> {
  const info = JSON.parse(await qemu.img('info', '--output=json', file)) as {
    'format-specific': { data: { bitmaps?: Shown[] } };
  };
  return info['format-specific'].data.bitmaps ?? [];
}

/** A disk of 40 MiB with an enabled bitmap `b0`, a finer one `b1`, and a disabled one `off`; something is in each. */
async function create(option = 'cluster_size=64k', file = 'disk.qcow2'): Promise<void> {
  await qemu.img('create', '-q', '-f', 'qcow2', '-o', option, file, '40M');
  await qemu.img('bitmap', '--add', file, 'b0');
  await qemu.img('bitmap', '--add', '-g', '4096', file, 'b1');
  await qemu.img('bitmap', '--add', file, 'off');
  await qemu.io(file, 'write -P 1 1M 100k', 'write -P 2 30M 64k');
  await qemu.img('bitmap', '--disable', file, 'off');
}

const names = ['b0', 'b1', 'off'] as const;
const every = (file: string): Promise<Run[][]> =>
  names.reduce<Promise<Run[][]>>(
    async (before, name) => [...(await before), await dirty(file, name)],
    Promise.resolve([]),
  );

const flagsOf = async (file = 'disk.qcow2'): Promise<string[][]> =>
  (await shown(file)).map(({ flags }) => flags.toSorted());

describe.skipIf(qemuIsMissing)('bitmaps', () => {
  it.each([
    'cluster_size=64k',
    'cluster_size=512',
    'cluster_size=4k,refcount_bits=64',
    'lazy_refcounts=on',
    'extended_l2=on',
  ])('hold what we changed as if QEMU had changed it, beside what they held (%s)', async (option) => {
    await create(option);
    await copyFile(qemu.path('disk.qcow2'), qemu.path('twin.qcow2'));
    const ranges = [
      [1 * MIB + 4096, 8192],
      [5 * MIB, 70 * KIB],
      [9 * MIB + 512, 512],
      [39 * MIB + 999 * KIB, 25 * KIB],
    ] as const;
    const disk = await qemu.open();
    for (const [offset, length] of ranges) await disk.write(offset, bufferOf(length, 7));
    await disk.write(5 * MIB + 4 * KIB, bufferOf(4 * KIB, 8));
    await disk.flush();
    await disk.discard(20 * MIB, MIB);
    await disk.writeZeroes(25 * MIB, 128 * KIB);
    await disk.writeCompressed(10 * MIB, Buffer.alloc(64 * KIB, 5));
    const bytes = await bytesOf(disk);
    await disk.close();
    await qemu.io(
      'twin.qcow2',
      ...ranges.map(([offset, length]) => `write -P 7 ${offset} ${length}`),
      `discard ${20 * MIB} ${MIB}`,
      `write -z ${25 * MIB} ${128 * KIB}`,
      `write -P 5 ${10 * MIB} ${64 * KIB}`,
    );
    expect(await flagsOf()).toEqual([['auto'], ['auto'], []]);
    expect(await every('disk.qcow2')).toEqual(await every('twin.qcow2'));
    await qemu.assertSees('disk.qcow2', bytes);
    const again = await qemu.open('disk.qcow2', { readOnly: true });
    expect(await again.check()).toMatchObject({ corruptions: 0, leaks: 0 });
    await again.close();
  });

  it('are not touched by an open that only reads', async () => {
    await create();
    const before = await readFile(qemu.path('disk.qcow2'));
    const disk = await qemu.open();
    await bytesOf(disk);
    await disk.flush();
    await disk.close();
    expect((await readFile(qemu.path('disk.qcow2'))).equals(before)).toBe(true);
  });

  it('are merged by QEMU with what it has itself', async () => {
    await create();
    const disk = await qemu.open();
    await disk.write(35 * MIB, bufferOf(10, 1));
    await disk.close();
    await qemu.img('bitmap', '--add', '--disable', 'disk.qcow2', 'all');
    await qemu.img('bitmap', '--merge', 'b0', '--merge', 'off', 'disk.qcow2', 'all');
    expect(await dirty('disk.qcow2', 'all')).toEqual([
      { offset: MIB, length: 128 * KIB },
      { offset: 30 * MIB, length: 64 * KIB },
      { offset: 35 * MIB, length: 64 * KIB },
    ]);
    await qemu.img('check', 'disk.qcow2');
  });

  it('say that they are in use before the first byte of data is written', async () => {
    await create();
    const inner = new MemoryFolder();
    await put(inner, await readFile(qemu.path('disk.qcow2')));
    const folder = new TraceFolder(inner);
    const disk = await open(folder);
    folder.calls.length = 0;
    await disk.write(MIB, bufferOf(4 * KIB, 1));
    await disk.write(MIB + 4 * KIB, bufferOf(4 * KIB, 1));
    await disk.write(MIB, bufferOf(4 * KIB, 1));
    expect(folder.calls.map(({ method, purpose }) => `${method} ${purpose}`)).toEqual([
      'read mapping',
      'write mapping',
      'flush data',
      'write data',
      'write data',
      'write data',
    ]);
    await disk.flush();
    // The power goes now.
    await writeFile(qemu.path('disk.qcow2'), await bytesIn(inner));
    await disk.close();
    expect(await flagsOf()).toEqual([['auto', 'in-use'], ['auto', 'in-use'], []]);
    await expect(dirty('disk.qcow2', 'b0')).rejects.toThrow(/inconsistent/);
    await qemu.img('check', 'disk.qcow2');
    const again = await qemu.open();
    await again.write(2 * MIB, bufferOf(100, 1));
    expect(await again.info()).toMatchObject({
      details: {
        'bitmap b0': 'granularity 65536, in-use, auto',
        'bitmap b1': 'granularity 4096, in-use, auto',
        'bitmap off': 'granularity 65536',
      },
    });
    await again.close();
    expect(await flagsOf()).toEqual([['auto', 'in-use'], ['auto', 'in-use'], []]);
    await qemu.img('bitmap', '--remove', 'disk.qcow2', 'b0');
    await qemu.img('check', 'disk.qcow2');
  });

  it.each([
    ['larger', ['160M']],
    ['much larger, so that tables need another place', ['80G']],
    ['smaller', ['31M']],
    ['smaller and larger again', ['20M', '40M']],
  ])('fit a disk that is %s', async (_, sizes) => {
    await create('cluster_size=512');
    await qemu.io('disk.qcow2', 'write -P 3 39M 1M');
    await copyFile(qemu.path('disk.qcow2'), qemu.path('twin.qcow2'));
    const disk = await qemu.open();
    for (const size of sizes) {
      const bytes = Number(size.slice(0, -1)) * (size.endsWith('G') ? 1024 * MIB : MIB);
      await disk.resize(bytes);
      await qemu.img('resize', '-q', '-f', 'qcow2', '--shrink', 'twin.qcow2', size);
    }
    await disk.close();
    expect(await flagsOf()).toEqual([['auto'], ['auto'], []]);
    expect(await every('disk.qcow2')).toEqual(await every('twin.qcow2'));
    await qemu.img('check', 'disk.qcow2');
    const again = await qemu.open();
    await again.write(0, bufferOf(512, 1));
    expect(await again.check()).toMatchObject({ corruptions: 0, leaks: 0 });
    await again.close();
    await qemu.img('check', 'disk.qcow2');
  });

  it('stay with the disk when snapshots are taken and deleted; applying one is refused, as by QEMU', async () => {
    await create();
    const disk = await qemu.open();
    await disk.snapshots.create('one');
    await disk.write(7 * MIB, bufferOf(100, 1));
    await disk.snapshots.create('two');
    await disk.snapshots.delete('one');
    await expect(disk.snapshots.apply('two')).rejects.toMatchObject({
      code: 'ERR_UNSUPPORTED',
      data: { field: 'bitmaps' },
    });
    await disk.close();
    await expect(qemu.img('snapshot', '-a', 'two', 'disk.qcow2')).rejects.toThrow(/dirty bitmaps/);
    expect(await dirty('disk.qcow2', 'b0')).toContainEqual({ offset: 7 * MIB, length: 64 * KIB });
    await qemu.img('check', 'disk.qcow2');
  });

  it('that are all set stay so, and take no space', async () => {
    await create();
    const bytes = await readFile(qemu.path('disk.qcow2'));
    const table = tableOf(bytes, 0);
    // QEMU has set a bit here, so there is a cluster; its count goes with it.
    const cluster = Number(bytes.readBigUInt64BE(table)) / (64 * KIB);
    bytes.writeBigUInt64BE(1n, table);
    bytes.writeUInt16BE(0, Number(bytes.readBigUInt64BE(Number(bytes.readBigUInt64BE(48)))) + cluster * 2);
    await writeFile(qemu.path('disk.qcow2'), bytes);
    const disk = await qemu.open();
    await disk.write(0, bufferOf(100, 1));
    await disk.close();
    expect(await dirty('disk.qcow2', 'b0')).toEqual([{ offset: 0, length: 40 * MIB }]);
    expect((await readFile(qemu.path('disk.qcow2'))).readBigUInt64BE(table)).toBe(1n);
    await qemu.img('check', 'disk.qcow2');
  });

  it('cost memory only for what is written', async () => {
    await create();
    const disk = await qemu.open();
    await disk.write(0, bufferOf(10, 1));
    const before = disk.stats().residentMetadataBytes;
    await disk.write(0, bufferOf(10, 1));
    expect(disk.stats().residentMetadataBytes).toBe(before);
    await disk.write(39 * MIB, bufferOf(10, 1));
    expect(disk.stats().residentMetadataBytes - before).toBe(512);
    await disk.close();
  });

  it('are guarded: no write hits their directory', async () => {
    await create();
    const bytes = await readFile(qemu.path('disk.qcow2'));
    const directory = directoryOf(bytes);
    const l2 = Number(bytes.readBigUInt64BE(Number(bytes.readBigUInt64BE(40))) & 0x00ff_ffff_ffff_fe00n);
    bytes.writeBigUInt64BE((1n << 63n) | BigInt(directory), l2 + 8 * 16);
    await writeFile(qemu.path('disk.qcow2'), bytes);
    const disk = await qemu.open();
    const writing = async (): Promise<void> => disk.write(MIB, bufferOf(100, 1));
    await expect(writing()).rejects.toMatchObject({
      code: 'ERR_CORRUPT',
      data: { field: 'bitmap directory', offset: directory },
    });
    await disk.close();
    expect((await shown()).map(({ name }) => name)).toEqual([...names]);
    expect(await qemu.img('info', '--output=json', 'disk.qcow2')).toMatch(/"corrupt": true/);
  });

  it('that others made stale by a write are not revived', async () => {
    await create();
    const bytes = await readFile(qemu.path('disk.qcow2'));
    bytes.writeUInt8(0, 95);
    await writeFile(qemu.path('disk.qcow2'), bytes);
    const disk = await qemu.open();
    await disk.write(0, bufferOf(10, 1));
    expect((await disk.check({ repair: 'leaks' })).repaired).toBeGreaterThan(0);
    await disk.close();
    expect(await shown()).toEqual([]);
    await qemu.img('check', 'disk.qcow2');
  });
});

/** Where the directory of an image lies: in the extension of type 0x23852875. */
function directoryOf(bytes: Buffer): number {
  let at = bytes.readUInt32BE(100);
  while (bytes.readUInt32BE(at) !== 0x2385_2875) at += 8 + Math.ceil(bytes.readUInt32BE(at + 4) / 8) * 8;
  return readU64BE(viewOf(bytes), at + 24);
}

const tableOf = (bytes: Buffer, nth: number): number =>
  readU64BE(viewOf(bytes), directoryOf(bytes) + nth * 32);

const inEntry =
  (at: number, write: (bytes: Buffer, at: number) => unknown) =>
  (bytes: Buffer): void =>
    void write(bytes, directoryOf(bytes) + at);

describe.skipIf(qemuIsMissing)('malformed bitmaps', () => {
  it.each<[string, (bytes: Buffer) => void, string, string]>([
    [
      'a table between clusters',
      inEntry(6, (bytes, at) => bytes.writeUInt16BE(512, at)),
      'ERR_CORRUPT',
      'bitmap_directory.bitmap_table_offset',
    ],
    [
      'a table past the end of the file',
      inEntry(2, (bytes, at) => bytes.writeUInt8(1, at)),
      'ERR_CORRUPT',
      'bitmap_directory.bitmap_table_offset',
    ],
    [
      'an empty table',
      inEntry(8, (bytes, at) => bytes.writeUInt32BE(0, at)),
      'ERR_CORRUPT',
      'bitmap_directory.bitmap_table_size',
    ],
    [
      'a table for another disk',
      inEntry(8, (bytes, at) => bytes.writeUInt32BE(9, at)),
      'ERR_CORRUPT',
      'bitmap_directory.bitmap_table_size',
    ],
    [
      'unknown flags',
      inEntry(12, (bytes, at) => bytes.writeUInt32BE(4, at)),
      'ERR_UNSUPPORTED',
      'bitmap_directory.flags',
    ],
    [
      'an unknown type',
      inEntry(16, (bytes, at) => bytes.writeUInt8(2, at)),
      'ERR_UNSUPPORTED',
      'bitmap_directory.type',
    ],
    [
      'granules of 256 bytes',
      inEntry(17, (bytes, at) => bytes.writeUInt8(8, at)),
      'ERR_CORRUPT',
      'bitmap_directory.granularity_bits',
    ],
    [
      'granules of 4 GiB',
      inEntry(17, (bytes, at) => bytes.writeUInt8(32, at)),
      'ERR_CORRUPT',
      'bitmap_directory.granularity_bits',
    ],
    [
      'a name past the end of the directory',
      inEntry(18, (bytes, at) => bytes.writeUInt16BE(1000, at)),
      'ERR_CORRUPT',
      'bitmap_directory.name_size',
    ],
    [
      'extra data',
      inEntry(20, (bytes, at) => bytes.writeUInt32BE(8, at)),
      'ERR_UNSUPPORTED',
      'bitmap_directory.extra_data_size',
    ],
    [
      'a table entry with reserved bits',
      (bytes) => void bytes.writeUInt8(0x80, tableOf(bytes, 0)),
      'ERR_CORRUPT',
      'bitmap_table.entry',
    ],
    [
      'a table entry past the end of the file',
      (bytes) => void bytes.writeUInt8(1, tableOf(bytes, 0) + 2),
      'ERR_CORRUPT',
      'bitmap_table.entry',
    ],
    [
      'two of one name',
      inEntry(32 + 24, (bytes, at) => bytes.write('b0', at)),
      'ERR_CORRUPT',
      'bitmap_directory.name',
    ],
  ])('%s: reading goes on, writing and checking are refused by the name of the field', async (...args) => {
    const [, damage, code, field] = args;
    await create();
    const bytes = await readFile(qemu.path('disk.qcow2'));
    damage(bytes);
    await writeFile(qemu.path('disk.qcow2'), bytes);
    await expect(qemu.open()).rejects.toMatchObject({ code, data: { field } });
    expect((await readFile(qemu.path('disk.qcow2'))).equals(bytes)).toBe(true);
    const disk = await qemu.open('disk.qcow2', { readOnly: true });
    expect((await bytesOf(disk))[MIB]).toBe(1);
    const { details } = await disk.info();
    expect(details['bitmaps'] ?? details['bitmap b0']).toMatch(/^malformed: |^granularity 65536, auto$/);
    await expect(disk.check()).rejects.toMatchObject({ code, data: { field } });
    await disk.close();
  });
});
