import { setImmediate } from 'node:timers/promises';
import { type ChainLink, chainOf } from './chain.ts';
import type { Disk } from './disk.ts';
import type { DiskExtent } from './disk-extents.ts';
import type { DriverImage, LongCallOptions, OptionValues } from './driver.ts';
import { CowlabError, type ErrorCode } from './errors.ts';
import { type Formats, type ImageLocation, locate, openDisk, openLevels } from './open.ts';
import { STEP_BYTES } from './populate.ts';

/*
 * What an image has of its own goes into an image under it. Power may fail between any two steps, and in them:
 *
 *   1  the base takes the next content id, and the image above it records that       (VMDK; `followBacking`)
 *   2  the base grows to the image's size                                            new bytes are zeros, as past its end
 *   3  the image's bytes and zeros are written to the base                           the image still has them itself
 *   4  the base is flushed
 *   5  the image is emptied                                                          the base answers the same
 *
 * Up to 4 the image reads from itself what is being written below it; nothing else of the base changes. So at each
 * moment it reads the same. The base does not: after a failure it holds a part, and the commit can be repeated.
 *
 * The image is opened with what lies between it and the base, and something stands for the base: what is written there
 * never meets a reader who has the base's old tables in memory. The base is opened beside it, for writing.
 */

export interface CommitOptions extends Formats, LongCallOptions {
  readonly format?: string;
  /**
   * The image to commit to, by its path or its name in the folder: one of the chain. Its direct backing by default. What
   * lies between is not changed, and reads wrongly afterwards. Implies `keep`: the image needs what is between.
   */
  readonly base?: string;
  /** The image keeps what it has of its own. */
  readonly keep?: boolean;
  /** Options of the drivers for this opening. */
  readonly options?: OptionValues;
}

export interface CommitReport {
  /** The file that was committed to, as the folder knows it. */
  readonly base: string;
  readonly writtenBytes: number;
  /** Bytes that were made zeros. */
  readonly zeroedBytes: number;
  /** Bytes by which the base has grown. */
  readonly grownBytes: number;
  readonly emptied: boolean;
  /** Files between the image and the base; they read wrongly from now on. */
  readonly invalid: readonly string[];
}

/**
 * Writes what an image has of its own into its backing and empties it, as `qemu-img commit` does. Both are locked for
 * that. An abort before the image is emptied leaves it as it was. Rejects with `ERR_BACKING_NEEDED` when a snapshot of
 * the image would read otherwise, `ERR_UNSUPPORTED`, `ERR_LOCKED`, `ERR_INVALID_OPTION`, `ERR_BACKING_…`.
 */
export async function commitDisk(
  location: ImageLocation,
  options: CommitOptions = {},
): Promise<CommitReport> {
  const { folder, file } = locate(location, options.io);
  const wanted = options.base === undefined ? undefined : await folder.identify(options.base);
  const links = await chainOf(location, options, ({ identity }, depth) =>
    wanted === undefined ? depth === 1 : depth > 0 && identity === wanted,
  );
  const base = links.at(-1)!;
  if (links.length === 1 || (wanted !== undefined && base.identity !== wanted)) {
    const problem = links.length === 1 ? 'the image has no backing file' : `${options.base} is not below it`;
    throw refusal('ERR_INVALID_OPTION', file, 'backing file', problem);
  }
  for (const { named } of links) {
    if (named?.snapshot === undefined) continue;
    const problem = `it stands on a snapshot of ${named.file}, and those do not change`;
    throw refusal('ERR_UNSUPPORTED', file, 'backing snapshot', problem);
  }
  const { options: values, format } = options;
  const open = { ...options, ...(values && { options: values }), ...(format !== undefined && { format }) };
  const top = await openLevels(location, open, links.length - 2);
  try {
    const under = await openBase(location, options, base);
    try {
      return await new Commit({ location, options, links, top, base: under }).run();
    } finally {
      await under.close();
    }
  } finally {
    await top.close();
  }
}

/** By the format that is recorded; raw is not guessed, since its guest may have written what looks like another one. */
async function openBase(location: ImageLocation, options: CommitOptions, base: ChainLink): Promise<Disk> {
  const { folder } = locate(location, options.io);
  const { drivers, gate } = options;
  const format = base.named?.format;
  const disk = await openDisk(
    { folder, file: base.file },
    { ...(drivers && { drivers }), ...(gate && { gate }), ...(format !== undefined && { format }) },
  );
  if (format !== undefined || disk.format !== 'raw') return disk;
  await disk.close();
  const problem = `the image does not say which format ${base.file} has, and raw is not guessed for writing`;
  throw refusal('ERR_UNKNOWN_FORMAT', base.file, 'format', problem);
}

function refusal(code: ErrorCode, file: string, field: string, problem: string): CowlabError {
  return new CowlabError(code, `${file}: ${field}: ${problem}`, { file, field });
}

interface CommitParts {
  readonly location: ImageLocation;
  readonly options: CommitOptions;
  /** From the image down to the base. */
  readonly links: readonly ChainLink[];
  readonly top: Disk;
  readonly base: Disk;
}

class Commit {
  readonly #parts: CommitParts;
  readonly #file: string;
  readonly #keeps: boolean;
  #writtenBytes = 0;
  #zeroedBytes = 0;

  constructor(parts: CommitParts) {
    this.#parts = parts;
    this.#file = parts.links[0]!.file;
    this.#keeps = parts.options.keep === true || parts.links.length > 2;
  }

  async run(): Promise<CommitReport> {
    const { top, base, links } = this.#parts;
    if (!this.#keeps && (top.image.empty === undefined || !top.capabilities.empty)) {
      throw refusal('ERR_UNSUPPORTED', this.#file, 'empty', `${top.format} images cannot be emptied`);
    }
    await this.#assertSnapshotsStay();
    const present = base.size;
    await this.#assertFits(present);
    await this.#passOnContentId();
    if (top.size > present && base.capabilities.resize !== 'none') await base.resize(this.#grownSize());
    await this.#copy(present);
    await base.flush();
    this.#assertGoesOn();
    if (!this.#keeps) {
      await top.flush();
      await top.image.empty?.();
    }
    return {
      base: links.at(-1)!.file,
      writtenBytes: this.#writtenBytes,
      zeroedBytes: this.#zeroedBytes,
      grownBytes: base.size - present,
      emptied: !this.#keeps,
      invalid: links.slice(1, -1).map(({ file }) => file),
    };
  }

  /** Everything that images above the base have, zeros that they say included. */
  async *#own(): AsyncGenerator<DiskExtent> {
    const { top, links } = this.#parts;
    for await (const extent of top.extents()) if (extent.depth < links.length - 1) yield extent;
  }

  #grownSize(): number {
    const { top, base } = this.#parts;
    const { sizeMultiple } = base.capabilities;
    return Math.ceil(top.size / sizeMultiple) * sizeMultiple;
  }

  /** A base that cannot grow is large enough when only zeros lie past its end. */
  async #assertFits(present: number): Promise<void> {
    const { top, base, links } = this.#parts;
    if (top.size <= present || base.capabilities.resize !== 'none') return;
    for await (const { offset, length, kind } of this.#own()) {
      if (kind === 'zero' || offset + length <= present) continue;
      const problem = `has ${present} bytes, cannot grow, and the image has data behind them`;
      throw refusal('ERR_UNSUPPORTED', links.at(-1)!.file, 'size', problem);
    }
  }

  /** A snapshot of the image that asks the base where that changes would change with it. */
  async #assertSnapshotsStay(): Promise<void> {
    const { image, capabilities } = this.#parts.top;
    const snapshots = (await image.snapshots?.list()) ?? [];
    if (capabilities.snapshots === 'chain') return this.#assertNoSnapshot();
    for (const { id, name } of snapshots) {
      const snapshot = await image.snapshots!.open(id);
      try {
        for await (const { offset, length } of this.#own()) {
          await this.#assertOwns(
            snapshot,
            `snapshot ${name}`,
            offset,
            Math.min(offset + length, snapshot.size),
          );
        }
      } finally {
        await snapshot.close();
      }
    }
  }

  /** Where snapshots are files below the disk, the base may be one of them, or lie below one. */
  async #assertNoSnapshot(): Promise<void> {
    const { location, options, top, links } = this.#parts;
    const { folder } = locate(location, options.io);
    const { files } = await top.image.info();
    const own = new Set(await Promise.all(files.slice(1).map((file) => folder.identify(file))));
    const found = links.slice(1).find(({ identity }) => own.has(identity));
    if (found === undefined) return;
    const problem = `${found.file} is a snapshot of the image; delete that instead`;
    throw refusal('ERR_UNSUPPORTED', this.#file, 'snapshots', problem);
  }

  async #assertOwns(snapshot: DriverImage, what: string, start: number, end: number): Promise<void> {
    for (let at = start; at < end; ) {
      const extent = await snapshot.map(at, end - at);
      if (extent.kind === 'backing') {
        const problem = `${what} reads from the backing file what would change there, at ${at}`;
        const data = { file: this.#file, field: what, offset: at };
        throw new CowlabError('ERR_BACKING_NEEDED', `${this.#file}: ${problem}`, data);
      }
      at += extent.length;
    }
  }

  /** The image directly above the base is the one that has the base's id. */
  async #passOnContentId(): Promise<void> {
    const { location, options, links, top, base } = this.#parts;
    if (links.length === 2) return follow(top, base);
    const { folder } = locate(location, options.io);
    const { file, named } = links.at(-2)!;
    const { drivers } = options;
    const looked = await openDisk(
      { folder, file },
      {
        readOnly: true,
        withoutBacking: true,
        ...(drivers && { drivers }),
        ...(named?.format !== undefined && { format: named.format }),
      },
    );
    const records = looked.capabilities.backingContentId;
    await looked.close();
    if (!records) return;
    const problem = `${file} records which content of its backing it was made from; commit to that first`;
    throw refusal('ERR_UNSUPPORTED', this.#file, 'base', problem);
  }

  async #copy(present: number): Promise<void> {
    const { top, base, options } = this.#parts;
    for await (const { offset, length, kind, allocated } of this.#own()) {
      const end = offset + length;
      if (kind !== 'zero') await this.#write(offset, end);
      else {
        // Zeros that nobody has written are past the end of an image between; the base may have bytes there.
        const stop = Math.min(end, allocated ? base.size : present);
        if (stop > offset) await base.writeZeroes(offset, stop - offset);
        this.#zeroedBytes += Math.max(0, stop - offset);
      }
      options.onProgress?.({ done: end, total: top.size });
    }
    options.onProgress?.({ done: top.size, total: top.size });
  }

  async #write(start: number, end: number): Promise<void> {
    const { top, base, options } = this.#parts;
    const buffer = new Uint8Array(Math.min(STEP_BYTES, end - start));
    for (let at = start; at < end; ) {
      this.#assertGoesOn();
      const piece = buffer.subarray(0, Math.min(end, at - (at % STEP_BYTES) + STEP_BYTES) - at);
      await top.read(at, piece);
      await base.write(at, piece);
      at += piece.length;
      this.#writtenBytes += piece.length;
      options.onProgress?.({ done: at, total: top.size });
      await setImmediate();
    }
  }

  #assertGoesOn(): void {
    const { signal } = this.#parts.options;
    if (signal?.aborted !== true) return;
    throw new CowlabError('ERR_ABORTED', `${this.#file}: aborted`, { file: this.#file }, signal.reason);
  }
}

async function follow(above: Disk, base: Disk): Promise<void> {
  if (above.capabilities.backingContentId) await above.image.followBacking?.(base.image);
}
