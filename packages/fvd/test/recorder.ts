import type { Awaitable, Storage, StorageFolder } from '@cowlab/core';
import { InterceptedFolder, type Random, type StorageCall } from '@cowlab/conformance';
import { file } from './lab.ts';

/*
 * Every change of one file with its bytes, and what was flushed when: enough to build each state that a power loss
 * may leave. What a completed flush has covered is there; of what came after, any part, sector by sector.
 */

const SECTOR = 512;
/** A discarded range may hold anything: this stands for it. */
const UNDEFINED_BYTE = 0xdd;

type Change = { readonly offset: number } & (
  | { readonly bytes: Uint8Array }
  | { readonly truncatedTo: number }
);

export class Recorder extends InterceptedFolder {
  /** Changes, and where a flush completed. */
  readonly log: (Change | 'flush')[] = [];
  readonly #peek: Storage;

  private constructor(inner: StorageFolder, peek: Storage) {
    super(inner);
    this.#peek = peek;
  }

  static async on(inner: StorageFolder): Promise<Recorder> {
    return new Recorder(inner, await inner.open(file, { readOnly: true }));
  }

  override intercept<T>(call: StorageCall, run: () => Awaitable<T>): Awaitable<T> {
    const { method, offset, length } = call;
    const result = run();
    if (method === 'flush') this.log.push('flush');
    if (method === 'truncate') this.log.push({ offset: length, truncatedTo: length });
    if (method === 'write' || method === 'zero' || method === 'discard') {
      const bytes = new Uint8Array(length);
      if (method === 'discard') bytes.fill(UNDEFINED_BYTE);
      else void this.#peek.read(offset, bytes);
      this.log.push({ offset, bytes });
    }
    return result;
  }
}

/** A file that changes are applied to. */
class Medium {
  bytes: Uint8Array;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
  }

  apply(change: Change): void {
    if ('truncatedTo' in change) {
      this.#resize(change.truncatedTo);
      return;
    }
    if (change.offset + change.bytes.length > this.bytes.length)
      this.#resize(change.offset + change.bytes.length);
    this.bytes.set(change.bytes, change.offset);
  }

  #resize(length: number): void {
    const bytes = new Uint8Array(length);
    bytes.set(this.bytes.subarray(0, length));
    this.bytes = bytes;
  }
}

function sectorsOf(change: Change): Change[] {
  if ('truncatedTo' in change) return [change];
  const sectors: Change[] = [];
  for (let at = 0; at < change.bytes.length; ) {
    const end = Math.min(change.bytes.length, at + SECTOR - ((change.offset + at) % SECTOR));
    sectors.push({ offset: change.offset + at, bytes: change.bytes.subarray(at, end) });
    at = end;
  }
  return sectors;
}

export interface Crash {
  /** How much of the log had happened. */
  readonly position: number;
  readonly bytes: Uint8Array;
}

/** States after a loss of power: at each point of the log everything so far, and `torn` times any part of what was in flight. */
export function* crashes(
  start: Uint8Array,
  recorder: Recorder,
  random: Random,
  torn: number,
): Generator<Crash> {
  const durable = new Medium(start.slice());
  let inFlight: Change[] = [];
  for (const [at, entry] of recorder.log.entries()) {
    if (entry === 'flush') {
      for (const change of inFlight) durable.apply(change);
      inFlight = [];
      yield { position: at + 1, bytes: durable.bytes.slice() };
      continue;
    }
    inFlight.push(entry);
    for (let variant = 0; variant <= torn; variant++) {
      const medium = new Medium(durable.bytes.slice());
      const parts =
        variant === 0 ? inFlight : inFlight.flatMap(sectorsOf).filter(() => random.below(2) === 0);
      for (const part of parts) medium.apply(part);
      yield { position: at + 1, bytes: medium.bytes };
    }
  }
}
