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
  type ImageInfo,
  type ImageStats,
  type OpenContext,
  type Placement,
  type StorageFolder,
  unsupported,
} from '@cowlab/core';
import { checkChain } from './check.ts';
import { NO_PARENT } from './descriptor.ts';
import type { SparseExtent } from './extent.ts';
import { GRAIN_TABLE_ENTRIES, SECTOR, ZEROED_GRAIN } from './layout.ts';
import type { GrainTable } from './tables.ts';

/*
 * One image of a chain. What a grain table entry says of a grain:
 *
 *   entry     reads as                              a write
 *   0         the parent, or zeros without one      takes a new grain, filled from the old state
 *   1         zeros (only with the header's flag)   takes a new grain, filled with zeros
 *   sector    the grain there                       goes in place
 *
 * The first write after an open takes the way over `reserve` even when it goes in place, so that the CID can
 * change before it (extent.ts). `commit` changes tables in memory; what `flush` orders stands in tables.ts.
 *
 * There is no free map, so a mapped grain is never unmapped: making it zeros punches a hole into its place. A
 * grain without a place gets entry 1, or nothing at all where nothing is under it.
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

interface GrainPlacement extends Placement {
  readonly firstGrain: number;
  readonly grainCount: number;
  /** First sector of the new grains; undefined for a write in place. */
  readonly sector: number | undefined;
}

export interface VmdkSnapshotOperations extends DriverSnapshots {
  /** Files of the snapshots, and of their directory when there are any. */
  files(): Promise<string[]>;
  /** Which file has which snapshot, in the order of creation. */
  places(): Promise<{ readonly id: string; readonly file: string }[]>;
}

/** What an image needs of its surroundings, beside its own file. */
export interface Surroundings {
  readonly driver: BlockDriver;
  readonly folder: StorageFolder;
  readonly context: OpenContext;
  /** Bytes of grain tables to keep in memory for each image. */
  readonly cacheBytes: number;
  readonly snapshotsOf: (image: VmdkImage) => VmdkSnapshotOperations;
}

export class VmdkImage implements DriverImage {
  readonly surroundings: Surroundings;
  readonly snapshots: VmdkSnapshotOperations;
  readonly size: number;
  readonly unitBytes: number;
  #extent: SparseExtent;
  #link: Link | undefined;
  readonly #onClose: (() => void) | undefined;

  constructor(
    surroundings: Surroundings,
    extent: SparseExtent,
    link: Link | undefined,
    onClose?: () => void,
  ) {
    this.surroundings = surroundings;
    this.#extent = extent;
    this.#link = link;
    this.size = extent.header.size;
    this.unitBytes = extent.header.grainBytes;
    this.#onClose = onClose;
    this.snapshots = surroundings.snapshotsOf(this);
  }

  get file(): string {
    return this.#extent.file;
  }

  get extent(): SparseExtent {
    return this.#extent;
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
  replace(extent: SparseExtent, link: Link | undefined): { extent: SparseExtent; link: Link | undefined } {
    const before = { extent: this.#extent, link: this.#link };
    this.#extent = extent;
    this.#link = link;
    return before;
  }

  map(offset: number, length: number): Awaitable<Extent> {
    const grain = Math.floor(offset / this.unitBytes);
    const table = this.#extent.tables.load(Math.floor(grain / GRAIN_TABLE_ENTRIES));
    if (table instanceof Promise)
      return table.then((loaded) => this.#extentAt(loaded, offset, length, grain));
    return this.#extentAt(table, offset, length, grain);
  }

  reserve(offset: number, length: number): Awaitable<Placement> {
    const extent = this.#extent;
    if (extent.cidIsNew && !extent.tables.crowded) return this.#reserve(offset, length);
    return this.#prepare().then(() => this.#reserve(offset, length));
  }

  commit(placement: Placement): Awaitable<void> {
    const { sector, firstGrain, grainCount } = placement as GrainPlacement;
    if (sector === undefined) return;
    return this.#extent.setGrains(firstGrain, sector, grainCount);
  }

  abort(placement: Placement): void {
    const { sector, grainCount } = placement as GrainPlacement;
    if (sector !== undefined) this.#extent.grains.giveBack(sector, grainCount);
  }

  async unmap(offset: number, length: number): Promise<void> {
    const end = Math.ceil((offset + length) / this.unitBytes);
    for (let grain = Math.floor(offset / this.unitBytes); grain < end; ) {
      await this.#prepare();
      grain += await this.#unmapRun(grain, end);
    }
  }

  flush(): Awaitable<void> {
    return this.#extent.tables.flush();
  }

  /**
   * Data and tables are durable before the descriptor names another parent. One that is of another format has no
   * content id; whoever names such a parent, or one that is not there, is refused.
   */
  async changeBacking(reference: BackingReference | undefined, backing: Backing | undefined): Promise<void> {
    const parent = backing?.image;
    if (backing !== undefined && !(parent instanceof VmdkImage)) {
      const problem = 'must be a VMDK image that is there: its content id is recorded';
      throw unsupported(this.file, 'backing file', problem);
    }
    await this.#extent.tables.flush();
    const cid = parent instanceof VmdkImage ? parent.extent.cid : NO_PARENT;
    await this.#extent.relink(cid, reference?.file);
    const before = this.replace(this.#extent, backing && new Link(backing)).link;
    await before?.release();
  }

  empty(): Promise<void> {
    return this.#extent.clear();
  }

  /**
   * The parent gets this file's CID, for it is about to get its content; then this file records that. In between it takes
   * a parent of its own CID for its parent (extent.ts).
   */
  async followBacking(parent: DriverImage): Promise<void> {
    if (!(parent instanceof VmdkImage) || !this.#extent.acceptsParent(parent.extent.cid)) {
      const problem = 'the parent was changed after this child was made';
      throw corrupt(this.file, 'descriptor.parentCID', problem, { value: this.#extent.parentCid });
    }
    await this.#extent.lendCid(parent.extent);
  }

  check(options: CheckOptions): Promise<CheckReport> {
    return checkChain(this, options);
  }

  async info(): Promise<ImageInfo> {
    const extent = this.#extent;
    const hint = extent.parentHint;
    const snapshots = await this.snapshots.files();
    const { version, grainBytes, zeroedGrains } = extent.header;
    return {
      format: 'vmdk',
      size: this.size,
      unitBytes: this.unitBytes,
      ...(hint !== undefined && { backing: { file: hint, format: 'vmdk' } }),
      files: [extent.file, ...snapshots],
      storageBytes: await this.#bytesOf(snapshots),
      details: {
        'create type': 'monolithicSparse',
        version,
        'grain size': grainBytes,
        'zeroed grains': zeroedGrains,
        CID: extent.cid.toString(16).padStart(8, '0'),
        'parent CID': extent.parentCid.toString(16).padStart(8, '0'),
        'chain length': this.chain().length,
      },
    };
  }

  stats(): ImageStats {
    const chain = this.chain();
    let residentMetadataBytes = 0;
    for (const image of chain) residentMetadataBytes += image.#extent.tables.residentBytes;
    const foreign = chain.at(-1)?.link?.backing;
    if (foreign !== undefined) residentMetadataBytes += foreign.stats().residentMetadataBytes;
    return { residentMetadataBytes, links: chain.length - 1 + (foreign === undefined ? 0 : 1) };
  }

  async close(): Promise<void> {
    const extent = this.#extent;
    this.#onClose?.();
    try {
      if (!extent.readOnly) {
        await extent.tables.flush();
        await extent.grains.trim();
      }
    } finally {
      await extent.storage.close();
      await this.#link?.release();
    }
  }

  /** The content's id is its own, and there is room for more dirty tables. */
  async #prepare(): Promise<void> {
    await this.#extent.changeCid();
    if (this.#extent.tables.crowded) await this.#extent.tables.flush();
  }

  #extentAt(table: GrainTable, offset: number, length: number, grain: number): Extent {
    const grainBytes = this.unitBytes;
    const { entries } = table;
    const at = grain % GRAIN_TABLE_ENTRIES;
    const sector = entries[at]!;
    const inside = offset - grain * grainBytes;
    const covered =
      inside + length <= grainBytes
        ? length
        : Math.min(length, this.#runLength(entries, at, inside + length) * grainBytes - inside);
    if (sector > ZEROED_GRAIN) {
      const extent = this.#extent;
      const hostOffset = sector * SECTOR + inside;
      return { kind: 'data', length: covered, storage: extent.storage, hostOffset, owned: extent.cidIsNew };
    }
    if (sector === 0 && this.#link !== undefined) {
      return { kind: 'backing', length: covered, source: this.#link.backing, offset };
    }
    return { kind: 'zero', length: covered, allocated: sector === ZEROED_GRAIN };
  }

  /** Entries from `at` on that lie together or say the same, at most for so many bytes of the disk. */
  #runLength(entries: Uint32Array, at: number, bytes: number): number {
    const sector = entries[at]!;
    const wanted = Math.min(GRAIN_TABLE_ENTRIES - at, Math.ceil(bytes / this.unitBytes));
    const step = sector > ZEROED_GRAIN ? this.unitBytes / SECTOR : 0;
    let count = 1;
    while (count < wanted && entries[at + count] === sector + count * step) count++;
    return count;
  }

  #reserve(offset: number, length: number): Awaitable<GrainPlacement> {
    const grain = Math.floor(offset / this.unitBytes);
    const index = Math.floor(grain / GRAIN_TABLE_ENTRIES);
    const { tables } = this.#extent;
    return tables.use(index, (table) => {
      const sector = table.entries[grain % GRAIN_TABLE_ENTRIES]!;
      if (sector > ZEROED_GRAIN) return this.#inPlace(table, offset, length);
      tables.assertWritable(index);
      return this.#placeNew(table, grain, offset, length);
    });
  }

  /** A write to a grain that is there already. */
  #inPlace(table: GrainTable, offset: number, length: number): GrainPlacement {
    const grain = Math.floor(offset / this.unitBytes);
    const extent = this.#extentAt(table, offset, length, grain);
    if (extent.kind !== 'data') throw new TypeError('a mapped grain is data');
    return {
      storage: extent.storage,
      guestOffset: offset,
      length: extent.length,
      hostOffset: extent.hostOffset,
      head: 0,
      tail: 0,
      fresh: false,
      firstGrain: grain,
      grainCount: 0,
      sector: undefined,
    };
  }

  #placeNew(table: GrainTable, grain: number, offset: number, length: number): GrainPlacement {
    const grainBytes = this.unitBytes;
    const start = grain * grainBytes;
    const at = grain % GRAIN_TABLE_ENTRIES;
    const wanted = Math.min(GRAIN_TABLE_ENTRIES - at, Math.ceil((offset + length - start) / grainBytes));
    let free = 1;
    while (free < wanted && table.entries[at + free]! <= ZEROED_GRAIN) free++;
    const { sector, count, fresh } = this.#extent.grains.take(free);
    const end = Math.min(this.size, start + count * grainBytes);
    const covered = Math.min(length, end - offset);
    return {
      storage: this.#extent.storage,
      guestOffset: offset,
      length: covered,
      hostOffset: sector * SECTOR + offset - start,
      head: offset - start,
      tail: end - offset - covered,
      fresh,
      firstGrain: grain,
      grainCount: count,
      sector,
    };
  }

  /** Zeros for grains of one kind from `grain` on, at most up to `end`; returns how many. */
  async #unmapRun(grain: number, end: number): Promise<number> {
    const start = grain * this.unitBytes;
    const extent = await this.map(start, Math.min(end * this.unitBytes, this.size) - start);
    const count = Math.ceil(extent.length / this.unitBytes);
    if (extent.kind === 'data') await extent.storage.zero(extent.hostOffset, extent.length);
    else if (extent.kind === 'backing') await this.#extent.zeroGrains(grain, count);
    return count;
  }

  /** What the disk's file and the given ones take on their medium; a file that is gone takes nothing. */
  async #bytesOf(files: readonly string[]): Promise<number> {
    const open = new Map(this.chain().map((image) => [image.file, image.#extent.storage]));
    const { folder } = this.surroundings;
    let bytes = await allocatedBytes(this.#extent.storage);
    for (const file of files) {
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
