import type { Storage } from '@cowlab/core';
import { PageChanges } from './changes.ts';
import { deltaOf, rangesWorth, recallDeltas } from './deltas.ts';
import type { Journal } from './journal.ts';
import type { LiveCounts } from './live-counts.ts';
import {
  type Delta,
  encodeCatalog,
  encodeRoot,
  encodeSuperblock,
  type Geometry,
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
import { pageOf, presentPages, type State } from './tree.ts';

/*
 * The one way in which the durable state changes as a whole: checkpoint, snapshot create, delete, apply, resize.
 *
 *   0  read the present deltas of the changed pages                             (`recall`; deltas.ts)
 *   1  encode the changed pages, whole or as deltas, and a root; set aside log space for them   (memory only)
 *   2  write them to the log, the catalog to free chunks                         (nothing refers to them yet)
 *   3  F: they are durable, and so are the data that they refer to
 *   4  write the superblock, one generation higher, into the other slot
 *   5  F: the change has happened; the journal starts anew; what the old state alone reached is free
 *
 * A crash before 4 is durable leaves the old superblock, and with it the old state and its journal, untouched.
 * When 4 or 5 fails instead, nobody knows which of the two states a crash would leave: the publication is in doubt.
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
  /** The file has so many host chunks from now on; none behind them is in use. */
  readonly hostChunks?: number;
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
  readonly fulls: PagePointers;
  /** Regions of the old state that the new one does not share. */
  readonly replaced: readonly Region[];
  readonly placed: readonly Region[];
}

/** What there was before a publication, to go back to. */
interface Undo {
  readonly draft: Draft;
  readonly changes: PageChanges;
  readonly givenBack: readonly number[];
  /** Where the new catalog was to be. */
  catalog: Region;
}

export interface PublisherParts {
  readonly storage: Storage;
  readonly space: Space;
  readonly superblock: Superblock;
  readonly journal: Journal;
  readonly state: State;
  /** Least bytes of a page of the table that deltas are written over (deltas.ts). */
  readonly minDeltaPage: number;
  /** To measure what static refcounts are worth (live-counts.ts). */
  readonly liveCounts?: LiveCounts | undefined;
}

export class Publisher {
  readonly journal: Journal;
  readonly liveCounts: LiveCounts | undefined;
  readonly #storage: Storage;
  readonly #space: Space;
  readonly #geometry: Geometry;
  readonly #minDeltaPage: number;
  #superblock: Superblock;
  #pages: PagePointers;
  #fulls: PagePointers;
  #changes: PageChanges;
  #recalled: ReadonlyMap<number, Delta> = new Map();
  #logOffset: number;
  /** What the failed publication in doubt has set aside; undefined when there is none. */
  #doubt: Undo | undefined;

  constructor(parts: PublisherParts) {
    this.#storage = parts.storage;
    this.#space = parts.space;
    this.#superblock = parts.superblock;
    this.journal = parts.journal;
    this.liveCounts = parts.liveCounts;
    this.#pages = parts.state.pages;
    this.#fulls = parts.state.fulls;
    this.#geometry = parts.state.table.geometry;
    this.#minDeltaPage = parts.minDeltaPage;
    this.#changes = new PageChanges(this.#pages.bytes.length);
    this.#logOffset = parts.superblock.logOffset;
    this.#space.logChunk = logChunkOf(this.#superblock);
  }

  get superblock(): Superblock {
    return this.#superblock;
  }

  get pages(): PagePointers {
    return this.#pages;
  }

  /** Of the pages that are deltas, the pages under them. */
  get fulls(): PagePointers {
    return this.#fulls;
  }

  get residentBytes(): number {
    const places = [this.#pages, this.#fulls];
    return places.reduce(
      (sum, { offsets, bytes }) => sum + offsets.byteLength + bytes.byteLength,
      this.#changes.residentBytes,
    );
  }

  /** Anything in the chunk's entry may have changed. */
  touch(chunk: number): void {
    this.#changes.addPage(Math.floor(chunk / this.#geometry.pageChunks));
  }

  /** These blocks of a chunk have changed. */
  touchBlocks(chunk: number, block: number, count: number): void {
    const { pageChunks, blocksPerChunk } = this.#geometry;
    const page = Math.floor(chunk / pageChunks);
    const start = (chunk - page * pageChunks) * blocksPerChunk + block;
    const full = this.#fullOf(page);
    const most = full.bytes < this.#minDeltaPage ? 0 : rangesWorth(full);
    this.#changes.addBlocks(page, start, count, most);
  }

  /** Whether entries of the page have changed since it was written. */
  isTouched(page: number): boolean {
    return this.#changes.has(page);
  }

  /** The front's pages that lie in host chunks from `floor` on, at least in part; as pages, deltas, or what is under one. */
  pagesFrom(floor: number): number[] {
    const start = floor * this.#superblock.chunkBytes;
    const reaches = ({ offsets, bytes }: PagePointers, page: number): boolean =>
      bytes[page]! > 0 && offsets[page]! + bytes[page]! > start;
    return [...this.#pages.bytes.keys()].filter(
      (page) => reaches(this.#pages, page) || reaches(this.#fulls, page),
    );
  }

  /** The next publication writes the front's root and these pages anew and whole, and begins a new chunk of the log for them. */
  rewriteLog(pages: readonly number[]): void {
    // A root is written when a page is; one that has nothing to tell will do.
    for (const page of [0, ...pages]) this.#changes.addPage(page);
    // The end of chunk 0: there is no room, whatever that chunk holds.
    this.#logOffset = this.#superblock.chunkBytes;
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

  /** Reads what the next publication has to know of the present one. What has changed meanwhile is written whole. */
  async recall(): Promise<void> {
    const { hostChunks } = this.#superblock;
    const place = { storage: this.#storage, geometry: this.#geometry, hostChunks };
    const deltas = this.#changes.pagesWithRanges().filter((page) => this.#fulls.bytes[page]! > 0);
    this.#recalled = await recallDeltas(place, presentPages(this.#pages, deltas));
  }

  /** Call `settleDoubt` and `recall` first. */
  async publish(state: State, change: Change): Promise<void> {
    const changes = this.#changes;
    const size = change.size ?? change.state?.size ?? state.size;
    const draft = change.state === undefined ? this.#draft(state, size) : takeOver(change.state);
    for (const region of draft.replaced) this.#releaseRegion(region);
    const givenBack = this.#space.takeGivenBack();
    this.#changes = new PageChanges(draft.pages.bytes.length);
    this.#recalled = new Map();
    const old = this.#superblock;
    const undo: Undo = { draft, changes, givenBack, catalog: NO_REGION };
    try {
      const catalog = change.catalog?.(draft.root, this.#space.unreached(givenBack));
      for (const { offset, parts } of draft.pieces) {
        await this.#storage.write(offset, Buffer.concat(parts), 'mapping');
      }
      if (catalog !== undefined) await this.#writeCatalog(catalog, undo);
      await this.liveCounts?.write(change, catalog?.counts);
      await this.#cover();
      await this.#storage.flush();
      const next = this.#next(size, draft, undo.catalog, change.tailFrom?.());
      const { hostChunks = next.hostChunks } = change;
      await this.#switch({ ...next, ...change.base, hostChunks }, undo);
      this.#space.hostChunks = hostChunks;
    } catch (error) {
      this.#withdraw(undo);
      this.liveCounts?.withdraw();
      throw error;
    }
    this.liveCounts?.keep();
    this.#pages = draft.pages;
    this.#fulls = draft.fulls;
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

  #next(
    size: number,
    { root, fulls }: Draft,
    catalog: Region,
    tailFrom = this.#space.staticTail,
  ): Superblock {
    const old = this.#superblock;
    return {
      ...old,
      generation: old.generation + 1,
      hasDeltas: old.hasDeltas || fulls.bytes.some((bytes) => bytes > 0),
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
    const old = this.#superblock;
    if (sameLength && size === old.size && this.#changes.isEmpty) {
      return {
        pieces: [],
        root: old.root,
        pages: this.#pages,
        fulls: this.#fulls,
        replaced: [],
        placed: [],
      };
    }
    const pages = copyOf(this.#pages, count);
    const fulls = copyOf(this.#fulls, count);
    const log = new LogWriter(this.#space, chunkBytes, this.#logOffset);
    const replaced: Region[] = [];
    for (let page = 0; page < this.#pages.bytes.length; page++) {
      if (page < count && !this.#changes.has(page)) continue;
      const delta = page < count ? this.#deltaOf(state.table, page) : undefined;
      const named = regionOf(this.#pages, page);
      const full = this.#fullOf(page);
      if (delta === undefined || named.offset !== full.offset) replaced.push(named);
      if (delta === undefined && named.offset !== full.offset) replaced.push(full);
      if (page >= count) continue;
      const bytes = delta ?? pageOf(state.table, page);
      put(pages, page, bytes === undefined ? NO_REGION : log.place(bytes));
      put(fulls, page, delta === undefined ? NO_REGION : full);
    }
    replaced.push(old.root);
    const root = log.place(encodeRoot(size, pages));
    this.#logOffset = log.end;
    return { pieces: log.pieces, root, pages, fulls, replaced, placed: log.placed };
  }

  /** Where the page was last written whole. */
  #fullOf(page: number): Region {
    return regionOf(this.#fulls.bytes[page]! > 0 ? this.#fulls : this.#pages, page);
  }

  #deltaOf(table: ChunkTable, page: number): Uint8Array | undefined {
    const before = this.#recalled.get(page);
    if (before === undefined && this.#fulls.bytes[page]! > 0) return undefined;
    return deltaOf(table, page, this.#fullOf(page), this.#changes, before);
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
    const { draft, changes, givenBack } = undo;
    for (const region of draft.replaced) this.#space.addRegion(region);
    this.#space.putBack(givenBack);
    changes.addAll(this.#changes);
    this.#changes = changes;
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
function takeOver({ root, pages, fulls }: State): Draft {
  return { pieces: [], root, pages, fulls, replaced: [], placed: [] };
}

function regionOf({ offsets, bytes }: PagePointers, page: number): Region {
  return { offset: offsets[page]!, bytes: bytes[page]! };
}

function put({ offsets, bytes }: PagePointers, page: number, region: Region): void {
  offsets[page] = region.offset;
  bytes[page] = region.bytes;
}

function copyOf({ offsets, bytes }: PagePointers, count: number): PagePointers {
  const copy = newPointers(count);
  copy.offsets.set(offsets.subarray(0, count));
  copy.bytes.set(bytes.subarray(0, count));
  return copy;
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

  place(bytes: Uint8Array): Region {
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
    return region;
  }
}
