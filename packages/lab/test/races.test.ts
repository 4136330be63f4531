import { races, type Violation } from '@cowlab/conformance';
import { expect, it } from 'vitest';
import { subjectsOf } from '../src/subjects.ts';

// Races that once went wrong. A write asked where its bytes are while an apply had the image alone; the L2 table that
// QCOW2 loaded for the answer arrived after it, and took the place of the snapshot's.
it.each([['qcow2', 'few at once', 20_261_213]])(
  'the race of %s, %s, by the seed %i, is explained',
  async (name, workload, seed) => {
    const violations: Violation[] = [];
    await races.run({
      subjects: subjectsOf(name),
      seed,
      shares: 1,
      workload,
      state: 'race',
      hasTime: () => true,
      timeUsed: () => 0,
      count: () => undefined,
      violation: (violation) => violations.push(violation),
    });
    expect(violations).toEqual([]);
  },
);
