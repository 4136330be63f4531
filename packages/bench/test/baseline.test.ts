import { expect, it } from 'vitest';
import { compareResults, sameCounts } from '../src/baseline.ts';
import { judge } from '../src/rules.ts';
import type { Results } from '../src/schema.ts';
import { seededRandom } from '../src/workload.ts';
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
  expect(differences.map(({ what }) => what)).toEqual([
    ...FORMATS.map((format) => `G4 ${format}`),
    ...FORMATS.map((format) => `${format} N=1000 opening, metadata bytes`),
  ]);
  for (const difference of differences) expect(difference.regression).toBe(regression);
});

/** A run in which reads of FVD without snapshots come to so many storage calls. */
function withCalls(calls: number): Results {
  return run((results) => {
    results.reads.find(({ format, snapshots }) => format === 'fvd' && snapshots === 0)!.calls =
      someCalls(calls);
  });
}

it.each([
  ['rises', withCalls(1000), withCalls(1020), true],
  ['falls', withCalls(1020), withCalls(1000), false],
])('a count that %s is told, and a regression only when it rises', (_, before, after, regression) => {
  const differences = compareResults(before, after);
  expect(differences.map(({ what }) => what)).toEqual(['fvd N=0 reads, calls', 'fvd N=0 reads, bytes']);
  for (const difference of differences) expect(difference.regression).toBe(regression);
});

it('counts of a row that its time has cut short are not compared, and how many they are is told', () => {
  const before = withCalls(1000);
  const after = run((results) => {
    const row = results.reads.find(({ format, snapshots }) => format === 'fvd' && snapshots === 0)!;
    row.operations -= 64;
  });
  expect(compareResults(before, after)).toEqual([]);
  const { same, of, cut } = sameCounts(before, after);
  expect(cut).toBe(3);
  expect(same).toBe(of);
});

it('counts that are not the same to the last digit are counted', () => {
  const { same, of } = sameCounts(withCalls(1000), withCalls(1001));
  expect(of - same).toBe(2);
});

it('counts of runs that asked for something else are not compared', () => {
  expect(compareResults(withCalls(1000), { ...withCalls(2000), seed: 99 })).toEqual([]);
});

/** A run on a machine that takes `machine` times as long for everything, and `format` times for FVD. */
function withTimes(machine: number, format: number): Results {
  const random = seededRandom(machine * 100);
  return run((results) => {
    for (const row of results.reads) {
      row.roundMicros = row.roundMicros.map(
        (micros) => micros * machine * (row.format === 'fvd' ? format : 1) * (0.97 + 0.06 * random()),
      );
    }
  });
}

it('a machine that is slower is no difference', () => {
  expect(compareResults(withTimes(1, 1), withTimes(3, 1))).toEqual([]);
});

it.each([
  ['slower', 1.4, true],
  ['faster', 0.6, false],
])('a format that gets %s than raw is told, whatever the machine does', (_, factor, regression) => {
  const told = compareResults(withTimes(1, 1), withTimes(3, factor));
  expect(told.map(({ what }) => what.replace(/ \(.*/, ''))).toEqual(
    [0, 1, 1000].map((count) => `fvd N=${count} reads, time of raw`),
  );
  for (const difference of told) expect(difference.regression).toBe(regression);
});
