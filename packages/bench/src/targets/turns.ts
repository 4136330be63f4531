import { shuffled } from '../measure.ts';
import { seededRandom } from '../workload.ts';

/** One of those that are timed against each other, by a clock of its own. */
export interface ClockedParty {
  readonly rounds: number;
  /** Does one batch; operations, and the microseconds that they took together. */
  batch(round: number): Promise<{ readonly operations: number; readonly micros: number }>;
}

export interface ClockedTimes {
  readonly operations: number;
  /** Microseconds per operation, one number for each round that this party took part in. */
  readonly roundMicros: number[];
}

/** Rounds as `interleaved` has them (measure.ts), timed by the parties themselves. Who has used up the budget leaves. */
export async function takeTurns(parties: readonly ClockedParty[], budgetMs: number): Promise<ClockedTimes[]> {
  const rounds = Math.max(0, ...parties.map((party) => party.rounds));
  const states = parties.map((party) => ({ party, operations: 0, micros: 0, roundMicros: [] as number[] }));
  const random = seededRandom(rounds);
  for (let round = 0; round < rounds; round++) {
    for (const state of shuffled(states, random)) {
      if (round >= state.party.rounds || state.micros >= budgetMs * 1000) continue;
      const { operations, micros } = await state.party.batch(round);
      state.operations += operations;
      state.micros += micros;
      state.roundMicros.push(micros / operations);
    }
  }
  return states.map(({ operations, roundMicros }) => ({ operations, roundMicros }));
}
