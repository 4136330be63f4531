import { runRace } from '../races/race.ts';
import type { Scenario, ScenarioGroup } from '../subject.ts';

/** Races by seed: some here; `npm run lab -- --part races` runs new ones until time is up. */
const scenarios: readonly Scenario[] = [4, 16, 40].map((atOnce) => ({
  name: `${atOnce} requests at once: some order explains what each sector has shown`,
  place: 'memory',
  async run(lab) {
    for (let round = 0; round < 3; round++) {
      const seed = lab.random.below(2 ** 31);
      const counts = await runRace(lab, seed, { requests: 250, atOnce });
      lab.note(`seed ${seed}: ${JSON.stringify(counts)}`);
    }
  },
}));

export const races: ScenarioGroup = { name: 'races', scenarios };
