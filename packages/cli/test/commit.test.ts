import { cp, mkdir } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import type { CommitJson } from '../src/index.ts';
import { fill, formatsWith, judged, makeSample, MiB } from './images.ts';
import { cowlab, hasJudge, judge, mustRun, scratch } from './lab.ts';

const at = scratch();
const emptying = formatsWith(({ empty }) => empty);

/** Every way in which an image can stand on another one here: on its own format, on raw, and on QCOW2. */
const pairs = emptying.flatMap((format) =>
  [format, ...(format === 'vmdk' ? [] : ['raw', 'qcow2'])]
    .filter((under, index, all) => all.indexOf(under) === index)
    .map((under) => ({ format, under })),
);

/** `top` over `base`, with bytes and zeros of its own over bytes of that. */
async function makeChain(format: string, under: string): Promise<void> {
  await makeSample(at('base'), under);
  await mustRun('create', '-q', '-f', format, '-b', 'base', '-F', under, at('top'));
  await fill(at('top'), format, MiB + 100, 70_000, 7);
  await fill(at('top'), format, 5 * MiB, 3 * MiB, 0);
  await fill(at('top'), format, 16 * MiB - 1000, 1000, 8);
  await mustRun('convert', '-f', format, '-O', 'raw', at('top'), at('before'));
}

describe.each(pairs)('commit of $format over $under', ({ format, under }) => {
  it('makes the backing file read as the image did, and empties that', async () => {
    await makeChain(format, under);
    const { stdout, stderr } = await cowlab('commit', '-p', at('top'));
    expect(stdout).toBe('Image committed.\n');
    expect(stderr).toMatch(/^commit: 100 %/);
    await mustRun('compare', '-f', under, '-F', 'raw', at('base'), at('before'));
    await mustRun('compare', '-F', 'raw', at('top'), at('before'));
    const map = JSON.parse(await mustRun('map', '--json', at('top'))) as {
      depth: number;
      present: boolean;
    }[];
    expect(map.filter(({ depth, present }) => depth === 0 && present)).toEqual([]);
    await mustRun('check', '-f', under, at('base'));
    await mustRun('check', at('top'));
  });

  it('with -d leaves the image what it has', async () => {
    await makeChain(format, under);
    const report = JSON.parse(await mustRun('commit', '-d', '--json', at('top'))) as CommitJson;
    expect(report).toMatchObject({ 'base-filename': 'base', emptied: false, invalid: [] });
    expect(report['written-bytes']).toBeGreaterThan(70_000);
    await mustRun('compare', '-f', under, '-F', 'raw', at('base'), at('before'));
    await mustRun('compare', '-F', 'raw', at('top'), at('before'));
  });
});

describe('commit to an image that is deeper in the chain', () => {
  it.each(emptying.filter((format) => format !== 'vmdk'))(
    'of %s says what reads wrongly then',
    async (format) => {
      await makeSample(at('base'), 'raw');
      await mustRun('create', '-q', '-f', format, '-b', 'base', '-F', 'raw', at('middle'));
      await fill(at('middle'), format, 2 * MiB, MiB, 4);
      await mustRun('create', '-q', '-f', format, '-b', 'middle', '-F', format, at('top'));
      await fill(at('top'), format, 2 * MiB + 5, 100, 5);
      await mustRun('convert', '-O', 'raw', at('top'), at('before'));
      const { status, stderr } = await cowlab('commit', '-b', at('base'), at('top'));
      expect({ status, stderr }).toEqual({
        status: 0,
        stderr: 'cowlab: middle: reads wrongly from now on; remove it\n',
      });
      await mustRun('compare', '-f', 'raw', '-F', 'raw', at('base'), at('before'));
      await mustRun('compare', '-F', 'raw', at('top'), at('before'));
    },
  );
});

describe('commit', () => {
  it('makes a smaller backing file larger', async () => {
    await mustRun('create', '-q', '-f', 'raw', at('base'), '1M');
    await mustRun('create', '-q', '-f', 'qcow2', '-b', 'base', '-F', 'raw', at('top'), '4M');
    await fill(at('top'), 'qcow2', 3 * MiB, 100, 1);
    const report = JSON.parse(await mustRun('commit', '--json', at('top'))) as CommitJson;
    expect(report['grown-bytes']).toBe(3 * MiB);
    await mustRun('compare', '-s', '-F', 'raw', at('top'), at('base'));
  });

  it.each([
    ['an image without a backing file', ['commit', 'base'], 'no backing file'],
    ['a file that is not in the chain', ['commit', '-b', 'before', 'top'], 'is not below it'],
    ['an image that is not there', ['commit', 'nowhere'], 'nowhere'],
  ])('refuses %s, in one line', async (_, argv, problem) => {
    await makeChain('qcow2', 'qcow2');
    const { status, stderr } = await cowlab(
      ...argv.map((word) => (/^(commit|-.*)$/.test(word) ? word : at(word))),
    );
    expect(status).toBe(1);
    expect(stderr).toMatch(/^cowlab: [^\n]*\n$/);
    expect(stderr).toContain(problem);
    await mustRun('compare', '-F', 'raw', at('top'), at('before'));
  });
});

describe.skipIf(!hasJudge('qemu-img'))('qemu-img commit', () => {
  const both = pairs.filter(({ format, under }) => judged.includes(format) && judged.includes(under));
  it.each(both)('makes the same of $format over $under', async ({ format, under }) => {
    await makeChain(format, under);
    await mkdir(at('theirs'));
    for (const name of ['base', 'top']) await cp(at(name), at(`theirs/${name}`));
    await mustRun('commit', '-q', at('top'));
    expect(judge('qemu-img', 'commit', '-q', '-f', format, at('theirs/top'))).toMatchObject({ status: 0 });
    const compare = ['compare', '-f', under, '-F', under, at('base'), at('theirs/base')];
    expect(judge('qemu-img', ...compare)).toMatchObject({ status: 0 });
    const top = ['compare', '-f', format, '-F', 'raw', at('top'), at('before')];
    expect(judge('qemu-img', ...top)).toMatchObject({ status: 0 });
    expect(judge('qemu-img', 'check', '-f', format, at('top'))).toMatchObject({ status: 0 });
    if (under !== 'raw') {
      expect(judge('qemu-img', 'check', '-f', under, at('base'))).toMatchObject({ status: 0 });
    }
  });
});
