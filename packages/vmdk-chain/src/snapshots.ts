import path from 'node:path';
import {
  type Backing,
  type BackingReference,
  type DiffBatch,
  type DriverImage,
  isCowlabError,
  type LongCallOptions,
  type SnapshotInfo,
  type Storage,
  unsupported,
} from '@cowlab/core';
import { belowLock, childrenOf, linkOf, linksBelow, openBelow } from './chain.ts';
import { ChainFile, filesNamedBy, sibling } from './chain-file.ts';
import { type DeletionHost, removeUnused, takeOut } from './deletion.ts';
import { diffChains } from './diff.ts';
import { type Link, VmdkImage, type VmdkSnapshotOperations } from './image.ts';
import { assertNotAborted } from './merge.ts';
import { assertSameDisk } from './merge-parts.ts';
import { createMonolithic } from './new-disk.ts';
import { moveParent, type RelinkHost, releaseSnapshots } from './relink.ts';
import {
  copyDirectory,
  emptyDirectory,
  encodeDirectory,
  entryFor,
  parseDirectory,
  type SnapshotDirectory,
  type SnapshotEntry,
} from './vmsd.ts';

/*
 * Snapshots as a chain of files. The disk keeps its path; a snapshot's content moves to a file of its own:
 *
 *   disk.vmdk  →  disk-000002.vmdk  →  disk-000001.vmdk        disk.vmsd lists 1 and 2
 *
 * Order of every change, so that power may fail between any two steps. "Prepare vmsd" is: write a new file, flush
 * it; "publish" it: rename it over the old one, flush the folder.
 *
 *   create   flush the disk → link its file under the snapshot's name → write that name into its extent line →
 *            prepare vmsd → write an empty child into disk.vmdk.new, flush → flush the folder → rename it over
 *            disk.vmdk → flush the folder → publish vmsd. Before the rename nothing has happened (a second name
 *            of the disk's file may be left), and a full file system has shown itself; after it the content is
 *            the same, one link longer, and unlisted until vmsd is published.
 *   delete   up: for each child of the file (the disk, other snapshots; branches too): copy what it lacks, flush
 *            the data, write the tables, flush → name the parent's parent in its descriptor (one sector), flush.
 *            Then prepare and publish vmsd → remove the file. A child reads the same before and after each step,
 *            and the snapshot is there, whole, until vmsd no longer lists it; then only its file may be left.
 *            down, where the file has one child, which has fewer grains than it lacks: flush the child → prepare and
 *            publish vmsd → give the file the child's CID and extent name (one sector), flush → name that CID as its
 *            parent's in the child (one sector), flush → write the child's grains into the file, over its own or in
 *            new ones, flush, write the tables, flush → rename the file over the child → flush the folder. The
 *            snapshot is whole until vmsd no longer lists it. From then on its file is a link like any other: it is
 *            read through the child only, which has whatever is written to it. So the child reads the same until the
 *            rename, and the file that takes its place reads the same and has its CID. A crash before the rename
 *            leaves the chain one link longer, unlisted. Between the writes of the two CIDs the parent has the
 *            child's own: that is accepted (QEMU refuses it), since nothing else makes two files of one CID.
 *   apply    prepare vmsd → write an empty child of the snapshot's file into disk.vmdk.new, flush → flush the folder
 *            → rename it over disk.vmdk → flush the folder → publish vmsd. The first rename is the moment.
 *   rename   prepare and publish vmsd.
 *   release  for each snapshot: name no parent (one sector), flush → the same for the disk. Nobody needs one then.
 *
 * The lock of the disk is on the file that has its name: the child is locked before the rename; after it, the file
 * that became a snapshot's keeps a reader's lock, as everything under the disk.
 *
 * Which snapshot the disk stands on is told by its descriptor, not by `snapshot.current`, which may be one crash
 * behind. Files that a crash has left unlisted are found by walking down from the listed ones.
 */

/** Puts a prepared snapshot directory into its place, durably. */
type Publish = () => Promise<void>;

export const MAX_DIRECTORY_BYTES: number = 16 * 1024 * 1024;

/** The file that lists the snapshots of the disk `file`. */
export function directoryFileOf(file: string): string {
  return `${stemOf(file)}.vmsd`;
}

function stemOf(file: string): string {
  return file.replace(/\.vmdk$/i, '');
}

export class VmdkSnapshots implements VmdkSnapshotOperations {
  readonly #image: VmdkImage;
  /** Snapshots opened through {@link open}: their chains must follow when a link is taken out. */
  readonly #opened = new Set<VmdkImage>();
  #lastRead: { readonly bytes: Buffer; readonly directory: SnapshotDirectory } | undefined;

  constructor(image: VmdkImage) {
    this.#image = image;
  }

  async list(): Promise<readonly SnapshotInfo[]> {
    const { entries } = await this.#load();
    return entries.map((entry) => this.#describe(entry));
  }

  async files(): Promise<string[]> {
    const { entries } = await this.#load();
    if (entries.length === 0) return [];
    const files = await Promise.all(entries.map((entry) => filesNamedBy(this.#folder, this.#fileOf(entry))));
    return [this.#directoryFile, ...files.flat()];
  }

  async places(): Promise<{ readonly id: string; readonly file: string }[]> {
    const { entries } = await this.#load();
    return entries.map((entry) => ({ id: String(entry.uid), file: this.#fileOf(entry) }));
  }

  async removeUnlisted(files: readonly string[]): Promise<void> {
    await this.#quietly(async () => {
      const listed = new Set((await this.places()).map(({ file }) => file));
      // The list without them must not be lost once they are gone.
      await this.#folder.flush();
      for (const file of files) {
        if (!listed.has(file) && (await this.#folder.exists(file))) await this.#folder.remove(file);
      }
    });
  }

  async releaseParents(): Promise<void> {
    await releaseSnapshots(await this.#relinkHost());
  }

  async moveParent(reference: BackingReference | undefined, backing: Backing | undefined): Promise<void> {
    await moveParent(await this.#relinkHost(), reference, backing);
  }

  async create(name: string, createdAt: Date): Promise<SnapshotInfo> {
    if (this.#image.compressedOnly === true) {
      throw unsupported(this.#image.file, 'header.flags', 'a stream-optimized disk has no snapshots');
    }
    const directory = await this.#loadOwn();
    const { entry, publish } = await this.#freezeFront(directory, name, createdAt);
    await this.#folder.flush();
    await publish();
    return this.#describe(entry);
  }

  async delete(id: string, options: LongCallOptions): Promise<void> {
    const directory = await this.#loadOwn();
    const entry = entryFor(directory, id);
    const file = this.#fileOf(entry);
    const listed = directory.entries.map((one) => this.#fileOf(one));
    const children = await childrenOf(file, this.#image.chain(), listed, (at) => this.#openFile(at));
    const host: DeletionHost = {
      image: this.#image,
      roots: () => this.#roots(),
      openFile: (at, readOnly) => this.#openFile(at, readOnly),
      openBelow: (own) => this.#openBelow(own, directory),
      unlist: async () => {
        directory.entries.splice(directory.entries.indexOf(entry), 1);
        for (const other of directory.entries) if (other.parent === entry.uid) other.parent = entry.parent;
        if (directory.current === entry.uid) directory.current = entry.parent;
        const publish = await this.#prepare(directory);
        await publish();
      },
    };
    await takeOut(host, file, children, options);
  }

  async apply(id: string, options: LongCallOptions): Promise<void> {
    const directory = await this.#loadOwn();
    const entry = entryFor(directory, id);
    assertNotAborted(this.#image.file, options.signal);
    const link = await this.#linkTo(entry, directory);
    directory.current = entry.uid;
    let child: ChainFile;
    let publish: Publish;
    let oldFiles: readonly string[];
    try {
      oldFiles = await filesNamedBy(this.#folder, this.#image.file);
      const frozen = (link.backing.image as VmdkImage).own;
      assertSameDisk(frozen, this.#image.own);
      publish = await this.#prepare(directory);
      child = await this.#writeChild(frozen, entry.fileName);
      await this.#moveIntoPlace(child);
    } catch (error) {
      await link.release();
      throw error;
    }
    await this.#switchTo(child, link);
    await this.#folder.flush();
    await publish();
    await removeUnused(this.#image, this.#roots(), oldFiles.slice(1));
  }

  async open(id: string): Promise<DriverImage> {
    const directory = await this.#load();
    const own = await this.#openFile(this.#fileOf(entryFor(directory, id)));
    try {
      const link = await this.#openBelow(own, directory);
      const image: VmdkImage = new VmdkImage(this.#image.surroundings, own, link, () => {
        this.#opened.delete(image);
      });
      this.#opened.add(image);
      return image;
    } catch (error) {
      await own.close();
      throw error;
    }
  }

  async rename(id: string, name: string): Promise<void> {
    const directory = await this.#loadOwn();
    const entry = entryFor(directory, id);
    directory.entries[directory.entries.indexOf(entry)] = { ...entry, displayName: name };
    const publish = await this.#prepare(directory);
    await publish();
  }

  async diff(from: string | null, to: string | null, offset: number, end: number): Promise<DiffBatch> {
    const directory = await this.#load();
    const links: Link[] = [];
    try {
      const chains: VmdkImage[][] = [];
      for (const id of [from, to]) {
        const entry = id === null ? undefined : entryFor(directory, id);
        if (entry === undefined || this.#fileOf(entry) === this.#image.file) {
          chains.push(this.#image.chain());
        } else {
          const link = await this.#linkTo(entry, directory);
          links.push(link);
          chains.push((link.backing.image as VmdkImage).chain());
        }
      }
      return await diffChains(this.#image.own, chains[0]!, chains[1]!, offset, end);
    } finally {
      for (const link of links) await link.release();
    }
  }

  get #folder(): VmdkImage['surroundings']['folder'] {
    return this.#image.surroundings.folder;
  }

  get #stem(): string {
    return stemOf(this.#image.file);
  }

  get #directoryFile(): string {
    return directoryFileOf(this.#image.file);
  }

  #fileOf(entry: SnapshotEntry): string {
    return sibling(this.#image.file, entry.fileName);
  }

  #describe(entry: SnapshotEntry): SnapshotInfo {
    return {
      id: String(entry.uid),
      name: entry.displayName,
      createdAt: entry.createdAt,
      size: this.#image.size,
      parent: entry.parent === undefined ? null : String(entry.parent),
    };
  }

  /** Every image that is open: the disk's chain, and those of opened snapshots. */
  #roots(): VmdkImage[] {
    return [this.#image, ...this.#opened];
  }

  async #relinkHost(): Promise<RelinkHost> {
    const { entries } = await this.#loadOwn();
    return {
      image: this.#image,
      roots: () => this.#roots(),
      openFile: (at, readOnly) => this.#openFile(at, readOnly),
      listed: entries.map((entry) => this.#fileOf(entry)),
    };
  }

  #openFile(file: string, readOnly = true): Promise<ChainFile> {
    const { surroundings } = this.#image;
    // The disk's own file is locked already; a merge changes no content, so it stands readers of a snapshot's.
    const lock = file === this.#image.file ? 'none' : belowLock(surroundings);
    return ChainFile.open(surroundings, file, { readOnly, lock, cacheBytes: surroundings.cacheBytes });
  }

  #openBelow(child: ChainFile, directory: SnapshotDirectory): Promise<Link | undefined> {
    const own = new Set(directory.entries.map((entry) => this.#fileOf(entry)));
    return openBelow(this.#image.surroundings, child, linksBelow(this.#roots()), own);
  }

  /** A snapshot as something to stand on; shared when it is open already. */
  async #linkTo(entry: SnapshotEntry, directory: SnapshotDirectory): Promise<Link> {
    const file = this.#fileOf(entry);
    const open = linksBelow(this.#roots()).get(file);
    if (open !== undefined) return open.share();
    const own = await this.#openFile(file);
    try {
      return linkOf(this.#image.surroundings, own, await this.#openBelow(own, directory));
    } catch (error) {
      await own.close();
      throw error;
    }
  }

  /** The directory's content; read each time, so that nothing in memory can differ from it, and parsed when it did. */
  async #load(): Promise<SnapshotDirectory> {
    const file = this.#directoryFile;
    let storage: Storage;
    try {
      storage = await this.#folder.open(file, { readOnly: true });
    } catch (error) {
      if (isCowlabError(error, 'ERR_NOT_FOUND')) return emptyDirectory();
      throw error;
    }
    try {
      const length = storage.size();
      if (length > MAX_DIRECTORY_BYTES) {
        throw unsupported(file, 'file size', `${length} bytes are more than ${MAX_DIRECTORY_BYTES}`);
      }
      const bytes = Buffer.alloc(length);
      await storage.read(0, bytes, 'snapshot');
      if (this.#lastRead?.bytes.equals(bytes) !== true) {
        this.#lastRead = { bytes, directory: parseDirectory(file, bytes) };
      }
      return copyDirectory(this.#lastRead.directory);
    } finally {
      await storage.close();
    }
  }

  /** The directory for a change. VMware leaves the disk's first file in its place and lists that: not our arrangement. */
  async #loadOwn(): Promise<SnapshotDirectory> {
    const directory = await this.#load();
    const index = directory.entries.findIndex(
      (entry) => this.#fileOf(entry) === path.normalize(this.#image.file),
    );
    if (index !== -1) {
      throw unsupported(
        this.#directoryFile,
        `snapshot${index}.disk0.fileName`,
        'names the disk itself: open the newest file of the chain instead',
      );
    }
    return directory;
  }

  /** Makes the directory's next content durable beside it. */
  async #prepare(directory: SnapshotDirectory): Promise<Publish> {
    const folder = this.#folder;
    const temporary = `${this.#directoryFile}.new`;
    const bytes = Buffer.from(encodeDirectory(directory));
    const storage = await this.#createAnew(temporary);
    try {
      await storage.write(0, bytes, 'snapshot');
      await storage.flush();
    } catch (error) {
      await this.#quietly(() => folder.remove(temporary));
      throw error;
    } finally {
      await storage.close();
    }
    return async () => {
      await folder.rename(temporary, this.#directoryFile);
      this.#lastRead = { bytes, directory };
      await folder.flush();
    };
  }

  /** An empty file; one that a crash has left is taken away first. */
  async #createAnew(file: string): Promise<Storage> {
    if (await this.#folder.exists(file)) await this.#folder.remove(file);
    return this.#folder.create(file);
  }

  /** The disk's file becomes the snapshot's, and an empty child takes its place; on failure everything is as before. */
  async #freezeFront(
    directory: SnapshotDirectory,
    name: string,
    createdAt: Date,
  ): Promise<{ entry: SnapshotEntry; publish: Publish }> {
    const image = this.#image;
    const front = image.own;
    await image.flush();
    await front.trim();
    const fileName = await this.#linkFront(directory.lastUid + 1);
    const entry = this.#enter(directory, { fileName, displayName: name, createdAt });
    const file = sibling(image.file, fileName);
    const extentName = front.extentName ?? path.basename(image.file);
    let child: ChainFile;
    let publish: Publish;
    try {
      await front.rename(fileName);
      publish = await this.#prepare(directory);
      child = await this.#writeChild(front, fileName);
      await this.#moveIntoPlace(child);
    } catch (error) {
      await this.#quietly(() => front.rename(extentName));
      await this.#quietly(() => this.#folder.remove(file));
      await this.#quietly(() => this.#folder.remove(`${this.#directoryFile}.new`));
      throw error;
    }
    front.freeze(file);
    image.replace(child, linkOf(image.surroundings, front, image.link));
    await front.lock(belowLock(image.surroundings));
    return { entry, publish };
  }

  /** Puts a snapshot of the disk's present state into the directory, in memory. */
  #enter(
    directory: SnapshotDirectory,
    about: Pick<SnapshotEntry, 'fileName' | 'displayName' | 'createdAt'>,
  ): SnapshotEntry {
    const { parentHint } = this.#image.own;
    const uid = directory.lastUid + 1;
    const parent = directory.entries.find(({ fileName }) => fileName === parentHint)?.uid;
    const others = new Map([
      ['filename', `${path.basename(this.#stem)}-Snapshot${uid}.vmsn`],
      ['numDisks', '1'],
    ]);
    const entry = { ...about, uid, parent, others };
    directory.entries.push(entry);
    directory.lastUid = uid;
    directory.current = uid;
    return entry;
  }

  /** Gives the disk's file the next free snapshot name as well. */
  async #linkFront(first: number): Promise<string> {
    for (let number = first; ; number++) {
      const file = `${this.#stem}-${String(number).padStart(6, '0')}.vmdk`;
      try {
        await this.#folder.link(this.#image.file, file);
        return path.basename(file);
      } catch (error) {
        if (!isCowlabError(error, 'ERR_EXISTS')) throw error;
      }
    }
  }

  /** An empty child of `parent`, durable, under a temporary name. */
  async #writeChild(parent: ChainFile, hint: string): Promise<ChainFile> {
    const { file, surroundings } = this.#image;
    const temporary = `${file}.new`;
    const storage = await this.#createAnew(temporary);
    const fields = {
      size: parent.size,
      ...parent.childGrains,
      adapterType: parent.adapterType,
      extentName: path.basename(file),
      parent: { hint, cid: parent.cid },
    };
    try {
      // The disk's lock goes along before the disk's name does.
      await storage.lock(surroundings.context.lock);
      await createMonolithic(temporary, storage, fields);
      return await ChainFile.openNew(temporary, storage, surroundings.cacheBytes);
    } catch (error) {
      await storage.close();
      await this.#quietly(() => this.#folder.remove(temporary));
      throw error;
    }
  }

  async #moveIntoPlace(child: ChainFile): Promise<void> {
    const temporary = child.file;
    try {
      // The old file's second name must not be lost while the first one goes.
      await this.#folder.flush();
      await this.#folder.rename(temporary, this.#image.file);
    } catch (error) {
      await child.close();
      await this.#quietly(() => this.#folder.remove(temporary));
      throw error;
    }
    child.moved(this.#image.file);
  }

  /** Tidies up behind a failure, which is the one to report. */
  async #quietly(run: () => Promise<void>): Promise<void> {
    try {
      await run();
    } catch {
      // What stays behind is a file that nothing refers to; the next create takes it away or passes it by.
    }
  }

  /** Goes on with `own` on `link`; closes what was there before. */
  async #switchTo(own: ChainFile, link: Link | undefined): Promise<void> {
    const before = this.#image.replace(own, link);
    try {
      await before.own.close();
    } finally {
      await before.link?.release();
    }
  }
}
