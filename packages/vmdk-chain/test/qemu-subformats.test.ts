// QEMU as the judge of disks in several files and of flat ones: both ways, at the top and at every snapshot.

import { execFile, spawnSync } from 'node:child_process';
import { mkdtemp, open as openFile, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { pattern } from '@cowlab/conformance';
import { createDisk, type Disk, openDisk } from '@cowlab/core';
import { vmdk } from '@cowlab/vmdk-chain';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

const run = promisify(execFile);
const missing = spawnSync('qemu-img', ['--version']).status !== 0;
const MIB = 1024 * 1024;
const GIB = 1024 * MIB;
const subformats = ['monolithicFlat', 'twoGbMaxExtentFlat', 'twoGbMaxExtentSparse'];

let folder: string;
const inFolder = (name: string): string => join(folder, name);

async function qemu(tool: 'qemu-img' | 'qemu-io', ...args: string[]): Promise<string> {
  const { stdout } = await run(tool, args, { cwd: folder, maxBuffer: 64 * MIB });
  if (tool === 'qemu-io' && /failed|error/i.test(stdout)) throw new Error(stdout);
  return stdout;
}

const open = (file: string, readOnly = false): Promise<Disk> =>
  openDisk(inFolder(file), { drivers: [vmdk], format: 'vmdk', readOnly });

/** QEMU reads the given bytes at the given places, and zeros between. */
async function expectQemuReads(
  file: string,
  pieces: readonly (readonly [number, Uint8Array])[],
): Promise<void> {
  await qemu('qemu-img', 'convert', '-f', 'vmdk', '-O', 'raw', file, 'converted.raw');
  const { size } = await stat(inFolder('converted.raw'));
  const expected = await openFile(inFolder('expected.raw'), 'w');
  await expected.truncate(size);
  for (const [at, bytes] of pieces) await expected.write(bytes, 0, bytes.length, at);
  await expected.close();
  await qemu('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', 'converted.raw', 'expected.raw');
  // QEMU checks grain tables only.
  if (!(await readFile(inFolder(file))).subarray(0, 4096).includes('FLAT')) {
    await qemu('qemu-img', 'check', '-f', 'vmdk', file);
  }
}

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'cowlab-vmdk-'));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

describe.skipIf(missing).each(subformats)('%s', (subformat) => {
  it('of ours is read, written and read again', async () => {
    const size = 5 * GIB + 512;
    await createDisk(inFolder('disk.vmdk'), { driver: vmdk, size, options: { subformat } });
    const info: unknown = JSON.parse(await qemu('qemu-img', 'info', '--output=json', 'disk.vmdk'));
    expect(info).toMatchObject({
      'virtual-size': size,
      'format-specific': { data: { 'create-type': subformat } },
    });
    const pieces: [number, Uint8Array][] = [
      [1000, pattern(1, 70_000)],
      [2 * GIB - 5000, pattern(2, 10_000)],
      [size - 700, pattern(3, 700)],
    ];
    const disk = await open('disk.vmdk');
    for (const [at, bytes] of pieces) await disk.write(at, bytes);
    await disk.close();
    await expectQemuReads('disk.vmdk', pieces);
    await qemu('qemu-io', '-f', 'vmdk', '-c', `write -P 77 ${4 * GIB - 4096} 8k`, 'disk.vmdk');
    pieces.push([4 * GIB - 4096, Buffer.alloc(8192, 77)]);
    const again = await open('disk.vmdk');
    for (const [at, bytes] of pieces) {
      const target = Buffer.alloc(bytes.length);
      await again.read(at, target);
      expect(target.equals(bytes), `at ${at}`).toBe(true);
    }
    await again.snapshots.create('kept');
    await again.write(3 * GIB, pattern(5, 5000));
    await again.close();
    await expectQemuReads('disk.vmdk', [...pieces, [3 * GIB, pattern(5, 5000)]]);
    await expectQemuReads('disk-000001.vmdk', pieces);
    const last = await open('disk.vmdk');
    await last.snapshots.delete('kept');
    expect((await last.check()).findings).toEqual([]);
    await last.close();
    await expectQemuReads('disk.vmdk', [...pieces, [3 * GIB, pattern(5, 5000)]]);
  }, 60_000);

  it("of QEMU's has the same files, is read, written and given back", async () => {
    const options = ['-o', `subformat=${subformat}`];
    await qemu('qemu-img', 'create', '-f', 'vmdk', ...options, 'theirs.vmdk', '4100M');
    await createDisk(inFolder('ours.vmdk'), { driver: vmdk, size: 4100 * MIB, options: { subformat } });
    const names = await readdir(folder);
    const of = (stem: string): string[] =>
      names.filter((name) => name.startsWith(stem)).map((name) => name.replace(stem, ''));
    expect(of('ours')).toEqual(of('theirs'));
    await qemu(
      'qemu-io',
      '-f',
      'vmdk',
      '-c',
      'write -P 5 2047M 2M',
      '-c',
      'write -P 6 4099M 1M',
      'theirs.vmdk',
    );
    const disk = await open('theirs.vmdk');
    const target = Buffer.alloc(2 * MIB);
    await disk.read(2047 * MIB, target);
    expect(target.equals(Buffer.alloc(2 * MIB, 5))).toBe(true);
    await disk.write(4 * GIB - 100, pattern(7, 200));
    await disk.writeZeroes(2047 * MIB, MIB);
    expect((await disk.check()).findings).toEqual([]);
    await disk.close();
    await expectQemuReads('theirs.vmdk', [
      [2048 * MIB, Buffer.alloc(MIB, 5)],
      [4 * GIB - 100, pattern(7, 200)],
      [4099 * MIB, Buffer.alloc(MIB, 6)],
    ]);
  }, 60_000);
});

describe.skipIf(missing)('a disk over 2 TiB', () => {
  const size = 3072 * GIB;

  it.each(['monolithicSparse', 'monolithicFlat'])(
    'in one extent: %s',
    async (subformat) => {
      const options = { subformat, grain_size: MIB };
      await createDisk(inFolder('disk.vmdk'), { driver: vmdk, size, options });
      const disk = await open('disk.vmdk');
      await disk.write(size - 5000, pattern(1, 5000));
      await disk.snapshots.create('kept');
      await disk.write(size - 100, pattern(2, 100));
      await disk.close();
      await qemu('qemu-io', '-f', 'vmdk', '-c', `write -P 9 ${2 * 1024 * GIB} 64k`, 'disk.vmdk');
      const again = await open('disk.vmdk');
      const target = Buffer.alloc(5000);
      await again.read(2 * 1024 * GIB, target);
      expect(target.equals(Buffer.alloc(5000, 9))).toBe(true);
      await again.read(size - 5000, target);
      const expected = Buffer.from(pattern(1, 5000));
      expected.set(pattern(2, 100), 4900);
      expect(target.equals(expected)).toBe(true);
      await again.close();
    },
    60_000,
  );

  it('in extents that are each below', async () => {
    for (const part of ['one', 'two']) {
      const options = { grain_size: MIB };
      await createDisk(inFolder(`${part}.vmdk`), { driver: vmdk, size: size / 2, options });
    }
    const line = (name: string): string => `RW ${size / 2 / 512} SPARSE "${name}.vmdk"`;
    const head =
      '# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="twoGbMaxExtentSparse"\n';
    await writeFile(
      inFolder('disk.vmdk'),
      `${head}${line('one')}\n${line('two')}\nddb.adapterType = "ide"\n`,
    );
    const disk = await open('disk.vmdk');
    expect(disk.size).toBe(size);
    await disk.write(size / 2 - 300, pattern(3, 600));
    await disk.write(size - 600, pattern(4, 600));
    expect((await disk.check()).findings).toEqual([]);
    await disk.close();
    await qemu('qemu-io', '-f', 'vmdk', '-c', `write -P 9 ${size - MIB} 4k`, 'disk.vmdk');
    const again = await open('disk.vmdk', true);
    const target = Buffer.alloc(600);
    for (const [at, bytes] of [
      [size / 2 - 300, pattern(3, 600)],
      [size - 600, pattern(4, 600)],
      [size - MIB, Buffer.alloc(600, 9)],
    ] as const) {
      await again.read(at, target);
      expect(target.equals(bytes)).toBe(true);
    }
    await again.close();
  }, 60_000);
});

it.each(['monolithicFlat', 'twoGbMaxExtentFlat'])('%s gives back what is discarded', async (subformat) => {
  const options = { subformat, extent_size: 4 * MIB };
  await createDisk(inFolder('disk.vmdk'), { driver: vmdk, size: 8 * MIB, options });
  const disk = await open('disk.vmdk');
  const blocks = async (): Promise<number> => {
    let sum = 0;
    for (const name of await readdir(folder)) sum += (await stat(inFolder(name))).blocks;
    return sum;
  };
  await disk.write(0, pattern(1, 8 * MIB));
  await disk.flush();
  const full = await blocks();
  await disk.discard(MIB, 6 * MIB);
  await disk.flush();
  expect(full - (await blocks())).toBe((6 * MIB) / 512);
  const target = Buffer.alloc(MIB);
  await disk.read(0, target);
  expect(target.equals(pattern(1, MIB))).toBe(true);
  await disk.close();
});
