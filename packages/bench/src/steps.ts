import { measureAblations } from './axes/ablations.ts';
import { measureAxes } from './axes/axes.ts';
import { measureServices } from './axes/service.ts';
import type { Subject } from './formats.ts';
import { yardstick } from './formats.ts';
import type { Cell, Lab } from './lab.ts';
import type { Profile } from './profiles.ts';
import type { BenchProgress } from './progress.ts';
import { measureAllocations } from './scenarios/allocate.ts';
import { measureBaseCopies } from './scenarios/base-copy.ts';
import { measureDevices } from './scenarios/devices.ts';
import { measureGrowth } from './scenarios/growth.ts';
import { measureHistories } from './scenarios/history.ts';
import { measureIdleSnapshots } from './scenarios/idle.ts';
import { measureLarge } from './scenarios/large.ts';
import { measureProcessMemory } from './scenarios/memory.ts';
import { measureOpens } from './scenarios/open.ts';
import { measureRunning } from './scenarios/running.ts';
import { measureSnapshots } from './scenarios/snapshots.ts';
import type { Omission, Results } from './schema.ts';
import type { Unfinished } from './unfinished.ts';

/*
 * The scenarios of a run, in an order in which none spoils the next: what only opens images, then what reads and
 * overwrites, then what makes and deletes snapshots, then what makes images of its own. A step's result is kept as soon as
 * it is there (unfinished.ts); those on the shared images are one step, because each finds what the one before has left.
 */

/** What scenarios yield. */
export type Measured = Omit<
  Results,
  | 'schema'
  | 'version'
  | 'environment'
  | 'seed'
  | 'profile'
  | 'formats'
  | 'durationSeconds'
  | 'goals'
  | 'bars'
  | 'powerLosses'
>;

export interface Steps {
  readonly lab: Lab;
  readonly subjects: readonly Subject[];
  readonly profile: Profile;
  readonly seed: number;
  readonly unfinished: Unfinished;
  readonly onProgress: ((progress: BenchProgress) => void) | undefined;
}

/** Tells a scenario's name, and how much of it is done. */
type Begin = (step: string) => (done: number) => void;

/** Scenarios on the shared images, beside making them, and those after. */
const ON_CELLS = 4;
const AFTERWARDS = 10;

export async function measureAll(steps: Steps): Promise<Measured> {
  const { lab, subjects, profile, seed, unfinished, onProgress } = steps;
  const all = [yardstick, ...subjects];
  const total = all.length + ON_CELLS + AFTERWARDS;
  let at = 0;
  const begin: Begin = (step) => {
    const first = at++;
    const tick = (done: number): void => onProgress?.({ step, done: (first + Math.min(1, done)) / total });
    tick(0);
    return tick;
  };
  if (unfinished.has('cells')) at = all.length + ON_CELLS;
  const onCells = await unfinished.step('cells', () => measureOnCells(steps, begin));
  const ours = subjects.filter(({ module }) => module === undefined);
  const after = <T>(step: string, measure: (tick: (done: number) => void) => Promise<T>): Promise<T> => {
    const tick = begin(step);
    return unfinished.step(step, () => measure(tick));
  };
  const allocations = await after('empty images', () => measureAllocations(lab, all, profile, seed));
  const growths = await after('files that grow', () => measureGrowth(lab, profile, seed));
  const copies = await after('copies of a base', () => measureBaseCopies(lab, subjects, profile));
  const histories = await after('a long history', (tick) =>
    measureHistories(lab, subjects, profile, seed, tick),
  );
  const idleSnapshots = await after('many snapshots of nothing', (tick) =>
    measureIdleSnapshots(lab, ours, profile, tick),
  );
  const devices = await after('simulated devices', (tick) => measureDevices(all, profile, seed, tick));
  const ablations = await after('FVD without its parts', (tick) =>
    measureAblations(lab, subjects, profile, seed, tick),
  );
  const services = await after('what users ask', (tick) =>
    measureServices(lab, subjects, profile, seed, tick),
  );
  const axes = await after('other axes', (tick) => measureAxes(lab, all, profile, seed, tick));
  const large = await after('a large image', (tick) => measureLarge(lab, ours, profile, seed, tick));
  const { memory, snapshotOperations, ...running } = onCells;
  return {
    ...running,
    processMemory: memory.rows,
    snapshotOperations: [...snapshotOperations, ...large.operations],
    allocations,
    growths,
    baseCopies: copies.rows,
    devices,
    ablations,
    services,
    axes,
    histories,
    idleSnapshots,
    largeImages: large.images,
    omissions: [...memory.omissions, ...copies.omissions, ...large.omissions, ...fromElsewhere(subjects)],
  };
}

async function measureOnCells(
  { lab, subjects, profile, seed }: Steps,
  begin: Begin,
): Promise<
  Pick<Measured, 'opens' | 'reads' | 'overwrites' | 'sessions' | 'snapshotOperations'> & {
    memory: Awaited<ReturnType<typeof measureProcessMemory>>;
  }
> {
  const cells: Cell[] = [];
  for (const subject of [yardstick, ...subjects]) {
    cells.push(...(await lab.prepare(subject, profile, begin(`making ${subject.name} images`))));
  }
  const withSnapshots = cells.filter(({ subject }) => subject !== yardstick);
  begin('process memory');
  const memory = await measureProcessMemory(cells, profile);
  begin('opening');
  const opens = await measureOpens(cells, profile, seed);
  begin('reads and overwrites');
  const running = await measureRunning(cells, profile, seed);
  const snapshotOperations = await measureSnapshots(
    withSnapshots,
    profile,
    seed,
    begin('creating and deleting'),
  );
  for (const { folder } of cells) await lab.discard(folder);
  return { ...running, opens, snapshotOperations, memory };
}

/** A driver of which nothing is known may copy the terabyte; it cannot be stopped then. */
function fromElsewhere(subjects: readonly Subject[]): Omission[] {
  const reason = 'a driver from elsewhere: what it does with terabytes is not known';
  return subjects
    .filter(({ module }) => module !== undefined)
    .map(({ name }) => ({ scenario: 'large image', format: name, reason }));
}
