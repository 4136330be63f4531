import {
  allocatedBytes,
  type Awaitable,
  type Backing,
  type BackingReference,
  type BlockDriver,
  type CheckOptions,
  type CheckReport,
  corrupt,
  type DriverImage,
  type DriverSnapshots,
  type Extent,
  type GuestRange,
  type ImageInfo,
  type ImageStats,
  type OpenContext,
  type Placement,
  type ReadSource,
  type Storage,
  type StorageFolder,
  unsupported,
} from '@cowlab/core';
import type { ChainFile } from './chain-file.ts';
import { checkChain } from './check.ts';
import { NO_PARENT } from './descriptor.ts';
import { MergedChain } from './merged-chain.ts';
import type { PartPlacement } from './part.ts';
import type { PooledFolder } from './pooled-folder.ts';

/*
 * One image of a chain: a file (with its extents), and what is below it. What the file says of its bytes is asked there
 * (chain-file.ts, extent.ts); where it says nothing, the image below answers.
 */

/** The image below another one, shared by all that stand on it (a disk and its opened snapshots). */
export class Link {
  readonly backing: Backing;
  #users = 1;

  constructor(backing: Backing) {
    this.backing = backing;
  }

  share(): Link {
    this.#users++;
    return this;
  }

  /** Closes the image below with its last user. */
  async release(): Promise<void> {
    this.#users--;
    if (this.#users === 0) await this.backing.close();
  }
}

export interface VmdkSnapshotOperations extends DriverSnapshots {
  /** Files of the snapshots and their extents, and of their directory when there are any. */
  files(): Promise<string[]>;
  /** Which file has which snapshot, in the order of creation. */
  places(): Promise<{ readonly id: string; readonly file: string }[]>;
  /** Removes those of the files that no snapshot lists; whatever keeps them there is passed over. */
  removeUnlisted(files: readonly string[]): Promise<void>;
  /** Every snapshot has all of its bytes, and stands alone from now on. */
  releaseParents(): Promise<void>;
  /** What the snapshots and the disk stand on has another name. */
  moveParent(reference: BackingReference | undefined, backing: Backing | undefined): Promise<void>;
}

/** What an image needs of its surroundings, beside its own file. */
export interface Surroundings {
  readonly driver: BlockDriver;
  readonly folder: StorageFolder;
  readonly context: OpenContext;
  /** Bytes of grain tables to keep in memory for each image. */
  readonly cacheBytes: number;
  readonly snapshotsOf: (image: VmdkImage) => VmdkSnapshotOperations;
  /** Present where the chain is to be read as one: then it is the folder, too. */
  readonly pool?: PooledFolder;
}

export class VmdkImage implements DriverImage {
  readonly surroundings: Surroundings;
  readonly snapshots: VmdkSnapshotOperations;
  readonly size: number;
  /** Both only for a file that is written as a stream. */
  readonly writeCompressed?: (offset: number, source: Uint8Array) => Awaitable<readonly GuestRange[]>;
  readonly compressedOnly?: boolean;
  #own: ChainFile;
  #link: Link | undefined;
  readonly #onClose: (() => void) | undefined;
  /** Made with the first question for what is below: of a chain of thousands, one is asked. */
  #merged: MergedChain | undefined;
  /** Files that should have been removed, and could not. */
  readonly leftovers: Set<string> = new Set();

  constructor(surroundings: Surroundings, own: ChainFile, link: Link | undefined, onClose?: () => void) {
    this.surroundings = surroundings;
    this.#own = own;
    this.#link = link;
    this.size = own.size;
    this.#onClose = onClose;
    this.snapshots = surroundings.snapshotsOf(this);
    const { streamWriter } = own;
    if (streamWriter === undefined) return;
    this.compressedOnly = true;
    this.writeCompressed = (offset, source) => streamWriter.write(offset, source);
  }

  get file(): string {
    return this.#own.file;
  }

  /** The disk's own file, without what is below it. */
  get own(): ChainFile {
    return this.#own;
  }

  get unitBytes(): number {
    return this.#own.unitBytes;
  }

  get link(): Link | undefined {
    return this.#link;
  }

  /** The image below when it is of this format. */
  get parent(): VmdkImage | undefined {
    const image = this.#link?.backing.image;
    return image instanceof VmdkImage ? image : undefined;
  }

  /** Goes on with another file and another parent; returns what was there before. */
  replace(own: ChainFile, link: Link | undefined): { own: ChainFile; link: Link | undefined } {
    this.#chainChanges();
    const before = { own: this.#own, link: this.#link };
    this.#own = own;
    this.#link = link;
    return before;
  }

  map(offset: number, length: number): Awaitable<Extent> {
    return this.#own.map(offset, length, this.#below);
  }

  reserve(offset: number, length: number): Awaitable<Placement> {
    return this.#own.reserve(offset, length);
  }

  commit(placement: Placement): Awaitable<void> {
    const placed = placement as PartPlacement;
    return placed.part.commit(placed);
  }

  abort(placement: Placement): void {
    const placed = placement as PartPlacement;
    placed.part.abort(placed);
  }

  unmap(offset: number, length: number): Promise<void> {
    return this.#own.unmap(offset, length, this.#link !== undefined);
  }

  flush(): Awaitable<void> {
    return this.#own.flush();
  }

  /**
   * Data and tables are durable before the descriptor names another parent. One that is of another format has no
   * content id; whoever names such a parent, or one that is not there, is refused.
   */
  async changeBacking(reference: BackingReference | undefined, backing: Backing | undefined): Promise<void> {
    if ((await this.snapshots.places()).length > 0) return this.snapshots.moveParent(reference, backing);
    const parent = backing?.image;
    if (backing !== undefined && !(parent instanceof VmdkImage)) {
      const problem = 'must be a VMDK image that is there: its content id is recorded';
      throw unsupported(this.file, 'backing file', problem);
    }
    if (backing !== undefined && this.#own.grainBytes === undefined) {
      throw unsupported(this.file, 'backing file', 'a flat disk has no grains that could be missing');
    }
    await this.#own.flush();
    const cid = parent instanceof VmdkImage ? parent.own.cid : NO_PARENT;
    await this.#own.relink(cid, reference?.file);
    const before = this.replace(this.#own, backing && new Link(backing)).link;
    await before?.release();
  }

  empty(): Promise<void> {
    this.#chainChanges();
    return this.#own.clear();
  }

  /**
   * The parent gets this file's CID, for it is about to get its content; then this file records that. In between it takes
   * a parent of its own CID for its parent (descriptor-room.ts).
   */
  async followBacking(parent: DriverImage): Promise<void> {
    if (!(parent instanceof VmdkImage) || !this.#own.acceptsParent(parent.own.cid)) {
      const problem = 'the parent was changed after this child was made';
      throw corrupt(this.file, 'descriptor.parentCID', problem, { value: this.#own.parentCid });
    }
    this.#chainChanges();
    await this.#own.lendCid(parent.own);
  }

  async releaseBacking(): Promise<void> {
    await this.snapshots.releaseParents();
    if (this.#link === undefined) return;
    await this.#own.flush();
    await this.#own.relink(NO_PARENT, undefined);
    const { link } = this.replace(this.#own, undefined);
    await link?.release();
  }

  check(options: CheckOptions): Promise<CheckReport> {
    return checkChain(this, options);
  }

  async info(): Promise<ImageInfo> {
    const own = this.#own;
    const hint = own.parentHint;
    const snapshots = await this.snapshots.files();
    const [extent] = own.sparseExtents;
    return {
      format: 'vmdk',
      size: this.size,
      unitBytes: this.unitBytes,
      ...(hint !== undefined && { backing: { file: hint, format: 'vmdk' } }),
      files: [...own.files, ...snapshots],
      storageBytes: await this.#bytesOf(snapshots),
      details: {
        'create type': own.createType,
        extents: own.parts.length,
        ...(extent && {
          version: extent.header.version,
          'grain size': extent.header.grainBytes,
          'zeroed grains': extent.header.zeroedGrains,
        }),
        CID: own.cid.toString(16).padStart(8, '0'),
        'parent CID': own.parentCid.toString(16).padStart(8, '0'),
        'chain length': this.chain().length,
      },
    };
  }

  stats(): ImageStats {
    const chain = this.chain();
    let residentMetadataBytes = 0;
    for (const image of chain) residentMetadataBytes += image.#own.residentBytes;
    residentMetadataBytes += this.#merged?.residentBytes ?? 0;
    const foreign = chain.at(-1)?.link?.backing;
    if (foreign !== undefined) residentMetadataBytes += foreign.stats().residentMetadataBytes;
    const links = chain.length - 1 + (foreign === undefined ? 0 : 1);
    const { pool } = this.surroundings;
    return { residentMetadataBytes, links, ...(pool && { openFiles: pool.openCount }) };
  }

  /** What answers where the disk's own file says nothing. */
  get #below(): ReadSource | undefined {
    const { pool, cacheBytes } = this.surroundings;
    if (pool === undefined || this.#link === undefined) return this.#link?.backing;
    this.#merged ??= new MergedChain(this, pool, cacheBytes);
    return this.#merged.isUsable ? this.#merged : this.#link.backing;
  }

  /** Whoever has merged what links say must look again. */
  #chainChanges(): void {
    const { pool } = this.surroundings;
    if (pool !== undefined) pool.epoch++;
  }

  async close(): Promise<void> {
    const own = this.#own;
    this.#onClose?.();
    try {
      if (!own.readOnly) {
        await own.flush();
        await own.trim();
      }
    } finally {
      await own.close();
      await this.#link?.release();
      if (this.leftovers.size > 0) await this.snapshots.removeUnlisted([...this.leftovers]);
    }
  }

  /** What the disk's files and the given ones take on their medium; a file that is gone takes nothing. */
  async #bytesOf(files: readonly string[]): Promise<number> {
    const open = new Map<string, Storage>();
    for (const { own } of this.chain()) {
      for (const [index, name] of own.files.entries()) open.set(name, own.storages[index]!);
    }
    const { folder } = this.surroundings;
    let bytes = 0;
    for (const file of [...this.#own.files, ...files]) {
      const storage = open.get(file);
      if (storage !== undefined) bytes += await allocatedBytes(storage);
      else if (await folder.exists(file)) {
        const opened = await folder.open(file, { readOnly: true });
        bytes += await allocatedBytes(opened);
        await opened.close();
      }
    }
    return bytes;
  }

  /** The images of this format from this one down. */
  chain(): VmdkImage[] {
    const chain: VmdkImage[] = [this];
    for (let below = this.parent; below !== undefined; below = below.parent) chain.push(below);
    return chain;
  }
}
