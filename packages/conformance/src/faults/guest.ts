import assert from 'node:assert/strict';
import { CowlabError, type Disk, isCowlabError } from '@cowlab/core';
import { assertCoded, failureOf } from '../expect.ts';
import type { FaultFolder, FaultKind } from '../fault-folder.ts';
import type { StorageCall } from '../intercepted-folder.ts';
import { contentsOf } from '../twin.ts';
import { after, type DiskState, isAtomic, perform, type Step } from './steps.ts';

/*
 * A guest whose storage fails, and what he may rely on all the same.
 *
 *     visible    what the disk is now. After a failure it is looked at: a write may have happened in part, by sectors;
 *                what is atomic has happened or has not
 *     possible   what the disk may be after closing badly and opening anew: what was last made durable, and everything
 *                since, in any mixture of sectors
 *
 * A fault that lasts lets nobody look; then `visible` is what would be if all had worked, and a flush that succeeds
 * does not tell which of the failures before it has happened.
 */

const sectorBytes = 512;
const maxAttempts = 3;

/** Whoever fails to give space back, to learn where holes are, or to remove what nothing needs, may go on. */
const hints: ReadonlySet<StorageCall['method']> = new Set(['discard', 'status', 'remove']);

const codeOf: Readonly<Record<FaultKind, string>> = {
  EIO: 'ERR_IO',
  ENOSPC: 'ERR_NO_SPACE',
  short: 'ERR_NO_SPACE',
  lost: 'none',
  misdirected: 'none',
};

/** A call that failed below was not kept from whoever called above, and says why in the same words. */
export function assertReported(
  failure: unknown,
  struck: readonly StorageCall[],
  kind: FaultKind,
  what: string,
): void {
  assertCoded(failure, what);
  if (struck.length === 0 || codeOf[kind] === 'none') return;
  if (failure instanceof CowlabError) {
    assert.equal(failure.code, codeOf[kind], `${what}: the code of ${failure.message}`);
    return;
  }
  const hidden = struck.find(({ method }) => !hints.has(method));
  assert.equal(
    hidden,
    undefined,
    `${what} succeeds, although ${hidden?.method} of ${hidden?.file} has failed`,
  );
}

export interface GuestParts {
  readonly disk: Disk;
  readonly folder: FaultFolder;
  readonly start: DiskState;
  readonly kind: FaultKind;
  readonly lasting: boolean;
  /** Failures of copies are nobody's business. */
  readonly quiet: boolean;
}

export class Guest {
  readonly disk: Disk;
  readonly #parts: GuestParts;
  #visible: DiskState;
  #possible: DiskState[];
  #isCertain = true;
  /** Steps that failed again although no call failed any more. */
  refused = 0;

  constructor(parts: GuestParts) {
    this.#parts = parts;
    this.disk = parts.disk;
    this.#visible = parts.start;
    this.#possible = [parts.start];
  }

  get visible(): DiskState {
    return this.#visible;
  }

  get possible(): readonly DiskState[] {
    return this.#possible;
  }

  /** Whether `visible` is what the disk is. */
  get isCertain(): boolean {
    return this.#isCertain;
  }

  async step(step: Step): Promise<void> {
    if ('offset' in step && step.offset + step.length > this.disk.size) return;
    const attempts = this.#parts.lasting ? 1 : maxAttempts;
    for (let attempt = 0; attempt < attempts; attempt++) {
      const failure = await this.#attempt(step);
      if (failure === undefined) return this.#succeeded(step);
      await this.#failed(step);
      if (isSettled(failure)) return;
    }
    // The disk has given up, or is not asked any more: what it did last may have happened or not.
    this.#isCertain = false;
  }

  /** What came of it; a call that failed must not have been kept from the caller. */
  async #attempt(step: Step): Promise<unknown> {
    const { folder, kind, lasting, quiet } = this.#parts;
    const before = folder.fired;
    const failure = await failureOf(() => perform(this.disk, step));
    assertCoded(failure, step.do);
    const struck = folder.struck.slice(before);
    assert.ok(
      failure === undefined || folder.fired > 0,
      `${step.do} fails without a fault: ${String(failure)}`,
    );
    if (struck.length === 0 && failure !== undefined && !lasting) this.refused++;
    if (failure !== undefined || !quiet) assertReported(failure, struck, kind, step.do);
    return failure;
  }

  #succeeded(step: Step): void {
    this.#visible = this.#after(this.#visible, step);
    const { name, ...kept } = { name: '', ...step };
    switch (kept.do) {
      case 'create': {
        const bytes = this.#visible.snapshots.get(name)!;
        this.#possible = this.#possible.map((state) => ({
          ...state,
          snapshots: new Map([...state.snapshots, [name, bytes]]),
        }));
        break;
      }
      case 'delete':
      case 'rename':
      case 'resize':
        this.#possible = this.#possible.map((state) => this.#after(state, step));
        break;
      case 'flush':
      case 'apply':
        if (this.#isCertain) this.#possible = [];
        break;
      default:
    }
    this.#possible.push(this.#visible);
  }

  async #failed(step: Step): Promise<void> {
    const before = this.#visible;
    const then = this.#after(before, step);
    this.#possible.push(then);
    if (this.#parts.lasting) {
      this.#isCertain = false;
      this.#visible = then;
      return;
    }
    this.#visible = await this.#parts.folder.suspended(() => this.#look(step, before, then));
    this.#possible.push(this.#visible);
  }

  /** What the disk is after a failure: one of two states, or a mixture where that is allowed. */
  async #look(step: Step, before: DiskState, then: DiskState): Promise<DiskState> {
    const bytes = await contentsOf(this.disk);
    const names = (await this.disk.snapshots.list()).map(({ name }) => name).toSorted();
    const fitting = [before, then].find((state) => {
      if (state.bytes.length !== bytes.length || !sameNames(state, names)) return false;
      const known = isAtomic(step) ? [state] : [before, then];
      return strangeSector(bytes, known) === undefined;
    });
    assert.ok(fitting !== undefined, `a failed ${step.do} has neither happened nor not happened`);
    return { bytes, snapshots: fitting.snapshots };
  }

  #after(state: DiskState, step: Step): DiskState {
    return after(state, step, this.disk.unitBytes);
  }
}

/** The step cannot be done, because it has been, or because one before it has not. */
function isSettled(failure: unknown): boolean {
  return isCowlabError(failure, 'ERR_SNAPSHOT_EXISTS') || isCowlabError(failure, 'ERR_SNAPSHOT_NOT_FOUND');
}

function sameNames({ snapshots }: DiskState, names: readonly string[]): boolean {
  const own = [...snapshots.keys()].toSorted();
  return own.length === names.length && own.every((name, index) => name === names[index]);
}

/** The offset of the first sector that is in none of the states; past a state's end, zeros. */
function strangeSector(bytes: Uint8Array, states: readonly DiskState[]): number | undefined {
  return sectorNotIn(
    bytes,
    states.map((state) => state.bytes),
  );
}

/** As above; states of most recent date last, which is where most is found. */
export function sectorNotIn(bytes: Uint8Array, known: readonly Uint8Array[]): number | undefined {
  if (known.some((each) => each.length === bytes.length && Buffer.compare(each, bytes) === 0))
    return undefined;
  const zeros = new Uint8Array(sectorBytes);
  for (let start = 0; start < bytes.length; start += sectorBytes) {
    const sector = bytes.subarray(start, start + sectorBytes);
    const isKnown = known.some((each) => {
      const old = each.subarray(start, start + sector.length);
      const padded = old.length === sector.length ? old : concat(old, zeros, sector.length);
      return Buffer.compare(sector, padded) === 0;
    });
    if (!isKnown) return start;
  }
  return undefined;
}

function concat(first: Uint8Array, zeros: Uint8Array, length: number): Uint8Array {
  const whole = zeros.slice(0, length);
  whole.set(first);
  return whole;
}
