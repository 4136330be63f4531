import { grades, isQemu } from './rules.ts';
import type { Calls, RequestRow, Results } from './schema.ts';
import { mannWhitney, median } from './statistics.ts';
import { number, percent } from './wording.ts';

/*
 * What changed between two runs. Counts are compared as they are, when both runs asked for the same (profile, seed): then
 * any difference is the code's. Times are compared as ratios to raw's in the same round of the same run, so that most of
 * what a machine does to both falls away; a difference has to be large, and more than chance.
 */

/** Something that is not as it was in an earlier run. */
export interface Difference {
  readonly what: string;
  readonly before: string;
  readonly after: string;
  /** It got worse: a verdict, a count that rose, a ratio that surely rose. */
  readonly regression: boolean;
}

/** A count moves from this share on: what a run sees of a race between timers and writes is less. */
const MOVED = 0.01;
/** A ratio rises from this share on, by a difference that chance alone makes this seldom, and nearly always so. */
const SLOWER = 0.1;
const CHANCE = 0.001;
const EFFECT = 0.6;

export function compareResults(earlier: Results, later: Results): Difference[] {
  const [before, after] = [withoutQemu(earlier), withoutQemu(later)];
  const alike = before.seed === after.seed && before.profile.name === after.profile.name;
  return [
    ...verdicts(before, after),
    ...(alike ? counts(before, after) : []),
    ...(alike ? ratios(before, after) : []),
  ];
}

/** QEMU is somebody else's: what its next version does is no regression of ours. */
function withoutQemu(results: Results): Results {
  const ours = <T extends { readonly format: string }>(rows: readonly T[]): T[] =>
    rows.filter(({ format }) => !isQemu(format));
  return {
    ...results,
    goals: ours(results.goals),
    reads: ours(results.reads),
    overwrites: ours(results.overwrites),
    allocations: ours(results.allocations),
  };
}

function verdicts(before: Results, after: Results): Difference[] {
  return after.goals.flatMap((now) => {
    const then = before.goals.find(({ goal, format }) => goal === now.goal && format === now.format);
    if (then === undefined || then.verdict === now.verdict) return [];
    const regression = grades.indexOf(now.verdict) > grades.indexOf(then.verdict);
    return [{ what: `${now.goal} ${now.format}`, before: then.verdict, after: now.verdict, regression }];
  });
}

/** What can be compared by itself: a name, and numbers for each operation. */
interface Counted {
  readonly what: string;
  /** Of how many operations; a row that a budget of time has cut short had fewer, and other ones. */
  readonly operations?: number;
  readonly each: Readonly<Record<string, number>>;
}

function perOperation({ calls, bytes, flushes }: Calls, operations: number): Counted['each'] {
  const share = 1 / Math.max(1, operations);
  return { calls: calls * share, bytes: bytes * share, flushes: flushes * share };
}

/** Every count of a run that its seed and profile decide. */
export function countedOf(results: Results): Counted[] {
  const requests = (rows: readonly RequestRow[], name: string): Counted[] =>
    rows.map(({ format, snapshots, operations, calls }) => ({
      what: `${format} N=${snapshots} ${name}`,
      operations,
      each: perOperation(calls, operations),
    }));
  return [
    ...requests(results.reads, 'reads'),
    ...requests(
      results.overwrites.filter(({ pass }) => pass === 'first'),
      'first overwrites',
    ),
    ...requests(
      results.overwrites.filter(({ pass }) => pass === 'steady'),
      'steady overwrites',
    ),
    ...results.allocations.map(({ format, variant, operations, calls }) => ({
      what: `${format} ${variant} allocations`,
      operations,
      each: perOperation(calls, operations),
    })),
    ...results.sessions.map(({ format, snapshots, opening, residentMetadataBytes }) => ({
      what: `${format} N=${snapshots} opening`,
      each: { ...perOperation(opening, 1), 'metadata bytes': residentMetadataBytes },
    })),
    ...requests(results.ablations, 'ablation').map(({ what, each }, index) => ({
      what: `${what} ${results.ablations[index]!.workload}`,
      each: { ...each, 'metadata bytes': results.ablations[index]!.residentMetadataBytes },
    })),
    ...results.services.flatMap(({ format, snapshots, guestBytes, writing, checking }) => [
      {
        what: `${format} N=${snapshots} written for a guest KiB`,
        each: perOperation(writing, guestBytes / 1024),
      },
      { what: `${format} N=${snapshots} check`, each: perOperation(checking, 1) },
    ]),
    // Requests that are under way together meet in another order each time.
    ...results.axes
      .filter(({ depth }) => depth === 1)
      .map(({ format, axis, setting, operation, operations, calls }) => ({
        what: `${format} ${operation}, ${axis}: ${setting}`,
        each: perOperation(calls, operations),
      })),
    ...results.devices.map(({ device, depth, format, snapshots, workload, micros }) => ({
      what: `${format} N=${snapshots} ${workload} on ${device}, depth ${depth}`,
      each: { 'virtual µs': micros },
    })),
  ];
}

interface Pair {
  readonly what: string;
  readonly was: number;
  readonly now: number;
}

/** The counts that both runs have, of the same operations; and how many are of more operations in one of them. */
function pairsOf(before: Results, after: Results): { readonly pairs: Pair[]; readonly cut: number } {
  const earlier = new Map(countedOf(before).map((row) => [row.what, row]));
  const pairs: Pair[] = [];
  let cut = 0;
  for (const { what, operations, each } of countedOf(after)) {
    const old = earlier.get(what);
    for (const [name, now] of Object.entries(each)) {
      const was = old?.each[name];
      if (was === undefined) continue;
      if (old?.operations === operations) pairs.push({ what: `${what}, ${name}`, was, now });
      else cut++;
    }
  }
  return { pairs, cut };
}

/** How many counts are the same to the last digit: with one seed and no code between, all but those cut short. */
export function sameCounts(
  before: Results,
  after: Results,
): { readonly same: number; readonly of: number; readonly cut: number } {
  const { pairs, cut } = pairsOf(before, after);
  return { same: pairs.filter(({ was, now }) => was === now).length, of: pairs.length, cut };
}

function counts(before: Results, after: Results): Difference[] {
  return pairsOf(before, after)
    .pairs.filter(({ was, now }) => Math.abs(now - was) > was * MOVED)
    .map(({ what, was, now }) => ({ what, before: number(was), after: number(now), regression: now > was }));
}

/** Of each round, how many times raw's time a format took. */
function againstRaw(rows: readonly RequestRow[], row: RequestRow, raw: RequestRow | undefined): number[] {
  if (raw === undefined || rows.length === 0) return [];
  const rounds = Math.min(row.roundMicros.length, raw.roundMicros.length);
  return Array.from({ length: rounds }, (_, round) => row.roundMicros[round]! / raw.roundMicros[round]!);
}

function ratios(before: Results, after: Results): Difference[] {
  const sets = (results: Results): readonly [string, readonly RequestRow[]][] => [
    ['reads', results.reads],
    ['first overwrites', results.overwrites.filter(({ pass }) => pass === 'first')],
    ['steady overwrites', results.overwrites.filter(({ pass }) => pass === 'steady')],
  ];
  const earlier = new Map(sets(before));
  return sets(after).flatMap(([name, rows]) => {
    const then = earlier.get(name) ?? [];
    const [rawNow, rawThen] = [rows, then].map((each) => each.find(({ format }) => format === 'raw'));
    return rows.flatMap((row) => {
      const old = then.find((each) => each.format === row.format && each.snapshots === row.snapshots);
      if (row.format === 'raw' || old === undefined) return [];
      const [now, was] = [againstRaw(rows, row, rawNow), againstRaw(then, old, rawThen)];
      const { p, effect } = mannWhitney(now, was);
      const change = median(now) / median(was) - 1;
      if (!(Math.abs(change) > SLOWER && p < CHANCE && Math.abs(effect) > EFFECT)) return [];
      const what = `${row.format} N=${row.snapshots} ${name}, time of raw (${percent(Math.abs(change))}, p ${p.toExponential(0)})`;
      return [{ what, before: number(median(was)), after: number(median(now)), regression: change > 0 }];
    });
  });
}
