import type { PartContext } from '@cowlab/conformance';
import type { Message, Share } from './messages.ts';
import { parts } from './parts.ts';
import { subjectsOf } from './subjects.ts';

/* A process that runs one share and tells its parent what comes of it. */

function send(message: Message): void {
  process.send?.(message);
}

function contextOf(share: Share): PartContext {
  const started = performance.now();
  const timeUsed = (): number => Math.min(1, (performance.now() - started) / 1000 / share.seconds);
  const { workload, state, seed, shares } = share;
  return {
    subjects: subjectsOf(share.driver),
    seed,
    shares,
    ...(workload !== undefined && { workload }),
    ...(state !== undefined && { state }),
    hasTime: () => timeUsed() < 1,
    timeUsed,
    count: (name, counts) => send({ kind: 'count', workload: name, counts }),
    trying: (attempt) => send({ kind: 'trying', attempt }),
    violation: (violation) => send({ kind: 'violation', violation }),
  };
}

process.once('message', (share: Share) => {
  const part = parts.find(({ name }) => name === share.part);
  if (part === undefined) throw new TypeError(`no part ${share.part}`);
  part
    .run(contextOf(share))
    .catch((error: unknown) =>
      send({
        kind: 'failed',
        message: error instanceof Error ? (error.stack ?? error.message) : String(error),
      }),
    )
    .finally(() => process.disconnect());
});
