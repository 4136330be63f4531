import { describe, expect, it } from 'vitest';
import type { AmendJson } from '../src/index.ts';
import { fill, formatsWith, MiB, makeSample } from './images.ts';
import { cowlab, hasJudge, judge, mustRun, scratch } from './lab.ts';

const at = scratch();

describe('amend', () => {
  it('changes what a qcow2 image was made with, and keeps its contents', async () => {
    await makeSample(at('disk'), 'qcow2');
    await mustRun('convert', '-O', 'raw', at('disk'), at('before'));
    const { stdout, stderr } = await cowlab(
      'amend',
      '-p',
      '-o',
      'refcount_bits=64,lazy_refcounts=on',
      at('disk'),
    );
    expect(stdout).toBe('Image amended.\n');
    expect(stderr).toMatch(/^amend: 100 %/);
    await mustRun('compare', at('disk'), at('before'));
    const printed = await mustRun('amend', '--json', '-o', 'compat=0.10,refcount_bits=16', at('disk'));
    const { 'format-specific': details } = JSON.parse(printed) as AmendJson;
    expect(details).toMatchObject({ compat: '0.10', 'refcount bits': 16, 'lazy refcounts': false });
    await mustRun('compare', at('disk'), at('before'));
    await mustRun('check', at('disk'));
  });

  it('lists what can change', async () => {
    await makeSample(at('disk'), 'qcow2');
    const byFormat = await mustRun('amend', '-f', 'qcow2', '-o', 'help');
    expect(byFormat).toMatch(/compat[^]*lazy_refcounts/);
    expect(byFormat).not.toContain('cluster_size');
    expect(await mustRun('amend', '-o', 'help', at('disk'))).toBe(byFormat);
    expect(await mustRun('amend', '-f', 'fvd', '-o', 'help')).toContain('keep what they were made with');
  });

  it.each([
    ['qcow2', 'cluster_size=4096', 'cluster_size'],
    ['qcow2', 'refcount_bits=3', 'power of two'],
    ['qcow2', 'compat=0.10,lazy_refcounts=on', 'lazy_refcounts'],
    ['qcow2', 'nonsense=1', 'nonsense'],
  ])('refuses for %s %s, in one line', async (format, options, problem) => {
    await makeSample(at('disk'), format);
    const { status, stderr } = await cowlab('amend', '-o', options, at('disk'));
    expect(status).toBe(1);
    expect(stderr).toMatch(/^cowlab: [^\n]*\n$/);
    expect(stderr).toContain(problem);
  });

  it.each(formatsWith(({ amend }) => amend.length === 0))('of %s is refused', async (format) => {
    await makeSample(at('disk'), format);
    const { status, stderr } = await cowlab('amend', '-f', format, '-o', '', at('disk'));
    expect(status).toBe(1);
    expect(stderr).toMatch(/^cowlab: [^\n]*keep what they were made with\n$/);
  });
});

describe.skipIf(!hasJudge('qemu-img'))('qemu-img and amend', () => {
  const qemu = (...argv: string[]): unknown => {
    const { status, stdout, stderr } = judge('qemu-img', ...argv);
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    return stdout;
  };

  async function judged(details: Record<string, unknown>): Promise<void> {
    qemu('check', '-f', 'qcow2', at('top'));
    qemu('compare', '-f', 'qcow2', '-F', 'raw', at('top'), at('before'));
    const info = JSON.parse(String(qemu('info', '--output=json', at('top')))) as {
      'format-specific': { data: Record<string, unknown> };
    };
    expect(info['format-specific'].data).toMatchObject(details);
    await mustRun('compare', '-F', 'raw', at('top'), at('before'));
  }

  /** Zeros over bytes of a backing file, and past its end. */
  async function makeTop(by: 'cowlab' | 'qemu-img'): Promise<void> {
    await makeSample(at('base'), 'raw');
    if (by === 'cowlab')
      await mustRun('create', '-q', '-f', 'qcow2', '-b', 'base', '-F', 'raw', at('top'), '20M');
    else qemu('create', '-q', '-f', 'qcow2', '-b', at('base'), '-F', 'raw', at('top'), '20M');
    await fill(at('top'), 'qcow2', 3 * MiB, 100_000, 7);
    judge('qemu-io', '-f', 'qcow2', '-c', 'write -z 1M 2M', '-c', 'write -z 17M 1M', at('top'));
    await mustRun('convert', '-O', 'raw', at('top'), at('before'));
  }

  it.each(['cowlab', 'qemu-img'] as const)('agree on every step of an image made by %s', async (by) => {
    await makeTop(by);
    for (const [options, details] of [
      ['refcount_bits=1', { 'refcount-bits': 1 }],
      ['refcount_bits=64,lazy_refcounts=on', { 'refcount-bits': 64, 'lazy-refcounts': true }],
      ['compat=0.10,refcount_bits=16', { compat: '0.10', 'refcount-bits': 16 }],
      ['compat=1.1,refcount_bits=32', { compat: '1.1', 'refcount-bits': 32, 'lazy-refcounts': false }],
    ] as const) {
      await mustRun('amend', '-q', '-o', options, at('top'));
      await judged(details);
    }
    await fill(at('top'), 'qcow2', 10 * MiB, MiB, 6);
    qemu('check', '-f', 'qcow2', at('top'));
  });

  it('take snapshots along, and say what is in the way', async () => {
    await makeTop('cowlab');
    await mustRun('snapshot', '-c', 'with zeros', at('top'));
    await mustRun('snapshot', '-c', 'the same', at('top'));
    expect((await cowlab('amend', '-o', 'refcount_bits=1', at('top'))).stderr).toContain('more than 1 bits');
    await mustRun('amend', '-q', '-o', 'refcount_bits=8', at('top'));
    await judged({ 'refcount-bits': 8 });
    await mustRun('amend', '-q', '-o', 'compat=0.10,refcount_bits=16', at('top'));
    await judged({ compat: '0.10' });
    for (const name of ['with zeros', 'the same']) {
      qemu('convert', '-l', `snapshot.name=${name}`, '-O', 'raw', at('top'), at('theirs'));
      await mustRun('compare', '-f', 'raw', '-F', 'raw', at('theirs'), at('before'));
      await mustRun('snapshot', '-d', name, at('top'));
      await judged({ compat: '0.10' });
    }
  });

  it('an old image with snapshots of QEMU becomes a new one, and is one again', async () => {
    qemu('create', '-q', '-f', 'qcow2', '-o', 'compat=0.10', at('top'), '20M');
    await fill(at('top'), 'qcow2', 3 * MiB, MiB, 7);
    qemu('snapshot', '-c', 'one', at('top'));
    await fill(at('top'), 'qcow2', 4 * MiB, MiB, 8);
    await mustRun('convert', '-O', 'raw', at('top'), at('before'));
    await mustRun('convert', '-l', 'one', '-O', 'raw', at('top'), at('one'));
    for (const compat of ['1.1', '0.10']) {
      await mustRun('amend', '-q', '-o', `compat=${compat}`, at('top'));
      await judged({ compat });
      qemu('convert', '-l', 'snapshot.name=one', '-O', 'raw', at('top'), at('theirs'));
      await mustRun('compare', '-f', 'raw', '-F', 'raw', at('theirs'), at('one'));
    }
  });
});
