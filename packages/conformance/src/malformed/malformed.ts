import { describe, expect, it } from 'vitest';
import { runSeed } from '../random.ts';
import type { ConformanceSubject } from '../subject.ts';
import { type Mutant, MutantRun } from './run.ts';

/** Registers the tests of a driver with damaged images: those that once failed, and `count` new ones. */
export function malformed(
  subjects: readonly ConformanceSubject[],
  corpus: readonly Mutant[],
  count: number,
): void {
  const seed = runSeed();
  const run = new MutantRun(subjects, seed);

  describe(`damaged images of ${subjects[0]?.driver.name}`, () => {
    it.each(run.recipes)('an undamaged one is clean: $name', async (recipe) => {
      const outcome = await run.use({ recipe: recipe.name, guest: seed, mutations: [] });
      expect(outcome).toMatchObject({ isClean: true });
    });

    it.each(corpus)('one that was once misread: $recipe $mutations', async (mutant) => {
      expect(await run.use(mutant)).toBeDefined();
    });

    it(`${count} more, with seed ${seed}`, async () => {
      let used = 0;
      for (let index = 0; index < count; index += 1) {
        const mutant = await run.mutant(index);
        try {
          if ((await run.use(mutant)) !== undefined) used += 1;
        } catch (error) {
          throw new Error(`COWLAB_SEED=${seed}, mutant ${index}: ${JSON.stringify(mutant)}`, {
            cause: error,
          });
        }
      }
      expect(used).toBeGreaterThan(count * 0.9);
    }, 300_000);
  });
}
