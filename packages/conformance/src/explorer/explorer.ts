import type { Lab } from '../lab.ts';
import { Random } from '../random.ts';
import { type Bounds, choicesAt, type News } from './choices.ts';
import { type Contract, contractAt, promisesAt } from './contract.ts';
import type { Entry } from './crash-folder.ts';
import { type Choice, Medium } from './medium.ts';
import { momentOf, nameOf } from './state-name.ts';
import { type History, verifyState } from './verify.ts';

/*
 * Takes a history, lets the power fail at its moments, and verifies what is left. States that are equal, byte
 * for byte and in what the guest may count on, are verified once.
 *
 * What the recovery from a state wrote is a history in its turn: some moments of it, by chance, are looked at for
 * some of the states. Recovery from the recovery is where it ends.
 */

export interface ExplorerBounds extends Bounds {
  /** Most moments of a history; which, by chance. */
  readonly moments: number;
  /** One of so many states has its recovery looked at, … */
  readonly recoveryEvery: number;
  /** … at so many moments. */
  readonly recoveryMoments: number;
}

/** What an exploration came to. */
export interface Findings {
  verified: number;
  duplicates: number;
  /** Of the verified: states left by a crash during the recovery from another. */
  'in recovery': number;
  /** Moments of which every state was made, and of which a sample was. */
  'moments exhausted': number;
  'moments sampled': number;
}

/** Who is asked for time, and told what went wrong. */
export interface Watch {
  hasTime(): boolean;
  violation(state: string, error: unknown): void;
}

/** Violations of one history after which it is left alone: they are likely the same. */
const mostViolations = 20;

/** Seeds of single states: of the name alone, so that a replay has the same. */
function seedOf(name: string, seed: number): number {
  let mixed = seed ^ 0x811c_9dc5;
  for (let index = 0; index < name.length; index += 1) {
    mixed = Math.imul(mixed ^ name.charCodeAt(index), 0x0100_0193);
  }
  return mixed >>> 0;
}

function newsOf(entry: Entry, isAlone: boolean, promises: boolean): News {
  if (isAlone || promises) return 'anything';
  if (entry.kind === 'content') return 'last call';
  return entry.kind === 'name' ? 'last name' : 'anything';
}

export class Explorer {
  readonly findings: Findings = {
    verified: 0,
    duplicates: 0,
    'in recovery': 0,
    'moments exhausted': 0,
    'moments sampled': 0,
  };
  readonly #lab: Lab;
  readonly #bounds: ExplorerBounds;
  readonly #watch: Watch;
  readonly #random: Random;
  readonly #known = new Set<string>();
  #violations = 0;

  constructor(lab: Lab, bounds: ExplorerBounds, watch: Watch) {
    this.#lab = lab;
    this.#bounds = bounds;
    this.#watch = watch;
    this.#random = new Random(seedOf('explorer', lab.seed));
  }

  /** Every moment of the history from `first` to `last`, in order, or as many as the bounds allow. */
  async explore(history: History, first = 1, last: number = history.log.entries.length): Promise<void> {
    const { entries } = history.log;
    const medium = new Medium(history.log);
    const moments = last - first + 1;
    let skipped = true;
    for (const [index, entry] of entries.slice(0, last).entries()) {
      medium.happen(entry);
      const position = index + 1;
      if (position < first) continue;
      const isChosen = moments <= this.#bounds.moments || this.#random.below(moments) < this.#bounds.moments;
      if (isChosen) {
        const promises = promisesAt(history.events, position);
        const news = newsOf(entry, skipped, promises);
        await this.#exploreMoment(history, medium, position, news);
      }
      skipped = !isChosen;
      if (this.#isOver()) return;
    }
  }

  /** The one state of that name. */
  async replay(history: History, state: string): Promise<void> {
    let from = history;
    let parent = '';
    for (const name of state.split('/')) {
      const { position, choiceOf } = momentOf(name);
      const medium = new Medium(from.log);
      for (const entry of from.log.entries.slice(0, position)) medium.happen(entry);
      const units = medium.calls.reduce((sum, call) => sum + call.units, 0);
      const contract = contractAt(from.events, position);
      const left = await this.#verify(medium, choiceOf(units), contract, parent + name);
      if (left === undefined) return;
      from = left;
      parent = `${parent}${name}/`;
    }
  }

  #isOver(): boolean {
    return this.#violations >= mostViolations || !this.#watch.hasTime();
  }

  async #exploreMoment(history: History, medium: Medium, position: number, news: News): Promise<void> {
    const contract = contractAt(history.events, position);
    const { complete, choices } = choicesAt(medium, news, this.#bounds, this.#random);
    this.findings[complete ? 'moments exhausted' : 'moments sampled'] += 1;
    for (const choice of choices) {
      const name = nameOf({ position, choice });
      const left = await this.#verify(medium, choice, contract, name);
      if (left !== undefined && this.#random.below(this.#bounds.recoveryEvery) === 0) {
        await this.#exploreRecovery(left, name);
      }
      if (this.#isOver()) return;
    }
  }

  async #exploreRecovery(history: History, parent: string): Promise<void> {
    const { entries } = history.log;
    for (let n = 0; n < this.#bounds.recoveryMoments; n += 1) {
      const position = 1 + this.#random.below(entries.length);
      const medium = new Medium(history.log);
      for (const entry of entries.slice(0, position)) medium.happen(entry);
      const contract = contractAt(history.events, position);
      const all = [...choicesAt(medium, 'anything', { exhaustive: 16, samples: 2 }, this.#random).choices];
      const choice = this.#random.pick(all);
      const name = `${parent}/${nameOf({ position, choice })}`;
      const before = this.findings.verified;
      await this.#verify(medium, choice, { ...contract, key: `${parent}/${contract.key}` }, name);
      this.findings['in recovery'] += this.findings.verified - before;
    }
  }

  /** Undefined when the state is known already, or wrong. */
  async #verify(
    medium: Medium,
    choice: Choice,
    contract: Contract,
    name: string,
  ): Promise<History | undefined> {
    const state = medium.survive(choice);
    const key = `${contract.key} ${state.digest()}`;
    if (this.#known.has(key)) {
      this.findings.duplicates += 1;
      return undefined;
    }
    this.#known.add(key);
    try {
      const left = await verifyState(this.#lab, state, contract, new Random(seedOf(name, this.#lab.seed)));
      this.findings.verified += 1;
      return left;
    } catch (error) {
      this.#violations += 1;
      this.#watch.violation(name, error);
      return undefined;
    }
  }
}
