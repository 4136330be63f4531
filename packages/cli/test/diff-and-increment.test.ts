import { copyFile, readFile, stat, writeFile } from 'node:fs/promises';
import { type Disk, openDisk } from '@cowlab/core';
import { describe, expect, it } from 'vitest';
import { drivers } from '../src/formats.ts';
import type { DiffEntryJson } from '../src/index.ts';
import { fill, formats, formatsWith, makeSample, MiB } from './images.ts';
import { contradictions } from './json-schema.ts';
import { cowlab, cowlabIn, mustRun, scratch } from './lab.ts';

const at = scratch();
const sources = formatsWith(({ diff }) => diff);
const resizing = formatsWith(({ diff, resize }) => diff && resize === 'both');

async function change(file: string, format: string, act: (disk: Disk) => Promise<void>): Promise<void> {
  const disk = await openDisk(file, { drivers, format });
  await act(disk);
  await disk.close();
}

/** A sample with the snapshots `one` and `two`, and changes before each and after. */
async function makeHistory(file: string, format: string): Promise<void> {
  await makeSample(file, format);
  await mustRun('snapshot', '-c', 'one', file);
  await fill(file, format, 3 * MiB + 500, 100_000, 7);
  await change(file, format, async (disk) => disk.writeZeroes(MiB, 64 * 1024));
  await mustRun('snapshot', '-c', 'two', file);
  await fill(file, format, 9 * MiB, 4096, 8);
}

async function diffOf(...argv: string[]): Promise<DiffEntryJson[]> {
  const printed: unknown = JSON.parse(await mustRun('diff', '--json', ...argv));
  expect(contradictions(printed, 'diff')).toEqual([]);
  return printed as DiffEntryJson[];
}

function total(entries: readonly DiffEntryJson[]): number {
  return entries.reduce((sum, { length }) => sum + length, 0);
}

describe.each(sources)('diff of %s', (format) => {
  it('tells what has changed since a snapshot, or between two', async () => {
    await makeHistory(at('disk'), format);
    const between = await diffOf('--from', 'one', '--to', 'two', at('disk'));
    const since = await diffOf('--from', 'one', at('disk'));
    expect(since.length).toBeGreaterThan(between.length);
    for (const [offset, entries] of [
      [MiB, between],
      [3 * MiB + 500, between],
      [3 * MiB + 100_499, between],
      [9 * MiB, since],
    ] as const) {
      const found = entries.some(({ start, length }) => start <= offset && offset < start + length);
      expect(found, `offset ${offset}`).toBe(true);
    }
    expect(total(since)).toBeLessThan(4 * MiB);
    expect(await diffOf('--from', 'two', '--to', 'two', at('disk'))).toEqual([]);
    const table = await mustRun('diff', '--from', 'two', at('disk'));
    expect(table).toMatch(/^Offset +Length\n0x900000 +0x[0-9a-f]+\n$/);
  });

  it.each([
    [['--from', 'absent'], 'snapshot "absent": no such snapshot'],
    [['--from', 'one', '--to', 'absent'], 'snapshot "absent": no such snapshot'],
    [[], "required option '--from <name>' not specified"],
  ])('answers %j with one line', async (argv, words) => {
    await makeHistory(at('disk'), format);
    const { status, stdout, stderr } = await cowlab('diff', '--json', ...argv, at('disk'));
    expect({ status, stdout }).toEqual({ status: 1, stdout: '' });
    expect(stderr).toMatch(/^cowlab: [^\n]+\n$/);
    expect(stderr).toContain(words);
  });
});

it('diff is refused where the format has no snapshots', async () => {
  await mustRun('create', '-q', at('disk'), '1M');
  const { status, stderr } = await cowlab('diff', '--from', 'one', at('disk'));
  expect({ status, stderr }).toEqual({ status: 1, stderr: `cowlab: ${at('disk')}: raw has no snapshots\n` });
});

const pairs = sources.flatMap((from) => formats.map((to) => [from, to] as const));

describe.each(pairs)('an increment of %s into %s', (format, targetFormat) => {
  const increment = (...argv: string[]): string[] => [
    'convert',
    '-n',
    '-O',
    targetFormat,
    ...argv,
    at('disk'),
    at('copy'),
  ];

  it('makes a copy of an earlier state equal to a later one', async () => {
    await makeHistory(at('disk'), format);
    await mustRun('convert', '-l', 'one', '-O', targetFormat, at('disk'), at('copy'));
    await mustRun(...increment('--from', 'one', '-l', 'two'));
    await mustRun('convert', '-l', 'two', at('disk'), at('two'));
    await mustRun('compare', '-F', targetFormat, '-q', at('two'), at('copy'));
    await mustRun(...increment('--from', 'two', '--unchecked'));
    await mustRun('compare', '-F', targetFormat, '-q', at('disk'), at('copy'));
    // Back again: any two states will do.
    await mustRun('snapshot', '-c', 'three', at('disk'));
    await mustRun(...increment('--from', 'three', '-l', 'one'));
    await mustRun('convert', '-l', 'one', at('disk'), at('one'));
    await mustRun('compare', '-F', targetFormat, '-q', at('one'), at('copy'));
    expect((await cowlab('check', '-q', '-f', targetFormat, at('copy'))).status).toBe(0);
  });

  it('writes nothing into a target that does not hold the snapshot', async () => {
    await makeHistory(at('disk'), format);
    await mustRun('convert', '-l', 'one', '-O', targetFormat, at('disk'), at('copy'));
    await fill(at('copy'), targetFormat, 12 * MiB + 5, 1, 1);
    await copyFile(at('copy'), at('before'));
    const { status, stderr } = await cowlab(...increment('--from', 'one'));
    expect(status).toBe(1);
    expect(stderr).toBe(
      `cowlab: ${at('copy')}: does not hold snapshot "one" of ${at('disk')}: ` +
        `it differs at offset ${12 * MiB + 5}, where nothing has changed since\n`,
    );
    await mustRun('compare', '-f', targetFormat, '-F', targetFormat, '-q', at('before'), at('copy'));
  });
});

describe.each(resizing)('an increment of %s that has changed its size', (format) => {
  it.each([
    ['grown', '20M'],
    ['shrunk', '4M'],
  ])('follows when the disk has %s, also when it is run twice', async (_, size) => {
    await makeHistory(at('disk'), format);
    await mustRun('convert', '-l', 'two', '-O', 'raw', at('disk'), at('copy'));
    await mustRun('resize', '--shrink', at('disk'), size);
    await fill(at('disk'), format, 4 * MiB - 1000, 1000, 9);
    const again = ['convert', '-n', '-O', 'raw', '--from', 'two', at('disk'), at('copy')];
    for (const argv of [again, again]) {
      await mustRun(...argv);
      await mustRun('compare', '-s', '-q', '-F', 'raw', at('disk'), at('copy'));
    }
  });

  it('is refused before anything is written where the target keeps its size', async () => {
    await makeHistory(at('disk'), format);
    await mustRun('convert', '-l', 'two', '-O', 'vmdk', at('disk'), at('copy'));
    const before = await readFile(at('copy'));
    await mustRun('resize', at('disk'), '20M');
    const argv = ['convert', '-n', '-O', 'vmdk', '--from', 'two', at('disk'), at('copy')];
    const { status, stderr } = await cowlab(...argv);
    expect(status).toBe(1);
    expect(stderr).toContain(`vmdk disks cannot be changed from ${16 * MiB} to ${20 * MiB} bytes`);
    expect(Buffer.compare(await readFile(at('copy')), before)).toBe(0);
  });
});

describe('convert -n', () => {
  it('writes only what has changed, and shows progress', async () => {
    await makeSample(at('disk'), 'fvd');
    await fill(at('disk'), 'fvd', 0, 8 * MiB, 3);
    await mustRun('snapshot', '-c', 'one', at('disk'));
    await fill(at('disk'), 'fvd', 2 * MiB, 4096, 4);
    // Holes where the copy would have data: what is not written stays a hole.
    await writeFile(at('copy'), '');
    await mustRun('resize', '-f', 'raw', at('copy'), '16M');
    const argv = ['convert', '-p', '-n', '-O', 'raw', '--from', 'one', '--unchecked', at('disk'), at('copy')];
    const { status, stderr } = await cowlabIn({ terminal: true }, ...argv);
    expect({ status }).toEqual({ status: 0 });
    expect(stderr).toMatch(/convert: \d+ %/);
    expect((await stat(at('copy'))).blocks * 512).toBeLessThanOrEqual(16 * 1024);
  });

  it('completes an increment that was interrupted half-way', async () => {
    await makeHistory(at('disk'), 'fvd');
    await mustRun('convert', '-l', 'one', '-O', 'raw', at('disk'), at('copy'));
    await fill(at('copy'), 'raw', 3 * MiB + 500, 50_000, 7);
    await mustRun('convert', '-n', '-O', 'raw', '--from', 'one', at('disk'), at('copy'));
    await mustRun('compare', '-q', at('disk'), at('copy'));
  });

  it('when interrupted, ends with 130, and completes when it is run again', async () => {
    await mustRun('create', '-q', '-f', 'fvd', at('disk'), '192M');
    await mustRun('snapshot', '-c', 'one', at('disk'));
    await mustRun('convert', at('disk'), at('copy'));
    for (let offset = 0; offset < 192; offset += 64) await fill(at('disk'), 'fvd', offset * MiB, 64 * MiB, 5);
    const argv = ['convert', '-n', '-O', 'raw', '--from', 'one', at('disk'), at('copy')];
    const others = process.listeners('SIGTERM').length;
    const running = cowlab(...argv);
    while (process.listeners('SIGTERM').length === others) {
      await new Promise((resolve) => setImmediate(resolve));
    }
    // Only the command's own listener: the test runner has one too.
    process.listeners('SIGTERM').at(-1)?.('SIGTERM');
    const { status, stderr } = await running;
    expect({ status, lines: stderr.split('\n').length }).toEqual({ status: 130, lines: 2 });
    await mustRun(...argv);
    await mustRun('compare', '-q', at('disk'), at('copy'));
  });

  it.each([
    [['--from', 'one', '-O', 'raw'], '--from: goes with -n'],
    [['--unchecked', '-O', 'raw'], '--unchecked: goes with -n'],
    [['-n', '-O', 'raw', '--unchecked'], '--unchecked: goes with --from'],
    [['-n', '--from', 'one'], '-n: goes with -O'],
    [['-n', '--from', 'one', '-O', 'raw', '--force'], '-o and --force have no meaning'],
    [['-n', '--from', 'one', '-O', 'raw', '-o', 'a=b'], '-o and --force have no meaning'],
    [['-n', '--from', 'absent', '-O', 'raw'], 'snapshot "absent": no such snapshot'],
    [['-n', '--from', 'one', '-O', 'raw', '-l', 'absent'], 'snapshot "absent": no such snapshot'],
  ])('answers %j with one line, and leaves the target alone', async (argv, words) => {
    await makeHistory(at('disk'), 'fvd');
    await mustRun('convert', '-l', 'one', at('disk'), at('copy'));
    const before = await readFile(at('copy'));
    const { status, stderr } = await cowlab('convert', ...argv, at('disk'), at('copy'));
    expect(status).toBe(1);
    expect(stderr).toMatch(/^cowlab: [^\n]+\n$/);
    expect(stderr).toContain(words);
    expect(Buffer.compare(await readFile(at('copy')), before)).toBe(0);
  });

  it.each([
    ['its own source', 'disk', 'is a file of the source'],
    ['a file that is not there', 'absent', 'absent: '],
    ['a disk of another size', 'small', 'has 1048576 bytes; snapshot "one" has 16777216'],
  ])('refuses %s', async (_, target, words) => {
    await makeHistory(at('disk'), 'fvd');
    await mustRun('create', '-q', at('small'), '1M');
    const format = target === 'disk' ? 'fvd' : 'raw';
    const argv = ['convert', '-n', '-O', format, '--from', 'one', at('disk'), at(target)];
    const { status, stderr } = await cowlab(...argv);
    expect(status).toBe(1);
    expect(stderr).toContain(words);
  });
});
