import { expect, it } from 'vitest';
import { compareResults } from '../src/baseline.ts';
import { judge } from '../src/rules.ts';
import type { Results } from '../src/schema.ts';
import { FORMATS, idealResults, someCalls } from './samples.ts';

function run(change: (results: Results) => void = () => {}): Results {
  const results = idealResults();
  change(results);
  return { ...results, goals: judge(results, FORMATS) };
}

function withMemory(bytes: number): Results {
  return run((results) => {
    for (const row of results.sessions) if (row.snapshots === 1000) row.residentMetadataBytes = bytes;
  });
}

it('two runs alike have no differences', () => {
  expect(compareResults(run(), run())).toEqual([]);
});

it.each([
  ['worse', run(), withMemory(200_000), true],
  ['better', withMemory(200_000), run(), false],
])('a verdict that gets %s is told, and a regression only when it is one', (_, before, after, regression) => {
  const differences = compareResults(before, after);
  expect(differences.map(({ what }) => what)).toEqual(FORMATS.map((format) => `G4 ${format}`));
  for (const difference of differences) expect(difference.regression).toBe(regression);
});

it('counts that moved are told, times are not', () => {
  const after = run((results) => {
    results.reads.find(({ format, snapshots }) => format === 'fvd' && snapshots === 1)!.calls =
      someCalls(1050);
    results.reads.find(({ format, snapshots }) => format === 'fvd' && snapshots === 0)!.calls =
      someCalls(1200);
    for (const row of results.reads) row.roundMicros = row.roundMicros.map((micros) => micros * 1.05);
  });
  expect(
    compareResults(run(), after).map(({ what, before, after: now }) => `${what}: ${before} → ${now}`),
  ).toEqual([
    'fvd N=0 reads, calls per operation: 1.00 → 1.20',
    'fvd N=0 reads, bytes per operation: 4096.00 → 4915.20',
  ]);
});
