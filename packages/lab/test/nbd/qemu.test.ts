// QEMU's programs work on disks that we serve, whatever the format.

import { writeFile } from 'node:fs/promises';
import { pattern } from '@cowlab/conformance';
import { describe, expect, it } from 'vitest';
import { fill, MiB, servedContents } from './contents.ts';
import { expectCopy, expectKept } from './expect.ts';
import { attempt, hasJudges, run } from './judges.ts';
import { drivers, newSite } from './serving.ts';

const missing = !hasJudges('qemu-img', 'qemu-io', 'nbdcopy');

interface QemuExtent {
  readonly start: number;
  readonly length: number;
  readonly zero: boolean;
  readonly data: boolean;
  readonly present: boolean;
}

describe.skipIf(missing).each(drivers)('qemu-img, with $name', (driver) => {
  it('compares a served disk with a file, and finds one wrong byte', async () => {
    const { site, contents } = await servedContents(driver);
    const file = site.path('expected.raw');
    await writeFile(file, contents.bytes);
    const compare = ['compare', '-f', 'raw', '-F', 'raw', site.uri(), file];
    expect(await attempt('qemu-img', compare)).toMatchObject({ status: 0 });
    const at = contents.bytes.length - 700;
    await site.disk.write(at, Uint8Array.of(contents.bytes[at]! ^ 1));
    expect(await attempt('qemu-img', compare)).toMatchObject({ status: 1 });
  });

  it.each(['raw', 'qcow2'])('converts a served disk to %s', async (format) => {
    const { site, contents } = await servedContents(driver);
    await run('qemu-img', ['convert', '-f', 'raw', '-O', format, site.uri(), site.path('copy')]);
    await writeFile(site.path('expected.raw'), contents.bytes);
    await run('qemu-img', ['compare', '-F', 'raw', site.path('copy'), site.path('expected.raw')]);
  });

  it.each([
    ['', ['-m', '8', '-W']],
    [', told that it is empty', ['--target-is-zero']],
  ])('converts into a served disk%s', async (_, options) => {
    const { site, contents } = await servedContents(driver);
    const source = await newSite(driver, contents.bytes.length);
    const { bytes } = await source.opened((disk) => fill(disk, 3));
    await writeFile(site.path('source.raw'), bytes);
    if (options.includes('--target-is-zero')) await site.disk.writeZeroes(0, site.disk.size);
    const convert = ['convert', '-n', '-f', 'raw', '-O', 'raw', ...options];
    await run('qemu-img', [...convert, site.path('source.raw'), site.uri()]);
    await expectKept(site, bytes);
  });

  it('maps what is data, zero and absent', async () => {
    const { site, contents } = await servedContents(driver);
    const map = JSON.parse(
      await run('qemu-img', ['map', '--output=json', '-f', 'raw', site.uri()]),
    ) as QemuExtent[];
    for (const { kind, offset, length } of contents.pieces) {
      const found = map.filter((each) => each.start < offset + length && each.start + each.length > offset);
      const zeros = kind !== 'data';
      expect(
        found.map(({ zero }) => zero),
        `${kind} at ${offset}`,
      ).toEqual(found.map(() => zeros));
      if (kind === 'data') expect(found.every(({ data }) => data)).toBe(true);
      if (kind === 'untouched') expect(found.every(({ data }) => !data)).toBe(true);
    }
  });
});

/** Runs a script; each of its reads compares what it gets. */
async function qemuIo(uri: string, ...commands: string[]): Promise<void> {
  const script = commands.flatMap((command) => ['-c', command]);
  const output = await run('qemu-io', ['-f', 'raw', '-d', 'unmap', ...script, uri]);
  expect(output).not.toMatch(/fail|error|invalid/i);
}

describe.skipIf(missing).each(drivers)('qemu-io, with $name', (driver) => {
  it('writes, reads back, discards, zeroes and flushes', async () => {
    const { site, contents } = await servedContents(driver);
    const expected = Buffer.from(contents.bytes);
    expected.fill(0x11, 5 * MiB + 512, 5 * MiB + 512 + 70_144);
    expected.fill(0x22, 3 * MiB, 4 * MiB);
    expected.fill(0, 3 * MiB + 65_536, 3 * MiB + 3 * 65_536);
    expected.fill(0, 8 * MiB, 9 * MiB);
    expected.fill(0, 12 * MiB + 512, 12 * MiB + 512 + 66_048);
    expected.fill(0, 4 * MiB, 4 * MiB + 131_072);
    expected.fill(0x33, 9 * MiB, 9 * MiB + 8 * 4096);
    await qemuIo(
      site.uri(),
      'write -P 0x11 5243392 70144',
      'read -P 0x11 5243392 70144',
      'read -P 0 5242880 512',
      'write -f -P 0x22 3M 1M',
      'discard 3211264 128k',
      'read -P 0 3211264 128k',
      'read -P 0x22 3M 64k',
      // Zeros that may leave a hole, that may not, and that must be quick.
      'write -z -u 8M 1M',
      'write -z 12583424 66048',
      'write -z -n -u 4M 128k',
      'read -P 0 8M 1M',
      'read -P 0 12583424 66048',
      'read -P 0 4M 128k',
      ...Array.from({ length: 8 }, (_, index) => `aio_write -P 0x33 ${9 * MiB + index * 4096} 4k`),
      'aio_flush',
      'read -P 0x33 9M 32k',
      'flush',
    );
    await expectCopy(site.uri(), expected, site.path('copy.raw'));
    await expectKept(site, expected);
  });

  it('is told when a byte is not what it expects', async () => {
    const { site } = await servedContents(driver);
    await expect(qemuIo(site.uri(), 'read -P 0x44 0 512')).rejects.toThrow(/verification failed/);
  });

  it('sees a snapshot that does not change, and cannot be changed', async () => {
    const { site, contents } = await servedContents(driver);
    await site.disk.snapshots.create('before');
    await site.restart();
    await site.disk.write(0, pattern(5, MiB));
    const write = await attempt('qemu-io', ['-f', 'raw', '-c', 'write 0 512', site.uri('before')]);
    expect(write.status).not.toBe(0);
    expect(write.stdout + write.stderr).toMatch(/permission denied/i);
    await expectCopy(site.uri('before'), contents.bytes, site.path('copy.raw'));
  });
});
