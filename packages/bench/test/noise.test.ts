import { expect, it } from 'vitest';
import { report } from '../src/index.ts';
import { noisyRows } from '../src/noise.ts';
import { htmlReport } from '../src/publish/html.ts';
import { seededRandom } from '../src/workload.ts';
import { publishedResults } from './samples.ts';

it('a quiet run vouches for all of its times', () => {
  const results = publishedResults();
  expect(noisyRows(results)).toEqual([]);
  expect(report(results)).not.toContain('cannot vouch');
});

it('times whose median could as well be another one are named, in every report', () => {
  const results = publishedResults();
  const random = seededRandom(3);
  const row = results.reads.find(({ format, snapshots }) => format === 'qcow2' && snapshots === 1)!;
  row.roundMicros = row.roundMicros.map(() => 1 + 100 * random() ** 4);
  const what = 'reads, qcow2 N=1';
  expect(noisyRows(results).map((noisy) => noisy.what)).toEqual([what]);
  expect(report(results)).toContain(what);
  expect(htmlReport(results).includes(what)).toBe(true);
});
