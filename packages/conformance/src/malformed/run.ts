import { Random } from '../random.ts';
import type { ConformanceSubject } from '../subject.ts';
import { type Base, type Files, makeBase, type Recipe, recipesOf } from './base.ts';
import { exercise, type Outcome } from './exercise.ts';
import { mutate, type Mutation, Mutator } from './mutation.ts';

/*
 * Mutant n of a seed is always the same: its base is of a recipe that n tells, made by a guest whose seed changes every
 * `perGuest` mutants, and its mutations come from a generator of its own. So one number is enough to see it again.
 */

/** A damaged image as the corpus keeps it. */
export interface Mutant {
  readonly recipe: string;
  /** Of the guest that made the base. */
  readonly guest: number;
  readonly mutations: readonly Mutation[];
}

const perGuest = 200;
/** Growth of the process by one mutant. */
const mostGrowthBytes = 256 * 1024 * 1024;

export class MutantRun {
  readonly recipes: readonly Recipe[];
  readonly #seed: number;
  readonly #bases = new Map<string, Promise<Base>>();
  /** Of the process, after the last mutant. */
  #peak: number | undefined;

  /** One driver, with each set of create options that is worth a try. */
  constructor(subjects: readonly ConformanceSubject[], seed: number) {
    this.recipes = recipesOf(subjects);
    this.#seed = seed;
  }

  /** One in eight is a sample, where there are some: they are large. */
  recipeOf(index: number): Recipe {
    const samples = this.recipes.filter(({ kind }) => kind === 'sample');
    const own = this.recipes.filter(({ kind }) => kind !== 'sample');
    const isSample = samples.length > 0 && index % 8 === 7;
    const recipe = isSample ? samples[Math.floor(index / 8) % samples.length] : own[index % own.length];
    if (recipe === undefined) throw new RangeError('no subject, so no recipe');
    return recipe;
  }

  /** Mutant number `index` of this run. */
  async mutant(index: number): Promise<Mutant> {
    const recipe = this.recipeOf(index);
    const guest = this.#seed + Math.floor(index / perGuest);
    const base = await this.#base(recipe.name, guest);
    const random = new Random(Math.imul(this.#seed, 0x85eb_ca6b) ^ Math.imul(index + 1, 0x9e37_79b1));
    const mutator = new Mutator(base, random);
    let mutations = mutator.choose();
    for (let tries = 0; tries < 8 && mutate(base, mutations) === undefined; tries += 1)
      mutations = mutator.choose();
    return { recipe: recipe.name, guest, mutations };
  }

  /** Uses a mutant; undefined when its base has nothing of what it names. Throws when something happens that must not. */
  async use(mutant: Mutant): Promise<Outcome | undefined> {
    const base = await this.#base(mutant.recipe, mutant.guest);
    const files = mutate(base, mutant.mutations);
    if (files === undefined) return undefined;
    const outcome = await withoutLooseEnds(() =>
      exercise(base, files, isTold(base, files, mutant.mutations)),
    );
    const peak = peakBytes();
    const growth = peak - (this.#peak ?? peak);
    this.#peak = peak;
    if (growth > mostGrowthBytes) throw new Error(`the process grew by ${growth} bytes`);
    return outcome;
  }

  #base(name: string, guest: number): Promise<Base> {
    const recipe = this.recipes.find((each) => each.name === name);
    if (recipe === undefined) throw new RangeError(`there is no recipe ${name}`);
    const key = `${name} ${guest}`;
    const known = this.#bases.get(key);
    if (known !== undefined) return known;
    if (this.#bases.size >= 2 * this.recipes.length) this.#bases.clear();
    const base = makeBase(recipe, guest);
    this.#bases.set(key, base);
    return base;
  }
}

/** Fails also when something is rejected that nobody waits for: it would end the process of whoever uses the driver. */
async function withoutLooseEnds<T>(run: () => Promise<T>): Promise<T> {
  const loose: unknown[] = [];
  const note = (reason: unknown): void => void loose.push(reason);
  process.on('unhandledRejection', note);
  try {
    const result = await run();
    await new Promise((resolve) => setImmediate(resolve));
    if (loose.length > 0) throw new Error('a rejection that nobody waits for', { cause: loose[0] });
    return result;
  } finally {
    process.off('unhandledRejection', note);
  }
}

/** Largest resident size of the process so far. */
function peakBytes(): number {
  return process.resourceUsage().maxRSS * 1024;
}

/** Whether all that was damaged lies in structures whose checksums have not been made right. */
function isTold(base: Base, files: Files, mutations: readonly Mutation[]): boolean {
  if (mutations.some((mutation) => mutation.kind === 'older' || mutation.kind === 'swap')) return false;
  if (mutations.some((mutation) => 'sealed' in mutation && (mutation.sealed || mutation.kind === 'copy')))
    return false;
  const covered = base.structures.filter(({ seal }) => seal !== undefined);
  if (covered.length === 0) return false;
  for (const [name, bytes] of files) {
    const before = base.files.get(name) as Uint8Array;
    if (before.length !== bytes.length) return false;
    const mine = covered.filter(({ file }) => file === name);
    for (let at = 0; at < bytes.length; at += 1) {
      if (bytes[at] === before[at]) continue;
      if (!mine.some(({ offset, bytes: length }) => at >= offset && at < offset + length)) return false;
    }
  }
  return true;
}
