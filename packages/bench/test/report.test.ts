import { describe, expect, it } from 'vitest';
import { report } from '../src/report.ts';
import { claims, judge } from '../src/rules.ts';
import type { GoalName } from '../src/schema.ts';
import { FORMATS, idealResults } from './samples.ts';

function sample(): ReturnType<typeof idealResults> {
  const results = idealResults();
  results.sessions.find(
    ({ format, snapshots }) => format === 'vmdk' && snapshots === 1000,
  )!.residentMetadataBytes *= 50;
  return { ...results, goals: judge(results, FORMATS) };
}

const lines = report(sample()).split('\n');

it('fits a terminal of 110 columns', () => {
  expect(lines.filter((line) => line.length > 110)).toEqual([]);
});

it('has a column for every N', () => {
  expect(lines.some((line) => /N=0 +N=1 +N=1000$/.test(line))).toBe(true);
});

it.each([
  'read: µs each',
  'first overwrite: µs each',
  'first overwrite: storage calls each',
  'first overwrite: KiB moved each',
  'steady overwrite: storage calls each',
  'refcount I/Os, open to close',
  'metadata in memory, KiB',
  'process memory, MiB',
  'open and first read, ms',
  'create a snapshot, ms',
  'delete a middle snapshot, ms',
])('has a row for each format under "%s"', (title) => {
  const first = lines.findIndex((line) => line.startsWith(title));
  expect(first).toBeGreaterThan(0);
  const rows = lines.slice(first, first + 4).join('\n');
  for (const format of FORMATS) expect(rows).toMatch(new RegExp(`(?:^| )${format} `, 'm'));
});

it('leaves no blank out between a title and a format', () => {
  expect(lines.filter((line) => /[a-z](?:raw|fvd|qcow2|vmdk) /.test(line))).toEqual([]);
});

describe.each(['G1', 'G2', 'G3', 'G4', 'G5', 'G6'] as GoalName[])('under %s', (goal) => {
  const first = lines.findIndex((line) => line.startsWith(`${goal} `));

  it.each(FORMATS)(
    '%s has its verdict, the claim of the mail and the measured value side by side',
    (format) => {
      const row = sample().goals.find((each) => each.goal === goal && each.format === format)!;
      const line = lines.slice(first).find((each) => each.trimStart().startsWith(format))!;
      const [, verdict, claim] = line.trim().split(/ {2,}/);
      expect({ verdict, claim }).toEqual({ verdict: row.verdict, claim: claims[format]![goal] });
      expect(line).toContain(row.measured.split('; ')[0]);
    },
  );
});

it('says where the mail is contradicted, and how', () => {
  expect(lines.some((line) => /vmdk +very poor +very poor +confirmed/.test(line))).toBe(true);
  expect(lines.some((line) => /qcow2 +ideal +poor +contradicted: better/.test(line))).toBe(true);
});

it('makes headings stand out where the caller says how, and nothing else', () => {
  const bold = report(sample(), (text) => `<b>${text}</b>`);
  expect(bold.replaceAll(/<\/?b>/g, '')).toBe(lines.join('\n'));
  expect(bold).toMatch(/^<b>cowlab bench: profile sample/);
});

it('tells what a power loss leaves, and whether it can be repaired', () => {
  const text = report(sample());
  expect(text).toMatch(/^ {2}fvd +clean +none needed$/m);
  expect(text).toMatch(/^ {2}qcow2 +sound, leaks +check -r$/m);
  expect(text).toMatch(/^ {2}vmdk +sound, leaks +none$/m);
});

it('names what was left out', () => {
  const results = sample();
  results.processMemory = [];
  results.omissions = [{ scenario: 'process memory', format: 'fvd', reason: 'not built' }];
  expect(report(results)).toContain('left out: process memory, fvd: not built');
  expect(report(results)).not.toContain('process memory, MiB');
});

it('ends with the matrix of verdicts, and marks what the mail does not say', () => {
  const matrix = lines
    .slice(lines.findLastIndex((line) => line.startsWith('Verdicts')))
    .filter((line) => line !== '');
  expect(matrix).toHaveLength(7);
  for (const { goal, format, verdict, agreement } of sample().goals) {
    const cells = matrix
      .find((line) => line.startsWith(`  ${goal} `))!
      .slice(46)
      .split(/ {2,}/);
    expect(cells[FORMATS.indexOf(format as (typeof FORMATS)[number])]).toBe(
      `${verdict}${agreement === 'agrees' ? '' : '*'}`,
    );
  }
});

it('draws how the numbers of a line go with N', () => {
  const row = lines.findIndex((line) => line.startsWith('metadata in memory, KiB'));
  const drawn = lines.slice(row, row + 4).map((line) => line.slice(46 + 3 * 12).trim());
  expect(drawn.filter((text) => text !== '')).toEqual(['███', '███', '▁▁█']);
});
