import { setImmediate } from 'node:timers/promises';
import type { Awaitable } from './awaitable.ts';
import type { BlockDriver, DriverImage, LongCallOptions } from './driver.ts';
import { CowlabError } from './errors.ts';
import {
  type BackedRange,
  findBacked,
  newTally,
  type PopulateReport,
  type PopulateTally,
  populateUnits,
  STEP_BYTES,
} from './populate.ts';

export interface PopulateOptions extends LongCallOptions {
  /** Milliseconds from any start, for the times in the report; `performance.now` when left out. */
  readonly now?: () => number;
}

/** What the making of local copies needs of a disk. */
export interface LocalCopiesHost {
  readonly file: string;
  readonly driver: BlockDriver;
  readonly image: DriverImage;
  /** Runs beside requests, but not beside what holds the whole disk. */
  readonly beside: <T>(run: () => Awaitable<T>) => Promise<T>;
  /** Runs alone on the units that the range touches. */
  readonly onUnits: <T>(start: number, end: number, run: () => Awaitable<T>) => Promise<T>;
  readonly exclusively: <T>(run: () => Promise<T>, signal?: AbortSignal) => Promise<T>;
  readonly assertOpen: () => void;
}

/** Extents that a search for backed bytes looks at before others have their turn. */
const MAX_LOOKS = 1000;

/** How a {@link Disk} comes to do without its backing. Ranges are validated, and the disk is writable where it must be. */
export class LocalCopies {
  readonly #host: LocalCopiesHost;

  constructor(host: LocalCopiesHost) {
    this.#host = host;
  }

  async populate(offset: number, length: number, options: PopulateOptions): Promise<PopulateReport> {
    const { driver, image } = this.#host;
    if (!driver.capabilities.backing) throw this.#unsupported('populate');
    const { signal, onProgress, now = () => performance.now() } = options;
    const tally = newTally();
    const end = offset + length;
    for (let at = offset; ; ) {
      this.#assertGoesOn(signal);
      // The disk may have become smaller meanwhile.
      const range = await this.nextBacked(at, Math.min(end, image.size));
      if (range === undefined) break;
      at = await this.#step(range, tally, now);
      onProgress?.({ done: Math.min(at, end) - offset, total: length });
      await setImmediate();
    }
    return tally;
  }

  async nextBacked(offset: number, end: number): Promise<BackedRange | undefined> {
    const { image, beside } = this.#host;
    for (let at = offset; at < Math.min(end, image.size); ) {
      this.#host.assertOpen();
      // Only a hint: whoever copies looks again while he holds the units. So no guest waits for the search.
      const result = await beside(() => findBacked(image, at, Math.min(end, image.size), MAX_LOOKS));
      if (result.found !== undefined) return result.found;
      at = result.end;
      await setImmediate();
    }
    return undefined;
  }

  async release({ signal, onProgress }: LongCallOptions): Promise<void> {
    const { driver, image, exclusively } = this.#host;
    if (image.releaseBacking === undefined || !driver.capabilities.releaseBacking) {
      throw this.#unsupported('release its backing');
    }
    const release = image.releaseBacking.bind(image);
    await exclusively(async () => {
      await this.#assertLocal(image, 'the disk', signal);
      const snapshots = (await image.snapshots?.list()) ?? [];
      for (const [index, { id, name }] of snapshots.entries()) {
        const snapshot = await image.snapshots!.open(id);
        try {
          await this.#assertLocal(snapshot, `snapshot ${name}`, signal);
        } finally {
          await snapshot.close();
        }
        onProgress?.({ done: index + 1, total: snapshots.length });
      }
      await release();
    }, signal);
  }

  /** Copies the first units of a range; returns how far. */
  async #step({ offset, length }: BackedRange, tally: PopulateTally, now: () => number): Promise<number> {
    const { image, onUnits, assertOpen } = this.#host;
    const unit = image.unitBytes;
    const step = Math.max(STEP_BYTES, unit);
    const start = offset - (offset % unit);
    const end = Math.min(Math.ceil((offset + length) / unit) * unit, start - (start % step) + step);
    await onUnits(start, end, () => {
      assertOpen();
      // Whoever waited may have waited for a resize.
      return populateUnits(image, start, Math.min(end, image.size), tally, now);
    });
    return end;
  }

  /** Fails unless nothing in the image is the backing's to answer. */
  async #assertLocal(image: DriverImage, what: string, signal?: AbortSignal): Promise<void> {
    const { file } = this.#host;
    for (let at = 0; at < image.size; ) {
      this.#assertGoesOn(signal);
      const { found, end } = await findBacked(image, at, image.size, MAX_LOOKS);
      if (found !== undefined) {
        const problem = `${what} has bytes in the backing only, at ${found.offset}`;
        const about = { file, field: what, offset: found.offset };
        throw new CowlabError('ERR_BACKING_NEEDED', `${file}: ${problem}`, about);
      }
      at = end;
      await setImmediate();
    }
  }

  /** Between the steps of a long call. */
  #assertGoesOn(signal: AbortSignal | undefined): void {
    const { file } = this.#host;
    if (signal?.aborted !== true) return;
    throw new CowlabError('ERR_ABORTED', `${file}: aborted`, { file }, signal.reason);
  }

  #unsupported(what: string): CowlabError {
    const { file, driver } = this.#host;
    return new CowlabError('ERR_UNSUPPORTED', `${file}: ${driver.name} does not ${what}`, {
      file,
      field: what,
    });
  }
}
