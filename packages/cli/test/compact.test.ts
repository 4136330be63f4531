import { stat } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { formatsWith, MiB, makeSample } from './images.ts';
import type { CompactJson } from '../src/index.ts';
import { cowlab, mustRun, scratch } from './lab.ts';

const at = scratch();

describe.each(formatsWith(({ compact }) => compact === 'move'))('compact of %s', (format) => {
  it('makes the file shorter, and with --move shorter still', async () => {
    await makeSample(at('disk'), format);
    await mustRun('convert', '-O', 'raw', at('disk'), at('before'));
    await mustRun('snapshot', '-c', 'one', at('disk'));
    await mustRun('resize', '--shrink', '-q', at('disk'), '2M');
    await mustRun('snapshot', '-d', 'one', at('disk'));
    const { size } = await stat(at('disk'));
    const report = JSON.parse(await mustRun('compact', '--move', '--json', at('disk'))) as CompactJson;
    expect(report['bytes-before']).toBe(size);
    expect(report['bytes-after']).toBeLessThanOrEqual(size - 2 * MiB);
    expect((await stat(at('disk'))).size).toBe(report['bytes-after']);
    await mustRun('resize', '-q', '-f', 'raw', '--shrink', at('before'), '2M');
    await mustRun('compare', at('disk'), at('before'));
    await mustRun('check', at('disk'));
  });

  it('says what it did, and shows progress', async () => {
    await makeSample(at('disk'), format);
    const { status, stdout, stderr } = await cowlab('compact', '-p', '--move', at('disk'));
    expect(status).toBe(0);
    expect(stdout).toMatch(/^Image compacted: [^\n]+ before, [^\n]+ now; [^\n]+ moved\.\n$/);
    expect(stderr).toMatch(/^compact: 100 %/);
  });
});

describe.each(formatsWith(({ compact }) => compact === 'none'))('compact of %s', (format) => {
  it('is refused in one line', async () => {
    await makeSample(at('disk'), format);
    const { status, stderr } = await cowlab('compact', '-f', format, at('disk'));
    expect(status).toBe(1);
    expect(stderr).toMatch(/^cowlab: [^\n]*does not compact\n$/);
  });
});
