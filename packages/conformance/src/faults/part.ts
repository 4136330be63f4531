import { Lab } from '../lab.ts';
import type { LabPart, PartContext } from '../part.ts';
import type { ConformanceSubject } from '../subject.ts';
import { casesOf, type FaultCase, pairCase, parseCase, runCase } from './cases.ts';
import { setStage, type Stage } from './injection.ts';
import { type Workload, workloads } from './workloads.ts';

/*
 * Failing storages as a part of the lab. First every call of every workload, each with every kind of failure, with
 * every set of options: the shares take turns. Then pairs of failures, by seed, until time is up.
 */

function workloadsFor(subject: ConformanceSubject): Workload[] {
  const { capabilities } = subject.driver;
  return workloads.filter(({ when }) => when?.(capabilities) ?? true);
}

/** A workload of one subject, ready to be struck. */
interface Target {
  readonly subject: ConformanceSubject;
  /** Chooses the subject, and what else is random. */
  readonly seed: number;
  readonly lab: Lab;
  readonly workload: Workload;
  readonly stage: Stage;
}

async function aim(subject: ConformanceSubject, seed: number, workload: Workload): Promise<Target> {
  const lab = await Lab.make(subject, 'memory', seed);
  return { subject, seed, lab, workload, stage: await setStage(lab, workload) };
}

async function strike(context: PartContext, target: Target, each: FaultCase): Promise<void> {
  const { subject, seed, lab, workload, stage } = target;
  try {
    const came = await runCase(lab, workload, stage, each);
    context.count(workload.name, { verified: 1, duplicates: 0, ...came });
  } catch (error) {
    const options = JSON.stringify(subject.options ?? {});
    const message = `with ${options}: ${error instanceof Error ? error.message : String(error)}`;
    context.violation({ workload: workload.name, seed, state: each.name, message });
  }
}

/** This share's part of every case of a workload. */
async function strikeAll(context: PartContext, target: Target): Promise<void> {
  const { shares, seed } = context;
  let turn = 0;
  for await (const each of casesOf(target.lab, target.workload, target.stage)) {
    turn += 1;
    if (turn % shares !== seed % shares) continue;
    if (!context.hasTime()) return;
    await strike(context, target, each);
  }
}

/** Pairs for each target in turn. */
async function strikePairs(context: PartContext, targets: readonly Target[]): Promise<void> {
  while (targets.length > 0) {
    for (const target of targets) {
      if (!context.hasTime()) return;
      const each = await pairCase(target.lab, target.workload, target.stage);
      if (each !== undefined) await strike(context, target, each);
    }
  }
}

export const faultPart: LabPart = {
  name: 'faults',

  workloads(capabilities) {
    return workloads.filter(({ when }) => when?.(capabilities) ?? true).map(({ name }) => name);
  },

  async run(context) {
    const { subjects, seed, state } = context;
    const chosen = workloadsFor(subjects[0]!).filter(({ name }) => name === (context.workload ?? name));
    if (state !== undefined) {
      const target = await aim(subjects[seed % subjects.length]!, seed, chosen[0]!);
      return strike(context, target, parseCase(state));
    }
    const targets: Target[] = [];
    for (const [index, subject] of subjects.entries()) {
      for (const workload of chosen) {
        if (!context.hasTime()) return;
        const target = await aim(subject, seed - (seed % subjects.length) + index, workload);
        targets.push(target);
        await strikeAll(context, target);
      }
    }
    await strikePairs(context, targets);
  },
};
