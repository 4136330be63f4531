import type { Random } from '../random.ts';
import type { Call, Choice, Medium } from './medium.ts';

/*
 * Which states are looked at, of all that a moment allows. `names + 1` prefixes of the name changes, times
 *
 *     every subset of the sectors in flight     when that is at most `exhaustive` states
 *     every subset of the calls in flight,      when those are; and `samples` more with calls torn
 *     `samples` by chance                       otherwise, and all, nothing, all but one call, one call alone
 *
 * When a moment differs from the one before by one more change, and promises nothing more, only states that have
 * some of that change are new.
 */

export interface Bounds {
  /** Most states of a moment that are enumerated instead of sampled. */
  readonly exhaustive: number;
  /** States by chance, where they are sampled. */
  readonly samples: number;
}

/** What is new at this moment: only states with some of it are wanted. */
export type News = 'anything' | 'last call' | 'last name';

export interface Choices {
  /** Whether every subset of sectors is among them. */
  readonly complete: boolean;
  readonly choices: Iterable<Choice>;
}

type Kept = boolean[];

/** Every subset of `count` groups, as what `keep` makes of the numbers in it. */
function* subsets(count: number, units: number, put: (kept: Kept, group: number) => void): Generator<Kept> {
  for (let subset = 0; subset < 2 ** count; subset += 1) {
    const kept = new Array<boolean>(units).fill(false);
    for (let group = 0; group < count; group += 1) if ((subset >>> group) & 1) put(kept, group);
    yield kept;
  }
}

function fillCall(kept: Kept, { first, units }: Call, value: boolean): void {
  kept.fill(value, first, first + units);
}

/** All, nothing, and for each call (some of them, when there are many) all others, and it alone. */
function* landmarks(calls: readonly Call[], units: number, random: Random, most: number): Generator<Kept> {
  yield new Array<boolean>(units).fill(true);
  yield new Array<boolean>(units).fill(false);
  const chosen = calls.length <= most ? calls : Array.from({ length: most }, () => random.pick(calls));
  for (const call of chosen) {
    const without = new Array<boolean>(units).fill(true);
    fillCall(without, call, false);
    yield without;
    const alone = new Array<boolean>(units).fill(false);
    fillCall(alone, call, true);
    yield alone;
  }
}

/** Calls whole or not, by chance; then some of them torn. */
function sample(calls: readonly Call[], units: number, random: Random): Kept {
  const kept = new Array<boolean>(units).fill(false);
  const odds = 1 + random.below(7);
  for (const call of calls) fillCall(kept, call, random.below(8) < odds);
  const torn = random.below(3) === 0 ? calls : calls.length === 0 ? [] : [random.pick(calls)];
  for (const { first, units: length } of torn) {
    if (length === 1) continue;
    if (random.below(2) === 0) {
      // A write that stopped on its way.
      const until = first + random.below(length + 1);
      for (let unit = first; unit < first + length; unit += 1) kept[unit] = unit < until;
    } else {
      for (let unit = first; unit < first + length; unit += 1) kept[unit] = random.below(2) === 0;
    }
  }
  return kept;
}

function* samples(calls: readonly Call[], units: number, random: Random, count: number): Generator<Kept> {
  for (let n = 0; n < count; n += 1) yield sample(calls, units, random);
}

function isNew({ names, kept }: Choice, news: News, medium: Medium, calls: readonly Call[]): boolean {
  if (news === 'anything') return true;
  if (news === 'last name') return names === medium.pendingNames;
  const { first, units } = calls.at(-1)!;
  return kept.slice(first, first + units).includes(true);
}

function* withNames(keeps: Iterable<Kept>, pendingNames: number): Generator<Choice> {
  for (const kept of keeps) for (let names = 0; names <= pendingNames; names += 1) yield { names, kept };
}

/** Few of many prefixes: nothing, everything, and one between by chance. */
function* withSomeNames(keeps: Iterable<Kept>, pendingNames: number, random: Random): Generator<Choice> {
  for (const kept of keeps) {
    yield { names: random.below(pendingNames + 1), kept };
    if (pendingNames > 0) yield { names: random.below(2) * pendingNames, kept };
  }
}

export function choicesAt(medium: Medium, news: News, bounds: Bounds, random: Random): Choices {
  const { calls, pendingNames } = medium;
  const units = calls.reduce((sum, call) => sum + call.units, 0);
  const fits = (groups: number): boolean =>
    groups < 31 && (pendingNames + 1) * 2 ** groups <= bounds.exhaustive;
  const wanted = function* (all: Iterable<Choice>): Generator<Choice> {
    for (const choice of all) if (isNew(choice, news, medium, calls)) yield choice;
  };
  if (fits(units)) {
    const all = subsets(units, units, (kept, unit) => (kept[unit] = true));
    return { complete: true, choices: wanted(withNames(all, pendingNames)) };
  }
  const some = function* (): Generator<Choice> {
    if (fits(calls.length)) {
      const whole = subsets(calls.length, units, (kept, call) => fillCall(kept, calls[call]!, true));
      yield* withNames(whole, pendingNames);
    } else {
      yield* withSomeNames(landmarks(calls, units, random, bounds.samples), pendingNames, random);
    }
    yield* withSomeNames(samples(calls, units, random, bounds.samples), pendingNames, random);
  };
  return { complete: false, choices: wanted(some()) };
}
