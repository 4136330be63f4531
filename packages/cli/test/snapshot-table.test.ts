import { describe, expect, it } from 'vitest';
import { Output } from '../src/output.ts';
import { printSnapshots } from '../src/snapshot-table.ts';

type Row = readonly [id: string, parent: string | null | undefined];

/** The TAG column, as it is printed; every snapshot is named like its id. */
function tags(rows: readonly Row[]): string[] {
  let text = '';
  const stream = { write: (more: string) => void (text += more) };
  const snapshots = rows.map(([id, parent]) => ({
    id,
    name: `s${id}`,
    createdAt: new Date(0),
    size: 512,
    ...(parent !== undefined && { parent }),
  }));
  printSnapshots(new Output({ stdout: stream, stderr: stream, env: {} }), snapshots);
  const lines = text.trimEnd().split('\n').slice(1);
  return lines.map((line) => line.replace(/^\S+ +/, '').replace(/ +512 .*$/, ''));
}

describe('the table of snapshots', () => {
  it.each<[string, readonly Row[], readonly string[]]>([
    [
      'without parents is a list',
      [
        ['2', undefined],
        ['1', undefined],
      ],
      ['s2', 's1'],
    ],
    [
      'shows a line of descent without indenting it',
      [
        ['1', null],
        ['2', '1'],
        ['3', '2'],
      ],
      ['s1', 's2', 's3'],
    ],
    [
      'shows branches of branches before the line goes on',
      [
        ['1', null],
        ['2', '1'],
        ['3', '2'],
        ['4', '2'],
        ['5', '1'],
        ['6', '3'],
      ],
      ['s1', '├─ s2', '│  ├─ s3', '│  │  s6', '│  s4', 's5'],
    ],
    [
      'shows several first ones',
      [
        ['1', null],
        ['2', null],
        ['3', '1'],
      ],
      ['├─ s1', '│  s3', 's2'],
    ],
    [
      'counts a parent that is not there as none',
      [
        ['1', '9'],
        ['2', '1'],
      ],
      ['s1', 's2'],
    ],
    [
      'leaves out none of those that are their own ancestors',
      [
        ['1', '2'],
        ['2', '1'],
        ['3', null],
      ],
      ['s3', 's1', 's2'],
    ],
  ])('%s', (_, rows, wanted) => {
    expect(tags(rows)).toEqual(wanted);
  });

  it('takes 65,535 snapshots, in one line, in one fan, or with a branch at each', () => {
    const all = Array.from({ length: 65_535 }, (_, index) => index);
    const parentsOf: readonly ((index: number) => number | null)[] = [
      (index) => (index === 0 ? null : index - 1),
      (index) => (index === 0 ? null : 0),
      (index) => (index < 2 ? null : index - 2 + (index % 2 === 0 ? 0 : -1)),
    ];
    for (const parentOf of parentsOf) {
      const rows = all.map((index): Row => [String(index), parentOf(index)?.toString() ?? null]);
      const lines = tags(rows);
      expect(new Set(lines.map((line) => line.replace(/^[^s]*/, ''))).size).toBe(65_535);
      expect(Math.max(...lines.map((line) => line.length))).toBeLessThan(80);
    }
  });
});
