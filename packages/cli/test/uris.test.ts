// Exports of an NBD server in the place of files. The server is in this process.

import { createDisk, type Disk, openDisk, raw } from '@cowlab/core';
import { NbdServer } from '@cowlab/nbd';
import { afterEach, describe, expect, it } from 'vitest';
import { drivers } from '../src/formats.ts';
import type { InfoJson } from '../src/index.ts';
import { fill, formats, formatsWith, makeSample, MiB } from './images.ts';
import { cowlab, mustRun, scratch } from './lab.ts';

const at = scratch();
const withSnapshots = formatsWith(({ snapshots }) => snapshots === 'internal');
const opened: { readonly disk: Disk; readonly server: NbdServer }[] = [];

afterEach(async () => {
  for (const { disk, server } of opened.splice(0)) {
    await server.close();
    await disk.close();
  }
});

/** Shows a file as an export; the URI. */
async function exported(file: string, format: string): Promise<string> {
  const disk = await openDisk(file, { drivers, format });
  const server = await NbdServer.listen({
    exports: [{ name: 'disk', disk, readOnly: false }],
    listen: { path: `${file}.sock` },
  });
  opened.push({ disk, server });
  return server.uri;
}

/** An empty device of some size. */
async function device(name: string, size: number): Promise<string> {
  await createDisk(at(name), { driver: raw, size });
  return exported(at(name), 'raw');
}

describe.each(formats)('an export of a %s disk', (format) => {
  it('is a raw disk for every verb that reads', async () => {
    await makeSample(at('disk'), format);
    await makeSample(at('same'), 'raw');
    const uri = await exported(at('disk'), format);
    const info = JSON.parse(await mustRun('info', '--json', uri)) as InfoJson;
    expect(info).toMatchObject({ filename: uri, format: 'raw', 'virtual-size': 16 * MiB, files: [uri] });
    // A server may end with its first client.
    expect(opened[0]?.server.stats().totalConnections).toBe(1);
    expect((await cowlab('check', '-q', uri)).status).toBe(0);
    expect(await mustRun('compare', uri, at('same'))).toBe('Images are identical.\n');
    const map = JSON.parse(await mustRun('map', '--json', uri)) as { data: boolean; length: number }[];
    expect(map.reduce((sum, { length }) => sum + length, 0)).toBe(16 * MiB);
    expect(map.some(({ data }) => !data)).toBe(true);
    expect(await mustRun('measure', '-O', 'qcow2', uri)).toContain('required size: ');
    expect(await mustRun('snapshot', uri)).toBe('');
    expect(await cowlab('diff', '--from', 'one', uri)).toMatchObject({ status: 1 });
  });

  it.each(formats)('is read and written by convert, from and to %s', async (other) => {
    await makeSample(at('disk'), format);
    const uri = await exported(at('disk'), format);
    await mustRun('convert', '-O', other, uri, at('copy'));
    await mustRun('compare', '-q', '-F', other, uri, at('copy'));
    await fill(at('copy'), other, 2 * MiB, 100_000, 8);
    await mustRun('convert', '-n', '-f', other, '-O', 'raw', at('copy'), uri);
    expect(await mustRun('compare', '-F', other, uri, at('copy'))).toBe('Images are identical.\n');
  });
});

describe('an export', () => {
  it.each(['fvd', 'qcow2', 'vmdk'])('holds an image of %s, which convert makes there', async (format) => {
    await makeSample(at('source'), 'raw');
    const uri = await device('device', 32 * MiB);
    const { status, stderr } = await cowlab('convert', '-O', format, at('source'), uri);
    expect({ status, stderr }).toEqual({
      status: 1,
      stderr: `cowlab: ${uri}: exists already; --force replaces it\n`,
    });
    await mustRun('convert', '--force', '-O', format, at('source'), uri);
    expect((await cowlab('check', '-q', uri)).status).toBe(0);
    expect(JSON.parse(await mustRun('info', '--json', uri))).toMatchObject({ format });
    await mustRun('compare', '-q', uri, at('source'));
  });

  it.each(formatsWith(({ resize, compact }) => resize === 'both' && compact !== 'none'))(
    'holds an image of %s that is resized and compacted',
    async (format) => {
      const uri = await device('device', 32 * MiB);
      await mustRun('create', '-q', '--force', '-f', format, uri, '16M');
      await mustRun('resize', '-q', uri, '+1M');
      await mustRun('compact', '-q', '--move', uri);
      expect(JSON.parse(await mustRun('info', '--json', uri))).toMatchObject({ 'virtual-size': 17 * MiB });
      expect((await cowlab('check', '-q', uri)).status).toBe(0);
    },
  );

  it.each(withSnapshots)('holds snapshots of %s', async (format) => {
    const uri = await device('device', 32 * MiB);
    await mustRun('create', '-q', '--force', '-f', format, uri, '16M');
    await mustRun('snapshot', '-c', 'one', uri);
    await makeSample(at('source'), 'raw');
    await mustRun('convert', '-n', '-O', format, at('source'), uri);
    const changes = JSON.parse(await mustRun('diff', '--from', 'one', '--json', uri)) as object[];
    expect(changes.length).toBeGreaterThan(0);
    await mustRun('convert', '--with-snapshots', '-O', format, uri, at('copy'));
    expect(await mustRun('snapshot', at('copy'))).toContain('one');
    await mustRun('compare', '-q', uri, at('copy'));
    await mustRun('snapshot', '-a', 'one', uri);
    await mustRun('snapshot', '-d', 'one', uri);
    expect((await cowlab('check', '-q', uri)).status).toBe(0);
  });

  it.each([
    [['info', 'nbd://host/a?nonsense=1'], 'nonsense'],
    [['info', 'nbd+unix:///x?socket=/nowhere/at/all'], '/nowhere/at/all'],
    [['check', 'nbd+unix:///x'], 'socket'],
    [
      ['create', '--force', '-f', 'qcow2', '-b', 'base', 'nbd://host'],
      'on an export cannot have a backing file',
    ],
    [['create', '-f', 'qcow2', '-b', 'nbd://host', '-F', 'raw', 'over'], 'is a file, not an export'],
  ])('where none is or can be: %j is answered with one line', async (argv, words) => {
    const { status, stderr } = await cowlab(...argv);
    expect(status).toBe(1);
    expect(stderr).toMatch(/^cowlab: [^\n]+\n$/);
    expect(stderr).toContain(words);
  });

  it('is not made smaller by a raw disk, which has to fit', async () => {
    await makeSample(at('source'), 'raw');
    const large = await device('large', 20 * MiB);
    await mustRun('convert', '-n', '-O', 'raw', at('source'), large);
    expect((await cowlab('compare', large, at('source'))).status).toBe(0);
    const small = await device('small', 8 * MiB);
    expect((await cowlab('convert', '-n', '-O', 'raw', at('source'), small)).stderr).toContain('less than');
  });
});
