import { qemuAvailable } from '@cowlab/conformance';
import { describe, expect, it } from 'vitest';
import { describeFailure } from '../src/corpus/print.ts';
import { kindCount, recipeOf, seedsFrom } from '../src/corpus/recipe.ts';
import { type CorpusReport, runCorpus } from '../src/corpus/run.ts';

/* A sample of the corpus: every kind once. `npm run corpus` runs hundreds. */

const seed = Number(process.env['COWLAB_SEED'] ?? 1);
const seeds = seedsFrom(seed, Math.max(24, kindCount));

it('a seed is a recipe, and seeds in a row have every kind', () => {
  const kinds = new Set<string>();
  for (let at = 0; at < kindCount; at++) {
    expect(recipeOf(seed + at)).toEqual(recipeOf(seed + at));
    kinds.add(recipeOf(seed + at).kind);
  }
  expect(kinds.size).toBe(kindCount);
});

describe.skipIf(!qemuAvailable() && !process.env['CI'])('images that QEMU made', () => {
  it(`are read, written and given back without a difference, from seed ${seed} on`, async () => {
    const report: CorpusReport = await runCorpus({ seeds, jobs: 2 });
    expect(report.failures.map(describeFailure)).toEqual([]);
    const counts = [...report.kinds.values()];
    const sum = (name: 'made' | 'read' | 'refused'): number =>
      counts.reduce((all, each) => all + each[name], 0);
    expect(sum('made')).toBe(seeds.length);
    expect(sum('read')).toBeGreaterThan(0);
  }, 180_000);
});
