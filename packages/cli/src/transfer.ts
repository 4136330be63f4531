import { setImmediate, setTimeout } from 'node:timers/promises';
import { type Awaitable, CowlabError, type DiffExtent, type Disk, type LongCallOptions } from '@cowlab/core';

/*
 * Moving the contents of whole disks. The source is walked by extents, so that what reads as zeros costs nothing, and its
 * data are taken in large pieces at multiples of the piece, so that allocation units stay whole.
 *
 *   extents of the source ─ zero ──────────────────────────────→ sink.zeros
 *                         └ data → piece by piece: read ───────→ sink.piece
 *
 * What becomes of them is the sink's: a target that reads as zeros needs data only, one that holds something needs the
 * zeros, too, and one that holds nearly the same keeps what is equal. As long as neither side waits for anything, a
 * piece is moved before the next one is looked at, in one buffer. Where a side does wait (a network, a thread), up to
 * `parallel` pieces are under way; their writes begin in rising order, so that a target which allocates as it is
 * written to stays in order, unless that is said not to matter.
 */

export const PIECE_BYTES: number = 2 * 1024 * 1024;
const DEFAULT_SPARSE_BYTES = 4096;
const DEFAULT_PARALLEL = 8;
const YIELD_MS = 50;
export const ZEROS: Uint8Array = new Uint8Array(PIECE_BYTES);

/**
 * File I/O here is synchronous, so a long loop would never see a signal arrive: let the event loop turn now
 * and then, and stop where the caller wants to stop.
 */
export class Turns {
  readonly #options: LongCallOptions;
  readonly #total: number;
  #last = performance.now();

  constructor(options: LongCallOptions, total: number) {
    this.#options = options;
    this.#total = total;
  }

  async reached(done: number): Promise<void> {
    this.#options.onProgress?.({ done, total: this.#total });
    if (performance.now() - this.#last < YIELD_MS) return;
    await setImmediate();
    this.#last = performance.now();
    if (this.#options.signal?.aborted) {
      throw new CowlabError('ERR_ABORTED', 'interrupted', {}, this.#options.signal.reason);
    }
  }
}

export interface CopyOptions extends LongCallOptions {
  /** Pieces that may be under way at a time. */
  readonly parallel?: number;
  /** Writes may begin in any order. */
  readonly outOfOrder?: boolean;
  /** As many zeros in a row, at multiples of that, are no data. 0: zeros are data. 4,096 without it. */
  readonly sparseBytes?: number;
  /** Bytes of data that are copied in a second, at most. */
  readonly rate?: number;
}

export function isZero(bytes: Uint8Array): boolean {
  return Buffer.compare(bytes, ZEROS.subarray(0, bytes.length)) === 0;
}

/** Where the next piece that starts at `offset` ends. */
export function pieceEnd(offset: number, end: number): number {
  return Math.min(end, offset - (offset % PIECE_BYTES) + PIECE_BYTES);
}

/**
 * Copies everything that is not zero from `source` into `target`, which reads as zeros and is at least as
 * large. Units of `target` that would hold only zeros are left out. Rejects with `ERR_ABORTED`.
 */
export async function copyDisk(source: Disk, target: Disk, options: CopyOptions = {}): Promise<void> {
  const sink = options.sparseBytes === 0 ? new FullSink(target) : new FreshSink(target, options);
  await copyAll(source, sink, options);
}

/** Makes `target`, which may hold anything, equal to `source` as far as that reaches. */
export async function copyOver(source: Disk, target: Disk, options: CopyOptions = {}): Promise<void> {
  const sink = options.sparseBytes === 0 ? new FullSink(target) : new OverSink(target, options);
  await copyAll(source, sink, options);
}

/**
 * Makes `target` equal to `source` wherever `changes` say, and as far as `source` reaches; zeros are made without
 * writing them where the target's format can. Rejects with `ERR_ABORTED`.
 */
export async function copyChanges(
  source: Disk,
  target: Disk,
  changes: AsyncIterable<DiffExtent>,
  options: CopyOptions = {},
): Promise<void> {
  await copyRanges(source, new OverSink(target, options), changes, options);
}

/**
 * The same, and units of `target` that hold already what they shall hold are read and not written: they stay shared with
 * its snapshots, or its backing's. The changes are all of `source` without any.
 */
export async function copyDifferences(
  source: Disk,
  target: Disk,
  changes: AsyncIterable<DiffExtent> | undefined,
  options: CopyOptions = {},
): Promise<void> {
  const sink = new DifferenceSink(target, options);
  await (changes === undefined ? copyAll(source, sink, options) : copyRanges(source, sink, changes, options));
}

async function copyAll(source: Disk, sink: Sink, options: CopyOptions): Promise<void> {
  await copying(source, sink, options, (copy) => copy.range(0, source.size));
}

async function copyRanges(
  source: Disk,
  sink: Sink,
  ranges: AsyncIterable<DiffExtent>,
  options: CopyOptions,
): Promise<void> {
  await copying(source, sink, options, async (copy) => {
    for await (const { offset, length } of ranges) {
      await copy.range(offset, Math.min(offset + length, source.size));
    }
  });
}

async function copying(
  source: Disk,
  sink: Sink,
  options: CopyOptions,
  run: (copy: Copy) => Promise<void>,
): Promise<void> {
  const copy = new Copy(source, sink, options);
  try {
    await run(copy);
    await copy.done();
    options.onProgress?.({ done: source.size, total: source.size });
  } finally {
    await copy.settled();
  }
}

/** What is done with the bytes of the source. Calls of different ranges may be under way side by side. */
interface Sink {
  zeros(offset: number, length: number): Awaitable<void>;
  /** The bytes are the sink's until this is done. */
  piece(offset: number, bytes: Uint8Array): Awaitable<void>;
}

/** Units of the target that are looked at one by one. */
function granuleOf(target: Disk, { sparseBytes }: CopyOptions): number {
  const wanted = sparseBytes === undefined || sparseBytes === 0 ? DEFAULT_SPARSE_BYTES : sparseBytes;
  return Math.min(PIECE_BYTES, Math.max(wanted, target.unitBytes));
}

type Kind = 'zero' | 'write' | 'keep';

/** Neighbouring granules of one kind; positions in the piece. */
interface Run {
  readonly kind: Kind;
  readonly start: number;
  readonly stop: number;
}

function runsOf(
  offset: number,
  bytes: Uint8Array,
  granule: number,
  kindOf: (start: number, stop: number) => Kind,
): Run[] {
  const runs: Run[] = [];
  const endOf = (at: number): number => Math.min(bytes.length, at + granule - ((offset + at) % granule));
  for (let start = 0; start < bytes.length; ) {
    let stop = endOf(start);
    const kind = kindOf(start, stop);
    while (stop < bytes.length && kindOf(stop, endOf(stop)) === kind) stop = endOf(stop);
    runs.push({ kind, start, stop });
    start = stop;
  }
  return runs;
}

/** For a target that reads as zeros. */
class FreshSink implements Sink {
  protected readonly target: Disk;
  readonly #granule: number;

  constructor(target: Disk, options: CopyOptions) {
    this.target = target;
    this.#granule = granuleOf(target, options);
  }

  zeros(_offset: number, _length: number): Awaitable<void> {
    // They are there.
  }

  piece(offset: number, bytes: Uint8Array): Awaitable<void> {
    const kindOf = (start: number, stop: number): Kind =>
      isZero(bytes.subarray(start, stop)) ? 'zero' : 'write';
    return this.write(offset, bytes, kindOf);
  }

  /** Without a promise as long as the target gives none. */
  protected write(
    offset: number,
    bytes: Uint8Array,
    kindOf: (start: number, stop: number) => Kind,
  ): Awaitable<void> {
    const runs = runsOf(offset, bytes, this.#granule, kindOf);
    const from = (first: number): Awaitable<void> => {
      for (let index = first; index < runs.length; index += 1) {
        const { kind, start, stop } = runs[index] as Run;
        const pending =
          kind === 'write'
            ? this.target.write(offset + start, bytes.subarray(start, stop))
            : kind === 'zero'
              ? this.zeros(offset + start, stop - start)
              : undefined;
        if (pending !== undefined) return pending.then(() => from(index + 1));
      }
    };
    return from(0);
  }
}

/** For a target that may hold anything. */
class OverSink extends FreshSink {
  override zeros(offset: number, length: number): Awaitable<void> {
    return this.target.writeZeroes(offset, length);
  }
}

/** For a target that holds nearly the same. */
class DifferenceSink extends OverSink {
  override async zeros(offset: number, length: number): Promise<void> {
    for await (const extent of this.target.extents(offset, length)) {
      if (extent.kind !== 'zero') await this.target.writeZeroes(extent.offset, extent.length);
    }
  }

  override async piece(offset: number, bytes: Uint8Array): Promise<void> {
    const present = new Uint8Array(bytes.length);
    await this.target.read(offset, present);
    await this.write(offset, bytes, (start, stop) => {
      const wanted = bytes.subarray(start, stop);
      if (Buffer.compare(wanted, present.subarray(start, stop)) === 0) return 'keep';
      return isZero(wanted) ? 'zero' : 'write';
    });
  }
}

/** For a target that is to have a place for every byte. */
class FullSink implements Sink {
  readonly #target: Disk;

  constructor(target: Disk) {
    this.#target = target;
  }

  async zeros(offset: number, length: number): Promise<void> {
    for (let at = offset; at < offset + length; ) {
      const stop = pieceEnd(at, offset + length);
      await this.#target.write(at, ZEROS.subarray(0, stop - at));
      at = stop;
    }
  }

  piece(offset: number, bytes: Uint8Array): Awaitable<void> {
    return this.#target.write(offset, bytes);
  }
}

/** Spreads data over time. */
class Pace {
  readonly #rate: number;
  readonly #signal: AbortSignal | undefined;
  #next: number = performance.now();

  constructor(rate: number, signal: AbortSignal | undefined) {
    this.#rate = rate;
    this.#signal = signal;
  }

  async spend(bytes: number): Promise<void> {
    const wait = this.#next - performance.now();
    this.#next = Math.max(this.#next, performance.now()) + (1000 * bytes) / this.#rate;
    if (wait <= 0) return;
    await setTimeout(wait, undefined, this.#signal && { signal: this.#signal }).catch(() => undefined);
  }
}

class Copy {
  readonly #source: Disk;
  readonly #sink: Sink;
  readonly #turns: Turns;
  readonly #pace: Pace | undefined;
  readonly #ordered: boolean;
  /** None of them rejects. */
  readonly #underWay = new Set<Promise<void>>();
  #failure: { readonly error: unknown } | undefined;
  readonly #free: Uint8Array[] = [];
  #buffersLeft: number;
  /** When the write of the last piece has begun. */
  #begun: Promise<void> | undefined;

  constructor(source: Disk, sink: Sink, options: CopyOptions) {
    this.#source = source;
    this.#sink = sink;
    this.#turns = new Turns(options, source.size);
    this.#pace = options.rate === undefined ? undefined : new Pace(options.rate, options.signal);
    this.#ordered = options.outOfOrder !== true;
    this.#buffersLeft = options.parallel ?? DEFAULT_PARALLEL;
  }

  async range(start: number, end: number): Promise<void> {
    if (start >= end) return;
    for await (const { kind, offset, length } of this.#source.extents(start, end - start)) {
      if (kind === 'zero') await this.#sink.zeros(offset, length);
      else await this.#data(offset, offset + length);
      await this.#turns.reached(offset + length);
    }
  }

  async done(): Promise<void> {
    await this.settled();
    this.#assertNoFailure();
  }

  /** Nothing goes on after this, whatever came of it. */
  async settled(): Promise<void> {
    await Promise.all(this.#underWay);
  }

  async #data(start: number, end: number): Promise<void> {
    for (let at = start; at < end; ) {
      const stop = pieceEnd(at, end);
      this.#assertNoFailure();
      await this.#pace?.spend(stop - at);
      const buffer = this.#free.pop() ?? (await this.#buffer());
      this.#start(at, buffer, stop - at);
      at = stop;
      await this.#turns.reached(at);
    }
  }

  /** A new one; that of the first piece that is done, when there are enough. */
  async #buffer(): Promise<Uint8Array> {
    if (this.#buffersLeft > 0) {
      this.#buffersLeft -= 1;
      return new Uint8Array(PIECE_BYTES);
    }
    while (this.#free.length === 0) {
      this.#assertNoFailure();
      await Promise.race(this.#underWay);
    }
    return this.#free.pop() as Uint8Array;
  }

  #assertNoFailure(): void {
    if (this.#failure !== undefined) throw this.#failure.error;
  }

  #start(at: number, buffer: Uint8Array, length: number): void {
    const piece = buffer.subarray(0, length);
    const reading = this.#source.read(at, piece);
    const before = this.#ordered ? this.#begun : undefined;
    const moving =
      reading === undefined && before === undefined
        ? this.#sink.piece(at, piece)
        : this.#inTurn(reading, before, at, piece);
    if (moving === undefined) {
      this.#free.push(buffer);
      return;
    }
    const ended: Promise<void> = moving
      .catch((error: unknown) => {
        this.#failure ??= { error };
      })
      .then(() => {
        this.#free.push(buffer);
        this.#underWay.delete(ended);
      });
    this.#underWay.add(ended);
  }

  /** Writes when the bytes are there and the write before it has begun. */
  #inTurn(
    reading: Awaitable<void>,
    before: Promise<void> | undefined,
    at: number,
    piece: Uint8Array,
  ): Promise<void> {
    // In an object, so that its promise is not waited for here.
    const begun = Promise.all([reading, before]).then(() => ({ writing: this.#sink.piece(at, piece) }));
    const over = begun.then(
      () => undefined,
      () => undefined,
    );
    this.#begun = over;
    void over.then(() => {
      if (this.#begun === over) this.#begun = undefined;
    });
    return begun.then(({ writing }) => writing);
  }
}
