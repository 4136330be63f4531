import {
  allocatedBytes,
  type Awaitable,
  type Backing,
  type BackingReference,
  type CheckOptions,
  type CheckReport,
  type CompactOptions,
  type CompactReport,
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
import { compactImage } from './compact.ts';
import { gatherSpan, isScattered } from './gather.ts';
import {
  ABSENT,
  assertBaseFits,
  baseOf,
  type Geometry,
  type JournalRun,
  MAX_CHUNKS,
  ZERO,
} from './layout.ts';
import { mapState } from './mapping.ts';
import { type FvdPlacement, placeBlocks, placeChunks } from './placing.ts';
import { type Change, Publisher, type PublisherParts } from './publisher.ts';
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
 *            pieces written over static blocks. Whole blocks only: an aligned write copies nothing, unless the
 *            chunk lies in too many places already: then some of them are gathered first (gather.ts)
 *   commit   table entry in memory, run noted for the journal
 *   flush    F(data) → journal append → F. Without new runs: F alone. Journal full: publish instead
 *   publish  changed pages, root (and catalog) to free space → F(data, and these) → superblock → F
 *
 * (F: storage flush.) The runs that a flush writes are fixed before its data flush, so that no record overtakes
 * the bytes it makes visible. Host chunks given back by a run are free once that run is durable.
 */

/** What V8 takes for a run that waits for the journal. */
const RUN_MEMORY = 64;

export class FvdImage implements DriverImage {
  readonly unitBytes: number;
  readonly geometry: Geometry;
  readonly storage: Storage;
  readonly readOnly: boolean;
  readonly snapshots: FvdSnapshots;
  readonly publisher: Publisher;
  #base: Backing | undefined;
  readonly #space: Space;
  readonly #maxPlaces: number;
  readonly #journals: boolean;
  readonly #placeNew: typeof placeBlocks;
  #state: State;
  #runs: JournalRun[] = [];
  #turn: Promise<unknown> = Promise.resolve();
  #turns = 0;

  constructor(parts: ImageParts) {
    const { storage, state, space, base, readOnly, maxPlaces, journals, copiesChunks } = parts;
    this.storage = storage;
    this.geometry = state.table.geometry;
    this.unitBytes = this.geometry.blockBytes;
    this.readOnly = readOnly;
    this.#maxPlaces = maxPlaces;
    this.#journals = journals;
    this.#placeNew = copiesChunks ? placeChunks : placeBlocks;
    this.#state = state;
    this.#space = space;
    this.#base = base;
    this.publisher = new Publisher(parts);
    this.snapshots = new FvdSnapshots(this);
  }

  get size(): number {
    return this.#state.size;
  }

  /** One write at a time looks for a place in a chunk: it may move other blocks of it. */
  get reserveBytes(): number {
    return this.geometry.chunkBytes;
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
    if (host === 0) return this.#mapInRun(chunk, within, length) ?? this.#mapAny(offset, length);
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

  reserve(offset: number, length: number): Awaitable<Placement> {
    const chunk = Math.floor(offset / this.geometry.chunkBytes);
    if (!isScattered(this.#state.table, chunk, this.#maxPlaces)) return this.#place(offset, length);
    return this.#gather(chunk).then(() => this.#inPlace(offset, length) ?? this.#place(offset, length));
  }

  commit(placement: Placement): void {
    const { chunk, block, count, host, pieces } = placement as FvdPlacement;
    if (pieces === undefined) {
      if (count > 0) this.setRun(chunk, block, count, host);
    } else {
      for (const { start, length } of pieces) this.setRun(chunk, start, length, host - block + start);
    }
  }

  abort(placement: Placement): void {
    const { count, host } = placement as FvdPlacement;
    if (count > 0) this.#space.release(this.#space.chunkOf(host), count);
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
      if (found.host !== mark || found.count < count) this.setRun(chunk, block, count, mark);
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

  /** Makes the present state the one that the superblock names, where it is not yet. */
  async checkpoint(): Promise<void> {
    const { journal, isInDoubt } = this.publisher;
    if (this.#runs.length > 0 || !journal.isEmpty || isInDoubt) await this.publish();
    else await this.storage.flush();
  }

  /** After an unclean close: what the journal said of `chunks` becomes part of the state; the journal starts anew. */
  async recover(chunks: Iterable<number>): Promise<void> {
    for (const chunk of chunks) this.publisher.touch(chunk);
    await this.publish();
  }

  check(options: CheckOptions): Promise<CheckReport> {
    return checkImage(this, options);
  }

  compact(options: CompactOptions): Promise<CompactReport> {
    const { liveCounts } = this.publisher;
    const compact = (): Promise<CompactReport> => compactImage(this, options);
    return liveCounts === undefined ? compact() : liveCounts.without(compact);
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

  /** Absent blocks are zeros from now on, in every state: core has seen that no base has bytes for them. */
  async releaseBacking(): Promise<void> {
    if (this.#base !== undefined) await this.changeBacking(undefined, undefined);
  }

  /** The superblock that names the other base is the moment; absent blocks, in every state, are that one's then. */
  async changeBacking(reference: BackingReference | undefined, backing: Backing | undefined): Promise<void> {
    if (reference !== undefined) assertBaseFits(this.storage.name, reference);
    const { file: base = '', format: baseFormat = '', snapshot: baseSnapshot = '' } = reference ?? {};
    await this.publish({ base: { base, baseFormat, baseSnapshot } });
    const before = this.#base;
    this.#base = backing;
    await before?.close();
  }

  /** One publication makes every block absent; snapshots keep theirs. */
  async empty(): Promise<void> {
    const { blockBytes, blocksPerChunk } = this.geometry;
    const blocks = Math.ceil(this.size / blockBytes);
    for (let chunk = 0; chunk < this.#state.table.chunks; chunk++) {
      const count = Math.min(blocksPerChunk, blocks - chunk * blocksPerChunk);
      const found = this.#state.table.find(chunk, 0);
      if (found.host !== ABSENT || found.count < count) this.setRun(chunk, 0, count, ABSENT);
    }
    await this.publish();
  }

  async info(): Promise<ImageInfo> {
    const { journal, generation } = this.publisher.superblock;
    const backing = baseOf(this.publisher.superblock);
    const { chunkBytes, blockBytes } = this.geometry;
    return {
      format: 'fvd',
      size: this.size,
      unitBytes: this.unitBytes,
      files: [this.storage.name],
      storageBytes: await allocatedBytes(this.storage),
      ...(backing && { backing }),
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
    const { liveCounts } = this.publisher;
    const own =
      this.#state.table.residentBytes +
      this.#space.residentBytes +
      this.publisher.residentBytes +
      (liveCounts?.residentBytes ?? 0) +
      this.#runs.length * RUN_MEMORY;
    const below = this.#base?.stats().residentMetadataBytes ?? 0;
    return {
      residentMetadataBytes: own + below,
      tableBytes: this.#state.table.residentBytes,
      spaceBytes: this.#space.residentBytes,
      bitmapBytes: this.#space.bitmapBytes,
      splitChunks: this.#state.table.splitChunks,
      ...(liveCounts && { refcountTableBytes: liveCounts.tableBytes }),
    };
  }

  async close(): Promise<void> {
    try {
      if (!this.readOnly) await this.checkpoint();
      await this.publisher.liveCounts?.release();
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
    if (!this.#journals || !this.publisher.journal.hasRoomFor(runs.length)) return this.#publish({});
    this.#runs = [];
    const givenBack = this.#space.takeGivenBack();
    try {
      await this.publisher.liveCounts?.write();
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
    await this.publisher.recall();
    const runs = this.#runs;
    this.#runs = [];
    try {
      const { table } = change;
      await this.publisher.publish(table === undefined ? this.#state : { ...this.#state, table }, change);
    } catch (error) {
      this.#runs = [...runs, ...this.#runs];
      throw error;
    }
    const { superblock, pages, fulls } = this.publisher;
    this.#state = {
      table: change.state?.table ?? change.table ?? this.#state.table,
      size: superblock.size,
      root: superblock.root,
      pages,
      fulls,
    };
  }

  /** Where the bytes lie, when gathering has just brought them to a place that is the front's own. */
  #inPlace(offset: number, length: number): FvdPlacement | undefined {
    const extent = this.map(offset, length);
    if (extent.kind !== 'data' || !extent.owned) return undefined;
    const { storage, hostOffset } = extent;
    const place = { storage, hostOffset, guestOffset: offset, length: extent.length };
    return { ...place, head: 0, tail: 0, fresh: false, chunk: 0, block: 0, count: 0, host: 0 };
  }

  #place(offset: number, length: number): FvdPlacement {
    const { table } = this.#state;
    return this.#placeNew({ storage: this.storage, space: this.#space, table }, offset, length);
  }

  /** A request that lies in one run of a split chunk, and is not near the front's part of a static chunk. */
  #mapInRun(chunk: number, within: number, length: number): Extent | undefined {
    const { chunkBytes, blockBytes } = this.geometry;
    const last = within + length - 1;
    if (last >= chunkBytes) return undefined;
    const first = Math.floor(within / blockBytes);
    const host = this.#state.table.findInRun(chunk, first, Math.floor(last / blockBytes));
    const owned = host === 0 ? undefined : this.#space.ownsAllOf(host);
    if (owned === undefined) return undefined;
    const hostOffset = host * blockBytes + within - first * blockBytes;
    return { kind: 'data', length, storage: this.storage, hostOffset, owned };
  }

  #mapAny(offset: number, length: number): Extent {
    const { table } = this.#state;
    const owned = (host: number): boolean => this.#space.isOwned(host);
    const extent = mapState(table, this.storage, this.#base, owned, offset, length);
    return extent.kind === 'data' && !extent.owned ? this.#beforeTail(extent) : extent;
  }

  /** A run that crosses into the front's own part of a static chunk is two extents. */
  #beforeTail(extent: DataExtent): DataExtent {
    const toTail = this.#space.tailFrom * this.geometry.blockBytes - extent.hostOffset;
    return toTail > 0 && toTail < extent.length ? { ...extent, length: toTail } : extent;
  }

  async #gather(chunk: number): Promise<void> {
    const parts = { storage: this.storage, space: this.#space, ...this.geometry };
    while (isScattered(this.#state.table, chunk, this.#maxPlaces)) {
      const runs = this.#state.table.runsOf(chunk)!;
      await gatherSpan(parts, runs, (start, count, host) => this.setRun(chunk, start, count, host));
    }
  }

  /** Blocks lie elsewhere from now on. Space counts them there already; what they take the place of is released. */
  setRun(chunk: number, block: number, count: number, host: number): void {
    const { blocksPerChunk } = this.geometry;
    const { table } = this.#state;
    table.set(chunk, block, count, host, (old, length) =>
      this.#space.release(this.#space.chunkOf(old), length),
    );
    const whole = table.whole(chunk);
    if (whole > 0) this.#space.collapse(whole);
    this.publisher.touchBlocks(chunk, block, count);
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

export interface ImageParts extends PublisherParts {
  readonly base: Backing | undefined;
  readonly readOnly: boolean;
  /** Most places that a chunk of the front may lie in (gather.ts). */
  readonly maxPlaces: number;
  /** Flushes go to the journal; to measure what that is worth, they can publish instead. */
  readonly journals: boolean;
  /** What a snapshot has goes to a new place by the chunk; to measure what doing it by the block is worth. */
  readonly copiesChunks: boolean;
}
