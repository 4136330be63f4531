import { isCowlabError, type LongCallOptions } from '@cowlab/core';
import { belowLock } from './chain.ts';
import { SparseExtent } from './extent.ts';
import type { Link, VmdkImage } from './image.ts';
import {
  assertNotAborted,
  assertSameShape,
  grainCountOf,
  type MergeOptions,
  moveDown,
  movesLessDown,
  moveUp,
} from './merge.ts';

/*
 * A link is taken out from under its children, in one of two directions (merge.ts); the order of the steps is at the
 * top of snapshots.ts.
 *
 *   up      any number of children: each gets what it lacks, and is relinked to what is below
 *   down    one child, which has fewer grains than it lacks: the link's file takes its place and its name
 *
 * Down, the link is written to where it is, so nobody may read it but through the child: its lock becomes a writer's.
 * Whoever has the file open elsewhere, on its own or under a clone, keeps that lock away, and then it goes up.
 */

/** What a deletion needs of the snapshots. */
export interface DeletionHost {
  readonly image: VmdkImage;
  /** Every image that is open: the disk's, and those of opened snapshots. */
  readonly roots: () => readonly VmdkImage[];
  readonly openExtent: (file: string, readOnly?: boolean) => Promise<SparseExtent>;
  /** Opens what a file of the chain stands on; shared where it is open already. */
  readonly openBelow: (extent: SparseExtent) => Promise<Link | undefined>;
  /** Publishes the list of snapshots without the one that goes. */
  readonly unlist: () => Promise<void>;
}

/** Takes `file` out of the chain; `children` are all that stand on it. */
export async function takeOut(
  host: DeletionHost,
  file: string,
  children: readonly string[],
  options: LongCallOptions,
): Promise<void> {
  const { folder } = host.image.surroundings;
  const { signal } = options;
  const progress = new GrainProgress(host.image, children.length, options);
  const [only, ...others] = children;
  if (only !== undefined && others.length === 0) {
    const down = await DownMerge.prepare(host, file, only, { signal, onGrains: progress.onGrains });
    progress.skipToMoving();
    if (down !== undefined) return down.run();
  }
  if (children.length > 0) await mergeUp(host, children, file, { signal, onGrains: progress.onGrains });
  await host.unlist();
  await folder.remove(file);
  await folder.flush();
}

/** Counts grains that were looked at: once to choose the direction for an only child, once for each child to move. */
class GrainProgress {
  readonly #scanned: number;
  readonly #total: number;
  readonly #report: LongCallOptions['onProgress'];
  #done = 0;

  constructor({ extent }: VmdkImage, childCount: number, { onProgress }: LongCallOptions) {
    this.#scanned = childCount === 1 ? grainCountOf(extent) : 0;
    this.#total = this.#scanned + childCount * grainCountOf(extent);
    this.#report = onProgress;
  }

  readonly onGrains = (count: number): void => {
    this.#done += count;
    this.#report?.({ done: this.#done, total: this.#total });
  };

  /** The choice needs no more looking. */
  skipToMoving(): void {
    this.#done = this.#scanned;
  }
}

async function mergeUp(
  host: DeletionHost,
  children: readonly string[],
  file: string,
  options: Omit<MergeOptions, 'below'>,
): Promise<void> {
  const link = await host.openExtent(file);
  try {
    await learnParent(host, link);
    for (const child of children) {
      assertNotAborted(file, options.signal);
      await mergeOneUp(host, link, child, { below: link.parentHint !== undefined, ...options });
    }
  } finally {
    await link.storage.close();
  }
}

async function mergeOneUp(
  host: DeletionHost,
  link: SparseExtent,
  childFile: string,
  options: MergeOptions,
): Promise<void> {
  const front = host.image.extent;
  const child = childFile === front.file ? front : await host.openExtent(childFile, false);
  try {
    assertSameShape(link, child);
    await moveUp(link, child, options);
    await child.tables.flush();
    assertNotAborted(link.file, options.signal);
    await child.relink(link.parentCid, link.parentHint);
  } catch (error) {
    // What was copied reads as before, and without an entry it would be a leak; what half arrived is cut off.
    await quietly(async () => child.tables.flush());
    await quietly(() => child.grains.trim());
    throw error;
  } finally {
    if (child !== front) await child.storage.close();
  }
  // Open images of the child see its new tables, and stand on what the link stands on.
  for (const image of childImages(host, childFile, link.file)) {
    await stepOver(image, image === host.image ? image.extent : await host.openExtent(childFile));
  }
}

class DownMerge {
  readonly #host: DeletionHost;
  readonly #link: SparseExtent;
  readonly #childFile: string;
  readonly #onGrains: MergeOptions['onGrains'];

  private constructor(
    host: DeletionHost,
    link: SparseExtent,
    childFile: string,
    onGrains: MergeOptions['onGrains'],
  ) {
    this.#host = host;
    this.#link = link;
    this.#childFile = childFile;
    this.#onGrains = onGrains;
  }

  /** Undefined where it has to go up, or moves no less down. Nothing has been written when it returns. */
  static async prepare(
    host: DeletionHost,
    file: string,
    childFile: string,
    options: Omit<MergeOptions, 'below'>,
  ): Promise<DownMerge | undefined> {
    const { folder, cacheBytes } = host.image.surroundings;
    let link: SparseExtent;
    try {
      link = await SparseExtent.open(folder, file, { readOnly: false, lock: 'none', cacheBytes });
    } catch (error) {
      // Files that can only be read are left as they are.
      if (isCowlabError(error, 'ERR_UNSUPPORTED') || isCowlabError(error, 'ERR_READ_ONLY')) return undefined;
      throw error;
    }
    try {
      await learnParent(host, link);
      if ((await isLessDown(host, link, childFile, options)) && (await lockAlone(host, link))) {
        assertNotAborted(file, options.signal);
        return new DownMerge(host, link, childFile, options.onGrains);
      }
    } catch (error) {
      await quietly(async () => link.storage.close());
      await quietly(() => lockAgain(host, file));
      throw error;
    }
    await link.storage.close();
    return undefined;
  }

  /** There is no way back from the unlisting on, so an abort is too late. */
  async run(): Promise<void> {
    const { folder } = this.#host.image.surroundings;
    const link = this.#link;
    const [seat] = imagesOf(this.#host, link.file);
    // The chain reads the link through the extent that changes it.
    const former = seat?.replace(link, seat.link).extent;
    const successors: SparseExtent[] = [];
    try {
      await former?.storage.close();
      await this.#move(successors);
      await folder.rename(link.file, this.#childFile);
    } catch (error) {
      for (const { storage } of successors) await quietly(async () => storage.close());
      await this.#leaveAsIs(seat);
      throw error;
    }
    const children = childImages(this.#host, this.#childFile, link.file);
    if (former !== undefined) seat?.replace(former, seat.link);
    for (const extent of [link, ...successors]) extent.moved(this.#childFile);
    if (this.#isFront) await stepOver(this.#host.image, link);
    else await this.#succeed(children, successors);
    await folder.flush();
  }

  get #isFront(): boolean {
    return this.#childFile === this.#host.image.file;
  }

  /** Up to the moment before the link's file takes the child's name. */
  async #move(successors: SparseExtent[]): Promise<void> {
    const { image, openExtent, unlist } = this.#host;
    const link = this.#link;
    const child = this.#isFront ? image.extent : await openExtent(this.#childFile, false);
    try {
      await child.tables.flush();
      await unlist();
      await child.lendIdentity(link);
      const below = link.parentHint !== undefined;
      await moveDown(child, link, { below, signal: undefined, onGrains: this.#onGrains });
      await link.tables.flush();
    } finally {
      if (!this.#isFront) await child.storage.close();
    }
    if (this.#isFront) return;
    // Whatever can fail comes before the rename.
    const { folder, cacheBytes } = image.surroundings;
    const how = { readOnly: true, lock: 'none', cacheBytes } as const;
    for (let left = childImages(this.#host, this.#childFile, link.file).length; left > 0; left--) {
      successors.push(await SparseExtent.open(folder, link.file, how));
    }
  }

  /** Images of the child read the file that has its name now. */
  async #succeed(children: readonly VmdkImage[], successors: readonly SparseExtent[]): Promise<void> {
    for (const [index, image] of children.entries()) await stepOver(image, successors[index]!);
    await this.#link.storage.close();
    const lock = belowLock(this.#host.image.surroundings);
    for (const { storage } of successors) await storage.lock(lock);
  }

  /** After a failure the link stays under its child, which hides what has changed in it. */
  async #leaveAsIs(seat: VmdkImage | undefined): Promise<void> {
    const { storage, tables, grains, file } = this.#link;
    await quietly(async () => tables.flush());
    await quietly(() => grains.trim());
    this.#link.freeze(file);
    if (seat === undefined) await quietly(async () => storage.close());
    else await quietly(() => lockAgain(this.#host, file));
  }
}

async function isLessDown(
  host: DeletionHost,
  link: SparseExtent,
  childFile: string,
  options: Omit<MergeOptions, 'below'>,
): Promise<boolean> {
  const front = host.image.extent;
  const child = childFile === front.file ? front : await host.openExtent(childFile);
  try {
    assertSameShape(link, child);
    return await movesLessDown(link, child, options);
  } finally {
    if (child !== front) await child.storage.close();
  }
}

/** A link's parent may have another CID than the link has recorded (snapshots.ts); whoever writes either must know. */
async function learnParent(host: DeletionHost, link: SparseExtent): Promise<void> {
  const [seat] = imagesOf(host, link.file);
  if (seat?.parent !== undefined) link.acceptsParent(seat.parent.extent.cid);
  if (seat !== undefined) return;
  const below = await host.openBelow(link);
  await below?.release();
}

/** Takes a writer's lock on the link; false, with all locks as before, when somebody else reads it. */
async function lockAlone(host: DeletionHost, link: SparseExtent): Promise<boolean> {
  const { context } = host.image.surroundings;
  for (const { extent } of imagesOf(host, link.file)) await extent.storage.lock('none');
  try {
    await link.storage.lock(context.lock);
    return true;
  } catch (error) {
    if (!isCowlabError(error, 'ERR_LOCKED')) throw error;
    await lockAgain(host, link.file);
    return false;
  }
}

/** The locks of everything that is under the disk. */
async function lockAgain(host: DeletionHost, file: string): Promise<void> {
  const lock = belowLock(host.image.surroundings);
  for (const { extent } of imagesOf(host, file)) await extent.storage.lock(lock);
}

function imagesOf(host: DeletionHost, file: string): VmdkImage[] {
  const images = new Set(host.roots().flatMap((root) => root.chain()));
  return [...images].filter((image) => image.file === file);
}

function childImages(host: DeletionHost, childFile: string, linkFile: string): VmdkImage[] {
  return imagesOf(host, childFile).filter(({ parent }) => parent?.file === linkFile);
}

/** The image goes on with `extent`, without the link that it stood on. */
async function stepOver(image: VmdkImage, extent: SparseExtent): Promise<void> {
  const before = image.replace(extent, image.parent?.link?.share());
  if (before.extent !== extent) await before.extent.storage.close();
  await before.link?.release();
}

/** Tidies up behind a failure, which is the one to report. */
async function quietly(run: () => Promise<void>): Promise<void> {
  try {
    await run();
  } catch {
    // What stays behind is space that nothing refers to, or a lock that is too weak.
  }
}
