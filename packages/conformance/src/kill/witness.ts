import { type Contract, contractAt, type GuestEvent, resized } from '../explorer/contract.ts';
import { pattern } from '../random.ts';
import type { Step, StepKind } from './steps.ts';
import { doneLine } from './victim.ts';

/** What an image held before a victim began. */
export interface Found {
  readonly disk: Uint8Array;
  readonly snapshots: ReadonlyMap<string, Uint8Array>;
}

/** What every step has a place for in the list of events; their order is what counts. */
const at = 0;

/**
 * Hears what a victim says, and knows what it may count on. Whenever everything is durable the past is forgotten: a
 * victim does thousands of steps.
 */
export class Witness {
  #events: GuestEvent[] = [];
  #model: Uint8Array;
  readonly #snapshots: Map<string, Uint8Array>;
  #step: Step | undefined;
  #steps = 0;

  constructor({ disk, snapshots }: Found) {
    this.#model = disk;
    this.#snapshots = new Map(snapshots);
    this.#settle();
  }

  /** Steps that have returned. */
  get steps(): number {
    return this.#steps;
  }

  /** The step that had not returned. */
  get underWay(): StepKind | 'nothing' {
    return this.#step?.kind ?? 'nothing';
  }

  get contract(): Contract {
    return contractAt(this.#events, Number.POSITIVE_INFINITY);
  }

  hear(line: string): void {
    if (line !== doneLine) return this.#begins(JSON.parse(line) as Step);
    const step = this.#step;
    if (step === undefined) throw new TypeError('a victim is done with nothing');
    this.#step = undefined;
    this.#steps += 1;
    this.#returned(step);
  }

  #begins(step: Step): void {
    this.#step = step;
    switch (step.kind) {
      case 'write':
        return this.#issue((model) => model.set(pattern(step.tag, step.length), step.offset));
      case 'writeZeroes':
      case 'discard':
        return this.#issue((model) => model.fill(0, step.offset, step.offset + step.length));
      case 'create':
        return this.#note({ kind: 'creating', at, name: step.name, disk: this.#model });
      case 'delete':
        return this.#note({ kind: 'deleting', at, name: step.name });
      case 'apply':
        return this.#note({ kind: 'replacing', at, disk: this.#snapshot(step.name) });
      case 'rename':
        return this.#note({ kind: 'renaming', at, name: step.name, newName: step.newName });
      case 'resize':
        return this.#note({ kind: 'resizing', at, size: step.size });
      default:
    }
  }

  #returned(step: Step): void {
    switch (step.kind) {
      case 'flush':
      case 'reopen':
        return this.#settle();
      case 'create':
        this.#snapshots.set(step.name, this.#model);
        return this.#note({ kind: 'created', at, name: step.name, disk: this.#model });
      case 'delete':
        this.#snapshots.delete(step.name);
        return this.#note({ kind: 'deleted', at, name: step.name });
      case 'apply':
        this.#model = this.#snapshot(step.name);
        return this.#settle();
      case 'rename':
        this.#snapshots.set(step.newName, this.#snapshot(step.name));
        this.#snapshots.delete(step.name);
        return this.#note({ kind: 'renamed', at, name: step.name, newName: step.newName });
      case 'resize':
        this.#model = resized(this.#model, step.size);
        return this.#note({ kind: 'resized', at, size: step.size });
      default:
    }
  }

  #snapshot(name: string): Uint8Array {
    const disk = this.#snapshots.get(name);
    if (disk === undefined) throw new TypeError(`no snapshot ${name}`);
    return disk;
  }

  #issue(change: (model: Uint8Array) => void): void {
    this.#model = this.#model.slice();
    change(this.#model);
    this.#note({ kind: 'issued', at, disk: this.#model });
  }

  /** Everything there is is durable. */
  #settle(): void {
    this.#events = [{ kind: 'flushed', at, disk: this.#model }];
    for (const [name, disk] of this.#snapshots) {
      this.#note({ kind: 'creating', at, name, disk });
      this.#note({ kind: 'created', at, name, disk });
    }
  }

  #note(event: GuestEvent): void {
    this.#events.push(event);
  }
}
