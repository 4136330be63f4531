// Images on block devices that somebody else serves: our client under our drivers, and QEMU's opinion on what they leave.

import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Random } from '@cowlab/conformance';
import { type BlockDriver, createDisk, type Disk, openDisk } from '@cowlab/core';
import { NbdFolder, openNbd } from '@cowlab/nbd';
import { describe, expect, it, onTestFinished } from 'vitest';
import { hasJudges, run, start } from './judges.ts';
import { drivers, newSite } from './serving.ts';

const missing = !hasJudges('nbdkit', 'qemu-img');
const MIB = 1024 * 1024;

async function scratchFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'cowlab-nbd-device-'));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

async function nbdkitMemory(bytes: number, ...filters: string[]): Promise<string> {
  const socket = join(await scratchFolder(), 'socket');
  const args = ['-f', '-U', socket, ...filters, 'memory', String(bytes)];
  await start('nbdkit', args, async () => existsSync(socket));
  return `nbd+unix:///?socket=${socket}`;
}

/** A disk of ours as a device: an FVD image that is served. */
async function servedByUs(bytes: number): Promise<string> {
  const site = await newSite(drivers[0]!, bytes);
  await site.serve();
  return site.uri();
}

const devices: readonly { device: string; make: (bytes: number) => Promise<string> }[] = [
  { device: 'nbdkit memory', make: (bytes) => nbdkitMemory(bytes) },
  {
    device: 'nbdkit without WRITE_ZEROES and holes',
    make: (bytes) => nbdkitMemory(bytes, '--filter=nozero', '--filter=noextents'),
  },
  { device: 'a disk that we serve', make: servedByUs },
];

const cases = devices.flatMap((device) =>
  drivers.map((driver) => ({ ...device, driver, name: driver.name })),
);

/** The device, with something everywhere that an image must not mistake for its own. */
async function littered(
  make: (bytes: number) => Promise<string>,
  bytes: number,
): Promise<{ folder: NbdFolder; file: string }> {
  const uri = await make(bytes);
  const storage = await openNbd(uri);
  await storage.write(0, new Uint8Array(bytes).fill(0xa5));
  await storage.close();
  const folder = new NbdFolder(uri);
  return { folder, file: folder.file };
}

async function writeSome(disk: Disk, model: Uint8Array, random: Random): Promise<void> {
  for (let i = 0; i < 24; i++) {
    const offset = random.below(disk.size);
    const length = 1 + random.below(Math.min(100_000, disk.size - offset));
    const byte = random.below(4) === 0 ? 0 : 1 + random.below(255);
    if (byte === 0) await disk.writeZeroes(offset, length);
    else await disk.write(offset, new Uint8Array(length).fill(byte));
    model.fill(byte, offset, offset + length);
  }
}

async function bytesOf(disk: Disk): Promise<Uint8Array> {
  const bytes = new Uint8Array(disk.size);
  await disk.read(0, bytes);
  return bytes;
}

async function expectSame(disk: Disk, model: Uint8Array): Promise<void> {
  expect(Buffer.compare(await bytesOf(disk), model)).toBe(0);
  expect(await disk.check()).toMatchObject({ corruptions: 0, leaks: 0 });
}

async function expectQemuAgrees(driver: BlockDriver, uri: string, model: Uint8Array): Promise<void> {
  if (driver.name !== 'qcow2' && driver.name !== 'vmdk') return;
  if (driver.name === 'qcow2') await run('qemu-img', ['check', '-f', 'qcow2', uri]);
  const expected = join(await scratchFolder(), 'expected.raw');
  await writeFile(expected, model);
  await run('qemu-img', ['compare', '-f', driver.name, '-F', 'raw', uri, expected]);
}

describe.skipIf(missing).each(cases)('$name on $device', ({ driver, make }) => {
  it('is made, written, and opened again, whatever was there before', async () => {
    const at = await littered(make, 32 * MIB);
    const seed = Number(process.env['COWLAB_SEED'] ?? 3);
    const random = new Random(seed);
    const model = new Uint8Array(8 * MIB);
    await createDisk(at, { driver, size: model.length });
    let kept: Uint8Array | undefined;
    for (let round = 0; round < 3; round++) {
      const disk = await openDisk(at, { drivers });
      expect(disk.format).toBe(driver.name);
      await expectSame(disk, model);
      await writeSome(disk, model, random);
      await disk.flush();
      await expectSame(disk, model);
      if (round === 1 && driver.capabilities.snapshots === 'internal') {
        await disk.snapshots.create('kept');
        kept = Uint8Array.from(model);
      }
      await disk.close();
    }
    const disk = await openDisk(at, { drivers, readOnly: true });
    await expectSame(disk, model);
    if (kept !== undefined) {
      const snapshot = await disk.snapshots.open('kept');
      expect(Buffer.compare(await bytesOf(snapshot), kept)).toBe(0);
      await snapshot.close();
    }
    await disk.close();
    await expectQemuAgrees(driver, at.file, model);
  });

  it('is whole when the device is full', async () => {
    const at = await littered(make, 6 * MIB);
    const model = new Uint8Array(16 * MIB);
    await createDisk(at, { driver, size: model.length });
    const disk = await openDisk(at, { drivers });
    const write = async (offset: number): Promise<unknown> => {
      const piece = new Uint8Array(MIB / 4).fill(1 + offset / (MIB / 4));
      try {
        await disk.write(offset, piece);
        model.set(piece, offset);
      } catch (error) {
        return (error as { code?: unknown }).code;
      }
      return undefined;
    };
    let failure: unknown;
    let offset = 0;
    for (; failure === undefined && offset < disk.size; offset += MIB / 4) failure = await write(offset);
    expect(failure).toBe('ERR_NO_SPACE');
    expect(offset).toBeGreaterThan(MIB);
    // What was refused may be there in part.
    const sure = offset - MIB / 4;
    await disk.flush();
    // FVD writes its table back when it closes, and may find no room for it: its journal has all of it.
    const closing = await disk.close().catch((error: { code?: unknown }) => error.code);
    expect([undefined, 'ERR_NO_SPACE']).toContain(closing);
    const again = await openDisk(at, { drivers, readOnly: true });
    expect(Buffer.compare((await bytesOf(again)).subarray(0, sure), model.subarray(0, sure))).toBe(0);
    expect(await again.check()).toMatchObject({ corruptions: 0 });
    await again.close();
  });
});

describe.skipIf(missing)('an image on a device', () => {
  it('that QEMU made is ours to write, and QEMU finds nothing wrong with it', async () => {
    const uri = await nbdkitMemory(32 * MIB);
    await run('qemu-img', ['create', '-f', 'qcow2', uri, '8M']);
    const folder = new NbdFolder(uri);
    const at = { folder, file: folder.file };
    const model = new Uint8Array(8 * MIB);
    const disk = await openDisk(at, { drivers });
    await writeSome(disk, model, new Random(5));
    await disk.close();
    const qcow2 = drivers.find(({ name }) => name === 'qcow2')!;
    await expectQemuAgrees(qcow2, uri, model);
  });

  it('is locked in this process, and names no file beside it', async () => {
    const uri = await nbdkitMemory(32 * MIB);
    const folder = new NbdFolder(uri);
    const at = { folder, file: folder.file };
    const qcow2 = drivers.find(({ name }) => name === 'qcow2')!;
    await createDisk(at, { driver: qcow2, size: MIB });
    const disk = await openDisk(at, { drivers });
    await expect(openDisk(at, { drivers })).rejects.toMatchObject({ code: 'ERR_LOCKED' });
    await disk.close();
    const backing = { file: 'base.raw', format: 'raw' };
    await expect(createDisk(at, { driver: qcow2, size: MIB, backing })).rejects.toMatchObject({
      code: expect.stringMatching(/^ERR_BACKING/),
    });
    for (const call of [folder.remove(at.file), folder.rename(at.file), folder.create('other')]) {
      await expect(call).rejects.toMatchObject({ code: 'ERR_UNSUPPORTED' });
    }
  });
});
