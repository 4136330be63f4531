import { Bitset, type Storage } from '@cowlab/core';
import type { Journal } from './journal.ts';
import {
  encodeCatalog,
  encodeRoot,
  encodeSuperblock,
  NO_REGION,
  newPointers,
  PAGE_CHUNKS,
  type PagePointers,
  type Region,
  SECTOR_BYTES,
  SLOT_BYTES,
  type Superblock,
} from './layout.ts';
import type { Space } from './space.ts';
import type { Catalog } from './snapshots.ts';
import { pageCount, pageOf, type State } from './tree.ts';

/*
 * The one way in which the durable state changes as a whole: checkpoint, snapshot create, delete, apply, resize.
 *
 *   1  encode the changed pages and a root, set aside log space for them        (memory only)
 *   2  F: the data that they refer to is durable
 *   3  write pages and root to the log, the catalog to free chunks              (nothing refers to them yet)
 *   4  F: they are durable
 *   5  write the superblock, one generation higher, into the other slot
 *   6  F: the change has happened; the journal starts anew; what the old state alone reached is free
 *
 * A crash before 5 is durable leaves the old superblock, and with it the old state and its journal, untouched.
 */

export interface Change {
  /**
   * Directory and refcounts to take the place of the present ones. Called once the new root's
   * place is known, and which chunks still marked as the front's it will not reach.
   */
  readonly catalog?: (root: Region, dead: ReadonlySet<number>) => Promise<Catalog>;
  /** Another state becomes the front's: nothing of the present one is written. */
  readonly state?: State;
  /** A new disk size. */
  readonly size?: number;
}

interface Piece {
  readonly offset: number;
  readonly parts: Uint8Array[];
  end: number;
}

/** Pages and a root that have a place but are not written yet. */
interface Draft {
  readonly pieces: readonly Piece[];
  readonly root: Region;
  readonly pages: PagePointers;
  /** Regions of the old state that the new one does not share. */
  readonly replaced: readonly Region[];
  readonly placed: readonly Region[];
}

export class Publisher {
  readonly journal: Journal;
  readonly #storage: Storage;
  readonly #space: Space;
  #superblock: Superblock;
  #pages: PagePointers;
  #dirty: Bitset;
  #logOffset: number;

  constructor(parts: {
    storage: Storage;
    space: Space;
    superblock: Superblock;
    journal: Journal;
    pages: PagePointers;
  }) {
    this.#storage = parts.storage;
    this.#space = parts.space;
    this.#superblock = parts.superblock;
    this.journal = parts.journal;
    this.#pages = parts.pages;
    this.#dirty = new Bitset(parts.pages.bytes.length);
    this.#logOffset = parts.superblock.logOffset;
    this.#space.logChunk = this.#logChunk();
  }

  get superblock(): Superblock {
    return this.#superblock;
  }

  get pages(): PagePointers {
    return this.#pages;
  }

  get residentBytes(): number {
    return this.#pages.offsets.byteLength + this.#pages.bytes.byteLength + this.#dirty.words.byteLength;
  }

  /** The chunk's entry has changed. */
  touch(chunk: number): void {
    this.#dirty.set(Math.floor(chunk / PAGE_CHUNKS));
  }

  async publish(state: State, change: Change): Promise<void> {
    const dirty = this.#dirty;
    const size = change.size ?? change.state?.size ?? state.size;
    const draft = change.state === undefined ? this.#draft(state, size) : this.#takeOver(change.state);
    for (const region of draft.replaced) this.#releaseRegion(region);
    const givenBack = this.#space.takeGivenBack();
    this.#dirty = new Bitset(draft.pages.bytes.length);
    const old = this.#superblock;
    let catalog = old.catalog;
    try {
      await this.#storage.flush();
      const changed = await change.catalog?.(draft.root, new Set(this.#space.unreached(givenBack)));
      for (const { offset, parts } of draft.pieces) {
        await this.#storage.write(offset, Buffer.concat(parts), 'mapping');
      }
      if (changed !== undefined) catalog = await this.#writeCatalog(changed);
      await this.#storage.flush();
      await this.#switch({
        ...old,
        generation: old.generation + 1,
        size,
        root: draft.root,
        catalog,
        logOffset: this.#logOffset,
        packNext: this.#space.packNext,
        tailFrom: changed?.tailFrom ?? this.#space.tailFrom,
        hostChunks: this.#space.hostChunks,
      });
      this.#space.tailFrom = changed?.tailFrom ?? this.#space.tailFrom;
    } catch (error) {
      this.#withdraw(draft, dirty, givenBack, catalog === old.catalog ? NO_REGION : catalog);
      throw error;
    }
    this.#pages = draft.pages;
    this.#space.logChunk = this.#logChunk();
    if (catalog !== old.catalog) this.#space.unfix(old.catalog);
    await this.settle(givenBack);
  }

  /** Frees host chunks whose release is durable, and gives their space back to the file system. */
  async settle(givenBack: readonly number[]): Promise<void> {
    const { chunkBytes } = this.#superblock;
    for (const chunk of this.#space.settle(givenBack)) {
      await this.#storage.discard(chunk * chunkBytes, chunkBytes);
    }
  }

  /** Encodes what has changed and gives it a place. */
  #draft(state: State, size: number): Draft {
    const { chunkBytes } = this.#superblock;
    const count = pageCount(Math.ceil(size / chunkBytes));
    const sameLength = count === this.#pages.bytes.length;
    const isDirty = this.#dirty.nextSet(0) >= 0;
    const old = this.#superblock;
    if (sameLength && size === old.size && !isDirty) {
      return { pieces: [], root: old.root, pages: this.#pages, replaced: [], placed: [] };
    }
    const pages = newPointers(count);
    pages.offsets.set(this.#pages.offsets.subarray(0, count));
    pages.bytes.set(this.#pages.bytes.subarray(0, count));
    const log = new LogWriter(this.#space, chunkBytes, this.#logOffset);
    const replaced: Region[] = [];
    for (let page = 0; page < this.#pages.bytes.length; page++) {
      if (page < count && !this.#dirty.get(page)) continue;
      const before = { offset: this.#pages.offsets[page]!, bytes: this.#pages.bytes[page]! };
      if (before.bytes > 0) replaced.push(before);
      if (page >= count) continue;
      const bytes = pageOf(state.table, page);
      pages.offsets[page] = bytes === undefined ? 0 : log.place(bytes);
      pages.bytes[page] = bytes?.length ?? 0;
    }
    if (old.root.bytes > 0) replaced.push(old.root);
    const rootBytes = encodeRoot(size, pages);
    const root = { offset: log.place(rootBytes), bytes: rootBytes.length };
    this.#logOffset = log.end;
    return { pieces: log.pieces, root, pages, replaced, placed: log.placed };
  }

  /** Another state's root and pages, which are on disk already. */
  #takeOver(state: State): Draft {
    return { pieces: [], root: state.root, pages: state.pages, replaced: [], placed: [] };
  }

  async #writeCatalog({ directory, counts }: Catalog): Promise<Region> {
    const { chunkBytes } = this.#superblock;
    const bytes = encodeCatalog(directory, counts);
    const first = this.#space.findFree(Math.ceil(bytes.length / chunkBytes));
    const region = { offset: first * chunkBytes, bytes: bytes.length };
    this.#space.fix(region);
    await this.#storage.write(region.offset, bytes, 'refcount');
    return region;
  }

  async #switch(superblock: Superblock): Promise<void> {
    const slot = superblock.generation % 2;
    await this.#storage.write(slot * SLOT_BYTES, encodeSuperblock(superblock), 'header');
    await this.#storage.flush();
    this.#superblock = superblock;
    this.journal.restart(superblock.generation);
  }

  /** The change did not happen: as before, and to be tried again. */
  #withdraw(draft: Draft, dirty: Bitset, givenBack: readonly number[], catalog: Region): void {
    for (const region of draft.placed) this.#releaseRegion(region);
    for (const region of draft.replaced) this.#space.addRegion(region);
    this.#space.unfix(catalog);
    this.#space.putBack(givenBack);
    for (let page = dirty.nextSet(0); page >= 0; page = dirty.nextSet(page + 1)) {
      if (page < this.#dirty.length) this.#dirty.set(page);
    }
    if (this.#dirty.length !== this.#pages.bytes.length) this.#dirty = dirty;
  }

  /** `logOffset` may stand at the very end of its chunk. */
  #logChunk(): number {
    return Math.floor((this.#logOffset - 1) / this.#superblock.chunkBytes);
  }

  #releaseRegion(region: Region): void {
    for (const chunk of this.#space.chunksOf(region)) this.#space.release(chunk, 1);
  }
}

/** Gives pages and roots their places in the log, one after the other, and joins neighbours into one write. */
class LogWriter {
  readonly pieces: Piece[] = [];
  readonly placed: Region[] = [];
  readonly #space: Space;
  readonly #chunkBytes: number;
  end: number;

  constructor(space: Space, chunkBytes: number, logOffset: number) {
    this.#space = space;
    this.#chunkBytes = chunkBytes;
    // A batch starts a sector of its own: a torn write cannot touch what an earlier one made durable.
    this.end = Math.ceil(logOffset / SECTOR_BYTES) * SECTOR_BYTES;
  }

  place(bytes: Uint8Array): number {
    const chunkBytes = this.#chunkBytes;
    const room = Math.ceil(this.end / chunkBytes) * chunkBytes - this.end;
    if (room < bytes.length) {
      this.end = this.#space.findFree(Math.ceil(bytes.length / chunkBytes)) * chunkBytes;
    }
    const region = { offset: this.end, bytes: bytes.length };
    this.#space.addRegion(region);
    const last = this.pieces.at(-1);
    this.end += bytes.length;
    if (last?.end === region.offset) {
      last.parts.push(bytes);
      last.end = this.end;
    } else {
      this.pieces.push({ offset: region.offset, parts: [bytes], end: this.end });
    }
    this.placed.push(region);
    return region.offset;
  }
}
