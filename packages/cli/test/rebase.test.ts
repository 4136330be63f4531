import { mkdir, rename, rm } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import type { RebaseJson } from '../src/index.ts';
import { baseFormatOf, fill, formatsWith, judged, makeSample, MiB } from './images.ts';
import { cowlab, hasJudge, judge, mustRun, scratch } from './lab.ts';

const at = scratch();
const rebasing = formatsWith(({ changeBacking }) => changeBacking);

/** `top` over `base`; `other` differs from that in a MiB. */
async function makeChain(format: string): Promise<string> {
  const under = baseFormatOf(format);
  await makeSample(at('base'), under);
  await makeSample(at('other'), under);
  await fill(at('other'), under, 3 * MiB, MiB, 9);
  await mustRun('create', '-q', '-f', format, '-b', 'base', '-F', under, at('top'));
  await fill(at('top'), format, 2 * MiB, 1000, 7);
  await mustRun('convert', '-O', 'raw', at('top'), at('before'));
  return under;
}

describe.each(rebasing)('rebase of %s', (format) => {
  it('keeps the contents over another backing file, and over none', async () => {
    const under = await makeChain(format);
    const printed = await mustRun('rebase', '--json', '-b', 'other', '-F', under, at('top'));
    const report = JSON.parse(printed) as RebaseJson;
    expect(report).toMatchObject({ 'backing-filename': 'other', 'copied-bytes': MiB });
    await rm(at('base'));
    await mustRun('compare', '-F', 'raw', at('top'), at('before'));
    const { stdout, stderr } = await cowlab('rebase', '-p', '-b', '', at('top'));
    expect(stdout).toMatch(/^Image rebased: [^\n]+ compared, [^\n]+ copied\.\n$/);
    expect(stderr).toMatch(/^rebase: 100 %/);
    await rm(at('other'));
    await mustRun('compare', '-F', 'raw', at('top'), at('before'));
    await mustRun('check', at('top'));
  });

  it('-u follows a backing file that has moved, to another folder too', async () => {
    const under = await makeChain(format);
    await mkdir(at('moved'));
    await rename(at('base'), at('moved/base'));
    const { status } = await cowlab('rebase', '-b', 'moved/base', '-F', under, at('top'));
    expect(status).toBe(1);
    expect(await mustRun('rebase', '-u', '-b', 'moved/base', '-F', under, at('top'))).toBe(
      'Image rebased: nothing compared.\n',
    );
    await mustRun('compare', '-F', 'raw', '--allow', at('moved'), at('top'), at('before'));
  });

  it('refuses a backing file that is not there, in one line', async () => {
    const under = await makeChain(format);
    const { status, stderr } = await cowlab('rebase', '-b', 'nowhere', '-F', under, at('top'));
    expect(status).toBe(1);
    expect(stderr).toMatch(/^cowlab: [^\n]*nowhere[^\n]*\n$/);
    await mustRun('compare', '-F', 'raw', at('top'), at('before'));
  });
});

describe.each(formatsWith(({ changeBacking }) => !changeBacking))('rebase of %s', (format) => {
  it('is refused in one line', async () => {
    await makeSample(at('disk'), format);
    const { status, stderr } = await cowlab('rebase', '-f', format, '-b', '', at('disk'));
    expect(status).toBe(1);
    expect(stderr).toMatch(/^cowlab: [^\n]*does not change its backing\n$/);
  });
});

describe.skipIf(!hasJudge('qemu-img'))('qemu-img and rebase', () => {
  it.each(rebasing.filter((format) => judged.includes(format)))('agree on %s', async (format) => {
    const under = await makeChain(format);
    await mustRun('rebase', '-q', '-b', 'other', '-F', under, at('top'));
    const args = ['compare', '-f', format, '-F', 'raw', at('top'), at('before')];
    expect(judge('qemu-img', ...args)).toMatchObject({ status: 0 });
    expect(judge('qemu-img', 'check', '-f', format, at('top'))).toMatchObject({ status: 0 });
    await mustRun('rebase', '-q', '-b', '', at('top'));
    expect(judge('qemu-img', ...args)).toMatchObject({ status: 0 });
  });
});
