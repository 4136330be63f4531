import { describe, expect, it } from 'vitest';
import { claims, decisive, grade, grades, judge, scales } from '../src/rules.ts';
import type { GoalName, GoalRow, OverwriteRow, RequestRow, Results, Verdict } from '../src/schema.ts';
import { FORMATS, idealResults, someCalls } from './samples.ts';

function judged(goal: GoalName, change: (results: Results) => void, format = 'qcow2'): GoalRow {
  const results = idealResults();
  change(results);
  const rows = judge(results, FORMATS).filter((row) => row.goal === goal && row.format === format);
  expect(rows).toHaveLength(1);
  return rows[0]!;
}

function find<T extends { format: string; snapshots: number }>(
  rows: T[],
  format: string,
  snapshots: number,
): T {
  const row = rows.find((each) => each.format === format && each.snapshots === snapshots);
  if (row === undefined) throw new Error(`no row of ${format} at N=${snapshots}`);
  return row;
}

describe.each(Object.entries(scales))('the scale of %s', (_, scale) => {
  it('goes from better to worse', () => {
    expect([...scale]).toEqual(scale.toSorted((a, b) => a - b));
  });

  it.each([0, 1, 2, 3])(
    'gives the better grade at the limit number %d, and the worse one past it',
    (index) => {
      const limit = scale[index]!;
      expect(grade(limit, scale)).toBe(grades[index]);
      expect(grade(limit + 1e-9 * Math.max(1, limit), scale)).toBe(grades[index + 1]);
    },
  );
});

it('what cannot be computed is no good grade', () => {
  expect(grade(Number.NaN, scales.speed)).toBe('very poor');
});

describe('the claims of the mail', () => {
  it.each<[string, Verdict[]]>([
    ['fvd', ['ideal', 'ideal', 'ideal', 'ideal', 'ideal', 'ideal']],
    ['qcow2', ['poor', 'poor', 'poor', 'poor', 'good', 'good']],
    ['vmdk', ['good', 'ok', 'very poor', 'very poor', 'good', 'poor']],
  ])('of %s', (format, expected) => {
    expect(Object.values(claims[format] ?? {})).toEqual(expected);
  });
});

it('there is a row for every goal and format, and equal numbers are ideal', () => {
  const rows = judge(idealResults(), FORMATS);
  expect(rows.map(({ goal, format }) => `${goal} ${format}`)).toEqual(
    ['G1', 'G2', 'G3', 'G4', 'G5', 'G6'].flatMap((goal) => FORMATS.map((format) => `${goal} ${format}`)),
  );
  expect(new Set(rows.map(({ verdict }) => verdict))).toEqual(new Set(['ideal']));
});

it.each<[string, number, GoalRow['agreement']]>([
  ['agrees', 5, 'agrees'],
  ['is better than the mail says', 0.005, 'better'],
  ['is worse than the mail says', 500, 'worse'],
])('a verdict that %s says so', (_, seconds, agreement) => {
  const row = judged(
    'G6',
    (results) => {
      find(
        results.snapshotOperations.filter(({ operation }) => operation === 'delete'),
        'vmdk',
        1000,
      ).medianMs = seconds * 1000;
    },
    'vmdk',
  );
  expect(row).toMatchObject({ claim: 'poor', agreement, value: Math.max(seconds, 0.005) });
});

describe('G1', () => {
  it.each<[string, (results: Results) => void, Verdict]>([
    [
      'a refcount table in memory, and nothing else',
      (results) => {
        find(results.allocations, 'qcow2', 0).residentRefcountBytes = 65_536;
      },
      'ok',
    ],
    [
      'one refcount write while it runs',
      (results) => {
        find(results.sessions, 'qcow2', 0).working.purposes.refcount.writes = 1;
      },
      'ok',
    ],
    [
      'every twentieth call for refcounts',
      (results) => {
        const { calls } = find(results.allocations, 'qcow2', 0);
        calls.purposes.refcount.writes = 50;
      },
      'poor',
    ],
    [
      'as many calls for refcounts as for everything else',
      (results) => {
        const { calls } = find(results.allocations, 'qcow2', 0);
        calls.purposes.refcount.writes = 500;
      },
      'very poor',
    ],
  ])('with %s it is no more than that', (_, change, verdict) => {
    expect(judged('G1', change).verdict).toBe(verdict);
  });

  it('compares a driver with itself without bookkeeping where it can', () => {
    const row = judged('G1', (results) => {
      const asIs = find(results.allocations, 'qcow2', 0);
      asIs.calls = someCalls(1200);
      results.allocations.push({ ...asIs, variant: 'without bookkeeping', calls: someCalls(1000) });
    });
    expect(row.value).toBeCloseTo(0.2, 10);
    expect(row.verdict).toBe('poor');
    expect(row.measured).toContain('1.20× its own calls without bookkeeping');
  });
});

describe.each<[GoalName, number]>([
  ['G2', 1],
  ['G3', 1000],
])('%s', (goal, snapshots) => {
  type Rows = (results: Results) => RequestRow[];
  const pass =
    (which: OverwriteRow['pass']): Rows =>
    (results) =>
      results.overwrites.filter((row) => row.pass === which);
  const phases: [string, Rows][] = [
    ['reads', (results) => results.reads],
    ['first overwrites', pass('first')],
    ['steady overwrites', pass('steady')],
  ];

  it.each(phases)('rests on the calls of the %s when they are the worst', (_, rows) => {
    const row = judged(goal, (results) => {
      find(rows(results), 'qcow2', snapshots).calls = someCalls(2500);
    });
    expect(row).toMatchObject({ value: 2.5, verdict: 'ok' });
  });

  it.each(phases)('rests on the time of the %s when it is the worst', (_, rows) => {
    const row = judged(goal, (results) => {
      const measured = find(rows(results), 'qcow2', snapshots);
      measured.roundMicros = measured.roundMicros.map((micros) => micros * 7);
    });
    expect(row).toMatchObject({ value: 7, verdict: 'poor' });
  });

  it('does not care about the other N', () => {
    const row = judged(goal, (results) => {
      find(results.reads, 'qcow2', snapshots === 1 ? 1000 : 1).calls = someCalls(50_000);
    });
    expect(row.verdict).toBe('ideal');
  });
});

describe('G4', () => {
  it('rests on the metadata', () => {
    const row = judged('G4', (results) => {
      find(results.sessions, 'qcow2', 1000).residentMetadataBytes *= 1.5;
    });
    expect(row).toMatchObject({ value: 1.5, verdict: 'ok' });
  });

  it.each<[number, Verdict]>([
    [7, 'ideal'],
    [20, 'ok'],
    [200, 'very poor'],
  ])('with a process that grows by %d MiB is %s', (mebibytes, verdict) => {
    const row = judged('G4', (results) => {
      find(results.processMemory, 'qcow2', 1000).rssBytes = [(60 + mebibytes) * 2 ** 20];
    });
    expect(row.verdict).toBe(verdict);
  });

  it('does without the processes where they were left out', () => {
    const row = judged('G4', (results) => {
      results.processMemory = [];
    });
    expect(row).toMatchObject({ verdict: 'ideal', measured: 'metadata 64 KiB → 64 KiB' });
  });
});

describe.each<[GoalName, 'create' | 'delete']>([
  ['G5', 'create'],
  ['G6', 'delete'],
])('%s', (goal, operation) => {
  it('rests on the slowest image, and names them all', () => {
    const row = judged(goal, (results) => {
      const large = results.snapshotOperations.find((each) => each.operation === operation)!;
      results.snapshotOperations.push({
        ...large,
        format: 'qcow2',
        snapshots: 20,
        imageBytes: 2 ** 40,
        medianMs: 2000,
      });
    });
    expect(row).toMatchObject({ value: 2, verdict: 'ok' });
    expect(row.measured).toContain('2.00 s (N=20, 1 TiB)');
    expect(row.measured).toContain('5.00 ms (N=1000, 64 MiB)');
  });

  it('tells of images larger than the mail reckons with, and does not judge by them', () => {
    const row = judged(goal, (results) => {
      const large = results.snapshotOperations.find((each) => each.operation === operation)!;
      results.snapshotOperations.push({ ...large, format: 'qcow2', imageBytes: 2 ** 42, medianMs: 2000 });
    });
    expect(row).toMatchObject({ verdict: 'ideal' });
    expect(row.measured).toContain('4 TiB');
  });

  it('has no row where nothing was measured', () => {
    const results = idealResults();
    results.snapshotOperations = results.snapshotOperations.filter((each) => each.operation !== operation);
    expect(judge(results, FORMATS).filter((row) => row.goal === goal)).toEqual([]);
  });
});

it.each<[GoalName, number, string, string]>([
  ['G1', 0.03, '+3 % for bookkeeping; 9 refcount I/Os', '+3 % for bookkeeping'],
  [
    'G2',
    26.2,
    'reads 1.00× calls 1.00× bytes 9.00× time; first pass 2.58× calls 26.2× bytes 3.00× time',
    'first pass 2.58× calls 26.2× bytes 3.00× time',
  ],
  ['G4', 8, 'metadata 4 KiB → 32 KiB; process +1 MiB', 'metadata 4 KiB → 32 KiB; process +1 MiB'],
  ['G5', 2.09, '27.9 ms (N=0, 64 MiB); 2.09 s (N=0, 1 TiB); 30.0 s (N=0, 16 TiB)', '2.09 s (N=0, 1 TiB)'],
])('a verdict on %s of %d rests on one of the facts', (goal, value, measured, fact) => {
  expect(decisive({ goal, value, measured })).toBe(fact);
});
