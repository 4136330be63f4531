// libnbd's programs work on disks that we serve, whatever the format.

import { writeFile } from 'node:fs/promises';
import { pattern } from '@cowlab/conformance';
import { describe, expect, it } from 'vitest';
import { fill, MiB, servedContents } from './contents.ts';
import { expectCopy, expectKept } from './expect.ts';
import { hasJudges, run } from './judges.ts';
import { drivers, newSite, type Site } from './serving.ts';

const ZERO = 2;

interface MappedRun {
  readonly offset: number;
  readonly length: number;
  readonly type: number;
}

async function mapOf(site: Site, context = 'base:allocation', name = ''): Promise<MappedRun[]> {
  const map = JSON.parse(await run('nbdinfo', [`--map=${context}`, '--json', site.uri(name)])) as MappedRun[];
  let end = 0;
  for (const { offset, length } of map) {
    expect(offset).toBe(end);
    end = offset + length;
  }
  expect(end).toBe(site.disk.size);
  return map;
}

/** The answer for a whole range, which must be one. */
function typeOf(map: readonly MappedRun[], offset: number, length: number): number {
  const types = map.filter((each) => each.offset < offset + length && each.offset + each.length > offset);
  expect(new Set(types.map(({ type }) => type)).size, `one answer for ${offset}, ${length}`).toBe(1);
  return types[0]!.type;
}

describe.skipIf(!hasJudges('nbdinfo')).each(drivers)('nbdinfo, asking for $name', (driver) => {
  it('sees what the export can', async () => {
    const { site } = await servedContents(driver);
    const info = JSON.parse(await run('nbdinfo', ['--json', site.uri()])) as Record<string, unknown>;
    expect(info).toMatchObject({ protocol: 'newstyle-fixed', TLS: false, structured: true });
    expect(info['exports']).toMatchObject([
      {
        'export-name': '',
        'export-size': site.disk.size,
        is_read_only: false,
        is_rotational: false,
        can_cache: true,
        can_df: true,
        can_fast_zero: true,
        can_flush: true,
        can_fua: true,
        can_trim: true,
        can_zero: true,
        contexts: ['base:allocation', 'qemu:allocation-depth'],
      },
    ]);
  });

  it('lists the disk and its snapshots, which are read-only', async () => {
    const site = await newSite(driver, 4 * MiB);
    const names = ['first', 'with a blank & ümlaut'];
    await site.opened(async (disk) => {
      for (const name of names) await disk.snapshots.create(name);
    });
    await site.serve();
    const list = JSON.parse(await run('nbdinfo', ['--list', '--json', site.uri()])) as { exports: unknown[] };
    const shown = ['', ...names].map((name) => ({ 'export-name': name, is_read_only: name !== '' }));
    expect(list.exports).toHaveLength(shown.length);
    expect(list.exports).toMatchObject(shown);
  });

  it('maps data, zeros and holes', async () => {
    const { site, contents } = await servedContents(driver);
    const map = await mapOf(site);
    for (const { offset, length, type } of map) {
      if ((type & ZERO) === 0) continue;
      expect(contents.bytes.subarray(offset, offset + length).every((byte) => byte === 0)).toBe(true);
    }
    const allowed = { data: [0], zeroed: [2, 3], discarded: [2, 3], untouched: [3] };
    for (const { kind, offset, length } of contents.pieces) {
      expect(allowed[kind], `${kind} at ${offset}`).toContain(typeOf(map, offset, length));
    }
  });

  it('maps how deep in the chain of backing files bytes are', async () => {
    const site = await newSite(driver, 4 * MiB);
    await site.opened(async (disk) => disk.write(MiB, pattern(1, MiB)));
    await site.putOver();
    await site.opened(async (disk) => disk.write(2 * MiB, pattern(2, MiB)));
    await site.serve();
    const map = await mapOf(site, 'qemu:allocation-depth');
    expect([0, 1, 2, 3].map((at) => typeOf(map, at * MiB, MiB))).toEqual([0, 2, 1, 0]);
  });
});

describe.skipIf(!hasJudges('nbdcopy')).each(drivers)('nbdcopy, with $name', (driver) => {
  it.each([
    ['as it likes', []],
    ['over four connections', ['--connections=4', '--threads=4', '--requests=16', '--request-size=65536']],
    ['one request after the other', ['--synchronous']],
    ['without asking for holes', ['--no-extents', '--sparse=0']],
  ])('copies a disk out, %s', async (_, options) => {
    const { site, contents } = await servedContents(driver);
    await expectCopy(site.uri(), contents.bytes, site.path('copy.raw'), ...options);
  });

  it.each([
    ['as it likes', []],
    ['over four connections', ['--connections=4', '--requests=64', '--request-size=131072']],
    ['one request after the other', ['--synchronous']],
    ['allocating all of it', ['--allocated']],
    ['over zeros', ['--destination-is-zero']],
  ])('copies a disk in, %s', async (_, options) => {
    const { site, contents } = await servedContents(driver);
    const source = await newSite(driver, contents.bytes.length);
    const { bytes } = await source.opened((disk) => fill(disk, 2));
    await writeFile(site.path('source.raw'), bytes);
    // Whoever says so has to be right.
    if (options.includes('--destination-is-zero')) await site.disk.writeZeroes(0, site.disk.size);
    await run('nbdcopy', ['--flush', ...options, site.path('source.raw'), site.uri()]);
    await expectKept(site, bytes);
  });

  it('copies from one of our servers to another', async () => {
    const { site, contents } = await servedContents(driver);
    const target = await newSite(driver, contents.bytes.length);
    await target.serve();
    await run('nbdcopy', [site.uri(), target.uri()]);
    await expectKept(target, contents.bytes);
    const { allocatedBytes } = await target.opened((disk) => disk.check());
    expect(allocatedBytes).toBeLessThan(contents.bytes.length / 2);
  });

  it('copies a snapshot out while the disk changes', async () => {
    const { site, contents } = await servedContents(driver);
    await site.disk.snapshots.create('before');
    await site.restart();
    await site.disk.write(0, pattern(9, 3 * MiB));
    await expectCopy(site.uri('before'), contents.bytes, site.path('copy.raw'));
  });
});
