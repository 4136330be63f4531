import assert from 'node:assert/strict';
import type { Fault, FaultKind } from '../fault-folder.ts';
import type { Lab } from '../lab.ts';
import { type Ending, endings, metadataPurposes, runAstray } from './astray.ts';
import { choosePoints, countCalls, runPoint, type Stage } from './injection.ts';
import type { Workload } from './workloads.ts';

/*
 * Every way in which storage calls of a workload can fail, by name, so that each can be run again:
 *
 *     EIO:12:once   EIO:12:lasting   EIO:12:then3   ENOSPC:…   short:…       a call that fails, and is reported
 *     lost:4:close   misdirected8:4:power-loss                                a write that succeeds, elsewhere or nowhere
 */

export interface FaultCase {
  readonly name: string;
  /** What the case counts as. */
  readonly label: string;
  readonly fault: Fault;
  /** For writes that go astray. */
  readonly ending?: Ending;
}

const everything: Fault['methods'] = [
  'read',
  'write',
  'zero',
  'discard',
  'allocate',
  'flush',
  'truncate',
  'status',
  'open',
  'create',
  'remove',
  'rename',
  'link',
  'list',
  'flushFolder',
];
const spaceTaking: Fault['methods'] = ['write', 'zero', 'allocate', 'truncate', 'create', 'link', 'rename'];

const methodsOf: Readonly<Record<FaultKind, Fault['methods']>> = {
  EIO: everything,
  ENOSPC: spaceTaking,
  short: ['write'],
  lost: ['write'],
  misdirected: ['write'],
};

/** Sectors: within a run of small structures, and from one block to the next. */
const shifts = [1, 8, 128];
/** The second of two failures is one of so many calls after the first. */
const mostBetween = 12;

/** The kinds of failures, each of which has as many points as the workload has calls. */
const kinds: readonly string[] = [
  ...(['EIO', 'ENOSPC', 'short'] as const).flatMap((kind) => [`${kind}:N:once`, `${kind}:N:lasting`]),
  ...endings.flatMap((ending) => [
    `lost:N:${ending}`,
    ...shifts.map((shift) => `misdirected${shift}:N:${ending}`),
  ]),
];

/** The case of that name. Throws TypeError where there can be none. */
export function parseCase(name: string): FaultCase {
  const match =
    /^(EIO|ENOSPC|short|lost|misdirected)(\d*):(\d+|N):(once|lasting|then(\d+)|close|power-loss)$/.exec(name);
  const [, kind, shift, nth, manner, between] = match ?? [];
  if (kind === undefined || nth === undefined || manner === undefined)
    throw new TypeError(`there is no case ${name}`);
  const fault = {
    kind: kind as FaultKind,
    nth: nth === 'N' ? Number.POSITIVE_INFINITY : Number(nth),
    methods: methodsOf[kind as FaultKind],
  };
  const label = `${kind} ${between === undefined ? manner : 'twice'}`;
  if (manner !== 'close' && manner !== 'power-loss') {
    const more = { lasting: manner === 'lasting', ...(between !== undefined && { second: Number(between) }) };
    return { name, label, fault: { ...fault, ...more } };
  }
  const astray = { purpose: metadataPurposes, shiftSectors: Number(shift) };
  return { name, label: kind, fault: { ...fault, ...astray }, ending: manner };
}

/** Every case of a workload, or so many of each kind, chosen by the lab's random numbers. */
export async function* casesOf(
  lab: Lab,
  workload: Workload,
  stage: Stage,
  most: number = Number.POSITIVE_INFINITY,
): AsyncGenerator<FaultCase> {
  for (const kind of kinds) {
    const { fault, ending } = parseCase(kind);
    // Only what has an order of its own to lose can go astray.
    if (ending !== undefined && workload.struck !== undefined) continue;
    const count = await countCalls(lab, workload, stage, fault);
    for (const nth of choosePoints(count, most, lab.random)) yield parseCase(kind.replace(':N:', `:${nth}:`));
  }
}

/** Two failures in a row, somewhere in the workload. */
export async function pairCase(lab: Lab, workload: Workload, stage: Stage): Promise<FaultCase | undefined> {
  const { fault } = parseCase('EIO:N:once');
  const count = await countCalls(lab, workload, stage, fault);
  if (count === 0) return undefined;
  return parseCase(`EIO:${1 + lab.random.below(count)}:then${1 + lab.random.below(mostBetween)}`);
}

/** Runs the case; throws when something is wrong. Resolves to what it came to, by name. */
export async function runCase(
  lab: Lab,
  workload: Workload,
  stage: Stage,
  { name, label, fault, ending }: FaultCase,
): Promise<Readonly<Record<string, number>>> {
  try {
    if (ending === undefined) {
      const { refused } = await runPoint(lab, workload, stage, fault);
      return { [label]: 1, ...(refused > 0 && { 'retry refused': refused }) };
    }
    const { outcome, call } = await runAstray(lab, workload, stage, fault, ending);
    const { purpose, offset, length } = call ?? {};
    const what = `a write of ${length} bytes (${purpose}) at ${offset} went astray, and the disk is wrong silently`;
    if (lab.subject.checksummed === true) assert.notEqual(outcome, 'wrong', what);
    return { [label]: 1, [outcome]: 1 };
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    throw new Error(`${workload.name}, ${name}: ${message}`, { cause: error });
  }
}
