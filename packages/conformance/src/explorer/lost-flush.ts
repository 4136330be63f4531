import { Lab } from '../lab.ts';
import type { ConformanceSubject } from '../subject.ts';
import type { GuestEvent } from './contract.ts';
import type { Entry } from './crash-folder.ts';
import { Explorer, type ExplorerBounds } from './explorer.ts';
import { recordHistory } from './record.ts';
import type { History } from './verify.ts';
import { crashWorkloadsFor } from './workloads.ts';

/*
 * The explorer's own test: a driver whose flushes do not all reach the medium must be found out. A flush tells
 * the driver nothing, so a history without one of them is what the driver would have left behind; only the moments
 * until the next flush of the same file differ.
 */

/** What became of a history without one of its flushes. */
export interface LostFlush {
  readonly workload: string;
  readonly seed: number;
  /** What the guest had asked for: `flush`, `create`, `delete`, …; `open` before the first request. */
  readonly during: string;
  /** What it would have made durable, by the purposes of the calls: `data+mapping`; `names` for a folder's. */
  readonly work: string;
  /** Which of the request's flushes with that work, from 1 on. */
  readonly nth: number;
  /** The first violation; undefined when there was none. */
  readonly found: string | undefined;
  readonly states: number;
}

const bounds: ExplorerBounds = {
  moments: Infinity,
  exhaustive: 512,
  samples: 32,
  recoveryEvery: Infinity,
  recoveryMoments: 0,
};

/** What ends at a position, by the promise that is made there. */
const requests: Partial<Record<GuestEvent['kind'], string>> = {
  flushed: 'flush',
  applied: 'apply',
  closed: 'close',
  created: 'create',
  deleted: 'delete',
  renamed: 'rename',
  resized: 'resize',
  released: 'release',
};

/** Whether two entries are of one file. */
const isOf = (a: Entry, b: Entry): boolean => 'file' in a && 'file' in b && a.file === b.file;
const isFlush = ({ kind }: Entry): boolean => kind === 'flush' || kind === 'flushNames';

/** What the flush would make durable, by the purposes of the changes; `names` for a folder's; nothing when it is idle. */
function workOf(entries: readonly Entry[], index: number): string {
  const flush = entries[index]!;
  const purposes = new Set<string>();
  for (const entry of entries.slice(0, index).toReversed()) {
    if (flush.kind === entry.kind && (flush.kind === 'flushNames' || isOf(entry, flush))) break;
    if (flush.kind === 'flushNames' && entry.kind === 'name') purposes.add('names');
    if (flush.kind === 'flush' && entry.kind === 'content' && isOf(entry, flush)) purposes.add(entry.purpose);
  }
  return [...purposes].toSorted().join('+');
}

/** The last moment that the lost flush makes a difference to. */
function lastMoment(entries: readonly Entry[], index: number): number {
  const lost = entries[index]!;
  const next = entries.findIndex((entry, at) => {
    if (at <= index || entry.kind !== lost.kind) return false;
    return entry.kind === 'flushNames' || isOf(entry, lost);
  });
  return next < 0 ? entries.length - 1 : next - 1;
}

function without({ log, events, opened }: History, index: number): History {
  return {
    opened,
    log: { ...log, entries: log.entries.toSpliced(index, 1) },
    events: events.map((event) => (event.at > index ? { ...event, at: event.at - 1 } : event)),
  };
}

/** The request that a flush at this place belongs to, and where that begins. */
function requestAt({ events, opened }: History, index: number): { during: string; start: number } {
  if (index < opened) return { during: 'open', start: 0 };
  const next = events.find(({ kind, at }) => at > index && requests[kind] !== undefined);
  const earlier = events.filter(({ at }) => at <= index).map(({ at }) => at);
  return { during: requests[next?.kind ?? 'closed'] ?? 'close', start: Math.max(opened, ...earlier) };
}

/** Loses each flush of a workload that has work to do, one at a time. */
export async function loseFlushes(
  subject: ConformanceSubject,
  workloadName: string,
  seed: number,
): Promise<LostFlush[]> {
  const lab = await Lab.make(subject, 'memory', seed);
  const workload = crashWorkloadsFor(lab.capabilities).find(({ name }) => name === workloadName);
  if (workload === undefined) throw new TypeError(`${lab.driver.name} has no workload ${workloadName}`);
  const history = await recordHistory(lab, workload);
  const { entries } = history.log;
  const lost: LostFlush[] = [];
  const earlier: string[] = [];
  for (const [index, entry] of entries.entries()) {
    const work = isFlush(entry) ? workOf(entries, index) : '';
    if (work === '') continue;
    let found: string | undefined;
    const explorer = new Explorer(lab, bounds, {
      hasTime: () => found === undefined,
      violation: (state, error) =>
        (found ??= `${state}: ${error instanceof Error ? error.message : String(error)}`),
    });
    await explorer.explore(without(history, index), index, lastMoment(entries, index));
    const { verified: states } = explorer.findings;
    const { during, start } = requestAt(history, index);
    const place = `${start} ${during} ${work}`;
    earlier.push(place);
    const nth = earlier.filter((one) => one === place).length;
    lost.push({ workload: workloadName, seed, during, work, nth, found, states });
  }
  return lost;
}
