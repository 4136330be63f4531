import { stat } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import type { InfoJson, MapEntryJson } from '../src/index.ts';
import { baseFormatOf, fill, formats, formatsWith, judged, makeSample, MiB } from './images.ts';
import { cowlab, hasJudge, judge, mustRun, scratch } from './lab.ts';

const at = scratch();

async function map(file: string, format: string): Promise<MapEntryJson[]> {
  return JSON.parse(await mustRun('map', '--json', '-f', format, file)) as MapEntryJson[];
}

async function sizeOf(file: string, format: string): Promise<number> {
  const info = JSON.parse(await mustRun('info', '--json', '-f', format, file)) as InfoJson;
  return info['virtual-size'];
}

describe.each(formats)('map of %s', (format) => {
  it('covers the disk without gaps and finds every byte that was written', async () => {
    await makeSample(at('disk'), format);
    const entries = await map(at('disk'), format);
    let end = 0;
    for (const entry of entries) {
      expect(entry.start).toBe(end);
      expect(entry.data).toBe(!entry.zero);
      expect(entry.depth).toBe(0);
      if (entry.data)
        expect(entry).toMatchObject({ present: true, filename: 'disk', offset: expect.any(Number) });
      end += entry.length;
    }
    expect(end).toBe(16 * MiB);
    const holds = (offset: number): boolean =>
      entries.some(({ start, length, data }) => data && start <= offset && offset < start + length);
    for (const offset of [MiB, MiB + 65_535, 5 * MiB + 1000, 16 * MiB - 1]) expect(holds(offset)).toBe(true);
    expect(holds(8 * MiB)).toBe(false);
  });

  it('tells of a part of the disk only, when that is asked for', async () => {
    await makeSample(at('disk'), format);
    const part = ['map', '--json', '-f', format, '--start-offset', '512k', '--max-length', '1M', at('disk')];
    const entries = JSON.parse(await mustRun(...part)) as MapEntryJson[];
    expect(entries[0]?.start).toBe(MiB / 2);
    expect(entries.reduce((sum, { length }) => sum + length, 0)).toBe(MiB);
    const { status, stderr } = await cowlab('map', '-f', format, '-s', '17M', at('disk'));
    expect({ status, stderr }).toEqual({
      status: 1,
      stderr: `cowlab: ${at('disk')}: --start-offset: ${17 * MiB} is past the end, ${16 * MiB}\n`,
    });
  });

  it('prints the same as a table', async () => {
    await makeSample(at('disk'), format);
    const lines = (await mustRun('map', '-f', format, at('disk'))).trimEnd().split('\n');
    const entries = await map(at('disk'), format);
    expect(lines).toHaveLength(entries.length + 1);
    expect(lines[0]).toMatch(/^Offset +Length +Mapped to +Depth +Kind +File$/);
    expect(lines.slice(1).map((line) => Number(line.split(/ +/)[0]))).toEqual(
      entries.map(({ start }) => start),
    );
  });
});

describe.each(formatsWith(({ backing }) => backing))('map of %s over a backing file', (format) => {
  it('says how deep the bytes lie, and in which file', async () => {
    const base = baseFormatOf(format);
    await mustRun('create', '-f', base, at('base'), '4M');
    await fill(at('base'), base, 0, 2 * MiB, 1);
    await mustRun('create', '-f', format, '-b', 'base', at('top'), '4M');
    await fill(at('top'), format, MiB, MiB, 2);
    const data = (await map(at('top'), format)).filter((entry) => entry.data);
    const summary = (depth: number): unknown => {
      const there = data.filter((entry) => entry.depth === depth);
      const files = new Set(there.map(({ filename }) => filename));
      const length = there.reduce((sum, entry) => sum + entry.length, 0);
      return { start: there[0]?.start, length, files: [...files] };
    };
    expect(summary(0)).toEqual({ start: MiB, length: MiB, files: ['top'] });
    expect(summary(1)).toEqual({ start: 0, length: MiB, files: ['base'] });
  });
});

describe.skipIf(!hasJudge('qemu-img')).each(judged)('map of %s and qemu-img', (format) => {
  it('agree on where data are; where we say zero, they have zeros or a hole of the file', async () => {
    await makeSample(at('disk'), format);
    const { stdout } = judge('qemu-img', 'map', '--output=json', '-f', format, at('disk'));
    const theirs = JSON.parse(stdout) as MapEntryJson[];
    for (const ours of (await map(at('disk'), format)).filter(({ data }) => data)) {
      const around = theirs.find(({ start, length }) => start <= ours.start && ours.start < start + length);
      expect(around?.data).toBe(true);
      expect((around?.offset ?? 0) - (around?.start ?? 0)).toBe((ours.offset ?? 0) - ours.start);
    }
  });
});

describe.each(formatsWith(({ resize }) => resize !== 'none'))('resize of %s', (format) => {
  it('sets a size, or changes it by one', async () => {
    await makeSample(at('disk'), format);
    expect(await mustRun('resize', '-f', format, at('disk'), '20M')).toBe('Image resized.\n');
    expect(await sizeOf(at('disk'), format)).toBe(20 * MiB);
    expect(await mustRun('resize', '-q', '-f', format, at('disk'), '+4M')).toBe('');
    expect(await sizeOf(at('disk'), format)).toBe(24 * MiB);
    await makeSample(at('same'), format);
    const { status, stdout } = await cowlab('compare', at('disk'), at('same'));
    expect(status, stdout).toBe(0);
  });

  it('shrinks only when that was agreed to', async () => {
    await makeSample(at('disk'), format);
    const { status, stderr } = await cowlab('resize', '-f', format, at('disk'), '-12M');
    expect(status).toBe(1);
    expect(stderr).toMatch(/^cowlab: [^\n]*--shrink agrees to lose data\n$/);
    expect(await sizeOf(at('disk'), format)).toBe(16 * MiB);
  });

  it('refuses to go below nothing', async () => {
    await makeSample(at('disk'), format);
    const { status, stderr } = await cowlab('resize', '--shrink', '-f', format, at('disk'), '-16M');
    expect(status).toBe(1);
    expect(stderr).toContain('leaves no disk of a possible size');
  });
});

describe.each(formatsWith(({ resize }) => resize === 'both'))('resize of %s', (format) => {
  it('shrinks with --shrink, also by a negative size', async () => {
    await makeSample(at('disk'), format);
    await mustRun('resize', '--shrink', '-f', format, at('disk'), '-12M');
    expect(await sizeOf(at('disk'), format)).toBe(4 * MiB);
  });
});

describe.each(formatsWith(({ resize }) => resize === 'none'))('resize of %s', (format) => {
  it('is refused in one line, and nothing changes', async () => {
    await makeSample(at('disk'), format);
    const { size } = await stat(at('disk'));
    const { status, stderr } = await cowlab('resize', '-f', format, at('disk'), '+4M');
    expect(status).toBe(1);
    expect(stderr).toMatch(/^cowlab: [^\n]*does not resize\n$/);
    expect((await stat(at('disk'))).size).toBe(size);
  });
});
