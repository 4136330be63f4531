import { performance } from 'node:perf_hooks';
import type { StorageCounts } from '@cowlab/core';
import { totalCounts } from '@cowlab/core';
import { Bench } from 'tinybench';
import type { Calls } from './schema.ts';
import { seededRandom } from './workload.ts';

/*
 * Stopwatches. Machines are noisy and drift, so nothing is compared across time:
 *   interleaved  every party does one batch per round, in another order each round: whoever comes after a party
 *                that fills the processor's caches or leaves garbage is slow, and that must not always be the
 *                same one. A comparison pairs the batches of one round, and its verdict uses the cautious end of
 *                a bootstrap interval.
 *   timed        one operation, a few times, with untimed preparation: tinybench.
 */

/** One of those that are timed against each other. */
export interface Party {
  /** How many rounds it takes part in at most. */
  readonly rounds: number;
  /** Does one batch; may stop when `performance.now()` has passed `deadline`. Returns the operations done, at least 1. */
  batch(round: number, deadline: number): Promise<number>;
}

export interface RoundTimes {
  readonly operations: number;
  /** Microseconds per operation, one number for each round that this party took part in. */
  readonly roundMicros: number[];
}

/** Lets timers and signals in: work on synchronous storages would keep them out until the end. */
export function breathe(): Promise<void> {
  return new Promise((resume) => setImmediate(resume));
}

/** Runs rounds. A party that has used up its budget of milliseconds leaves; it does one round at least. */
export async function interleaved(parties: readonly Party[], budgetMs: number): Promise<RoundTimes[]> {
  const rounds = Math.max(0, ...parties.map((party) => party.rounds));
  const states = parties.map((party) => ({ party, operations: 0, spentMs: 0, roundMicros: [] as number[] }));
  const random = seededRandom(rounds);
  for (let round = 0; round < rounds; round++) {
    for (const state of shuffled(states, random)) {
      if (round >= state.party.rounds || state.spentMs >= budgetMs) continue;
      const started = performance.now();
      const operations = await state.party.batch(round, started + budgetMs / rounds);
      const elapsed = performance.now() - started;
      state.operations += operations;
      state.spentMs += elapsed;
      state.roundMicros.push((elapsed * 1000) / operations);
    }
    await breathe();
  }
  return states.map(({ operations, roundMicros }) => ({ operations, roundMicros }));
}

/** The same values in another order. */
export function shuffled<T>(values: readonly T[], random: () => number): T[] {
  return values
    .map((value) => ({ value, key: random() }))
    .toSorted((a, b) => a.key - b.key)
    .map(({ value }) => value);
}

/** One operation to be timed; `prepare` runs before each, untimed. */
export interface TimedOperation {
  readonly iterations: number;
  readonly budgetMs: number;
  prepare(): Promise<void>;
  run(): Promise<void>;
  /** After each, untimed. */
  finish?(): Promise<void>;
}

export interface Timing {
  /** Milliseconds, ascending. */
  readonly samplesMs: number[];
  readonly medianMs: number;
}

/** Times one operation with tinybench: `iterations` times, or until the budget (preparation included) is used up. */
export async function timed(name: string, operation: TimedOperation): Promise<Timing> {
  const enough = new AbortController();
  const started = performance.now();
  const bench = new Bench({
    name,
    iterations: operation.iterations,
    time: 0,
    warmup: false,
    throws: true,
    retainSamples: true,
    signal: enough.signal,
  });
  bench.add(name, () => operation.run(), {
    async: true,
    beforeEach: () => operation.prepare(),
    afterEach: async () => {
      await operation.finish?.();
      await breathe();
      if (performance.now() - started > operation.budgetMs) enough.abort();
    },
  });
  const [task] = await bench.run();
  const result = task?.result;
  if (result === undefined || !('latency' in result)) throw new Error(`${name}: not one iteration was timed`);
  return { samplesMs: [...(result.latency.samples ?? [])], medianMs: result.latency.p50 };
}

/** What a CountingFolder counted, in the shape of the results. */
export function toCalls(counts: StorageCounts): Calls {
  const total = totalCounts(counts);
  return {
    calls: total.reads + total.writes + total.zeroes + total.discards + counts.flushes,
    bytes: total.readBytes + total.writtenBytes,
    flushes: counts.flushes,
    folderCalls: counts.folderCalls,
    purposes: structuredClone(counts.purposes),
  };
}

function addPurpose(one: Calls, other: Calls, purpose: keyof Calls['purposes']): Calls['purposes']['data'] {
  const [a, b] = [one.purposes[purpose], other.purposes[purpose]];
  return {
    reads: a.reads + b.reads,
    readBytes: a.readBytes + b.readBytes,
    writes: a.writes + b.writes,
    writtenBytes: a.writtenBytes + b.writtenBytes,
    zeroes: a.zeroes + b.zeroes,
    discards: a.discards + b.discards,
  };
}

export function addCalls(one: Calls, other: Calls): Calls {
  return {
    calls: one.calls + other.calls,
    bytes: one.bytes + other.bytes,
    flushes: one.flushes + other.flushes,
    folderCalls: one.folderCalls + other.folderCalls,
    purposes: {
      data: addPurpose(one, other, 'data'),
      header: addPurpose(one, other, 'header'),
      mapping: addPurpose(one, other, 'mapping'),
      journal: addPurpose(one, other, 'journal'),
      refcount: addPurpose(one, other, 'refcount'),
      snapshot: addPurpose(one, other, 'snapshot'),
    },
  };
}
