import { Bitset, type Storage } from '@cowlab/core';
import type { Journal } from './journal.ts';
import {
  encodeCatalog,
  encodeRoot,
  encodeSuperblock,
  geometryOf,
  logChunkOf,
  NO_REGION,
  newPointers,
  pageCount,
  type PagePointers,
  type Region,
  SECTOR_BYTES,
  SLOT_BYTES,
  type Superblock,
} from './layout.ts';
import type { Catalog } from './catalog.ts';
import type { Space } from './space.ts';
import type { ChunkTable } from './table.ts';
import { pageOf, type State } from './tree.ts';

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
 * When 5 or 6 fails instead, nobody knows which of the two states a crash would leave: the publication is in doubt.
 * Both must stay whole until the old superblock has been written over the new one and is durable there: nothing the
 * new state reaches is used again, and nothing is journaled, because the new superblock would make it void.
 */

export interface Change {
  /**
   * Directory and refcounts to take the place of the present ones. Called once the new root's
   * place is known, and which chunks still marked as the front's it will not reach.
   */
  readonly catalog?: (root: Region, dead: readonly number[]) => Catalog;
  /** Where the front's part of a static chunk begins with this change; asked when the superblock is made. */
  readonly tailFrom?: () => number;
  /** Another state becomes the front's: nothing of the present one is written. */
  readonly state?: State;
  /** A new disk size, and the table that goes with it. */
  readonly size?: number;
  readonly table?: ChunkTable;
  /** What answers for absent blocks from now on. */
  readonly base?: Pick<Superblock, 'base' | 'baseFormat' | 'baseSnapshot'>;
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

/** What there was before a publication, to go back to. */
interface Undo {
  readonly draft: Draft;
  readonly dirty: Bitset;
  readonly givenBack: readonly number[];
  /** Where the new catalog was to be. */
  catalog: Region;
}

export class Publisher {
  readonly journal: Journal;
  readonly #storage: Storage;
  readonly #space: Space;
  readonly #pageChunks: number;
  #superblock: Superblock;
  #pages: PagePointers;
  #dirty: Bitset;
  #logOffset: number;
  /** What the failed publication in doubt has set aside; undefined when there is none. */
  #doubt: Undo | undefined;

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
    this.#pageChunks = geometryOf(parts.superblock.chunkBytes, parts.superblock.blockBytes).pageChunks;
    this.#dirty = new Bitset(parts.pages.bytes.length);
    this.#logOffset = parts.superblock.logOffset;
    this.#space.logChunk = logChunkOf(this.#superblock);
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
    this.#dirty.set(Math.floor(chunk / this.#pageChunks));
  }

  /** Whether entries of the page have changed since it was written. */
  isTouched(page: number): boolean {
    return this.#dirty.get(page);
  }

  get isInDoubt(): boolean {
    return this.#doubt !== undefined;
  }

  /** Ends a doubt: the old superblock takes the place of the one that may or may not have arrived. */
  async settleDoubt(): Promise<void> {
    const doubt = this.#doubt;
    if (doubt === undefined) return;
    const slot = (this.#superblock.generation + 1) % 2;
    await this.#storage.write(slot * SLOT_BYTES, encodeSuperblock(this.#superblock), 'header');
    await this.#storage.flush();
    this.#doubt = undefined;
    this.#releasePlaced(doubt);
  }

  /** Call `settleDoubt` first. */
  async publish(state: State, change: Change): Promise<void> {
    const dirty = this.#dirty;
    const size = change.size ?? change.state?.size ?? state.size;
    const draft = change.state === undefined ? this.#draft(state, size) : takeOver(change.state);
    for (const region of draft.replaced) this.#releaseRegion(region);
    const givenBack = this.#space.takeGivenBack();
    this.#dirty = new Bitset(draft.pages.bytes.length);
    const old = this.#superblock;
    const undo: Undo = { draft, dirty, givenBack, catalog: NO_REGION };
    try {
      await this.#storage.flush();
      const catalog = change.catalog?.(draft.root, this.#space.unreached(givenBack));
      for (const { offset, parts } of draft.pieces) {
        await this.#storage.write(offset, Buffer.concat(parts), 'mapping');
      }
      if (catalog !== undefined) await this.#writeCatalog(catalog, undo);
      await this.#cover();
      await this.#storage.flush();
      const next = this.#next(size, draft.root, undo.catalog, change.tailFrom?.());
      await this.#switch({ ...next, ...change.base }, undo);
    } catch (error) {
      this.#withdraw(undo);
      throw error;
    }
    this.#pages = draft.pages;
    this.#space.logChunk = logChunkOf(this.#superblock);
    if (undo.catalog.bytes > 0) this.#space.unfix(old.catalog);
    this.#space.searchFromStart();
    await this.settle(givenBack);
  }

  /** Frees host chunks whose release is durable, and gives their space back to the file system. */
  async settle(givenBack: readonly number[]): Promise<void> {
    const { chunkBytes } = this.#superblock;
    const chunks = this.#space.reclaim(givenBack).toSorted((a, b) => a - b);
    for (let at = 0; at < chunks.length; ) {
      const first = chunks[at]!;
      let count = 1;
      while (chunks[at + count] === first + count) count++;
      try {
        await this.#storage.discard(first * chunkBytes, count * chunkBytes);
      } catch {
        // Only space on the host is at stake: no chunk is ever taken to read as zeros.
      }
      this.#space.free(first, count);
      at += count;
    }
  }

  #next(size: number, root: Region, catalog: Region, tailFrom = this.#space.tailFrom): Superblock {
    const old = this.#superblock;
    return {
      ...old,
      generation: old.generation + 1,
      size,
      root,
      catalog: catalog.bytes > 0 ? catalog : old.catalog,
      logOffset: this.#logOffset,
      packNext: this.#space.packNext,
      tailFrom,
      hostChunks: this.#space.hostChunks,
    };
  }

  /** The file is as long as the superblock will say, so that a shorter one is known to be damaged. */
  async #cover(): Promise<void> {
    const bytes = this.#space.hostChunks * this.#superblock.chunkBytes;
    if (this.#storage.size() < bytes) await this.#storage.truncate(bytes);
  }

  /** Encodes what has changed and gives it a place. */
  #draft(state: State, size: number): Draft {
    const { chunkBytes } = this.#superblock;
    const count = pageCount(state.table.geometry, size);
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
    replaced.push(old.root);
    const rootBytes = encodeRoot(size, pages);
    const root = { offset: log.place(rootBytes), bytes: rootBytes.length };
    this.#logOffset = log.end;
    return { pieces: log.pieces, root, pages, replaced, placed: log.placed };
  }

  async #writeCatalog({ directory, counts }: Catalog, undo: Undo): Promise<void> {
    const { chunkBytes } = this.#superblock;
    const bytes = encodeCatalog(directory, counts);
    const first = this.#space.findFree(Math.ceil(bytes.length / chunkBytes));
    undo.catalog = { offset: first * chunkBytes, bytes: bytes.length };
    this.#space.fix(undo.catalog);
    await this.#storage.write(undo.catalog.offset, bytes, 'refcount');
  }

  async #switch(superblock: Superblock, undo: Undo): Promise<void> {
    const slot = superblock.generation % 2;
    const bytes = encodeSuperblock(superblock);
    try {
      await this.#storage.write(slot * SLOT_BYTES, bytes, 'header');
      await this.#storage.flush();
    } catch (error) {
      this.#doubt = undo;
      throw error;
    }
    this.#superblock = superblock;
    this.#space.tailFrom = superblock.tailFrom;
    this.journal.restart(superblock.generation);
  }

  /** The change did not happen, or is in doubt: as before, and to be tried again. */
  #withdraw(undo: Undo): void {
    const { draft, dirty, givenBack } = undo;
    for (const region of draft.replaced) this.#space.addRegion(region);
    this.#space.putBack(givenBack);
    for (let page = this.#dirty.nextSet(0); page >= 0; page = this.#dirty.nextSet(page + 1)) {
      if (page < dirty.length) dirty.set(page);
    }
    this.#dirty = dirty;
    if (this.#doubt === undefined) this.#releasePlaced(undo);
  }

  #releasePlaced({ draft, catalog }: Undo): void {
    for (const region of draft.placed) this.#releaseRegion(region);
    this.#space.unfix(catalog);
    // The log goes on where the superblock says: that chunk, and no later one, has been kept for it.
    this.#logOffset = this.#superblock.logOffset;
  }

  #releaseRegion(region: Region): void {
    for (const chunk of this.#space.chunksOf(region)) this.#space.release(chunk, 1);
  }
}

/** Another state's root and pages, which are on disk already. */
function takeOver({ root, pages }: State): Draft {
  return { pieces: [], root, pages, replaced: [], placed: [] };
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
