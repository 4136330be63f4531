import type { Lab } from '../lab.ts';
import type { Profile } from '../profiles.ts';
import { qemuVersion } from '../qemu/tools.ts';
import type { Omission, QemuPart, Results } from '../schema.ts';
import { measureQemuAllocations } from './allocations.ts';
import { type QemuCell, QemuCells, qemuTargets, qemuYardstick } from './images.ts';
import { measureQemuLarge, measureQemuOperations } from './operations.ts';
import { measureQemuOpens, measureStarts } from './opens.ts';
import { measureQemuRequests } from './requests.ts';

/*
 * QEMU in the places of our drivers: its rows go into the same lists as theirs, under names of its own, so that verdicts,
 * charts and tables come from one source. What it does not tell is left out, not guessed: metadata in memory, memory of
 * refcounts.
 */

/** QEMU's rows, and what belongs to no list of ours. */
export type QemuMeasured = Pick<
  Results,
  'reads' | 'overwrites' | 'allocations' | 'opens' | 'processMemory' | 'snapshotOperations' | 'omissions'
> & { readonly part: Omit<QemuPart, 'trends'> };

type Tick = (step: string, done: number) => void;

export async function measureQemu(
  lab: Lab,
  profile: Profile,
  seed: number,
  tick: Tick,
): Promise<QemuMeasured> {
  const sizes = { ...profile.qemu, requestBytes: profile.requestBytes, flushEvery: profile.flushEvery };
  const all = [qemuYardstick, ...qemuTargets];
  const starts = await measureStarts();
  const cells: QemuCell[] = [];
  const omissions: Omission[] = [];
  for (const [index, target] of all.entries()) {
    tick('making QEMU’s images', (0.3 * index) / all.length);
    const made = await QemuCells.make(lab, target, sizes);
    cells.push(...made.cells);
    if (made.ended !== undefined) {
      omissions.push({ scenario: 'larger N', format: target.name, reason: made.ended });
    }
  }
  tick('QEMU: opening', 0.3);
  const { opens, memory } = await measureQemuOpens(cells, sizes, starts, seed);
  tick('QEMU: reads and overwrites', 0.4);
  const requests = await measureQemuRequests(lab, cells, sizes, seed, (done) =>
    tick('QEMU: reads and overwrites', 0.5 + 0.1 * done),
  );
  tick('QEMU: empty images', 0.6);
  const allocations = await measureQemuAllocations(lab, all, sizes, seed);
  const onCells = await measureQemuOperations(lab, cells, sizes, starts.qemuImgMs, seed, (done) =>
    tick('QEMU: creating and deleting', 0.65 + 0.15 * done),
  );
  for (const { folder } of cells) await lab.discard(folder);
  const onLarge: Results['snapshotOperations'] = [];
  const ofLarge = qemuTargets.filter(({ snapshots }) => snapshots === 'internal');
  for (const { imageBytes, iterations: snapshotIterations } of profile.qemu.large) {
    tick('QEMU: a large image', 0.8);
    for (const target of ofLarge) {
      const large = { ...sizes, imageBytes, snapshotIterations, snapshotBudgetMs: Number.POSITIVE_INFINITY };
      onLarge.push(...(await measureQemuLarge(lab, target, large, starts.qemuImgMs, seed)));
    }
  }
  return {
    reads: requests.reads,
    overwrites: requests.overwrites,
    allocations,
    opens,
    processMemory: memory,
    snapshotOperations: [...onCells, ...onLarge],
    omissions: [...omissions, ...notMeasured(memory.length > 0)],
    part: { version: qemuVersion(), yardstick: qemuYardstick.name, starts, sessions: requests.sessions },
  };
}

function notMeasured(hasMemory: boolean): Omission[] {
  const names = qemuTargets.map(({ name }) => name).join(', ');
  const chains = qemuTargets.filter(({ snapshots }) => snapshots === 'chain').map(({ name }) => name);
  return [
    { scenario: 'metadata in memory', format: names, reason: 'QEMU does not tell; its process is measured' },
    ...(hasMemory
      ? []
      : [{ scenario: 'process memory', format: names, reason: 'this system has no /proc/PID/status' }]),
    {
      scenario: 'large image',
      format: chains.join(', '),
      reason: 'a snapshot is an empty file of its own, whatever is mapped below it',
    },
  ];
}
