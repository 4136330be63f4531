// What is special about chains: their length, their files, and what other programs have put there.

import { FaultFolder } from '@cowlab/conformance';
import {
  CountingFolder,
  createDisk,
  type Disk,
  MemoryFolder,
  openDisk,
  type Purpose,
  type StorageFolder,
  totalCounts,
} from '@cowlab/core';
import { vmdk } from '@cowlab/vmdk-chain';
import { beforeAll, describe, expect, it } from 'vitest';

const SIZE = 1024 * 1024;
const GRAIN = 4096;

const open = (folder: StorageFolder, file = 'disk.vmdk'): Promise<Disk> =>
  openDisk({ folder, file }, { drivers: [vmdk], format: 'vmdk' });

async function newDisk(folder: MemoryFolder | CountingFolder): Promise<Disk> {
  const options = { grain_size: GRAIN };
  await createDisk({ folder, file: 'disk.vmdk' }, { driver: vmdk, size: SIZE, options });
  return open(folder);
}

async function textOf(folder: MemoryFolder, file: string, from = 0, length?: number): Promise<string> {
  const storage = await folder.open(file, { readOnly: true });
  const bytes = Buffer.alloc(length ?? storage.size());
  await storage.read(from, bytes);
  await storage.close();
  return bytes.toString('latin1').replace(/\0+$/, '');
}

describe('a chain of a thousand links', () => {
  const folder = new MemoryFolder();
  const mark = (i: number): Buffer => Buffer.alloc(16, (i % 250) + 1);

  beforeAll(async () => {
    const disk = await newDisk(folder);
    await disk.write(0, mark(0));
    for (let i = 1; i <= 1000; i++) {
      await disk.snapshots.create(`s${i}`);
      if (i % 100 === 0) await disk.write(i * 16, mark(i));
    }
    await disk.close();
  });

  it('opens, reads to its bottom, and answers for all of its memory', async () => {
    const disk = await open(folder);
    const target = Buffer.alloc(16);
    await disk.read(0, target);
    expect(target.equals(mark(0))).toBe(true);
    await disk.read(300 * 16, target);
    expect(target.equals(mark(300))).toBe(true);
    expect(disk.stats()).toMatchObject({ links: 1000 });
    expect(disk.stats().residentMetadataBytes).toBeGreaterThan(1000 * 4);
    expect(await disk.snapshots.list()).toHaveLength(1000);
    for await (const { length } of disk.extents()) expect(length).toBeGreaterThan(0);
    await disk.close();
  });

  it('lets a snapshot in its middle be opened, deleted and applied', async () => {
    const disk = await open(folder);
    const target = Buffer.alloc(16);
    const middle = await disk.snapshots.open('s600');
    await middle.read(500 * 16, target);
    expect(target.equals(mark(500))).toBe(true);
    await disk.snapshots.delete('s500');
    await middle.read(500 * 16, target);
    expect(target.equals(mark(500))).toBe(true);
    await middle.read(400 * 16, target);
    expect(target.equals(mark(400))).toBe(true);
    await disk.snapshots.apply('s400');
    await middle.read(300 * 16, target);
    expect(target.equals(mark(300))).toBe(true);
    await disk.read(500 * 16, target);
    expect(target.equals(Buffer.alloc(16))).toBe(true);
    await disk.snapshots.apply('s1000');
    await disk.read(900 * 16, target);
    expect(target.equals(mark(900))).toBe(true);
    expect((await disk.check()).findings).toEqual([]);
    await disk.close();
  });

  it('with a link missing names the file above it', async () => {
    await folder.rename('disk-000123.vmdk', 'elsewhere.vmdk');
    await expect(open(folder)).rejects.toMatchObject({
      code: 'ERR_BACKING_MISSING',
      data: { file: 'disk-000124.vmdk', field: 'descriptor.parentFileNameHint', value: 'disk-000123.vmdk' },
    });
    await folder.rename('elsewhere.vmdk', 'disk-000123.vmdk');
    await (await open(folder)).close();
  });
});

describe('deleting', () => {
  it('copies only what the child lacks, and reports how far it is', async () => {
    const folder = new CountingFolder(new MemoryFolder());
    const disk = await newDisk(folder);
    await disk.write(0, Buffer.alloc(100 * GRAIN, 1));
    await disk.snapshots.create('a');
    await disk.write(0, Buffer.alloc(90 * GRAIN, 2));
    await disk.flush();
    folder.reset();
    const seen: number[] = [];
    await disk.snapshots.delete('a', { onProgress: ({ done, total }) => seen.push(done / total) });
    const { data } = folder.counts.purposes;
    expect([data.readBytes, data.writtenBytes]).toEqual([10 * GRAIN, 10 * GRAIN]);
    expect(seen.at(-1)).toBe(1);
    expect(disk.stats()).toMatchObject({ links: 0 });
    await disk.close();
  });

  it('stops when it is told to, and can be done again', async () => {
    const folder = new MemoryFolder();
    const disk = await newDisk(folder);
    await disk.write(0, Buffer.alloc(SIZE, 1));
    await disk.snapshots.create('a');
    const stop = new AbortController();
    const options = { signal: stop.signal, onProgress: () => stop.abort() };
    await expect(disk.snapshots.delete('a', options)).rejects.toMatchObject({ code: 'ERR_ABORTED' });
    expect(await disk.snapshots.list()).toHaveLength(1);
    await disk.snapshots.delete('a');
    expect((await disk.check()).findings).toEqual([]);
    await disk.close();
    expect(await folder.list()).toEqual(['disk.vmdk', 'disk.vmsd']);
  });
});

describe('creating', () => {
  it('makes as many calls on a large disk as on a small one', async () => {
    const counts = [];
    for (const size of [1024 ** 3, 1024 ** 4]) {
      const folder = new CountingFolder(new MemoryFolder());
      await createDisk({ folder, file: 'disk.vmdk' }, { driver: vmdk, size });
      const disk = await open(folder);
      await disk.write(0, Buffer.alloc(1));
      folder.reset();
      await disk.snapshots.create('a');
      const { reads, writes } = totalCounts(folder.counts);
      counts.push({ reads, writes, flushes: folder.counts.flushes });
      await disk.close();
    }
    expect(counts[1]).toEqual(counts[0]);
  });

  it.each<Purpose>(['header', 'mapping', 'snapshot'])(
    'leaves nothing behind when the %s does not fit on the medium, and can be done again',
    async (purpose) => {
      const memory = new MemoryFolder();
      const folder = new FaultFolder(memory);
      await (await newDisk(memory)).close();
      const disk = await open(folder);
      await disk.write(0, Buffer.alloc(GRAIN, 1));
      await disk.flush();
      folder.arm({ kind: 'short', methods: ['write'], nth: 1, purpose, lasting: true });
      await expect(disk.snapshots.create('a')).rejects.toMatchObject({ code: 'ERR_NO_SPACE' });
      folder.disarm();
      expect(await memory.list()).toEqual(['disk.vmdk']);
      expect(disk.stats()).toMatchObject({ links: 0 });
      await disk.snapshots.create('a');
      expect((await disk.check()).findings).toEqual([]);
      await disk.close();
      expect(await memory.list()).toEqual(['disk-000001.vmdk', 'disk.vmdk', 'disk.vmsd']);
    },
  );
});

describe('a snapshot directory of VMware, whose disk stays in its first file', () => {
  it('is listed and not changed', async () => {
    const folder = new MemoryFolder();
    const first = await newDisk(folder);
    await first.close();
    const directory = await folder.create('disk.vmsd');
    const lines = [
      '.encoding = "UTF-8"',
      'snapshot.lastUID = "3"',
      'snapshot.numSnapshots = "1"',
      'snapshot.current = "3"',
      'snapshot0.uid = "3"',
      'snapshot0.displayName = "by VMware"',
      'snapshot0.createTimeHigh = "379000"',
      'snapshot0.createTimeLow = "-5"',
      'snapshot0.numDisks = "1"',
      'snapshot0.disk0.fileName = "disk.vmdk"',
      'snapshot0.disk0.node = "scsi0:0"',
    ];
    await directory.write(0, Buffer.from(`${lines.join('\r\n')}\r\n`));
    await directory.close();
    const before = await textOf(folder, 'disk.vmsd');
    const disk = await open(folder);
    expect(await disk.snapshots.list()).toMatchObject([{ id: '3', name: 'by VMware', parent: null }]);
    const refused = { code: 'ERR_UNSUPPORTED', data: { field: 'snapshot0.disk0.fileName' } };
    await expect(disk.snapshots.create('ours')).rejects.toMatchObject(refused);
    await expect(disk.snapshots.delete('3')).rejects.toMatchObject(refused);
    await expect(disk.snapshots.apply('3')).rejects.toMatchObject(refused);
    await disk.close();
    expect(await textOf(folder, 'disk.vmsd')).toBe(before);
  });
});

describe('the descriptor', () => {
  it.each([
    ['line feeds', '\n'],
    ['carriage returns too', '\r\n'],
  ])('with %s keeps what it does not know, and changes inside its first sector', async (_, lineBreak) => {
    const folder = new MemoryFolder();
    const disk = await newDisk(folder);
    await disk.snapshots.create('a');
    await disk.close();
    const comment = `# ${'kept '.repeat(60)}`;
    const own = await textOf(folder, 'disk.vmdk', 512, 10_240);
    const lines = [...own.trimEnd().split('\n'), 'ddb.uuid = "a=b # c"', comment, 'unknown=plain', ''];
    const storage = await folder.open('disk.vmdk', { readOnly: false });
    await storage.write(512, Buffer.from(lines.join(lineBreak), 'latin1'));
    await storage.close();
    const rest = (file: string): Promise<string> => textOf(folder, file, 1024, 9728);
    const foreign = await rest('disk.vmdk');
    const again = await open(folder);
    await again.write(0, Buffer.alloc(10, 1));
    expect(await rest('disk.vmdk')).toBe(foreign);
    await again.snapshots.create('b');
    const laidOut = await rest('disk-000002.vmdk');
    expect(laidOut.startsWith(`${lineBreak}# The Disk Data Base${lineBreak}`)).toBe(true);
    await again.snapshots.delete('a');
    await again.close();
    expect(await rest('disk-000002.vmdk')).toBe(laidOut);
    const text = await textOf(folder, 'disk-000002.vmdk', 512, 10_240);
    expect(text).toContain(['ddb.uuid = "a=b # c"', comment, 'unknown=plain', ''].join(lineBreak));
    expect(text).toContain(`SPARSE "disk-000002.vmdk"${lineBreak}`);
    expect(text).not.toContain('parentFileNameHint');
  });

  it('gets a new CID with the first write after an open, and only then', async () => {
    const folder = new MemoryFolder();
    await (await newDisk(folder)).close();
    const cid = async (): Promise<string | undefined> =>
      /\nCID=(\w+)\n/.exec(await textOf(folder, 'disk.vmdk', 512, 512))?.[1];
    const first = await cid();
    await (await open(folder)).close();
    expect(await cid()).toBe(first);
    const disk = await open(folder);
    await disk.write(0, Buffer.alloc(1));
    const second = await cid();
    expect(second).not.toBe(first);
    await disk.write(100_000, Buffer.alloc(1));
    await disk.writeZeroes(0, SIZE);
    await disk.close();
    expect(await cid()).toBe(second);
  });
});

describe('grain tables in memory', () => {
  const TABLE_COUNT = 200;
  const TABLE_SPAN = 512 * GRAIN;

  /** One grain mapped in each of many tables, in the disk and in its snapshot. */
  async function spread(folder: CountingFolder): Promise<void> {
    const options = { grain_size: GRAIN };
    const size = TABLE_COUNT * TABLE_SPAN;
    await createDisk({ folder, file: 'disk.vmdk' }, { driver: vmdk, size, options });
    const disk = await open(folder);
    for (const name of ['a', undefined]) {
      for (let at = name === undefined ? GRAIN : 0; at < size; at += TABLE_SPAN) {
        await disk.write(at, Buffer.alloc(GRAIN, 1));
      }
      if (name !== undefined) await disk.snapshots.create(name);
    }
    await disk.close();
  }

  async function readAll(disk: Disk): Promise<void> {
    for (let at = 0; at < disk.size; at += TABLE_SPAN) await disk.read(at, Buffer.alloc(2 * GRAIN));
  }

  it('are read once where they have room, and take no more than they may in every link', async () => {
    const folder = new CountingFolder(new MemoryFolder());
    await spread(folder);
    const limit = 64 * 1024;
    const resident: number[] = [];
    for (const grain_table_cache of [limit, 1024 * 1024]) {
      const disk = await openDisk(
        { folder, file: 'disk.vmdk' },
        { drivers: [vmdk], format: 'vmdk', options: { grain_table_cache } },
      );
      const empty = disk.stats().residentMetadataBytes;
      await readAll(disk);
      resident.push(disk.stats().residentMetadataBytes - empty);
      folder.reset();
      await readAll(disk);
      const { reads } = folder.counts.purposes.mapping;
      expect(reads).toBe(grain_table_cache === limit ? 2 * TABLE_COUNT : 0);
      await disk.close();
    }
    expect(resident).toEqual([2 * limit, 2 * TABLE_COUNT * 2048]);
  });

  it('that wait to be written are written before they are too many', async () => {
    const folder = new CountingFolder(new MemoryFolder());
    await createDisk(
      { folder, file: 'disk.vmdk' },
      { driver: vmdk, size: TABLE_COUNT * TABLE_SPAN, options: { grain_size: GRAIN } },
    );
    const disk = await openDisk(
      { folder, file: 'disk.vmdk' },
      { drivers: [vmdk], format: 'vmdk', options: { grain_table_cache: 0 } },
    );
    const most = disk.stats().residentMetadataBytes + 2 * 16 * 2048;
    for (let at = 0; at < disk.size; at += TABLE_SPAN) {
      await disk.write(at, Buffer.alloc(GRAIN, 1));
      expect(disk.stats().residentMetadataBytes).toBeLessThanOrEqual(most);
    }
    await disk.close();
  });

  it('that have room in memory wait for the flush, all of them', async () => {
    const folder = new CountingFolder(new MemoryFolder());
    await createDisk(
      { folder, file: 'disk.vmdk' },
      { driver: vmdk, size: TABLE_COUNT * TABLE_SPAN, options: { grain_size: GRAIN } },
    );
    const disk = await open(folder);
    await disk.write(0, Buffer.alloc(GRAIN, 1));
    folder.reset();
    for (const first of [0, GRAIN]) {
      for (let at = first; at < disk.size; at += TABLE_SPAN) await disk.write(at, Buffer.alloc(GRAIN, 1));
    }
    expect(folder.counts).toMatchObject({ flushes: 0, purposes: { mapping: { writes: 0 } } });
    await disk.flush();
    expect(folder.counts).toMatchObject({ flushes: 2, purposes: { mapping: { writes: 2 * TABLE_COUNT } } });
    await disk.close();
  });

  it('cost writes by the flush, not by the grain', async () => {
    const folder = new CountingFolder(new MemoryFolder());
    const disk = await newDisk(folder);
    await disk.write(0, Buffer.alloc(1));
    await disk.flush();
    folder.reset();
    for (let at = GRAIN; at < SIZE; at += GRAIN) await disk.write(at, Buffer.alloc(GRAIN, 1));
    await disk.flush();
    // Both copies of the one table; the flush before them makes the grains durable.
    expect(folder.counts.purposes.mapping).toMatchObject({ reads: 0, writes: 2 });
    expect(folder.counts.flushes).toBe(2);
    await disk.close();
  });
});

describe('without snapshots', () => {
  it('the first write after an open changes one sector of the descriptor, once', async () => {
    const folder = new CountingFolder(new MemoryFolder());
    const first = await newDisk(folder);
    await first.write(0, Buffer.alloc(SIZE, 1));
    await first.close();
    const disk = await open(folder);
    folder.reset();
    await disk.write(0, Buffer.alloc(GRAIN, 2));
    await disk.write(GRAIN, Buffer.alloc(GRAIN, 2));
    expect(folder.counts.purposes.header).toMatchObject({ reads: 1, writes: 1, writtenBytes: 512 });
    expect(folder.counts.flushes).toBe(1);
    await disk.close();
  });

  it('a first write into a part of a grain is one write, and waits for nothing', async () => {
    const folder = new CountingFolder(new MemoryFolder());
    const disk = await newDisk(folder);
    await disk.write(0, Buffer.alloc(GRAIN, 1));
    folder.reset();
    expect(disk.write(GRAIN + 512, Buffer.alloc(512, 1))).toBeUndefined();
    expect(totalCounts(folder.counts)).toMatchObject({ reads: 0, writes: 1, writtenBytes: 512 });
    await disk.close();
  });

  it('a read or an overwrite is one storage call, and a flush one more', async () => {
    const folder = new CountingFolder(new MemoryFolder());
    const disk = await newDisk(folder);
    await disk.write(0, Buffer.alloc(SIZE, 1));
    await disk.flush();
    folder.reset();
    for (let at = 0; at < SIZE; at += GRAIN) expect(disk.write(at, Buffer.alloc(GRAIN))).toBeUndefined();
    expect(disk.flush()).toBeUndefined();
    expect(totalCounts(folder.counts)).toMatchObject({ reads: 0, writes: SIZE / GRAIN });
    expect(folder.counts.flushes).toBe(1);
    expect(disk.read(0, Buffer.alloc(SIZE))).toBeUndefined();
    expect(totalCounts(folder.counts)).toMatchObject({ reads: 1, writes: SIZE / GRAIN });
    await disk.close();
  });
});
