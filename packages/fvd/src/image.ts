import {
  allocatedBytes,
  type Awaitable,
  type Backing,
  type CheckOptions,
  type CheckReport,
  CowlabError,
  type DataExtent,
  type DriverImage,
  type Extent,
  type ImageInfo,
  type ImageStats,
  type Placement,
  type Storage,
} from '@cowlab/core';
import { checkImage } from './check.ts';
import type { Journal } from './journal.ts';
import { ABSENT, type Geometry, type JournalRun, MAX_CHUNKS, type Superblock, ZERO } from './layout.ts';
import { mapState } from './mapping.ts';
import { type Change, Publisher } from './publisher.ts';
import { resizedTable } from './resize.ts';
import { FvdSnapshots } from './snapshots.ts';
import type { Space } from './space.ts';
import { continuation } from './table.ts';
import type { State } from './tree.ts';

/*
 * One open image.
 *
 *   map      table lookup; a block is owned unless its host chunk is static
 *   reserve  owned home chunk, else: a fresh home for what was absent or is large, a packed place for little
 *            pieces written over static blocks. Whole blocks only: an aligned write copies nothing
 *   commit   table entry in memory, run noted for the journal
 *   flush    F(data) → journal append → F. Without new runs: F alone. Journal full: publish instead
 *   publish  F(data) → changed pages, root (and catalog) to free space → F → superblock → F
 *
 * (F: storage flush.) The runs that a flush writes are fixed before its data flush, so that no record overtakes
 * the bytes it makes visible. Host chunks given back by a run are free once that run is durable.
 */

/** A chunk may have this part of its blocks packed away from it before it gets a home for what comes next. */
const SCATTER_SHARE = 8;
/** A write over static blocks that covers this part of its chunk goes to a home at once. */
const LARGE_SHARE = 4;

/** What V8 takes for a run that waits for the journal. */
const RUN_MEMORY = 64;

interface FvdPlacement extends Placement {
  readonly chunk: number;
  readonly block: number;
  readonly count: number;
  readonly host: number;
  readonly isHome: boolean;
}

export class FvdImage implements DriverImage {
  readonly unitBytes: number;
  readonly geometry: Geometry;
  readonly storage: Storage;
  readonly readOnly: boolean;
  readonly snapshots: FvdSnapshots;
  readonly publisher: Publisher;
  readonly #base: Backing | undefined;
  readonly #space: Space;
  #state: State;
  #runs: JournalRun[] = [];
  /** Homes with reservations under way: guest chunk → host chunk. Commit makes them findable in the table. */
  readonly #newHomes = new Map<number, { host: number; pending: number }>();
  #turn: Promise<unknown> = Promise.resolve();
  #turns = 0;

  constructor(parts: ImageParts) {
    const { storage, state, space, superblock, journal, base, readOnly } = parts;
    this.storage = storage;
    this.geometry = state.table.geometry;
    this.unitBytes = this.geometry.blockBytes;
    this.readOnly = readOnly;
    this.#state = state;
    this.#space = space;
    this.#base = base;
    this.publisher = new Publisher({ storage, space, superblock, journal, pages: state.pages });
    this.snapshots = new FvdSnapshots(this);
  }

  get size(): number {
    return this.#state.size;
  }

  get state(): State {
    return this.#state;
  }

  get space(): Space {
    return this.#space;
  }

  get base(): Backing | undefined {
    return this.#base;
  }

  map(offset: number, length: number): Extent {
    const { table } = this.#state;
    const { chunkBytes } = this.geometry;
    const chunk = Math.floor(offset / chunkBytes);
    const within = offset - chunk * chunkBytes;
    const host = table.whole(chunk);
    if (host === 0) {
      const extent = mapState(
        table,
        this.storage,
        this.#base,
        (at) => this.#space.isOwned(at),
        offset,
        length,
      );
      return extent.kind === 'data' && !extent.owned ? this.#beforeTail(extent) : extent;
    }
    const isStatic = this.#space.isStatic(host);
    let end = chunkBytes - within;
    for (let next = 1; end < length; next++, end += chunkBytes) {
      if (table.whole(chunk + next) !== host + next || this.#space.isStatic(host + next) !== isStatic) break;
    }
    return {
      kind: 'data',
      length: Math.min(end, length),
      storage: this.storage,
      hostOffset: host * chunkBytes + within,
      owned: !isStatic,
    };
  }

  reserve(offset: number, length: number): Placement {
    const { chunkBytes, blockBytes, blocksPerChunk } = this.geometry;
    const chunk = Math.floor(offset / chunkBytes);
    const within = offset - chunk * chunkBytes;
    const block = Math.floor(within / blockBytes);
    const wanted = Math.min(blocksPerChunk, Math.ceil((within + length) / blockBytes)) - block;
    const count = this.#unowned(chunk, block, wanted);
    const home = this.#homeFor(chunk, count);
    let host: number;
    if (home === undefined) {
      host = this.#space.takePacked(count, block);
    } else {
      this.#space.addBlocks(home, count);
      host = home * blocksPerChunk + block;
    }
    const head = within - block * blockBytes;
    const covered = Math.min(length, count * blockBytes - head);
    const placement: FvdPlacement = {
      storage: this.storage,
      guestOffset: offset,
      length: covered,
      hostOffset: host * blockBytes + head,
      head,
      tail: count * blockBytes - head - covered,
      fresh: false,
      chunk,
      block,
      count,
      host,
      isHome: home !== undefined,
    };
    return placement;
  }

  commit(placement: Placement): void {
    const { chunk, block, count, host, isHome } = placement as FvdPlacement;
    this.#endReservation(chunk, isHome);
    this.#setRun(chunk, block, count, host);
  }

  abort(placement: Placement): void {
    const { chunk, count, host, isHome } = placement as FvdPlacement;
    this.#endReservation(chunk, isHome);
    this.#space.release(this.#space.chunkOf(host), count);
  }

  unmap(offset: number, length: number): void {
    const { blockBytes, blocksPerChunk } = this.geometry;
    const mark = this.#base === undefined ? ABSENT : ZERO;
    const end = Math.ceil((offset + length) / blockBytes);
    for (let at = offset / blockBytes; at < end; ) {
      const chunk = Math.floor(at / blocksPerChunk);
      const block = at - chunk * blocksPerChunk;
      const count = Math.min(end - at, blocksPerChunk - block);
      const found = this.#state.table.find(chunk, block);
      if (found.host !== mark || found.count < count) this.#setRun(chunk, block, count, mark);
      at += count;
    }
  }

  flush(): Awaitable<void> {
    const isIdle = this.#runs.length === 0 && this.#turns === 0;
    if (isIdle && !this.publisher.isInDoubt) return this.storage.flush();
    return this.inTurn(() => this.#flushRuns());
  }

  /** Makes the present state, and `change`, the one that the superblock names. Atomic. */
  publish(change: Change = {}): Promise<void> {
    return this.inTurn(() => this.#publish(change));
  }

  /** After an unclean close: what the journal said of `chunks` becomes part of the state; the journal starts anew. */
  async recover(chunks: Iterable<number>): Promise<void> {
    for (const chunk of chunks) this.publisher.touch(chunk);
    await this.publish();
  }

  check(options: CheckOptions): Promise<CheckReport> {
    return checkImage(this, options);
  }

  async resize(size: number): Promise<void> {
    const maxSize = this.geometry.chunkBytes * MAX_CHUNKS;
    if (size > maxSize) {
      const { name } = this.storage;
      const problem = `with chunks of ${this.geometry.chunkBytes} bytes a disk has at most ${maxSize}`;
      throw new CowlabError('ERR_INVALID_OPTION', `${name}: size: ${problem}`, { file: name, field: 'size' });
    }
    const parts = { state: this.#state, storage: this.storage, space: this.#space, base: this.#base };
    const { table, released, taken, changed } = await resizedTable(parts, size);
    for (const chunk of changed) this.publisher.touch(chunk);
    try {
      await this.publish({ size, table });
    } catch (error) {
      for (const host of taken) this.#space.release(this.#space.chunkOf(host), 1);
      throw error;
    }
    for (const [host, count] of released) this.#space.release(this.#space.chunkOf(host), count);
    await this.publisher.settle(this.#space.takeGivenBack());
  }

  async info(): Promise<ImageInfo> {
    const { base, baseFormat, journal, generation } = this.publisher.superblock;
    const { chunkBytes, blockBytes } = this.geometry;
    return {
      format: 'fvd',
      size: this.size,
      unitBytes: this.unitBytes,
      files: [this.storage.name],
      storageBytes: await allocatedBytes(this.storage),
      ...(base !== '' && { backing: { file: base, ...(baseFormat !== '' && { format: baseFormat }) } }),
      details: {
        version: 2,
        'chunk size': chunkBytes,
        'block size': blockBytes,
        'journal size': journal.bytes,
        generation,
        'split chunks': this.#state.table.splitChunks,
      },
    };
  }

  stats(): ImageStats {
    const own =
      this.#state.table.residentBytes +
      this.#space.residentBytes +
      this.publisher.residentBytes +
      this.#runs.length * RUN_MEMORY;
    const below = this.#base?.image.stats().residentMetadataBytes ?? 0;
    return {
      residentMetadataBytes: own + below,
      tableBytes: this.#state.table.residentBytes,
      freeBitmapBytes: this.#space.residentBytes,
      splitChunks: this.#state.table.splitChunks,
    };
  }

  async close(): Promise<void> {
    try {
      if (!this.readOnly) {
        const { journal, isInDoubt } = this.publisher;
        if (this.#runs.length > 0 || !journal.isEmpty || isInDoubt) await this.publish();
        else await this.storage.flush();
      }
    } finally {
      try {
        await this.storage.close();
      } finally {
        await this.#base?.close();
      }
    }
  }

  /** Runs flushes and publications one after the other. */
  async inTurn<T>(run: () => Promise<T>): Promise<T> {
    this.#turns++;
    const mine = this.#turn.then(run);
    this.#turn = mine.catch(() => undefined);
    try {
      return await mine;
    } finally {
      this.#turns--;
    }
  }

  async #flushRuns(): Promise<void> {
    await this.publisher.settleDoubt();
    const runs = this.#runs;
    if (!this.publisher.journal.hasRoomFor(runs.length)) return this.#publish({});
    this.#runs = [];
    const givenBack = this.#space.takeGivenBack();
    try {
      await this.storage.flush();
      if (runs.length > 0) await this.publisher.journal.append(runs);
    } catch (error) {
      this.#runs = [...runs, ...this.#runs];
      this.#space.putBack(givenBack);
      throw error;
    }
    await this.publisher.settle(givenBack);
  }

  async #publish(change: Change): Promise<void> {
    await this.publisher.settleDoubt();
    const runs = this.#runs;
    this.#runs = [];
    try {
      const { table } = change;
      await this.publisher.publish(table === undefined ? this.#state : { ...this.#state, table }, change);
    } catch (error) {
      this.#runs = [...runs, ...this.#runs];
      throw error;
    }
    const { superblock, pages } = this.publisher;
    this.#state = {
      table: change.state?.table ?? change.table ?? this.#state.table,
      size: superblock.size,
      root: superblock.root,
      pages,
    };
  }

  /** A run that crosses into the front's own part of a static chunk is two extents. */
  #beforeTail(extent: DataExtent): DataExtent {
    const toTail = this.#space.tailFrom * this.geometry.blockBytes - extent.hostOffset;
    return toTail > 0 && toTail < extent.length ? { ...extent, length: toTail } : extent;
  }

  /** How many of the blocks from `block` on are not the front's to overwrite, in a row, at most `wanted`. */
  #unowned(chunk: number, block: number, wanted: number): number {
    let count = 0;
    while (count < wanted) {
      const found = this.#state.table.find(chunk, block + count);
      if (found.host > ZERO && this.#space.isOwned(found.host)) break;
      const { tailFrom } = this.#space;
      const crosses = found.host > ZERO && tailFrom > found.host;
      count += crosses ? Math.min(found.count, tailFrom - found.host) : found.count;
    }
    return Math.min(count, wanted);
  }

  /** The home chunk that the blocks go to, or undefined when they are to be packed. */
  #homeFor(chunk: number, count: number): number | undefined {
    const { blocksPerChunk } = this.geometry;
    let home = this.#newHomes.get(chunk)?.host;
    let scattered = 0;
    let hasStatic = false;
    this.#state.table.eachRun(chunk, (start, length, host) => {
      if (host <= ZERO) return;
      const place = this.#space.chunkOf(host);
      if (!this.#space.isOwned(host)) hasStatic = true;
      else if (host - place * blocksPerChunk === start && !this.#space.isStatic(place)) home ??= place;
      else scattered += length;
    });
    const wantsHome =
      !hasStatic ||
      count * LARGE_SHARE >= blocksPerChunk ||
      scattered + count > blocksPerChunk / SCATTER_SHARE;
    if (home === undefined) {
      if (!wantsHome) return undefined;
      home = this.#space.findFree();
    }
    const reservation = this.#newHomes.get(chunk) ?? { host: home, pending: 0 };
    reservation.pending++;
    this.#newHomes.set(chunk, reservation);
    return home;
  }

  #endReservation(chunk: number, isHome: boolean): void {
    const reservation = isHome ? this.#newHomes.get(chunk) : undefined;
    if (reservation !== undefined && --reservation.pending === 0) this.#newHomes.delete(chunk);
  }

  /** Space already counts the new blocks; what they take the place of is released. */
  #setRun(chunk: number, block: number, count: number, host: number): void {
    const { blocksPerChunk } = this.geometry;
    const { table } = this.#state;
    table.set(chunk, block, count, host, (old, length) =>
      this.#space.release(this.#space.chunkOf(old), length),
    );
    const whole = table.whole(chunk);
    if (whole > 0) this.#space.collapse(whole);
    this.publisher.touch(chunk);
    const guest = chunk * blocksPerChunk + block;
    const last = this.#runs.at(-1);
    if (
      last !== undefined &&
      last.guest + last.count === guest &&
      continuation(last.host, last.count) === host
    ) {
      this.#runs[this.#runs.length - 1] = { ...last, count: last.count + count };
    } else {
      this.#runs.push({ guest, count, host });
    }
  }
}

export interface ImageParts {
  readonly storage: Storage;
  readonly state: State;
  readonly space: Space;
  readonly superblock: Superblock;
  readonly journal: Journal;
  readonly base: Backing | undefined;
  readonly readOnly: boolean;
}
