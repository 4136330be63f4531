import { type Awaitable, andThen, CowlabError, corrupt, roundUp, viewOf } from '@cowlab/core';
import { hostOffsetOf, isMalformed, setEntry } from './entries.ts';
import { fatalCorrupt, malformedEntry } from './corruption.ts';
import type { ImageFile } from './image-file.ts';
import { maxRefcountTableBytes, sectorBytes } from './layout.ts';
import { placeGrownTable, readRefcountTable } from './refcount-table.ts';
import { type RefcountWidth, refcountWidth } from './refcount-width.ts';
import { type Table, TableCache } from './table-cache.ts';

/*
 * Which host clusters are in use, and how often.
 *
 *     refcount table (in memory, whole) ──→ refcount blocks (bounded cache) ──→ one count per host cluster
 *
 * - Allocation takes the first free cluster and raises its count in memory; the count is durable before
 *   anything durable refers to the cluster.
 * - `release` only notes. What is noted is counted down in `applyReleases`, once nothing durable refers to it
 *   any more; before that it cannot be taken again. A power loss in between leaves a leak, never a dangling entry.
 * - A range that has no block yet is all free: its new block takes the first cluster of the range and counts itself.
 * - When the table is full, a larger one goes to the start of the first range it could not describe, after the
 *   blocks that describe it; the header switches over in one sector write.
 */

export interface ClusterRun {
  readonly first: number;
  readonly count: number;
}

interface Release {
  first: number;
  count: number;
  /** Whether the storage may give the space back too; not for space that is about to be used again. */
  readonly discard: boolean;
}

const ownTable = ['refcount table'] as const;
const ownBlocks = ['refcount block'] as const;

/** More noted releases than this, and a write-back is due: space would run away otherwise. */
const maxReleasedClusters = 16_384;

export class Refcounts {
  readonly cache: TableCache;
  readonly perBlock: number;
  readonly width: RefcountWidth;
  readonly #file: ImageFile;
  #table: DataView;
  readonly #dirtySectors = new Set<number>();
  #releases: Release[] = [];
  #releasedClusters = 0;
  #freed: ClusterRun[] = [];
  /** No cluster below is free. */
  #firstFree = 0;
  /** A cluster that packing.ts goes on filling; -1 as soon as it is free. */
  filling = -1;

  private constructor(file: ImageFile, table: Uint8Array, budgetBytes: number) {
    this.#file = file;
    this.#table = viewOf(table);
    this.perBlock = file.geometry.refcountsPerBlock;
    this.width = refcountWidth(file.geometry.refcountBits);
    this.cache = new TableCache(file.geometry.clusterBytes, budgetBytes, 4);
  }

  /** Reads the refcount table; blocks come when they are needed. */
  static async load(file: ImageFile, budgetBytes: number): Promise<Refcounts> {
    return new Refcounts(file, await readRefcountTable(file), budgetBytes);
  }

  /** The refcount table as it is in memory. */
  get table(): DataView {
    return this.#table;
  }

  get tableEntryCount(): number {
    return this.#table.byteLength / 8;
  }

  get residentBytes(): number {
    return this.#table.byteLength + this.cache.residentBytes;
  }

  get hasChanges(): boolean {
    return this.cache.dirtyCount > 0 || this.#releases.length > 0 || this.#dirtySectors.size > 0;
  }

  get writeBackDue(): boolean {
    return this.cache.dirtyCount > this.cache.capacity || this.#releasedClusters > maxReleasedClusters;
  }

  /** Forgets what is in memory and reads the table again: someone rewrote it on disk. */
  async reload(): Promise<void> {
    this.#table = viewOf(await readRefcountTable(this.#file));
    this.#file.guard?.tablesChanged();
    this.#dirtySectors.clear();
    this.#releases = [];
    this.#releasedClusters = 0;
    this.#freed = [];
    this.#firstFree = 0;
    this.filling = -1;
    this.cache.reset();
  }

  /** The block that covers clusters from `index * perBlock`; undefined where there is none. */
  block(index: number): Awaitable<Table> | undefined {
    const cached = this.cache.peek(index);
    if (cached !== undefined) return cached;
    const hostOffset = this.blockOffset(index);
    if (hostOffset === 0) return undefined;
    return this.cache.load(index, hostOffset, (target) =>
      this.#file.readCluster(hostOffset, target, 'refcount table entry'),
    );
  }

  /** Host offset of a refcount block; 0 where there is none. Throws `ERR_CORRUPT`. */
  blockOffset(index: number): number {
    if (index >= this.tableEntryCount) return 0;
    const hi = this.#table.getUint32(index * 8);
    const lo = this.#table.getUint32(index * 8 + 4);
    const { clusterBytes } = this.#file.geometry;
    if (isMalformed(hi, lo, clusterBytes, 0) || hi > 0x00ff_ffff) {
      throw malformedEntry(this.#file.name, 'refcount table entry', hi, lo, clusterBytes, index);
    }
    return hostOffsetOf(hi, lo);
  }

  /** As `blockOffset`, but 0 also where the entry points where no block can be. */
  soundBlockOffset(index: number): number {
    const { clusterBytes } = this.#file.geometry;
    const offset =
      index < this.tableEntryCount
        ? this.#table.getUint32(index * 8) * 2 ** 32 + this.#table.getUint32(index * 8 + 4)
        : 0;
    return offset % clusterBytes === 0 && offset + clusterBytes <= this.#file.storage.size() ? offset : 0;
  }

  /** How often a cluster is used. */
  get(cluster: number): Awaitable<number> {
    const index = Math.floor(cluster / this.perBlock);
    const block = this.block(index);
    if (block === undefined) return 0;
    return andThen(block, ({ view }) => this.width.get(view, cluster - index * this.perBlock));
  }

  /** As `get`, for many counts in a row between which none changes: looks for a block only when it needs another one. */
  reader(): (cluster: number) => Awaitable<number> {
    const { width, perBlock } = this;
    let view: DataView | undefined;
    let base = 0;
    const read = (cluster: number): Awaitable<number> => {
      if (view !== undefined && cluster >= base && cluster < base + perBlock) {
        return width.get(view, cluster - base);
      }
      const block = this.block(Math.floor(cluster / perBlock));
      if (block === undefined) return 0;
      return andThen(block, (there) => {
        view = there.view;
        base = there.index * perBlock;
        return width.get(view, cluster - base);
      });
    };
    return read;
  }

  /** Puts a count in the place of another one: for those who have counted anew. Where there is no block, throws TypeError. */
  assign(cluster: number, count: number): Awaitable<void> {
    const block = this.block(Math.floor(cluster / this.perBlock));
    if (block === undefined) throw new TypeError(`no refcount block for cluster ${cluster}`);
    if (block instanceof Promise) return block.then(() => this.assign(cluster, count));
    const within = cluster % this.perBlock;
    this.width.set(block.view, within, count);
    this.#markDirty(block, within, within + 1);
    if (count === 0 && cluster < this.#firstFree) this.#firstFree = cluster;
  }

  /** Takes from 1 to `wanted` clusters that lie together. Throws `ERR_NO_SPACE`, `ERR_CORRUPT`. */
  allocate(wanted: number): Awaitable<ClusterRun> {
    for (;;) {
      const index = Math.floor(this.#firstFree / this.perBlock);
      const block = this.block(index) ?? this.#newBlock(index);
      if (block instanceof Promise) return block.then(() => this.allocate(wanted));
      const run = this.#takeFrom(block, wanted);
      if (run !== undefined) return run;
      this.#firstFree = (index + 1) * this.perBlock;
    }
  }

  #takeFrom(block: Table, wanted: number): ClusterRun | undefined {
    const base = block.index * this.perBlock;
    const { view } = block;
    let at = this.#firstFree - base;
    while (at < this.perBlock && this.width.get(view, at) !== 0) at += 1;
    if (at === this.perBlock) return undefined;
    let end = at;
    while (end < this.perBlock && end - at < wanted && this.width.get(view, end) === 0) {
      this.width.set(view, end, 1);
      end += 1;
    }
    this.#markDirty(block, at, end);
    this.#firstFree = base + end;
    return this.#checked({ first: base + at, count: end - at });
  }

  /** A refcount block that counts metadata as free would hand them out. */
  #checked(run: ClusterRun): ClusterRun {
    const { clusterBytes } = this.#file.geometry;
    this.#file.guard?.assertFree(run.first * clusterBytes, run.count * clusterBytes);
    if (run.first > 0) return run;
    throw fatalCorrupt(this.#file.name, 'header', 'its cluster is counted as free', { offset: 0 });
  }

  #newBlock(index: number): Awaitable<Table> {
    const grown = this.block(index);
    if (grown !== undefined) return grown;
    if (index >= this.tableEntryCount) {
      return this.#growTable(index + 1).then(() => this.#newBlock(index));
    }
    return this.#placeBlock(index, this.#checked({ first: index * this.perBlock, count: 1 }).first);
  }

  /** A zeroed block for range `index`, at `cluster`; it counts itself where it covers itself. */
  #placeBlock(index: number, cluster: number): Table {
    const block = this.cache.insert(
      index,
      cluster * this.cache.tableBytes,
      new Uint8Array(this.cache.tableBytes),
    );
    block.fresh = true;
    this.cache.markDirty(block, 0, this.cache.tableBytes);
    this.#setTableEntry(index, block.hostOffset);
    this.#file.guard?.moveTable('refcount block', 0, block.hostOffset);
    const home = cluster - index * this.perBlock;
    if (home >= 0 && home < this.perBlock) this.width.set(block.view, home, 1);
    return block;
  }

  #setTableEntry(index: number, hostOffset: number): void {
    setEntry(this.#table, index, hostOffset, 0, 0);
    this.#dirtySectors.add(Math.floor((index * 8) / sectorBytes));
  }

  /** Takes exactly `count` clusters that lie together, and says where. For tables of several clusters. */
  async allocateTogether(count: number): Promise<number> {
    await this.#skipUsed();
    let start = this.#firstFree;
    let length = 0;
    let missing: number[] = [];
    let block: Table | undefined;
    for (let cluster = start; length < count + missing.length; cluster += 1) {
      const index = Math.floor(cluster / this.perBlock);
      const within = cluster - index * this.perBlock;
      if (within === 0 || cluster === this.#firstFree) {
        block = await this.block(index);
        if (block === undefined) missing.push(index);
      }
      if (block !== undefined && this.width.get(block.view, within) !== 0) {
        start = cluster + 1;
        length = 0;
        missing = [];
      } else length += 1;
    }
    const last = missing.at(-1);
    if (last !== undefined && last >= this.tableEntryCount) {
      await this.#growTable(last + 1);
      return this.allocateTogether(count);
    }
    return this.#takeTogether(start, count, missing);
  }

  /** Moves `#firstFree` to a cluster that is free, so that nobody looks at what lies before it again. */
  async #skipUsed(): Promise<void> {
    for (;;) {
      const index = Math.floor(this.#firstFree / this.perBlock);
      const block = await this.block(index);
      if (block === undefined) return;
      let within = this.#firstFree - index * this.perBlock;
      while (within < this.perBlock && this.width.get(block.view, within) !== 0) within += 1;
      this.#firstFree = index * this.perBlock + within;
      if (within < this.perBlock) return;
    }
  }

  /** Blocks that are missing come first, the `count` clusters after them. */
  async #takeTogether(start: number, count: number, missing: readonly number[]): Promise<number> {
    this.#checked({ first: start, count: missing.length + count });
    missing.forEach((index, nth) => this.#placeBlock(index, start + nth));
    // A block's home may lie in another block's range.
    for (let nth = 0; nth < missing.length; nth += 1) {
      const home = start + nth;
      if (Math.floor(home / this.perBlock) !== missing[nth]) await this.change({ first: home, count: 1 }, 1);
    }
    const first = start + missing.length;
    await this.change({ first, count }, 1);
    if (this.#firstFree === start) this.#firstFree = first + count;
    return first * this.cache.tableBytes;
  }

  /** Changes the counts of a run. Throws `ERR_SNAPSHOT_LIMIT` when a count cannot hold it, `ERR_CORRUPT` below zero. */
  change(run: ClusterRun, delta: number): Awaitable<void> {
    let { first } = run;
    const end = run.first + run.count;
    while (first < end) {
      const index = Math.floor(first / this.perBlock);
      const block = this.block(index);
      if (block instanceof Promise)
        return block.then(() => this.change({ first, count: end - first }, delta));
      if (block === undefined) throw this.#uncounted(first);
      const stop = Math.min(end, (index + 1) * this.perBlock);
      this.#changeIn(block, first, stop, delta);
      first = stop;
    }
  }

  #changeIn(block: Table, first: number, stop: number, delta: number): void {
    const base = block.index * this.perBlock;
    const { maxRefcount } = this.#file.geometry;
    const { view } = block;
    for (let at = first - base; at < stop - base; at += 1) {
      const count = this.width.get(view, at) + delta;
      if (count < 0) throw this.#uncounted(base + at);
      if (count > maxRefcount) throw this.#overflow(base + at);
      this.width.set(view, at, count);
      if (count === 0) this.#noteFree(base + at);
    }
    this.#markDirty(block, first - base, stop - base);
  }

  #noteFree(cluster: number): void {
    if (cluster < this.#firstFree) this.#firstFree = cluster;
    if (cluster === this.filling) this.filling = -1;
    const last = this.#freed.at(-1);
    if (last !== undefined && last.first + last.count === cluster) {
      this.#freed[this.#freed.length - 1] = { first: last.first, count: last.count + 1 };
    } else this.#freed.push({ first: cluster, count: 1 });
  }

  #uncounted(cluster: number): CowlabError {
    const offset = cluster * this.cache.tableBytes;
    return corrupt(
      this.#file.name,
      'refcount block entry',
      `the cluster at ${offset} is in use and counted as free`,
      { offset },
    );
  }

  #overflow(cluster: number): CowlabError {
    const offset = cluster * this.cache.tableBytes;
    const { refcountBits } = this.#file.geometry;
    const problem = `${this.#file.name}: refcounts of ${refcountBits} bits cannot count another snapshot`;
    return new CowlabError('ERR_SNAPSHOT_LIMIT', problem, {
      file: this.#file.name,
      field: 'refcount_bits',
      offset,
    });
  }

  #markDirty(block: Table, from: number, to: number): void {
    const { refcountBits } = this.#file.geometry;
    this.cache.markDirty(block, Math.floor((from * refcountBits) / 8), Math.ceil((to * refcountBits) / 8));
  }

  /** Notes that a reference is going away; see `applyReleases`. */
  release(first: number, count: number, discard: boolean): void {
    this.#releasedClusters += count;
    const last = this.#releases.at(-1);
    if (last !== undefined && last.discard === discard && last.first + last.count === first)
      last.count += count;
    else this.#releases.push({ first, count, discard });
  }

  /** Counts down what was released. Everything that referred to it must be durably gone. */
  async applyReleases(): Promise<void> {
    const discards: ClusterRun[] = [];
    this.#freed = [];
    for (let run = this.#releases[0]; run !== undefined; run = this.#releases[0]) {
      const block = this.block(Math.floor(run.first / this.perBlock));
      if (block instanceof Promise) {
        await block;
        continue;
      }
      const { first, discard } = run;
      const count = Math.min(run.count, this.perBlock - (first % this.perBlock));
      this.#takeRelease(run, count);
      if (block === undefined) throw this.#uncounted(first);
      this.#changeIn(block, first, first + count, -1);
      if (discard) discards.push(...this.#freed);
      this.#freed = [];
    }
    await this.discard(discards);
  }

  #takeRelease(run: Release, count: number): void {
    this.#releasedClusters -= count;
    run.first += count;
    run.count -= count;
    if (run.count === 0) this.#releases.shift();
  }

  /** Clusters whose count went to zero since the last call and is zero still: for those who keep their own order. */
  async takeFreed(): Promise<ClusterRun[]> {
    const freed = this.#freed;
    this.#freed = [];
    const unused: ClusterRun[] = [];
    for (const { first, count } of freed) {
      for (let cluster = first; cluster < first + count; cluster += 1) {
        const references = this.get(cluster);
        if ((references instanceof Promise ? await references : references) === 0)
          unused.push({ first: cluster, count: 1 });
      }
    }
    return unused;
  }

  /** Gives the space of free clusters back to the storage. */
  async discard(runs: readonly ClusterRun[]): Promise<void> {
    const { clusterBytes } = this.#file.geometry;
    const sorted = runs.toSorted((a, b) => a.first - b.first);
    for (let at = 0; at < sorted.length; ) {
      const { first } = sorted[at] as ClusterRun;
      let end = first;
      while (sorted[at]?.first === end) {
        end += (sorted[at] as ClusterRun).count;
        at += 1;
      }
      const [offset, bytes] = [first * clusterBytes, (end - first) * clusterBytes];
      this.#file.guard?.assertFree(offset, bytes);
      await this.#file.storage.discard(offset, bytes, 'refcount');
    }
  }

  /**
   * Writes blocks and table entries; a new block is durable before the table points to it. They stay dirty
   * until the caller has flushed and says `written`.
   */
  async write(): Promise<void> {
    const { storage, header } = this.#file;
    const dirty = this.cache.dirtyTables();
    const fresh = dirty.filter((block) => block.fresh);
    for (const block of dirty) await this.#file.writeMetadata(...changedPart(block), 'refcount', ownBlocks);
    if (fresh.length > 0) await storage.flush();
    for (const sector of this.#dirtySectors) {
      const at = sector * sectorBytes;
      const bytes = new Uint8Array(this.#table.buffer, this.#table.byteOffset + at, sectorBytes);
      await this.#file.writeMetadata(header.refcountTableOffset + at, bytes, 'refcount', ownTable);
    }
  }

  /** What `write` wrote is durable. */
  written(): void {
    for (const block of this.cache.dirtyTables()) this.cache.clean(block);
    this.#dirtySectors.clear();
    this.cache.trim();
  }

  async #growTable(neededEntries: number): Promise<void> {
    const { clusterBytes } = this.#file.geometry;
    const { storage, header } = this.#file;
    await this.write();
    const start = this.tableEntryCount * this.perBlock;
    const place = placeGrownTable(this.tableEntryCount, neededEntries, clusterBytes, this.perBlock);
    const table = new Uint8Array(place.tableClusters * clusterBytes);
    if (table.length > Math.max(maxRefcountTableBytes, clusterBytes)) {
      const problem = `${this.#file.name}: the refcount table would be larger than ${maxRefcountTableBytes} bytes`;
      throw new CowlabError('ERR_TOO_LARGE', problem, {
        file: this.#file.name,
        field: 'refcount_table_clusters',
      });
    }
    table.set(new Uint8Array(this.#table.buffer, this.#table.byteOffset, this.#table.byteLength));
    const view = viewOf(table);
    for (let nth = 0; nth < place.blocks; nth += 1) {
      setEntry(view, this.tableEntryCount + nth, (start + nth) * clusterBytes, 0, 0);
      const counted = Math.min(this.perBlock, place.blocks + place.tableClusters - nth * this.perBlock);
      const bytes = new Uint8Array(clusterBytes);
      for (let at = 0; at < counted; at += 1) this.width.set(viewOf(bytes), at, 1);
      await this.#file.writeMetadata((start + nth) * clusterBytes, bytes, 'refcount');
    }
    const refcountTableOffset = (start + place.blocks) * clusterBytes;
    await this.#file.writeMetadata(refcountTableOffset, table, 'refcount');
    await storage.flush();
    try {
      await this.#file.update({ refcountTableOffset, refcountTableClusters: place.tableClusters });
    } finally {
      // The header may have switched although its flush failed.
      if (this.#file.header.refcountTableOffset === refcountTableOffset) {
        this.#table = view;
        this.#file.guard?.tablesChanged();
        this.written();
        this.release(header.refcountTableOffset / clusterBytes, header.refcountTableClusters, false);
      }
    }
  }
}

function changedPart(table: Table): [number, Uint8Array] {
  const from = Math.floor(table.dirtyFrom / sectorBytes) * sectorBytes;
  const to = roundUp(table.dirtyTo, sectorBytes);
  return [table.hostOffset + from, table.bytes.subarray(from, to)];
}
