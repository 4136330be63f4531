// nbdkit's nbd plugin stands between us and a client, with filters in front of it.

import { existsSync } from 'node:fs';
import { setTimeout as wait } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { MiB, servedContents } from './contents.ts';
import { expectCopy, expectKept } from './expect.ts';
import { hasJudges, run, start as startJudge } from './judges.ts';
import { drivers, type Site } from './serving.ts';

const missing = !hasJudges('nbdkit', 'nbdcopy', 'qemu-io');

/** Starts nbdkit on our server and returns its URI. */
async function nbdkit(
  site: Site,
  filters: readonly string[],
  parameters: readonly string[],
): Promise<string> {
  const socket = site.path('nbdkit');
  const filtered = filters.map((filter) => `--filter=${filter}`);
  const args = [
    '-f',
    '--exit-with-parent',
    '-U',
    socket,
    ...filtered,
    'nbd',
    `uri=${site.uri()}`,
    ...parameters,
  ];
  await startJudge('nbdkit', args, async () => existsSync(socket));
  return `nbd+unix:///?socket=${socket}`;
}

/** Changes a disk, and `bytes` alike. */
async function change(uri: string, bytes: Buffer): Promise<void> {
  const middle = 6 * MiB;
  bytes.fill(0x61, middle + 1024, middle + 1024 + 200_704);
  bytes.fill(0, middle + 65_536, middle + 65_536 + 66_048);
  bytes.fill(0, MiB, 2 * MiB);
  bytes.fill(0x62, 512, 1024);
  const script = [
    `write -P 0x61 ${middle + 1024} 200704`,
    `write -z -u ${middle + 65_536} 66048`,
    'write -z 1M 1M',
    'write -f -P 0x62 512 512',
    'read -P 0x62 512 512',
    'flush',
  ];
  await run('qemu-io', ['-f', 'raw', ...script.flatMap((command) => ['-c', command]), uri]);
}

/** A partition table with one partition, in sectors. */
function partitionTable(start: number, length: number): Uint8Array {
  const sector = Buffer.alloc(512);
  sector[446 + 4] = 0x83;
  sector.writeUInt32LE(start, 446 + 8);
  sector.writeUInt32LE(length, 446 + 12);
  sector.writeUInt16LE(0xaa55, 510);
  return sector;
}

describe.skipIf(missing).each(drivers)('nbdkit over $name', (driver) => {
  it.each([
    ['no filter', [], []],
    ['several connections as one', ['multi-conn'], []],
    ['cache, written back', ['cache'], ['cache=writeback']],
    ['blocksize', ['blocksize'], ['minblock=512', 'maxdata=65536', 'maxlen=1M']],
    [
      'writes instead of zeros, FUA instead of flushes',
      ['nozero', 'fua'],
      ['zeromode=emulate', 'fuamode=force'],
    ],
    ['no extents, but reads ahead', ['noextents', 'readahead'], []],
    ['many', ['stats', 'cacheextents', 'truncate', 'retry'], ['round-up=512', 'statsfile=/dev/null']],
  ])('passes changes on: %s', async (_, filters, parameters) => {
    const { site, contents } = await servedContents(driver);
    const uri = await nbdkit(site, filters, parameters);
    const expected = Buffer.from(contents.bytes);
    await expectCopy(uri, expected, site.path('before.raw'));
    await change(uri, expected);
    await expectCopy(uri, expected, site.path('after.raw'));
    await expectCopy(site.uri(), expected, site.path('below.raw'));
    await expectKept(site, expected);
  });

  it('keeps changes to itself: cow', async () => {
    const { site, contents } = await servedContents(driver);
    const uri = await nbdkit(site, ['cow'], []);
    const expected = Buffer.from(contents.bytes);
    await change(uri, expected);
    await expectCopy(uri, expected, site.path('after.raw'));
    await expectKept(site, contents.bytes);
  });

  it('looks at one partition: partition', async () => {
    const { site, contents } = await servedContents(driver);
    const table = partitionTable(2049, 8 * 2048);
    await site.disk.write(0, table);
    const expected = Buffer.from(contents.bytes);
    expected.set(table, 0);
    const start = 2049 * 512;
    const uri = await nbdkit(site, ['partition'], ['partition=1']);
    const partition = expected.subarray(start, start + 8 * MiB);
    await expectCopy(uri, partition, site.path('before.raw'));
    await change(uri, partition);
    await expectCopy(uri, partition, site.path('after.raw'));
    await expectKept(site, expected);
  });

  it('goes on with another server of the same disk when ours ends in the middle of a copy: retry', async () => {
    const { site, contents } = await servedContents(driver);
    const uri = await nbdkit(site, ['rate', 'retry'], ['rate=60M', 'retries=5', 'retry-delay=1']);
    const copy = expectCopy(uri, contents.bytes, site.path('copy.raw'));
    while (site.stats.readBytes < MiB) await wait(5);
    await site.restart();
    await copy;
    expect(site.stats.readBytes).toBeGreaterThan(0);
  });

  it('slow clients wait for themselves: rate, delay', async () => {
    const { site, contents } = await servedContents(driver);
    const uri = await nbdkit(site, ['delay', 'blocksize'], ['rdelay=5ms', 'wdelay=5ms', 'maxlen=256k']);
    const slow = expectCopy(uri, contents.bytes, site.path('slow.raw'));
    await expectCopy(site.uri(), contents.bytes, site.path('quick.raw'));
    await slow;
  });
});
