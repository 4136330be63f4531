// One writer, between processes: ours and QEMU's, ours and ours. Our other process is started from the build.

import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createDisk, type Disk, openDisk } from '@cowlab/core';
import { afterEach, describe, expect, it } from 'vitest';
import { drivers } from '../src/formats.ts';
import { baseFormatOf, formats, formatsWith, judged, makeSample } from './images.ts';
import { cowlab, hasJudge, judge, mustRun, scratch } from './lab.ts';

const inScratch = scratch();
const withJudge = hasJudge('qemu-io');
const onLinux = process.platform === 'linux';

const running: ChildProcessWithoutNullStreams[] = [];
const disks: Disk[] = [];

async function ended(child: ChildProcessWithoutNullStreams): Promise<void> {
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
}

afterEach(async () => {
  for (const disk of disks.splice(0)) await disk.close();
  for (const child of running.splice(0)) {
    child.kill('SIGKILL');
    await ended(child);
  }
});

async function open(file: string, format: string, readOnly = false, forceShare = false): Promise<Disk> {
  const disk = await openDisk(file, { drivers, format, readOnly, forceShare });
  disks.push(disk);
  return disk;
}

/** A program that has opened its file and waits; rejects when it ends before it says `ready`. */
async function holding(program: string, argv: readonly string[], ready: string, env = {}) {
  const child = spawn(program, argv, { env: { ...process.env, ...env } });
  running.push(child);
  let said = '';
  child.stderr.on('data', (part) => (said += part));
  for await (const part of child.stdout) {
    said += part;
    if (said.includes(ready)) return child;
  }
  throw new Error(`${program} ${argv.join(' ')}: ${said}`);
}

/** qemu-io with the image open: its prompt comes after that. */
const qemuHolding = (file: string, ...argv: string[]): Promise<ChildProcessWithoutNullStreams> =>
  holding('qemu-io', [...argv, file], 'qemu-io> ');

const qemuIo = (file: string, format: string, ...argv: string[]): { status: number; text: string } => {
  const { status, stdout, stderr } = judge('qemu-io', '-f', format, ...argv, '-c', 'read 0 512', file);
  return { status, text: stdout + stderr };
};

const lockMissing = { status: 1, text: expect.stringMatching(/Failed to get .*lock/) as string };
const fine = { status: 0, text: expect.stringContaining('read 512/512') as string };
/** QEMU takes no locks but those of its uses for raw files in qemu-io: it lets others do what they like. */
const readerBesideWriter = (format: string): object => (format === 'raw' ? fine : lockMissing);

describe.skipIf(!withJudge || !onLinux).each(judged)('%s and QEMU', (format) => {
  it('what we write, QEMU neither writes nor reads', async () => {
    const file = inScratch('disk.img');
    await makeSample(file, format);
    const disk = await open(file, format);
    expect(qemuIo(file, format)).toMatchObject(lockMissing);
    expect(qemuIo(file, format, '-r')).toMatchObject(readerBesideWriter(format));
    expect(qemuIo(file, format, '-r', '-U')).toMatchObject(fine);
    await disk.close();
    expect(qemuIo(file, format)).toMatchObject(fine);
  });

  it('what we read, QEMU may read and not write', async () => {
    const file = inScratch('disk.img');
    await makeSample(file, format);
    await open(file, format, true);
    expect(qemuIo(file, format)).toMatchObject(lockMissing);
    expect(qemuIo(file, format, '-r')).toMatchObject(fine);
  });

  it('what QEMU writes, we neither write nor read, and say who does', async () => {
    const file = inScratch('disk.img');
    await makeSample(file, format);
    const { pid } = await qemuHolding(file, '-f', format);
    for (const readOnly of [false, true]) {
      await expect(open(file, format, readOnly)).rejects.toMatchObject({ code: 'ERR_LOCKED', data: { pid } });
    }
    const { status, stderr } = await cowlab('info', '-f', format, file);
    const who = `cowlab: ${file}: locked: process ${pid} (qemu-io) has it open for writing`;
    expect({ status, stderr }).toEqual({
      status: 1,
      stderr: `${who}; --force-share reads it all the same\n`,
    });
    expect(await mustRun('info', '-U', '-f', format, file)).toContain(`file format: ${format}`);
    await mustRun('convert', '-U', '-f', format, '-O', 'raw', file, inScratch('copy.raw'));
    await mustRun('compare', '-U', '-f', format, file, inScratch('copy.raw'));
    expect(await cowlab('resize', '-f', format, file, '+1M')).toMatchObject({
      status: 1,
      stderr: `${who}\n`,
    });
    expect(await cowlab('create', '--force', '-f', format, file, '1M')).toMatchObject({ status: 1 });
  });

  it('what QEMU reads we may read', async () => {
    const file = inScratch('disk.img');
    await makeSample(file, format);
    await qemuHolding(file, '-r', '-f', format);
    await open(file, format, true);
    if (format !== 'raw') await expect(open(file, format)).rejects.toMatchObject({ code: 'ERR_LOCKED' });
  });

  it('a killed QEMU leaves no lock', async () => {
    const file = inScratch('disk.img');
    await makeSample(file, format);
    const child = await qemuHolding(file, '-f', format);
    child.kill('SIGKILL');
    await ended(child);
    await open(file, format);
  });
});

const overlays = formatsWith(({ backing }) => backing).filter((format) => judged.includes(format));

describe.skipIf(!withJudge || !onLinux).each(overlays)('%s over a backing, and QEMU', (format) => {
  const base = baseFormatOf(format);

  async function makeChain(): Promise<{ under: string; over: string }> {
    const [under, over] = [inScratch('base.img'), inScratch('over.img')];
    await makeSample(under, base);
    await mustRun('create', '-q', '-f', format, '-b', 'base.img', '-F', base, over);
    return { under, over };
  }

  it('QEMU may read what is under our disk, not write it', async () => {
    const { under, over } = await makeChain();
    await open(over, format);
    expect(qemuIo(under, base)).toMatchObject(lockMissing);
    expect(qemuIo(under, base, '-r')).toMatchObject(fine);
  });

  it('we may read what is under a disk of QEMU', async () => {
    const { under, over } = await makeChain();
    await qemuHolding(over, '-f', format);
    await open(under, base, true);
    if (base !== 'raw') await expect(open(under, base)).rejects.toMatchObject({ code: 'ERR_LOCKED' });
  });
});

describe.skipIf(!withJudge || !onLinux)('a chain of VMDK snapshots, and QEMU', () => {
  it('the lock goes with the name of the disk to its new file, and the old one can be read', async () => {
    const file = inScratch('disk.vmdk');
    await makeSample(file, 'vmdk');
    const disk = await open(file, 'vmdk');
    await disk.snapshots.create('one');
    await disk.snapshots.create('two');
    expect(qemuIo(file, 'vmdk')).toMatchObject(lockMissing);
    expect(qemuIo(file, 'vmdk', '-r')).toMatchObject(lockMissing);
    for (const snapshot of ['disk-000001.vmdk', 'disk-000002.vmdk']) {
      expect(qemuIo(inScratch(snapshot), 'vmdk')).toMatchObject(lockMissing);
      expect(qemuIo(inScratch(snapshot), 'vmdk', '-r')).toMatchObject(fine);
    }
    const child = await qemuHolding(inScratch('disk-000001.vmdk'), '-r', '-f', 'vmdk');
    await disk.snapshots.delete('two');
    child.kill('SIGKILL');
    await disk.snapshots.apply('one');
    expect(qemuIo(file, 'vmdk')).toMatchObject(lockMissing);
    await disk.close();
    expect(qemuIo(file, 'vmdk')).toMatchObject(fine);
  });
});

/** Opens an image, says how that went, and waits. */
const PROGRAM = `
  import { openDisk } from '@cowlab/core';
  import { fvd } from '@cowlab/fvd';
  import { qcow2 } from '@cowlab/qcow2-like';
  import { vmdk } from '@cowlab/vmdk-chain';
  const [file, format, mode] = process.argv.slice(1);
  try {
    await openDisk(file, { drivers: [fvd, qcow2, vmdk], format, readOnly: mode === 'read' });
    console.log('open.');
    process.stdin.resume();
  } catch (error) {
    console.log(error.code + '.', JSON.stringify(error.data));
  }
`;

describe.each(['', 'off'])('two processes of ours, COWLAB_NATIVE=%s:', (native) => {
  const env = { COWLAB_NATIVE: native };
  const opening = (file: string, format: string, mode: 'write' | 'read', ready = 'open.') =>
    holding(process.execPath, ['--input-type=module', '-e', PROGRAM, file, format, mode], ready, env);

  it.each(formats)('one writes a %s image, and a killed one leaves no lock', async (format) => {
    const file = inScratch('disk.img');
    const driver = drivers.find(({ name }) => name === format)!;
    await createDisk(file, { driver, size: 1 << 20 });
    const writer = await opening(file, format, 'write');
    await opening(file, format, 'write', 'ERR_LOCKED.');
    await opening(file, format, 'read', 'ERR_LOCKED.');
    writer.kill('SIGKILL');
    await ended(writer);
    await opening(file, format, 'read');
    await opening(file, format, 'read');
    await opening(file, format, 'write', 'ERR_LOCKED.');
  });
});
