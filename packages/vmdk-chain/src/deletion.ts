import { isCowlabError, type LongCallOptions } from '@cowlab/core';
import { belowLock } from './chain.ts';
import { ChainFile, filesNamedBy } from './chain-file.ts';
import type { Link, VmdkImage } from './image.ts';
import { assertNotAborted, type MergeOptions } from './merge.ts';
import { assertSameDisk, fillDown, fillUp, goesDown, unitCountOf } from './merge-parts.ts';

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
  readonly openFile: (file: string, readOnly?: boolean) => Promise<ChainFile>;
  /** Opens what a file of the chain stands on; shared where it is open already. */
  readonly openBelow: (file: ChainFile) => Promise<Link | undefined>;
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
  const files = await filesNamedBy(folder, file);
  // Its extents only once it is off the list: at the end nobody knows whose they were.
  noteUnused(host.image, host.roots(), files.slice(0, 1));
  await host.unlist();
  await removeUnused(host.image, host.roots(), files);
}

/**
 * Removes files of an image that is in use no more, as far as no other names them; the first of them first, so that none
 * is named without being there.
 */
export async function removeUnused(
  image: VmdkImage,
  roots: readonly VmdkImage[],
  files: readonly string[],
): Promise<void> {
  const { folder } = image.surroundings;
  if (files.length === 0) return;
  noteUnused(image, roots, files);
  for (const file of files) {
    // Others that are left over may still be listed.
    if (!image.leftovers.has(file)) continue;
    if (await folder.exists(file)) await folder.remove(file);
    image.leftovers.delete(file);
  }
  await folder.flush();
}

/** Whatever fails from now on, the files go when the disk is closed, if no snapshot is listed that has them. */
function noteUnused({ leftovers }: VmdkImage, roots: readonly VmdkImage[], files: readonly string[]): void {
  const others = roots.flatMap((root) => root.chain().filter(({ file }) => file !== files[0]));
  const used = new Set(others.flatMap(({ own }) => own.files));
  for (const file of files) if (!used.has(file)) leftovers.add(file);
}

/** Counts grains that were looked at: once to choose the direction for an only child, once for each child to move. */
class GrainProgress {
  readonly #scanned: number;
  readonly #total: number;
  readonly #report: LongCallOptions['onProgress'];
  #done = 0;

  constructor({ own }: VmdkImage, childCount: number, { onProgress }: LongCallOptions) {
    this.#scanned = childCount === 1 ? unitCountOf(own) : 0;
    this.#total = this.#scanned + childCount * unitCountOf(own);
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
  const link = await host.openFile(file);
  try {
    await learnParent(host, link);
    for (const child of children) {
      assertNotAborted(file, options.signal);
      await mergeOneUp(host, link, child, { below: link.parentHint !== undefined, ...options });
    }
  } finally {
    await link.close();
  }
}

async function mergeOneUp(
  host: DeletionHost,
  link: ChainFile,
  childFile: string,
  options: MergeOptions,
): Promise<void> {
  const front = host.image.own;
  const child = childFile === front.file ? front : await host.openFile(childFile, false);
  try {
    assertSameDisk(link, child);
    await fillUp(link, child, options);
    await child.flush();
    assertNotAborted(link.file, options.signal);
    await child.relink(link.parentCid, link.parentHint);
  } catch (error) {
    // What was copied reads as before, and without an entry it would be a leak; what half arrived is cut off.
    await quietly(async () => child.flush());
    await quietly(() => child.trim());
    throw error;
  } finally {
    if (child !== front) await child.close();
  }
  // Open images of the child see its new tables, and stand on what the link stands on.
  for (const image of childImages(host, childFile, link.file)) {
    await stepOver(image, image === host.image ? image.own : await host.openFile(childFile));
  }
}

class DownMerge {
  readonly #host: DeletionHost;
  readonly #link: ChainFile;
  readonly #childFile: string;
  readonly #onGrains: MergeOptions['onGrains'];

  private constructor(
    host: DeletionHost,
    link: ChainFile,
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
    const { cacheBytes } = host.image.surroundings;
    let link: ChainFile;
    try {
      link = await ChainFile.open(host.image.surroundings, file, {
        readOnly: false,
        lock: 'none',
        cacheBytes,
      });
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
      await quietly(async () => link.close());
      await quietly(() => lockAgain(host, file));
      throw error;
    }
    await link.close();
    return undefined;
  }

  /** There is no way back from the unlisting on, so an abort is too late. */
  async run(): Promise<void> {
    const { folder } = this.#host.image.surroundings;
    const link = this.#link;
    const [seat] = imagesOf(this.#host, link.file);
    let childFiles: readonly string[];
    // The chain reads the link through the one that changes it.
    const former = seat?.replace(link, seat.link).own;
    const successors: ChainFile[] = [];
    try {
      await former?.close();
      childFiles = await filesNamedBy(folder, this.#childFile);
      await this.#move(successors);
      await folder.rename(link.file, this.#childFile);
    } catch (error) {
      for (const successor of successors) await quietly(() => successor.close());
      await this.#leaveAsIs(seat);
      throw error;
    }
    const children = childImages(this.#host, this.#childFile, link.file);
    if (former !== undefined) seat?.replace(former, seat.link);
    for (const own of [link, ...successors]) own.moved(this.#childFile);
    if (this.#isFront) await stepOver(this.#host.image, link);
    else await this.#succeed(children, successors);
    await folder.flush();
    await removeUnused(this.#host.image, this.#host.roots(), childFiles.slice(1));
  }

  get #isFront(): boolean {
    return this.#childFile === this.#host.image.file;
  }

  /** Up to the moment before the link's file takes the child's name. */
  async #move(successors: ChainFile[]): Promise<void> {
    const { image, openFile, unlist } = this.#host;
    const link = this.#link;
    const child = this.#isFront ? image.own : await openFile(this.#childFile, false);
    try {
      await child.flush();
      await unlist();
      await child.lendIdentity(link);
      const below = link.parentHint !== undefined;
      await fillDown(child, link, { below, signal: undefined, onGrains: this.#onGrains });
      await link.flush();
    } finally {
      if (!this.#isFront) await child.close();
    }
    if (this.#isFront) return;
    // Whatever can fail comes before the rename.
    const { cacheBytes } = image.surroundings;
    const how = { readOnly: true, lock: 'none', cacheBytes } as const;
    for (let left = childImages(this.#host, this.#childFile, link.file).length; left > 0; left--) {
      successors.push(await ChainFile.open(image.surroundings, link.file, how));
    }
  }

  /** Images of the child read the file that has its name now. */
  async #succeed(children: readonly VmdkImage[], successors: readonly ChainFile[]): Promise<void> {
    for (const [index, image] of children.entries()) await stepOver(image, successors[index]!);
    await this.#link.close();
    const lock = belowLock(this.#host.image.surroundings);
    for (const successor of successors) await successor.lock(lock);
  }

  /** After a failure the link stays under its child, which hides what has changed in it. */
  async #leaveAsIs(seat: VmdkImage | undefined): Promise<void> {
    const link = this.#link;
    const { file } = link;
    await quietly(async () => link.flush());
    await quietly(() => link.trim());
    link.freeze(file);
    if (seat === undefined) await quietly(() => link.close());
    else await quietly(() => lockAgain(this.#host, file));
  }
}

async function isLessDown(
  host: DeletionHost,
  link: ChainFile,
  childFile: string,
  options: Omit<MergeOptions, 'below'>,
): Promise<boolean> {
  const front = host.image.own;
  const child = childFile === front.file ? front : await host.openFile(childFile);
  try {
    assertSameDisk(link, child);
    return await goesDown(link, child, options);
  } finally {
    if (child !== front) await child.close();
  }
}

/** A link's parent may have another CID than the link has recorded (snapshots.ts); whoever writes either must know. */
async function learnParent(host: DeletionHost, link: ChainFile): Promise<void> {
  const [seat] = imagesOf(host, link.file);
  if (seat?.parent !== undefined) link.acceptsParent(seat.parent.own.cid);
  if (seat !== undefined) return;
  const below = await host.openBelow(link);
  await below?.release();
}

/** Takes a writer's lock on the link; false, with all locks as before, when somebody else reads it. */
async function lockAlone(host: DeletionHost, link: ChainFile): Promise<boolean> {
  const { context } = host.image.surroundings;
  for (const { own } of imagesOf(host, link.file)) await own.lock('none');
  try {
    await link.lock(context.lock);
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
  for (const { own } of imagesOf(host, file)) await own.lock(lock);
}

/** The images of a file in all chains that are open. */
export function imagesOf({ roots }: Pick<DeletionHost, 'roots'>, file: string): VmdkImage[] {
  const images = new Set(roots().flatMap((root) => root.chain()));
  return [...images].filter((image) => image.file === file);
}

function childImages(host: DeletionHost, childFile: string, linkFile: string): VmdkImage[] {
  return imagesOf(host, childFile).filter(({ parent }) => parent?.file === linkFile);
}

/** The image goes on with `own`, without the link that it stood on. */
async function stepOver(image: VmdkImage, own: ChainFile): Promise<void> {
  const before = image.replace(own, image.parent?.link?.share());
  if (before.own !== own) await before.own.close();
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
