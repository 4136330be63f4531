import type { LabPart, PartContext } from '../part.ts';
import type { RecipeKind } from './base.ts';
import { MutantRun } from './run.ts';

/** Mutants of one seed, before a share goes on with the next: enough for some guests, whose images they are made of. */
const perSeed = 2000;
/** Counts are told so often. */
const perReport = 100;

function messageOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.cause instanceof Error ? `${error.message}: ${error.cause.stack}` : error.message;
}

async function useOne(context: PartContext, run: MutantRun, seed: number, index: number): Promise<string> {
  const { kind: workload } = run.recipeOf(index);
  const state = String(index);
  context.trying?.({ workload, seed, state });
  const mutant = await run.mutant(index);
  try {
    const outcome = await run.use(mutant);
    if (outcome === undefined) return 'void';
    return outcome.refused === undefined ? (outcome.isClean ? 'clean' : 'opened') : 'refused';
  } catch (error) {
    context.violation({ workload, seed, state, message: `${messageOf(error)}; ${JSON.stringify(mutant)}` });
    return 'wrong';
  }
}

/** Runs mutants of one seed; false when there was no time for all of them. */
async function runSeed(context: PartContext, seed: number): Promise<boolean> {
  const run = new MutantRun(context.subjects, seed);
  const counts = new Map<string, Record<string, number>>();
  const report = (): void => {
    for (const [workload, of] of counts) context.count(workload, { verified: 0, duplicates: 0, ...of });
    counts.clear();
  };
  for (let index = 0; index < perSeed && context.hasTime(); index += 1) {
    const { kind } = run.recipeOf(index);
    if (kind !== (context.workload ?? kind)) continue;
    const result = await useOne(context, run, seed, index);
    const of = counts.get(kind) ?? {};
    counts.set(kind, of);
    const add = (name: string): void => void (of[name] = (of[name] ?? 0) + 1);
    if (result !== 'wrong' && result !== 'void') add('verified');
    add(result);
    if (index % perReport === 0) report();
  }
  report();
  return context.hasTime();
}

/** Damaged images: each is opened, read, checked, written and repaired, within bounds on calls, bytes and memory. */
export const damages: LabPart = {
  name: 'damage',

  workloads({ backing }) {
    const kinds: RecipeKind[] = backing
      ? ['closed', 'flushed', 'backed', 'sample']
      : ['closed', 'flushed', 'sample'];
    return kinds;
  },

  async run(context) {
    const { state, shares } = context;
    let { seed } = context;
    if (state !== undefined) {
      const run = new MutantRun(context.subjects, seed);
      const result = await useOne(context, run, seed, Number(state));
      const verified = result === 'wrong' || result === 'void' ? 0 : 1;
      context.count(run.recipeOf(Number(state)).kind, { verified, duplicates: 0, [result]: 1 });
      return;
    }
    while (await runSeed(context, seed)) seed += shares;
  },
};
