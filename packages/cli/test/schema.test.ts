import { readFile, writeFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { baseFormatOf, fill, formats, formatsWith, makeSample } from './images.ts';
import { contradictions } from './json-schema.ts';
import { cowlab, mustRun, scratch } from './lab.ts';

const at = scratch();
const withSnapshots = formatsWith(({ snapshots }) => snapshots !== 'none');
const withDiff = formatsWith(({ diff }) => diff);
const withCompact = formatsWith(({ compact }) => compact !== 'none');
const withRebase = formatsWith(({ changeBacking }) => changeBacking);
const withEmpty = formatsWith(({ empty }) => empty);
const withBacking = formatsWith(({ backing }) => backing);

async function printed(...argv: string[]): Promise<unknown> {
  return JSON.parse((await cowlab(...argv)).stdout);
}

describe('what --json prints is as the published schema says', () => {
  it.each(formats)('of an image of %s', async (format) => {
    await makeSample(at('disk'), format);
    expect(contradictions(await printed('info', '--json', at('disk')), 'info')).toEqual([]);
    expect(contradictions(await printed('check', '--json', at('disk')), 'check')).toEqual([]);
    expect(contradictions(await printed('map', '--json', at('disk')), 'map')).toEqual([]);
    const measured = await printed('measure', '--json', '-O', format, at('disk'));
    expect(contradictions(measured, 'measure')).toEqual([]);
    expect(contradictions(await printed('snapshot', '-l', '--json', at('disk')), 'snapshots')).toEqual([]);
  });

  it.each(withSnapshots)('of snapshots of %s', async (format) => {
    await makeSample(at('disk'), format);
    for (const name of ['one', 'two']) await mustRun('snapshot', '-c', name, at('disk'));
    const snapshots = await printed('snapshot', '-l', '--json', at('disk'));
    expect(snapshots).toHaveLength(2);
    expect(contradictions(snapshots, 'snapshots')).toEqual([]);
    expect(contradictions(await printed('info', '--json', at('disk')), 'info')).toEqual([]);
  });

  it.each(withDiff)('of differences of %s', async (format) => {
    await makeSample(at('disk'), format);
    await mustRun('snapshot', '-c', 'one', at('disk'));
    expect(await printed('diff', '--json', '--from', 'one', at('disk'))).toEqual([]);
    await makeSample(at('other'), format);
    await mustRun('snapshot', '-c', 'one', at('other'));
    await fill(at('other'), format, 0, 100, 1);
    const extents = await printed('diff', '--json', '--from', 'one', at('other'));
    expect(extents).toHaveLength(1);
    expect(contradictions(extents, 'diff')).toEqual([]);
  });

  it.each(withBacking)('of %s over a backing file', async (format) => {
    await makeSample(at('base'), baseFormatOf(format));
    await mustRun('create', '-q', '-f', format, '-b', 'base', '-F', baseFormatOf(format), at('top'));
    expect(contradictions(await printed('info', '--json', at('top')), 'info')).toEqual([]);
    const chain = await printed('info', '--backing-chain', '--output', 'json', at('top'));
    expect(contradictions(chain, 'info-chain')).toEqual([]);
    expect(chain).toMatchObject([{ filename: at('top') }, { filename: at('base') }]);
    expect(contradictions(await printed('map', '--json', at('top')), 'map')).toEqual([]);
  });

  it.each(withCompact)('of a compaction of %s', async (format) => {
    await makeSample(at('disk'), format);
    expect(contradictions(await printed('compact', '--json', at('disk')), 'compact')).toEqual([]);
  });

  it.each(withRebase)('of a rebase of %s', async (format) => {
    await makeSample(at('base'), baseFormatOf(format));
    await mustRun('create', '-q', '-f', format, '-b', 'base', '-F', baseFormatOf(format), at('top'));
    for (const backing of ['base', '']) {
      const report = await printed('rebase', '--json', '-b', backing, at('top'));
      expect(contradictions(report, 'rebase')).toEqual([]);
    }
  });

  it.each(withEmpty)('of a commit of %s', async (format) => {
    await makeSample(at('base'), baseFormatOf(format));
    await mustRun('create', '-q', '-f', format, '-b', 'base', '-F', baseFormatOf(format), at('top'));
    expect(contradictions(await printed('commit', '--json', at('top')), 'commit')).toEqual([]);
  });

  it.each(formatsWith(({ amend }) => amend.length > 0))('of an amendment of %s', async (format) => {
    await makeSample(at('disk'), format);
    expect(contradictions(await printed('amend', '--json', '-o', '', at('disk')), 'amend')).toEqual([]);
  });

  it('of findings', async () => {
    await makeSample(at('disk'), 'qcow2');
    const bytes = await readFile(at('disk'));
    // The refcount of the header's cluster, by way of the refcount table.
    const table = Number(bytes.readBigUInt64BE(48));
    bytes.writeUInt16BE(0, Number(bytes.readBigUInt64BE(table)));
    await writeFile(at('disk'), bytes);
    const report = await printed('check', '--json', at('disk'));
    expect(report).toMatchObject({ corruptions: 1 });
    expect(contradictions(report, 'check')).toEqual([]);
  });
});

describe('the schema', () => {
  const snapshot = { id: '1', name: 'a', 'date-sec': 1, 'date-nsec': 2, 'virtual-size': 3 };

  it.each([
    ['a member that is missing', { ...snapshot, id: undefined }],
    ['a member of another type', { ...snapshot, id: 1 }],
    ['a member that it does not know', { ...snapshot, size: 3 }],
    ['a number that is too small', { ...snapshot, 'virtual-size': -1 }],
    ['a number that is not whole', { ...snapshot, 'virtual-size': 1.5 }],
  ])('finds %s', (_, value) => {
    expect(contradictions(JSON.parse(JSON.stringify([snapshot, value])), 'snapshots')).toHaveLength(1);
    expect(contradictions([snapshot], 'snapshots')).toEqual([]);
  });
});
