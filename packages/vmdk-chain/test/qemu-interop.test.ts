// QEMU as the judge: what we write it reads, what it writes we read, and both go on where the other stopped.

import { execFile, spawnSync } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { createDisk, type Disk, openDisk } from '@cowlab/core';
import { vmdk } from '@cowlab/vmdk-chain';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

const run = promisify(execFile);
const missing = spawnSync('qemu-img', ['--version']).status !== 0;
const KIB = 1024;
const MIB = 1024 * KIB;
const SIZE = 40 * MIB + 512;

let folder: string;
const inFolder = (name: string): string => join(folder, name);

async function qemuImg(...args: string[]): Promise<string> {
  const { stdout } = await run('qemu-img', args, { cwd: folder });
  return stdout;
}

async function qemuIo(file: string, ...commands: string[]): Promise<void> {
  const { stdout } = await run('qemu-io', ['-f', 'vmdk', ...commands.flatMap((one) => ['-c', one]), file], {
    cwd: folder,
  });
  if (/failed|error/i.test(stdout)) throw new Error(stdout);
}

async function expectQemuSees(file: string, expected: Uint8Array): Promise<void> {
  await writeFile(inFolder('expected.raw'), expected);
  await qemuImg('compare', '-f', 'vmdk', '-F', 'raw', file, 'expected.raw');
  await qemuImg('check', '-f', 'vmdk', file);
}

async function bytesOf(disk: Disk): Promise<Buffer> {
  const bytes = Buffer.alloc(disk.size);
  await disk.read(0, bytes);
  return bytes;
}

/** What QEMU reads from a file, as raw bytes. */
async function qemuBytes(file: string): Promise<Buffer> {
  // -U: our disk may be open, and is flushed.
  await qemuImg('convert', '-U', '-f', 'vmdk', '-O', 'raw', file, 'converted.raw');
  return readFile(inFolder('converted.raw'));
}

const open = (file: string, readOnly = false): Promise<Disk> =>
  openDisk(inFolder(file), { drivers: [vmdk], format: 'vmdk', readOnly });

/** Bytes that say where they were written. */
function bufferOf(length: number, seed: number): Buffer {
  const bytes = Buffer.alloc(length);
  for (let i = 0; i < length; i++) bytes[i] = (i * 7 + seed * 31 + (i >> 9)) & 0xff;
  return bytes;
}

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'cowlab-vmdk-'));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

it.skipIf(missing && !process.env['CI'])(
  'qemu-img is here to judge (Debian: apt-get install qemu-utils)',
  () => {
    expect(missing).toBe(false);
  },
);

describe.skipIf(missing)('QEMU reads what we write', () => {
  it.each([
    { grain_size: 4 * KIB, zeroed_grain: true },
    { grain_size: 64 * KIB, zeroed_grain: true },
    { grain_size: 64 * KIB, zeroed_grain: false },
    { grain_size: MIB, zeroed_grain: false },
  ])('a disk and its snapshots, with %j', async (options) => {
    await createDisk(inFolder('disk.vmdk'), { driver: vmdk, size: SIZE, options });
    const disk = await open('disk.vmdk');
    await disk.write(1000, bufferOf(200 * KIB, 1));
    await disk.write(SIZE - 700, bufferOf(700, 2));
    await disk.snapshots.create('first');
    const first = await bytesOf(disk);
    await disk.writeZeroes(64 * KIB, 3 * MIB);
    await disk.write(9 * MIB + 5, bufferOf(MIB, 3));
    await disk.snapshots.create('second');
    const second = await bytesOf(disk);
    await disk.discard(0, 10 * MIB);
    await disk.write(33 * MIB, bufferOf(10, 4));
    const top = await bytesOf(disk);
    await disk.close();
    await expectQemuSees('disk.vmdk', top);
    await expectQemuSees('disk-000001.vmdk', first);
    await expectQemuSees('disk-000002.vmdk', second);
    const again = await open('disk.vmdk');
    await again.snapshots.delete('first');
    await again.snapshots.create('third');
    await again.close();
    await expectQemuSees('disk.vmdk', top);
    await expectQemuSees('disk-000002.vmdk', second);
    await expectQemuSees('disk-000003.vmdk', top);
  });

  it('the header and descriptor tell it format, size and backing file', async () => {
    await createDisk(inFolder('base.vmdk'), { driver: vmdk, size: SIZE });
    await createDisk(inFolder('disk.vmdk'), { driver: vmdk, backing: { file: 'base.vmdk', format: 'vmdk' } });
    const info: unknown = JSON.parse(await qemuImg('info', '--output=json', 'disk.vmdk'));
    expect(info).toMatchObject({
      format: 'vmdk',
      'virtual-size': SIZE,
      'backing-filename': 'base.vmdk',
      'format-specific': { data: { 'create-type': 'monolithicSparse' } },
    });
  });

  it('writes of ours into images that QEMU made, with and without zeroed grains, alone and over a parent', async () => {
    for (const zeroed of ['on', 'off']) {
      await qemuImg('create', '-f', 'vmdk', '-o', `zeroed_grain=${zeroed}`, `base-${zeroed}.vmdk`, '40M');
      await qemuIo(`base-${zeroed}.vmdk`, 'write -P 17 0 1M', 'write -P 18 39M 1M');
      await qemuImg(
        'create',
        '-f',
        'vmdk',
        '-o',
        `zeroed_grain=${zeroed}`,
        '-b',
        `base-${zeroed}.vmdk`,
        '-F',
        'vmdk',
        `child-${zeroed}.vmdk`,
      );
      const disk = await open(`child-${zeroed}.vmdk`);
      const expected = await bytesOf(disk);
      expect([expected[0], expected[39 * MIB]]).toEqual([17, 18]);
      await disk.write(100, bufferOf(70 * KIB, 5));
      bufferOf(70 * KIB, 5).copy(expected, 100);
      await disk.writeZeroes(39 * MIB, MIB);
      expected.fill(0, 39 * MIB);
      await disk.discard(512 * KIB, 64 * KIB);
      expected.fill(0, 512 * KIB, 576 * KIB);
      expect((await disk.check()).findings).toEqual([]);
      await disk.close();
      await expectQemuSees(`child-${zeroed}.vmdk`, expected);
    }
  });
});

describe.skipIf(missing)('we read what QEMU writes', () => {
  it('a chain by qemu-img create -b, with writes and zeros at every link', async () => {
    await qemuImg('create', '-f', 'vmdk', '-o', 'zeroed_grain=on', 'link0.vmdk', '40M');
    await qemuIo('link0.vmdk', 'write -P 1 0 3M', 'write -P 2 20M 1M');
    for (let link = 1; link <= 4; link++) {
      const options = ['-o', 'zeroed_grain=on', '-b', `link${link - 1}.vmdk`, '-F', 'vmdk'];
      await qemuImg('create', '-f', 'vmdk', ...options, `link${link}.vmdk`);
      await qemuIo(
        `link${link}.vmdk`,
        `write -P ${link * 10} ${link * 600}k 100k`,
        `write -z ${link}M 192k`,
        `write -P ${link} ${30 + link}M 5k`,
      );
    }
    const disk = await open('link4.vmdk');
    expect((await bytesOf(disk)).equals(await qemuBytes('link4.vmdk'))).toBe(true);
    expect(await disk.snapshots.list()).toEqual([]);
    expect(disk.stats()).toMatchObject({ links: 4 });
    expect((await disk.check()).corruptions).toBe(0);
    await disk.close();
  });

  it('writes of QEMU into our disk that stands on snapshots of ours, and we go on', async () => {
    await createDisk(inFolder('disk.vmdk'), { driver: vmdk, size: 40 * MIB });
    let disk = await open('disk.vmdk');
    await disk.write(0, bufferOf(MIB, 6));
    await disk.snapshots.create('kept');
    const kept = await bytesOf(disk);
    await disk.close();
    await qemuIo('disk.vmdk', 'write -P 99 100k 700k', 'write -z 2M 64k', 'write -P 98 39M 64k');
    disk = await open('disk.vmdk');
    const expected = await qemuBytes('disk.vmdk');
    expect((await bytesOf(disk)).equals(expected)).toBe(true);
    await disk.snapshots.create('after');
    await disk.write(3 * MIB, bufferOf(100, 7));
    bufferOf(100, 7).copy(expected, 3 * MIB);
    await disk.snapshots.delete('kept');
    await disk.close();
    await expectQemuSees('disk.vmdk', expected);
    disk = await open('disk.vmdk');
    await disk.snapshots.create('again');
    await disk.snapshots.delete('after');
    await disk.close();
    await expectQemuSees('disk.vmdk', expected);
    expect(kept.equals(expected)).toBe(false);
  });

  it('a clone that QEMU stands on a snapshot of ours, and we go on in it', async () => {
    await createDisk(inFolder('disk.vmdk'), { driver: vmdk, size: 40 * MIB });
    const disk = await open('disk.vmdk');
    await disk.write(MIB, bufferOf(MIB, 8));
    await disk.snapshots.create('kept');
    await disk.write(MIB, bufferOf(MIB, 9));
    await disk.close();
    await qemuImg('create', '-f', 'vmdk', '-b', 'disk-000001.vmdk', '-F', 'vmdk', 'clone.vmdk');
    await qemuIo('clone.vmdk', 'write -P 77 1500k 10k');
    const clone = await open('clone.vmdk');
    const expected = Buffer.alloc(40 * MIB);
    bufferOf(MIB, 8).copy(expected, MIB);
    expected.fill(77, 1500 * KIB, 1510 * KIB);
    expect((await bytesOf(clone)).equals(expected)).toBe(true);
    await clone.snapshots.create('own');
    await clone.write(1505 * KIB, bufferOf(100, 10));
    bufferOf(100, 10).copy(expected, 1505 * KIB);
    await clone.snapshots.delete('own');
    await clone.close();
    await expectQemuSees('clone.vmdk', expected);
  });

  it('a parent that QEMU has written to behind its child is refused, as QEMU does', async () => {
    await qemuImg('create', '-f', 'vmdk', 'base.vmdk', '40M');
    await qemuImg('create', '-f', 'vmdk', '-b', 'base.vmdk', '-F', 'vmdk', 'child.vmdk');
    await qemuIo('base.vmdk', 'write -P 1 0 64k');
    await expect(open('child.vmdk')).rejects.toMatchObject({
      code: 'ERR_CORRUPT',
      data: { file: 'child.vmdk', field: 'descriptor.parentCID' },
    });
  });
});
