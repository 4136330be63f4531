import type { Awaitable } from './awaitable.ts';
import {
  isOwned,
  readBytes,
  resolveExtent,
  unmapBytes,
  writeBytes,
  writeCompressedBytes,
} from './data-path.ts';
import { DiskSnapshots } from './disk-snapshots.ts';
import { type DiskExtent, holesAsZeros, joinedExtents } from './disk-extents.ts';
import type {
  Backing,
  BackingReference,
  BlockDriver,
  Capabilities,
  CheckOptions,
  CheckReport,
  CompactOptions,
  CompactReport,
  DriverImage,
  ImageInfo,
  ImageStats,
  LongCallOptions,
  ResolvedExtent,
} from './driver.ts';
import { CowlabError } from './errors.ts';
import { LocalCopies, type PopulateOptions } from './local-copies.ts';
import {
  asksBacking,
  type BackedRange,
  newTally,
  type PopulateReport,
  type PopulateTally,
  readAndKeep,
} from './populate.ts';
import { assertNewSize, assertRange, assertUnits, unitsAround } from './ranges.ts';
import { type Hold, RangeLock } from './range-lock.ts';
import { type BackingOpener, rebaseImage, type RebaseOptions, type RebaseReport } from './rebase.ts';

/*
 * What callers hold: one class for all formats. Everything that is the same for every format happens here,
 * once: validation, the state (open, closing, closed), read-only, and the order of requests.
 *
 * Order of requests. `read` holds its bytes shared, `write` its bytes exclusively, rounded to allocation units
 * when it will reserve some, `writeCompressed`, `writeZeroes` and `discard` their units. Snapshot operations, resize,
 * compact, check and close hold everything, here and in the snapshots that are open as disks. `flush` and `info` hold a
 * place past the end of any disk, shared: they run beside requests and beside each other, but not beside those that hold
 * everything. `populate`, and a read that copies, hold units as a write does, some at a time. A driver that is `serial`
 * gets one request at a time. A request that finishes without waiting never enters the lock (see range-lock.ts).
 */

/** What only some disks have. */
export interface DiskExtras {
  /** Called once the disk is closed. */
  readonly closed?: () => void;
  /** Reads keep what they got from the backing. */
  readonly copyOnRead?: boolean;
  /** Opens another backing for this disk. */
  readonly openBacking?: BackingOpener;
  /** Who a storage's file is. */
  readonly identify?: (name: string) => Promise<string>;
}

const EVERYTHING = Number.MAX_SAFE_INTEGER;
/** The start of what `flush` and `info` hold; its end is that of everything. */
const BESIDE = EVERYTHING - 1;

export class Disk implements Backing, AsyncDisposable {
  readonly format: string;
  readonly capabilities: Capabilities;
  readonly readOnly: boolean;
  /** Snapshot operations; every one rejects with `ERR_UNSUPPORTED` where the format has no snapshots. */
  readonly snapshots: DiskSnapshots;
  /** The driver's side, for drivers that walk their own chains and for tests of drivers. */
  readonly image: DriverImage;
  readonly #file: string;
  readonly #locks = new RangeLock();
  readonly #serial: boolean;
  readonly #driver: BlockDriver;
  readonly #extras: DiskExtras;
  readonly #local: LocalCopies;
  /** Made when somebody asks: a chain has thousands of disks, of which nobody does. */
  #closing: AbortController | undefined;
  /** What reads have copied; undefined when they copy nothing. */
  readonly #copied: PopulateTally | undefined;
  #failedCopies = 0;
  #state: 'open' | 'closing' | 'closed' = 'open';
  #whenClosed: Promise<void> | undefined;

  constructor(
    driver: BlockDriver,
    image: DriverImage,
    file: string,
    readOnly: boolean,
    extras: DiskExtras = {},
  ) {
    this.#driver = driver;
    this.#extras = extras;
    this.#copied = extras.copyOnRead === true ? newTally() : undefined;
    this.format = driver.name;
    this.capabilities = driver.capabilities;
    this.readOnly = readOnly;
    this.image = image;
    this.#file = file;
    this.#serial = driver.capabilities.concurrency === 'serial';
    this.#local = new LocalCopies({
      file,
      driver,
      image,
      beside: (run) => this.#ordered(BESIDE, EVERYTHING, false, run),
      onUnits: (start, end, run) => this.#ordered(...unitsAround(this.image, start, end), true, run),
      exclusively: (run, signal) => this.#exclusively(run, signal),
      assertOpen: () => this.#assertOpen(),
    });
    this.snapshots = new DiskSnapshots({
      file,
      driver,
      image,
      exclusively: (run, signal) => this.#exclusively(run, signal),
      assertOpen: () => this.#assertOpen(),
      assertWritable: () => this.#assertWritable(),
      openDisk: (snapshot, closed) => {
        const disk = new Disk(driver, snapshot, file, true, { closed });
        return { disk, pause: () => disk.#pause() };
      },
    });
  }

  /** Guest bytes. */
  get size(): number {
    return this.image.size;
  }

  /** Allocation unit, bytes. */
  get unitBytes(): number {
    return this.image.unitBytes;
  }

  /** Fills `target` from `offset`. Throws RangeError outside the disk; may throw at once or reject. */
  read(offset: number, target: Uint8Array): Awaitable<void> {
    this.#assertOpen();
    assertRange(offset, target.length, this.size);
    if (target.length === 0) return;
    const end = offset + target.length;
    if (this.#copied !== undefined && this.#mayAskBacking(offset, target.length)) {
      return this.#readAndKeep(offset, target, this.#copied);
    }
    if (this.#locks.busy) {
      return this.#ordered(offset, end, false, () => {
        // Whoever waits may wait for a resize.
        assertRange(offset, target.length, this.size);
        return readBytes(this.image, offset, target);
      });
    }
    const pending = readBytes(this.image, offset, target);
    if (pending !== undefined) return this.#holding(offset, end, false, pending);
  }

  /** Writes all of `source` at `offset`. It is durable after the next `flush`. */
  write(offset: number, source: Uint8Array): Awaitable<void> {
    this.#assertWritable();
    assertRange(offset, source.length, this.size);
    if (source.length === 0) return;
    const end = offset + source.length;
    if (this.#locks.busy) return this.#writeInTurn(offset, source);
    const pending = writeBytes(this.image, offset, source);
    if (pending !== undefined) return this.#holding(...this.#writeRange(offset, end), true, pending);
  }

  /** What compressed writes are here: `none` is possible, some units may be written so, or all of them have to be. */
  get compression(): 'none' | 'optional' | 'only' {
    if (this.image.writeCompressed === undefined) return 'none';
    return this.image.compressedOnly === true ? 'only' : 'optional';
  }

  /**
   * Writes whole units (the last one may end with the disk) in compressed form; one that gets no smaller by it is written
   * as `write` does. Where `compression` is `only`, each unit can be written once, in the order of the disk. Resolves to the
   * number of bytes that are stored compressed. Rejects with RangeError for parts of units, `ERR_UNSUPPORTED`.
   */
  async writeCompressed(offset: number, source: Uint8Array): Promise<number> {
    this.#assertWritable();
    if (this.compression === 'none') throw this.#unsupported('store units compressed');
    assertUnits(this.image, offset, source.length);
    if (source.length === 0) return 0;
    return this.#ordered(...unitsAround(this.image, offset, offset + source.length), true, () => {
      assertUnits(this.image, offset, source.length);
      return writeCompressedBytes(this.image, offset, source);
    });
  }

  /** Makes the range read as zeros, without writing them where the format can. */
  writeZeroes(offset: number, length: number): Awaitable<void> {
    return this.#unmap(offset, length, 'zero');
  }

  /** The range is no longer needed. Whole units in it read as zeros and free their space; partial ones stay. */
  discard(offset: number, length: number): Awaitable<void> {
    return this.#unmap(offset, length, 'discard');
  }

  /** Everything whose call completed before is durable when this completes. */
  flush(): Awaitable<void> {
    this.#assertOpen();
    if (this.readOnly) return;
    if (this.#locks.busy) return this.#ordered(BESIDE, EVERYTHING, false, () => this.image.flush());
    const pending = this.image.flush();
    if (pending !== undefined) return this.#holding(BESIDE, EVERYTHING, false, pending);
  }

  /** Aborted as soon as `close` is called: for work beside the disk that should not keep it, or the process, alive. */
  get closing(): AbortSignal {
    this.#closing ??= new AbortController();
    if (this.#state !== 'open') this.#closing.abort();
    return this.#closing.signal;
  }

  /**
   * Copies what the backing answers for into the image, whole allocation units of it. The disk's bytes stay as they
   * are. An abort stops between two steps; what was copied stays.
   */
  async populate(
    offset = 0,
    length: number = this.size - offset,
    options: PopulateOptions = {},
  ): Promise<PopulateReport> {
    this.#assertWritable();
    assertRange(offset, length, this.size);
    return this.#local.populate(offset, length, options);
  }

  /** The first bytes from `offset` on that the backing answers for; undefined when there are none before `end`. */
  async nextBacked(offset = 0, end: number = this.size): Promise<BackedRange | undefined> {
    this.#assertOpen();
    return this.#local.nextBacked(offset, end);
  }

  /**
   * Lets go of the backing: the image names it no longer. Rejects with `ERR_BACKING_NEEDED`, changing nothing, as long
   * as the disk or a snapshot has bytes there only; `populate` copies the disk's. Crash-safe: the image names the
   * backing, or it does not and is whole. Without a backing nothing happens.
   */
  async releaseBacking(options: LongCallOptions = {}): Promise<void> {
    this.#assertWritable();
    return this.#local.release(options);
  }

  /**
   * Puts another backing, or none (null), in the place of the present one. The disk's bytes stay as they are: what would
   * read otherwise is copied into the image first. Rejects with `ERR_BACKING_NEEDED` when a snapshot would read
   * otherwise. With `unsafe` only the name changes. Crash-safe: the image names the one or the other.
   */
  async rebase(backing: BackingReference | null, options: RebaseOptions = {}): Promise<RebaseReport> {
    this.#assertWritable();
    const { openBacking, identify } = this.#extras;
    const parts = { file: this.#file, driver: this.#driver, image: this.image, openBacking, identify };
    const exclusively = <T>(run: () => Promise<T>, signal?: AbortSignal): Promise<T> =>
      this.#exclusively(run, signal);
    return rebaseImage({ ...parts, exclusively }, backing, options);
  }

  /** The extents of a range, in order, without gaps, neighbours of one kind and depth joined. */
  async *extents(offset = 0, length: number = this.size - offset): AsyncGenerator<DiskExtent> {
    this.#assertOpen();
    assertRange(offset, length, this.size);
    yield* joinedExtents(offset, length, (at, rest) => this.#describe(at, rest));
  }

  async resolve(offset: number, length: number): Promise<ResolvedExtent> {
    this.#assertOpen();
    assertRange(offset, length, this.size);
    return resolveExtent(this.image, offset, length);
  }

  /** Recomputes the format's bookkeeping and compares; repairs when asked and the disk is writable. */
  async check(options: CheckOptions = {}): Promise<CheckReport> {
    this.#assertOpen();
    const { repair } = options;
    if (repair !== undefined) {
      this.#assertWritable();
      if (!this.capabilities.repair.includes(repair)) throw this.#unsupported(`repair ${repair}`);
    }
    return this.#exclusively(() => this.image.check(options), options.signal);
  }

  /** Changes the disk's size; new bytes read as zeros, bytes past a smaller size are gone. */
  async resize(size: number, options: LongCallOptions = {}): Promise<void> {
    this.#assertWritable();
    const { resize } = this.capabilities;
    if (this.image.resize === undefined || resize === 'none') throw this.#unsupported('resize');
    assertNewSize(size, this.capabilities, this.#file);
    if (size < this.size && resize === 'grow') throw this.#unsupported('shrink');
    const image = this.image;
    await this.#exclusively(async () => image.resize?.(size, options), options.signal);
  }

  /**
   * Gives the space back that is free at the end of the image's file; with `move`, what lies there goes to free places
   * first. What the disk and its snapshots read as does not change. An abort keeps what was moved.
   */
  async compact(options: CompactOptions = {}): Promise<CompactReport> {
    this.#assertWritable();
    const { image } = this;
    const { compact } = this.capabilities;
    if (image.compact === undefined || compact === 'none') throw this.#unsupported('compact');
    if (options.move === true && compact !== 'move') throw this.#unsupported('move data to compact');
    const run = image.compact.bind(image);
    return this.#exclusively(() => run(options), options.signal);
  }

  async info(): Promise<ImageInfo> {
    this.#assertOpen();
    return this.#ordered(BESIDE, EVERYTHING, false, () => this.image.info());
  }

  stats(): ImageStats {
    this.#assertOpen();
    const stats = this.image.stats();
    if (this.#copied === undefined) return stats;
    const copiedBytes = this.#copied.writtenBytes + this.#copied.zeroedBytes;
    return { ...stats, copiedBytes, failedCopies: this.#failedCopies };
  }

  /** Waits for running requests, makes everything durable, and closes. Idempotent. */
  close(): Promise<void> {
    this.#whenClosed ??= this.#close();
    return this.#whenClosed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    this.#state = 'closing';
    this.#closing?.abort();
    const hold = await this.#locks.acquire(0, EVERYTHING, true);
    try {
      try {
        await this.snapshots.closeOpened();
      } finally {
        await this.image.close();
      }
    } finally {
      this.#state = 'closed';
      this.#extras.closed?.();
      this.#locks.release(hold);
    }
  }

  #unmap(offset: number, length: number, mode: 'discard' | 'zero'): Awaitable<void> {
    this.#assertWritable();
    assertRange(offset, length, this.size);
    if (length === 0) return;
    const [start, end] = unitsAround(this.image, offset, offset + length);
    return this.#ordered(start, end, true, () => {
      assertRange(offset, length, this.size);
      return unmapBytes(this.image, offset, length, mode);
    });
  }

  async #describe(offset: number, length: number): Promise<ResolvedExtent> {
    const hold = await this.#acquire(offset, offset + length, false);
    try {
      // The generator may have rested while the disk was closed or resized.
      this.#assertOpen();
      assertRange(offset, length, this.size);
      return await holesAsZeros(await resolveExtent(this.image, offset, length));
    } finally {
      this.#locks.release(hold);
    }
  }

  /** Whoever reads waits until the copy is written: the next read of these bytes finds it, and so does a close. */
  #readAndKeep(offset: number, target: Uint8Array, copied: PopulateTally): Promise<void> {
    return this.#ordered(...unitsAround(this.image, offset, offset + target.length), true, async () => {
      assertRange(offset, target.length, this.size);
      const failure = await readAndKeep(this.image, offset, target, copied);
      if (failure !== undefined) this.#failedCopies++;
    });
  }

  /** Keeps the range held for as long as a request that has started is under way. */
  async #holding(start: number, end: number, exclusive: boolean, pending: Promise<void>): Promise<void> {
    const hold = await this.#acquire(start, end, exclusive);
    try {
      await pending;
    } finally {
      this.#locks.release(hold);
    }
  }

  async #ordered<T>(start: number, end: number, exclusive: boolean, run: () => Awaitable<T>): Promise<T> {
    const hold = await this.#acquire(start, end, exclusive);
    try {
      return await run();
    } finally {
      this.#locks.release(hold);
    }
  }

  async #writeInTurn(offset: number, source: Uint8Array): Promise<void> {
    const end = offset + source.length;
    const hold =
      this.#holdInPlace(offset, end) ?? (await this.#acquire(...unitsAround(this.image, offset, end), true));
    try {
      assertRange(offset, source.length, this.size);
      await writeBytes(this.image, offset, source);
    } finally {
      this.#locks.release(hold);
    }
  }

  /**
   * The bytes of a write that goes in place. The narrow range is right only as long as the bytes stay owned, so it is
   * taken at once or not at all: whoever would have to wait for it waits for the whole units instead. It is taken
   * before the image is asked: what a driver loads for an answer must not arrive in the midst of an operation that has
   * the image alone, and such an operation comes after whoever asks now.
   */
  #holdInPlace(start: number, end: number): Hold | undefined {
    const hold = this.#serial ? undefined : this.#locks.tryAcquire(start, end, true);
    if (hold === undefined || isOwned(this.image, start, end - start) === true) return hold;
    this.#locks.release(hold);
    return undefined;
  }

  /** True also where that cannot be told at once. The image is asked under a hold, as for a write. */
  #mayAskBacking(offset: number, length: number): boolean {
    const hold = this.#locks.tryAcquire(offset, offset + length, false);
    if (hold === undefined) return true;
    try {
      return asksBacking(this.image, offset, length) !== false;
    } finally {
      this.#locks.release(hold);
    }
  }

  /** In place, a write needs its own bytes only; else the whole units that it fills. */
  #writeRange(start: number, end: number): [number, number] {
    return isOwned(this.image, start, end - start) === true
      ? [start, end]
      : unitsAround(this.image, start, end);
  }

  /** Alone. What was called before `close` still has its turn: close waits in the same queue. */
  async #exclusively<T>(run: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    const hold = await this.#locks.acquire(0, EVERYTHING, true);
    const resume = await this.snapshots.pauseOpened();
    try {
      if (signal?.aborted === true) {
        const about = { file: this.#file };
        throw new CowlabError('ERR_ABORTED', `${this.#file}: aborted before it began`, about, signal.reason);
      }
      return await run();
    } finally {
      resume();
      this.#locks.release(hold);
    }
  }

  /** Waits for what is under way and lets nothing begin until the returned function is called. */
  async #pause(): Promise<() => void> {
    const hold = await this.#locks.acquire(0, EVERYTHING, true);
    return () => this.#locks.release(hold);
  }

  #acquire(start: number, end: number, exclusive: boolean): Awaitable<Hold> {
    return this.#serial
      ? this.#locks.acquire(0, EVERYTHING, true)
      : this.#locks.acquire(start, end, exclusive);
  }

  #assertOpen(): void {
    if (this.#state !== 'open') {
      throw new CowlabError('ERR_CLOSED', `${this.#file}: disk is closed`, { file: this.#file });
    }
  }

  #assertWritable(): void {
    this.#assertOpen();
    if (this.readOnly) {
      throw new CowlabError('ERR_READ_ONLY', `${this.#file}: disk is open read-only`, { file: this.#file });
    }
  }

  #unsupported(what: string): CowlabError {
    return new CowlabError('ERR_UNSUPPORTED', `${this.#file}: ${this.format} does not ${what}`, {
      file: this.#file,
      field: what,
    });
  }
}
