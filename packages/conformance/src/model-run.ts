import * as fc from 'fast-check';
import type { Capabilities } from '@cowlab/core';
import { Lab } from './lab.ts';
import { type ConformanceSubject, hasSnapshots, type Place } from './subject.ts';
import type { Twin } from './twin.ts';

/*
 * The model run: random sequences of commands, done to a disk and to the reference model, compared after each.
 * Commands are plain data, so that a failing sequence is printed as it is and shrinks well. Their numbers mean
 * something for any disk and at any moment: `at` and `length` count quarters of a stride plus a few bytes,
 * `which` counts the snapshots that exist.
 */

export type ModelCommand =
  | { readonly do: RangeCommand; readonly at: Spot; readonly length: Spot }
  | { readonly do: 'flush' | 'reopen' | 'check' | 'snapshot' | 'compact' }
  | { readonly do: 'resize'; readonly length: Spot }
  | { readonly do: 'delete' | 'apply' | 'open' | 'rename'; readonly which: number }
  | { readonly do: 'diff'; readonly which: number; readonly other: number };

/** `writeCompressed` goes to the units around the range. */
type RangeCommand = 'write' | 'writeCompressed' | 'writeZeroes' | 'discard' | 'read';

/** `quarters` of a stride, and `bytes` more or less. */
interface Spot {
  readonly quarters: number;
  readonly bytes: number;
}

export interface ModelRunOptions {
  readonly place: Place;
  readonly seed: number;
  /** Sequences to try. */
  readonly numRuns: number;
}

const strides = 8;
const maxCommands = 40;
const maxSnapshotsInRun = 5;

const spot = (maxQuarters: number): fc.Arbitrary<Spot> =>
  fc.record({
    quarters: fc.nat({ max: maxQuarters }),
    bytes: fc.constantFrom(0, 0, 0, 1, -1, 511, 512, -512, 1000),
  });

function commandsFor(capabilities: Capabilities): fc.Arbitrary<ModelCommand[]> {
  const range = { at: spot(4 * strides), length: spot(10) };
  const which = { which: fc.nat({ max: 9 }) };
  const plain: fc.WeightedArbitrary<ModelCommand>[] = [
    { weight: 8, arbitrary: fc.record({ do: fc.constant('write' as const), ...range }) },
    { weight: 2, arbitrary: fc.record({ do: fc.constant('writeZeroes' as const), ...range }) },
    { weight: 2, arbitrary: fc.record({ do: fc.constant('discard' as const), ...range }) },
    { weight: 2, arbitrary: fc.record({ do: fc.constant('read' as const), ...range }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constantFrom('flush' as const, 'reopen', 'check') }) },
  ];
  const compress: fc.WeightedArbitrary<ModelCommand>[] = [
    { weight: 5, arbitrary: fc.record({ do: fc.constant('writeCompressed' as const), ...range }) },
  ];
  const resize: fc.WeightedArbitrary<ModelCommand>[] = [
    { weight: 1, arbitrary: fc.record({ do: fc.constant('resize' as const), length: spot(6 * strides) }) },
  ];
  const compact: fc.WeightedArbitrary<ModelCommand>[] = [
    { weight: 1, arbitrary: fc.record({ do: fc.constant('compact' as const) }) },
  ];
  const snapshots: fc.WeightedArbitrary<ModelCommand>[] = [
    { weight: 3, arbitrary: fc.record({ do: fc.constant('snapshot' as const) }) },
    {
      weight: 4,
      arbitrary: fc.record({ do: fc.constantFrom('delete' as const, 'apply', 'open'), ...which }),
    },
  ];
  const rename: fc.WeightedArbitrary<ModelCommand>[] = [
    { weight: 1, arbitrary: fc.record({ do: fc.constant('rename' as const), ...which }) },
  ];
  const diff: fc.WeightedArbitrary<ModelCommand>[] = [
    {
      weight: 2,
      arbitrary: fc.record({ do: fc.constant('diff' as const), ...which, other: fc.nat({ max: 9 }) }),
    },
  ];
  const all = [
    ...plain,
    ...(capabilities.compress === 'units' ? compress : []),
    ...(capabilities.resize === 'none' ? [] : resize),
    ...(capabilities.compact === 'none' ? [] : compact),
    ...(hasSnapshots(capabilities) ? snapshots : []),
    ...(capabilities.renameSnapshots ? rename : []),
    ...(capabilities.diff ? diff : []),
  ];
  return fc.array(fc.oneof(...all), { minLength: 1, maxLength: maxCommands, size: 'max' });
}

/** The range a command means on a disk of `size` bytes; undefined when none is left of it. */
function rangeOf(twin: Twin, stride: number, at: Spot, length: Spot): [number, number] | undefined {
  const quarter = stride / 4;
  const offset = Math.max(0, at.quarters * quarter + at.bytes);
  const bytes = Math.min(length.quarters * quarter + length.bytes, twin.size - offset);
  return bytes > 0 ? [offset, bytes] : undefined;
}

function unitsAround({ size, disk }: Twin, [offset, length]: [number, number]): [number, number] {
  const { unitBytes } = disk;
  const start = offset - (offset % unitBytes);
  return [start, Math.min(size, Math.ceil((offset + length) / unitBytes) * unitBytes) - start];
}

class ModelRun {
  readonly #lab: Lab;
  readonly #twin: Twin;
  #made = 0;

  constructor(lab: Lab, twin: Twin) {
    this.#lab = lab;
    this.#twin = twin;
  }

  async step(command: ModelCommand): Promise<void> {
    switch (command.do) {
      case 'write':
      case 'writeCompressed':
      case 'writeZeroes':
      case 'discard':
      case 'read':
        return this.#onRange(command.do, rangeOf(this.#twin, this.#lab.stride, command.at, command.length));
      case 'resize':
        return this.#resize(command.length);
      case 'flush':
        return this.#twin.disk.flush();
      case 'reopen':
        await this.#twin.reopen();
        return this.#twin.verify('after reopening');
      case 'compact':
        await this.#twin.compact();
        return this.#twin.verify('after compact');
      case 'check':
        await this.#lab.assertClean(this.#twin.disk);
        return;
      case 'snapshot':
        if (
          this.#twin.model.snapshots.size >= Math.min(maxSnapshotsInRun, this.#lab.capabilities.maxSnapshots)
        ) {
          return;
        }
        return this.#snapshot(`snapshot-${this.#made++}`);
      case 'delete':
      case 'apply':
      case 'open':
      case 'rename':
        return this.#onSnapshot(command.do, command.which);
      case 'diff':
        return this.#diff(command.which, command.other);
    }
  }

  /** Only while there are no snapshots: a format may refuse then, and a judge may not read those of another size. */
  async #resize({ quarters, bytes }: Spot): Promise<void> {
    const twin = this.#twin;
    const { capabilities, stride } = this.#lab;
    const wanted = Math.max(1, (quarters * stride) / 4 + bytes);
    const size = Math.ceil(wanted / capabilities.sizeMultiple) * capabilities.sizeMultiple;
    if (twin.model.snapshots.size > 0 || (size < twin.size && capabilities.resize === 'grow')) return;
    await twin.resize(size);
    await twin.verify(`after a resize to ${size}`);
  }

  async #onRange(what: RangeCommand, range?: [number, number]): Promise<void> {
    if (range === undefined) return;
    const twin = this.#twin;
    const [offset, length] = what === 'writeCompressed' ? unitsAround(twin, range) : range;
    if (what === 'read') return twin.readAndCompare(offset, length);
    await twin[what](offset, length);
    // A little more than was touched: a neighbour that changed shows at once.
    const start = Math.max(0, offset - 600);
    await twin.readAndCompare(start, Math.min(twin.size, offset + length + 600) - start);
  }

  async #snapshot(name: string): Promise<void> {
    await this.#twin.createSnapshot(name);
    await this.#assertUnchanged(name);
  }

  async #onSnapshot(what: 'delete' | 'apply' | 'open' | 'rename', which: number): Promise<void> {
    const twin = this.#twin;
    const name = this.#nameOf(which);
    if (name === undefined) return;
    if (what === 'open') return twin.verifySnapshot(name);
    if (what === 'rename') return twin.renameSnapshot(name, `renamed-${this.#made++}`);
    if (what === 'delete') await twin.deleteSnapshot(name);
    else await twin.applySnapshot(name);
    await twin.verify(`after ${what} of ${name}`);
    await twin.verifyParents();
    if (what === 'apply') await this.#assertUnchanged(name);
  }

  /** Two snapshots, or one and the disk as it is: the numbers of snapshots and of the disk follow each other. */
  async #diff(which: number, other: number): Promise<void> {
    const from = this.#nameOf(which);
    const count = this.#twin.model.snapshots.size;
    if (from !== undefined) {
      await this.#twin.verifyDiff(from, other % (count + 1) === count ? undefined : this.#nameOf(other));
    }
  }

  /** The disk is in the state that it was kept in, or went back to, and the tables show it. */
  async #assertUnchanged(name: string): Promise<void> {
    if (!this.#lab.capabilities.diff) return;
    const extents = await this.#twin.verifyDiff(name);
    if (extents.length > 0)
      throw new Error(`nothing was written since ${name}, and it differs from the disk`);
  }

  #nameOf(which: number): string | undefined {
    const names = [...this.#twin.model.snapshots.keys()];
    return names[which % names.length];
  }
}

/** One sequence on a new image, ended by the questions that every scenario ends with. */
export async function runCommands(
  subject: ConformanceSubject,
  place: Place,
  seed: number,
  commands: readonly ModelCommand[],
): Promise<void> {
  const lab = await Lab.make(subject, place, seed);
  try {
    const run = new ModelRun(lab, await lab.twin({ strides }));
    for (const command of commands) await run.step(command);
    await lab.finish();
  } finally {
    await lab.dispose();
  }
}

/** Tries `numRuns` random sequences; rejects with the shortest failing one that shrinking found, and its seed. */
export async function modelRun(subject: ConformanceSubject, options: ModelRunOptions): Promise<void> {
  const { place, seed, numRuns } = options;
  const property = fc.asyncProperty(commandsFor(subject.driver.capabilities), (commands) =>
    runCommands(subject, place, seed, commands),
  );
  await fc.assert(property, { seed, numRuns, interruptAfterTimeLimit: 45_000 });
}
