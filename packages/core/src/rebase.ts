import { setImmediate } from 'node:timers/promises';
import { readExtent, writeBytes } from './data-path.ts';
import type {
  Backing,
  BackingReference,
  BlockDriver,
  DriverImage,
  Extent,
  LongCallOptions,
  ReadSource,
} from './driver.ts';
import { CowlabError } from './errors.ts';
import { keep, newTally, STEP_BYTES } from './populate.ts';

/*
 * Another backing in the place of the present one. What the image leaves to its backing is looked at piece by piece:
 *
 *   the old one                    the new one                    the image gets
 *   zeros, by its mapping          zeros, by its mapping          nothing
 *   bytes of a file                the same bytes of that file    nothing: the chains have it in common
 *   anything else                  the same bytes                 nothing
 *   anything else                  other bytes                    the old one's bytes, as `populate` writes them
 *
 * Past the end of a backing, and without one, there are zeros. Then everything is flushed, and the driver switches
 * the name. Until then the old one answers, and what was copied says the same: a crash or an abort changes nothing.
 *
 * Snapshots are not copied to. One that would read differently is a reason to refuse.
 */

export interface RebaseOptions extends LongCallOptions {
  /**
   * Only the name changes: nothing is compared or copied. For a backing that has moved; with another one the disk and
   * its snapshots may read differently. The new one need not be there.
   */
  readonly unsafe?: boolean;
}

export interface RebaseReport {
  /** Bytes of the disk and its snapshots that were read from both backings. */
  readonly comparedBytes: number;
  /** Bytes that became the image's own. */
  readonly copiedBytes: number;
}

/** A backing that was asked for: as it is to be recorded, and opened. */
export interface OpenedBacking {
  readonly reference: BackingReference;
  readonly backing: Backing;
}

/** Opens what a disk is to stand on, through the gate. With `mayMiss`, a file that is not there is stood in for. */
export type BackingOpener = (reference: BackingReference, mayMiss: boolean) => Promise<OpenedBacking>;

export interface RebaseHost {
  readonly file: string;
  readonly driver: BlockDriver;
  readonly image: DriverImage;
  readonly openBacking: BackingOpener | undefined;
  /** Who a storage's file is, whatever it is called. */
  readonly identify: ((name: string) => Promise<string>) | undefined;
  readonly exclusively: <T>(run: () => Promise<T>, signal?: AbortSignal) => Promise<T>;
}

/** Gives the image of `host` another backing, or none. */
export async function rebaseImage(
  host: RebaseHost,
  wanted: BackingReference | null,
  options: RebaseOptions,
): Promise<RebaseReport> {
  const { file, driver, image, openBacking, exclusively } = host;
  if (image.changeBacking === undefined || !driver.capabilities.changeBacking || openBacking === undefined) {
    const problem = `${driver.name} does not change its backing`;
    throw new CowlabError('ERR_UNSUPPORTED', `${file}: ${problem}`, { file, field: 'changeBacking' });
  }
  const change = image.changeBacking.bind(image);
  const { unsafe = false, signal } = options;
  return exclusively(async () => {
    const opened = wanted === null ? undefined : await openBacking(wanted, unsafe);
    try {
      const copy = new Rebase(host, opened?.backing, options);
      if (!unsafe) await copy.run();
      await change(opened?.reference, opened?.backing);
      return copy.report;
    } catch (error) {
      await opened?.backing.close();
      throw error;
    }
  }, signal);
}

/** A run of bytes of one backing: zeros, or where they are, or only that they are there. */
interface Piece {
  readonly length: number;
  readonly zero: boolean;
  readonly place?: string;
}

class Rebase {
  readonly #host: RebaseHost;
  readonly #next: Backing | undefined;
  readonly #options: RebaseOptions;
  readonly #identities = new Map<object, Promise<string>>();
  readonly #tally = newTally();
  #comparedBytes = 0;

  constructor(host: RebaseHost, next: Backing | undefined, options: RebaseOptions) {
    this.#host = host;
    this.#next = next;
    this.#options = options;
  }

  get report(): RebaseReport {
    const { writtenBytes, zeroedBytes } = this.#tally;
    return { comparedBytes: this.#comparedBytes, copiedBytes: writtenBytes + zeroedBytes };
  }

  /** Everything that is left to the backing reads the same from the next one, or has become the image's own. */
  async run(): Promise<void> {
    const { driver, file, image } = this.#host;
    const snapshots = (await image.snapshots?.list()) ?? [];
    if (driver.capabilities.snapshots === 'chain' && snapshots.length > 0) {
      const problem = `${driver.name} keeps its snapshots below the disk: they are its backing`;
      throw new CowlabError('ERR_UNSUPPORTED', `${file}: ${problem}`, { file, field: 'snapshots' });
    }
    for (const { id, name } of snapshots) {
      const snapshot = await image.snapshots!.open(id);
      try {
        await this.#walk(snapshot, async (offset) => {
          const what = `snapshot ${name}`;
          const problem = `${what} reads differently from the new backing, at ${offset}`;
          throw new CowlabError('ERR_BACKING_NEEDED', `${file}: ${problem}`, { file, field: what, offset });
        });
      } finally {
        await snapshot.close();
      }
    }
    await this.#walk(image, (offset, bytes, extent) => this.#keep(offset, bytes, extent));
    this.#assertGoesOn();
    await image.flush();
  }

  #assertGoesOn(): void {
    const { file } = this.#host;
    const { signal } = this.#options;
    if (signal?.aborted !== true) return;
    throw new CowlabError('ERR_ABORTED', `${file}: aborted`, { file }, signal.reason);
  }

  /** Calls `differ` for runs that the image leaves to its backing, and that the next one has otherwise. */
  async #walk(
    image: DriverImage,
    differ: (offset: number, bytes: Uint8Array, extent: Extent) => Promise<void>,
  ): Promise<void> {
    const { onProgress } = this.#options;
    const step = Math.max(STEP_BYTES, image.unitBytes);
    for (let at = 0; at < image.size; ) {
      this.#assertGoesOn();
      const extent = await image.map(at, image.size - at);
      const isLeft = extent.kind === 'backing' || (extent.kind === 'zero' && !extent.allocated);
      if (!isLeft) at += extent.length;
      else at = await this.#compare(image, at, extent, step, differ);
      onProgress?.({ done: at, total: image.size });
      await setImmediate();
    }
  }

  /** Looks at the first bytes of an extent that is left to the backing; returns how far. */
  async #compare(
    image: DriverImage,
    at: number,
    extent: Extent,
    step: number,
    differ: (offset: number, bytes: Uint8Array, extent: Extent) => Promise<void>,
  ): Promise<number> {
    const old =
      extent.kind === 'backing' ? await this.#piece(extent.source, extent.offset, extent.length) : undefined;
    const next = await this.#piece(this.#next, at, old?.length ?? extent.length);
    const same = next.length;
    const isZero = old === undefined || old.zero;
    if (isZero ? next.zero : old.place !== undefined && old.place === next.place) return at + same;
    // To the end of a step, so that pieces begin where units do.
    const end = Math.min(at + extent.length, at - (at % step) + step);
    const bytes = new Uint8Array(end - at);
    if (extent.kind === 'backing') await readExtent({ ...extent, length: bytes.length }, bytes);
    const others = new Uint8Array(bytes.length);
    await this.#readNext(at, others);
    this.#comparedBytes += bytes.length;
    for (const [start, stop] of differingUnits(bytes, others, at, image.unitBytes)) {
      await differ(at + start, bytes.subarray(start, stop), extent);
    }
    return end;
  }

  async #readNext(offset: number, target: Uint8Array): Promise<void> {
    if (this.#next === undefined) return;
    const source = this.#next;
    await readExtent({ kind: 'backing', length: target.length, source, offset }, target);
  }

  /** Bytes of the old backing that would be lost. Zeros take a mapping where there is a backing for it to hide. */
  async #keep(offset: number, bytes: Uint8Array, extent: Extent): Promise<void> {
    const { image } = this.#host;
    const end = offset + bytes.length;
    const isWhole = offset % image.unitBytes === 0 && (end % image.unitBytes === 0 || end === image.size);
    if (extent.kind === 'backing' && isWhole) return keep(image, offset, bytes, this.#tally, () => 0);
    await writeBytes(image, offset, bytes);
    this.#tally.writtenBytes += bytes.length;
  }

  /** What a source has at an offset, as far as mappings tell. */
  async #piece(source: ReadSource | undefined, offset: number, length: number): Promise<Piece> {
    if (source === undefined || offset >= source.size) return { length, zero: true };
    const found = await source.resolve(offset, Math.min(length, source.size - offset));
    const { storage, hostOffset } = found;
    if (found.kind === 'zero') return { length: found.length, zero: true };
    if (storage === undefined || hostOffset === undefined) return { length: found.length, zero: false };
    const status = await storage.status(hostOffset, found.length);
    if (!status.data) return { length: status.length, zero: true };
    const identify = this.#host.identify;
    if (identify === undefined) return { length: status.length, zero: false };
    const identity = this.#identities.get(storage) ?? identify(storage.name);
    this.#identities.set(storage, identity);
    return { length: status.length, zero: false, place: `${hostOffset} ${await identity}` };
  }
}

/** Runs of units, cut at the ends, in which two pieces of equal length differ. */
function* differingUnits(
  a: Uint8Array,
  b: Uint8Array,
  offset: number,
  unitBytes: number,
): Generator<[start: number, stop: number]> {
  let from: number | undefined;
  for (let start = 0; start < a.length; ) {
    const stop = Math.min(a.length, start + unitBytes - ((offset + start) % unitBytes));
    const isSame = Buffer.compare(a.subarray(start, stop), b.subarray(start, stop)) === 0;
    if (!isSame) from ??= start;
    else if (from !== undefined) {
      yield [from, start];
      from = undefined;
    }
    start = stop;
  }
  if (from !== undefined) yield [from, a.length];
}
