import { stat } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import type { MeasureJson } from '../src/index.ts';
import { fill, formats, formatsWith, MiB, makeSample } from './images.ts';
import { cowlab, hasJudge, judge, mustRun, scratch } from './lab.ts';

const at = scratch();

async function measured(...argv: string[]): Promise<MeasureJson> {
  return JSON.parse(await mustRun('measure', '--json', ...argv)) as MeasureJson;
}

describe.each(formatsWith(({ measure }) => measure))('measure for %s', (format) => {
  it.each(formats)('of an image of %s is at least what convert makes of it', async (source) => {
    await makeSample(at('disk'), source);
    const { required, 'fully-allocated': most } = await measured('-f', source, '-O', format, at('disk'));
    await mustRun('convert', '-f', source, '-O', format, at('disk'), at('copy'));
    const { size } = await stat(at('copy'));
    expect(size).toBeLessThanOrEqual(required);
    expect(required).toBeLessThanOrEqual(most);
    await fill(at('disk'), source, 0, 16 * MiB, 5);
    const full = await measured('-f', source, '-O', format, at('disk'));
    expect(full).toEqual({ required: most, 'fully-allocated': most });
    await mustRun('convert', '--force', '-f', source, '-O', format, at('disk'), at('copy'));
    expect((await stat(at('copy'))).size).toBeLessThanOrEqual(most);
  });

  it('of a size says both, in lines as qemu-img', async () => {
    const { required, 'fully-allocated': most } = await measured('-O', format, '--size', '3G');
    expect(most).toBeGreaterThanOrEqual(3 * 1024 * MiB);
    expect(await mustRun('measure', '-O', format, '--size', '3G')).toBe(
      `required size: ${required}\nfully allocated size: ${most}\n`,
    );
  });
});

describe('measure', () => {
  it('of a snapshot is of what that holds', async () => {
    await makeSample(at('disk'), 'qcow2');
    const before = await measured('-O', 'qcow2', at('disk'));
    await mustRun('snapshot', '-c', 'then', at('disk'));
    await fill(at('disk'), 'qcow2', 0, 16 * MiB, 5);
    expect(await measured('-O', 'qcow2', '-l', 'then', at('disk'))).toEqual(before);
    expect((await measured('-O', 'qcow2', at('disk'))).required).toBeGreaterThan(before.required);
  });

  it.each([
    [['measure'], 'which file, or --size?'],
    [['measure', '--size', '1G', 'x'], 'not beside one'],
    [['measure', '--size', '1G', '-l', 'a'], 'a snapshot without a file'],
    [['measure', '--size', '0'], 'size'],
    [['measure', '-O', 'qcow2', '-o', 'cluster_size=512', '--size', '1E'], 'size'],
    [['measure', '-O', 'fvd', '-o', 'chunk_size=3', '--size', '1G'], 'chunk_size'],
  ])('refuses %j, in one line', async (argv, problem) => {
    const { status, stderr } = await cowlab(...argv);
    expect(status).toBe(1);
    expect(stderr).toMatch(/^cowlab: [^\n]*\n$/);
    expect(stderr).toContain(problem);
  });
});

describe.skipIf(!hasJudge('qemu-img'))('qemu-img measure', () => {
  /** Bitmaps of the source, which are not copied here, left out. */
  function theirs(...argv: string[]): unknown {
    const { stdout } = judge('qemu-img', 'measure', '--output=json', ...argv);
    const { bitmaps: _, ...sizes } = JSON.parse(stdout) as Record<string, number>;
    return sizes;
  }

  const sizes = ['1M', '1000000512', '3G'];

  it.each([
    ['raw', [], [...sizes, '20T']],
    ['qcow2', [], [...sizes, '20T']],
    ['qcow2', ['-o', 'cluster_size=4096'], sizes],
    ['qcow2', ['-o', 'cluster_size=2M,refcount_bits=64'], [...sizes, '20T']],
    ['qcow2', ['-o', 'cluster_size=512,refcount_bits=1'], sizes],
    ['qcow2', ['-o', 'extended_l2=on,cluster_size=128k'], [...sizes, '20T']],
    ['qcow2', ['-o', 'preallocation=metadata'], sizes],
    ['qcow2', ['-o', 'compat=0.10'], sizes],
  ])('says the same for %s with %j', async (format, options, ofSizes) => {
    await makeSample(at('disk'), 'qcow2');
    await makeSample(at('flat'), 'raw');
    for (const [source, file] of [
      ['qcow2', at('disk')],
      ['raw', at('flat')],
    ] as const) {
      const argv = ['-f', source, '-O', format, ...options, file];
      expect(await measured(...argv)).toEqual(theirs(...argv));
    }
    for (const size of ofSizes) {
      const argv = ['-O', format, ...options, '--size', size];
      expect(await measured(...argv)).toEqual(theirs(...argv));
    }
  });
});
