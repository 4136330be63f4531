import { Lab } from '../lab.ts';
import type { LabPart, PartContext } from '../part.ts';
import { type RaceOptions, runRace } from './race.ts';

/** Races as a part of the lab: new seeds until time is up. */

const kinds: ReadonlyMap<string, RaceOptions> = new Map([
  ['few at once', { requests: 300, atOnce: 4 }],
  ['many at once', { requests: 400, atOnce: 24 }],
  ['hundreds at once', { requests: 500, atOnce: 200 }],
]);

async function tryRace(
  context: PartContext,
  workload: string,
  options: RaceOptions,
  seed: number,
): Promise<void> {
  const subject = context.subjects[seed % context.subjects.length]!;
  try {
    const counts = await runRace(await Lab.make(subject, 'memory', seed), seed, options);
    context.count(workload, { verified: 1, duplicates: 0, ...counts });
  } catch (error) {
    const about = `${workload} with ${JSON.stringify(subject.options ?? {})}`;
    const message = `${about}: ${error instanceof Error ? error.message : String(error)}`;
    context.violation({ workload, seed, state: 'race', message });
  }
}

export const racePart: LabPart = {
  name: 'races',

  workloads: () => [...kinds.keys()],

  async run(context) {
    const chosen = [...kinds].filter(([name]) => name === (context.workload ?? name));
    for (let { seed } = context; ; seed += context.shares) {
      for (const [name, options] of chosen) {
        if (!context.hasTime()) return;
        await tryRace(context, name, options, seed);
      }
      if (context.state !== undefined) return;
    }
  },
};
