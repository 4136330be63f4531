import { setTimeout } from 'node:timers/promises';
import type { Disk } from './disk.ts';
import type { LongCallOptions } from './driver.ts';
import { CowlabError } from './errors.ts';

/*
 * The copying of a whole backing beside a guest that works, without being in his way.
 *
 *     walk      from the disk's start, what the backing still answers for, in slots; so many slots under way at once
 *     flush     after so many copied bytes, and at the end: a crash costs so much at most, memory has no more mappings
 *               that wait to be written, and a medium that is slow behind a cache shows
 *     measure   bytes and time of the backing's reads and of the image's writes and flushes, apart. When a measuring
 *               window is full: average = weight × average + (1 - weight) × this window
 *     decide    an average below its least: with a chance of 1/2 a pause, else the average is forgotten (two
 *               prefetchers that disturb each other shall not both stop)
 *     pause     what is under way ends; then sleep 1 + random × throttleMaxMs; measure anew
 *
 * What is local is known to the image itself, so a prefetch that was stopped goes on where it was by starting anew.
 */

/** Time as a prefetch sees it. */
export interface PrefetchClock {
  /** Milliseconds from any start. */
  now(): number;
  /** Resolves after so many milliseconds; rejects when the signal is aborted. */
  sleep(ms: number, signal: AbortSignal): Promise<unknown>;
}

export interface PrefetchOptions extends LongCallOptions {
  /** Wait so long first; 0 by default. */
  readonly startDelayMs?: number;
  /** Slots under way at once; 2 by default. */
  readonly slotCount?: number;
  /** Bytes of a slot; 1 MiB by default. */
  readonly slotBytes?: number;
  /** Written bytes after which they are made durable (64 bytes of zero mappings count as one); 64 MiB by default. */
  readonly flushBytes?: number;
  /** How much reading and writing makes a measuring window; 100 by default. */
  readonly readWindowMs?: number;
  readonly writeWindowMs?: number;
  /** How much the average counts against a new window, from 0 to 1; 0.8 by default. */
  readonly averageWeight?: number;
  /** Slower than this the medium is taken to be wanted by others; 5 MiB by default. */
  readonly minReadBytesPerSecond?: number;
  readonly minWriteBytesPerSecond?: number;
  /** The longest pause; 30,000 by default, 0 for none ever. */
  readonly throttleMaxMs?: number;
  readonly clock?: PrefetchClock;
  /** From 0 to below 1; `Math.random` by default. */
  readonly random?: () => number;
}

export interface PrefetchReport {
  readonly readBytes: number;
  readonly writtenBytes: number;
  readonly zeroedBytes: number;
  readonly pauses: number;
}

const realClock: PrefetchClock = {
  now: () => performance.now(),
  sleep: (ms, signal) => setTimeout(ms, undefined, { signal }),
};

const defaults = {
  startDelayMs: 0,
  slotCount: 2,
  slotBytes: 1024 * 1024,
  flushBytes: 64 * 1024 * 1024,
  readWindowMs: 100,
  writeWindowMs: 100,
  averageWeight: 0.8,
  minReadBytesPerSecond: 5 * 1024 * 1024,
  minWriteBytesPerSecond: 5 * 1024 * 1024,
  throttleMaxMs: 30_000,
  clock: realClock,
  random: Math.random,
};

type Settings = typeof defaults;

/** A zero mapping is metadata alone: so many bytes of zeros count as one that was written, when a flush is due. */
const ZEROS_FOR_A_BYTE = 64;

/** Throughput of one direction, averaged over windows. */
class Throughput {
  readonly #windowMs: number;
  readonly #minBytesPerSecond: number;
  readonly #weight: number;
  #bytes = 0;
  #ms = 0;
  #average: number | undefined;

  constructor(windowMs: number, minBytesPerSecond: number, weight: number) {
    this.#windowMs = windowMs;
    this.#minBytesPerSecond = minBytesPerSecond;
    this.#weight = weight;
  }

  /** Takes a measurement in; true when a window has become full and the average is below its least. */
  isSlowAfter(bytes: number, ms: number): boolean {
    this.#bytes += bytes;
    this.#ms += ms;
    if (this.#ms <= this.#windowMs) return false;
    const round = (this.#bytes / this.#ms) * 1000;
    const before = this.#average ?? round;
    this.#average = this.#weight * before + (1 - this.#weight) * round;
    this.#bytes = 0;
    this.#ms = 0;
    return this.#average < this.#minBytesPerSecond;
  }

  forget(): void {
    this.#bytes = 0;
    this.#ms = 0;
    this.#average = undefined;
  }
}

class Prefetch {
  readonly #disk: Disk;
  readonly #settings: Settings;
  readonly #calls: LongCallOptions;
  readonly #stop: AbortSignal;
  readonly #reads: Throughput;
  readonly #writes: Throughput;
  readonly #sums = { readBytes: 0, writtenBytes: 0, zeroedBytes: 0, pauses: 0 };
  #position = 0;
  /** Claims come one after the other. */
  #claims: Promise<unknown> = Promise.resolve();
  #wantsPause = false;
  #unflushedBytes = 0;
  #failed = false;

  constructor(disk: Disk, settings: Settings, calls: LongCallOptions) {
    this.#disk = disk;
    this.#settings = settings;
    this.#calls = calls;
    const { closing } = disk;
    this.#stop = calls.signal === undefined ? closing : AbortSignal.any([calls.signal, closing]);
    const { readWindowMs, writeWindowMs, minReadBytesPerSecond, minWriteBytesPerSecond } = settings;
    this.#reads = new Throughput(readWindowMs, minReadBytesPerSecond, settings.averageWeight);
    this.#writes = new Throughput(writeWindowMs, minWriteBytesPerSecond, settings.averageWeight);
  }

  async run(): Promise<PrefetchReport> {
    const { startDelayMs, slotCount } = this.#settings;
    if (startDelayMs > 0) await this.#sleep(startDelayMs);
    while (this.#position < this.#disk.size) {
      this.#assertGoesOn();
      const slots = await Promise.allSettled(Array.from({ length: slotCount }, () => this.#work()));
      for (const slot of slots) if (slot.status === 'rejected') throw slot.reason;
      if (this.#wantsPause && this.#position < this.#disk.size) await this.#pause();
    }
    if (this.#unflushedBytes > 0) await this.#disk.flush();
    return { ...this.#sums };
  }

  /** One slot after the other, until all is done, or a pause is due, or another worker has failed. */
  async #work(): Promise<void> {
    const { clock } = this.#settings;
    const now = (): number => clock.now();
    while (!this.#wantsPause && !this.#failed) {
      try {
        this.#assertGoesOn();
        const slot = await this.#claim();
        if (slot === undefined) return;
        const report = await this.#disk.populate(slot.offset, slot.length, { now });
        this.#sums.readBytes += report.readBytes;
        this.#sums.writtenBytes += report.writtenBytes;
        this.#sums.zeroedBytes += report.zeroedBytes;
        this.#unflushedBytes += report.writtenBytes + report.zeroedBytes / ZEROS_FOR_A_BYTE;
        const flushMs = await this.#flushWhenDue();
        this.#measure({ ...report, writeMs: report.writeMs + flushMs });
        const total = this.#disk.size;
        this.#calls.onProgress?.({ done: Math.min(this.#position, total), total });
      } catch (error) {
        this.#failed = true;
        throw error;
      }
    }
  }

  /** Resolves to how long it took. */
  async #flushWhenDue(): Promise<number> {
    const { clock, flushBytes } = this.#settings;
    if (this.#unflushedBytes < flushBytes) return 0;
    this.#unflushedBytes = 0;
    const before = clock.now();
    await this.#disk.flush();
    return clock.now() - before;
  }

  /** The next part of the disk that is not local yet, for the caller alone. */
  #claim(): Promise<{ offset: number; length: number } | undefined> {
    const mine = this.#claims.then(async () => {
      const { size } = this.#disk;
      const range = await this.#disk.nextBacked(Math.min(this.#position, size));
      if (range === undefined) {
        this.#position = size;
        return undefined;
      }
      const { slotBytes } = this.#settings;
      const end = Math.min(this.#disk.size, range.offset - (range.offset % slotBytes) + slotBytes);
      this.#position = end;
      return { offset: range.offset, length: end - range.offset };
    });
    this.#claims = mine.catch(() => undefined);
    return mine;
  }

  #measure(report: { readBytes: number; readMs: number; writtenBytes: number; writeMs: number }): void {
    const { throttleMaxMs, random } = this.#settings;
    if (throttleMaxMs === 0) return;
    const slowReads = this.#reads.isSlowAfter(report.readBytes, report.readMs);
    const slowWrites = this.#writes.isSlowAfter(report.writtenBytes, report.writeMs);
    if (!slowReads && !slowWrites) return;
    if (random() < 0.5) this.#wantsPause = true;
    else {
      if (slowReads) this.#reads.forget();
      if (slowWrites) this.#writes.forget();
    }
  }

  async #pause(): Promise<void> {
    const { random, throttleMaxMs } = this.#settings;
    this.#sums.pauses++;
    await this.#sleep(1 + random() * throttleMaxMs);
    this.#reads.forget();
    this.#writes.forget();
    this.#wantsPause = false;
  }

  async #sleep(ms: number): Promise<void> {
    try {
      await this.#settings.clock.sleep(ms, this.#stop);
    } catch (error) {
      this.#assertGoesOn();
      throw error;
    }
  }

  #assertGoesOn(): void {
    if (!this.#stop.aborted) return;
    const isClosing = this.#disk.closing.aborted;
    const message = isClosing ? 'prefetch: the disk is closed' : 'prefetch: aborted';
    throw new CowlabError(isClosing ? 'ERR_CLOSED' : 'ERR_ABORTED', message, {}, this.#calls.signal?.reason);
  }
}

function assertSettings(settings: Settings): void {
  const ensure = (
    right: boolean,
    name: Exclude<keyof Settings, 'clock' | 'random'>,
    expected: string,
  ): void => {
    if (!right) throw new RangeError(`${name}: not ${expected}: ${settings[name]}`);
  };
  for (const name of ['slotCount', 'slotBytes', 'flushBytes'] as const) {
    ensure(Number.isSafeInteger(settings[name]) && settings[name] > 0, name, 'a whole number above 0');
  }
  for (const name of ['startDelayMs', 'readWindowMs', 'writeWindowMs', 'throttleMaxMs'] as const) {
    ensure(settings[name] >= 0 && settings[name] < 2 ** 31, name, 'a time that a timer takes');
  }
  for (const name of ['minReadBytesPerSecond', 'minWriteBytesPerSecond'] as const) {
    ensure(settings[name] >= 0, name, '0 or more');
  }
  ensure(settings.averageWeight >= 0 && settings.averageWeight <= 1, 'averageWeight', 'from 0 to 1');
}

/**
 * Makes all that the disk's backing answers for the disk's own, slowly enough for others. Resolves when nothing is
 * left: then `disk.releaseBacking()` can follow. Rejects with `ERR_ABORTED`, with `ERR_CLOSED` when the disk is being
 * closed, or with the first failure of a copy; what was copied stays, and the next prefetch goes on from there.
 */
export async function prefetch(disk: Disk, options: PrefetchOptions = {}): Promise<PrefetchReport> {
  const { signal, onProgress, ...own } = options;
  const given = Object.fromEntries(Object.entries(own).filter(([, value]) => value !== undefined));
  const settings: Settings = { ...defaults, ...given };
  assertSettings(settings);
  const calls = { ...(signal && { signal }), ...(onProgress && { onProgress }) };
  return new Prefetch(disk, settings, calls).run();
}
