import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { LabRequest } from './arguments.ts';
import type { Message, Report, Share } from './messages.ts';
import { parts } from './parts.ts';
import { subjectsOf } from './subjects.ts';

/*
 * Every part of every driver is cut into as many shares as there are jobs, so that any number of cores is busy to
 * the end. A share is a process: a driver that hangs or eats all memory takes its own share down, and the run
 * says which it was.
 */

/** A share that goes on for so long after its time has passed, or a case that takes so long, is taken to hang. */
const patienceSeconds = 60;

export function cutShares(request: LabRequest): Share[] {
  const { drivers, jobs, seed, seconds, workload, state } = request;
  const chosen = parts.filter(({ name }) => request.parts.includes(name));
  const pairs = drivers.flatMap((driver) => {
    const { capabilities } = subjectsOf(driver)[0]!.driver;
    const applies = (names: readonly string[]): boolean =>
      workload === undefined ? names.length > 0 : names.includes(workload);
    return chosen
      .filter((part) => applies(part.workloads(capabilities)))
      .map(({ name }) => ({ driver, part: name }));
  });
  const each = seconds / Math.max(1, pairs.length);
  return pairs.flatMap((pair) =>
    Array.from({ length: jobs }, (_, index) => ({
      ...pair,
      seed: seed + index,
      shares: jobs,
      seconds: each,
      ...(workload !== undefined && { workload }),
      ...(state !== undefined && { state }),
    })),
  );
}

type Listener = (share: Share, message: Report) => void;

const ownWorker = fileURLToPath(new URL(`./worker${import.meta.url.slice(-3)}`, import.meta.url));

/** Resolves when the process has ended, however it did: of itself, or by force when it, or one case, has no end. */
export function runShare(
  share: Share,
  listener: Listener,
  worker: string = ownWorker,
  patience: number = patienceSeconds,
): Promise<void> {
  const child = fork(worker, { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
  let doing = 'before its first report';
  let caseTimer: NodeJS.Timeout | undefined;
  const end = (message: Report): void => {
    clearTimeout(caseTimer);
    listener(share, message);
    child.kill('SIGKILL');
  };
  const giveUp = (): void => end({ kind: 'failed', message: `does not come to an end; ${doing}` });
  const timer = setTimeout(giveUp, (share.seconds + patience) * 1000);
  child.on('message', (message: Message) => {
    clearTimeout(caseTimer);
    if (message.kind === 'count') doing = `last heard of in ${message.workload}`;
    if (message.kind === 'trying') {
      const violation = { ...message.attempt, message: 'does not come to an end' };
      caseTimer = setTimeout(() => end({ kind: 'violation', violation }), patience * 1000);
    } else listener(share, message);
  });
  child.send(share);
  return new Promise((resolve) => {
    child.once('exit', (status, signal) => {
      clearTimeout(timer);
      clearTimeout(caseTimer);
      if (status !== 0 && signal !== 'SIGKILL') {
        listener(share, { kind: 'failed', message: `ended with ${signal ?? status}; ${doing}` });
      }
      resolve();
    });
  });
}

/** Runs all shares, `jobs` at a time. */
export async function runShares(shares: readonly Share[], jobs: number, listener: Listener): Promise<void> {
  const waiting = [...shares];
  const work = async (): Promise<void> => {
    for (let share = waiting.shift(); share !== undefined; share = waiting.shift()) {
      await runShare(share, listener);
    }
  };
  await Promise.all(Array.from({ length: jobs }, work));
}
