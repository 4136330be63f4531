import { type Awaitable, andThen, CowlabError, corrupt, viewOf } from '@cowlab/core';
import { keptAutoclear } from './bitmap-directory.ts';
import { isFatal } from './corruption.ts';
import { compressedFlag, compressedPlace, hostOffsetOf, zeroFlag } from './entries.ts';
import { brokenImage, condemnedImage, type ImageFile } from './image-file.ts';
import type { HeaderPatch } from './layout.ts';
import { type Mapping, readL1 } from './mapping.ts';
import type { Refcounts } from './refcounts.ts';
import { decodeSnapshotTable, type SnapshotTable, type TableReader } from './snapshot-table.ts';
import type { Table } from './table-cache.ts';
import { Turns } from './turns.ts';

/** What changes together: raise counts and write new structures, switch the header, then count down. */
export interface Transaction {
  /** Nothing that the present header reaches may lose a reference here. */
  readonly raise: () => Promise<HeaderPatch>;
  readonly lower: () => Promise<void>;
  /** The header has switched: what it reached before is free to go. */
  readonly switched: () => Promise<void>;
}

/** The metadata of an image that is open for writing, and the order in which it reaches the disk (see image.ts). */
export class Metadata {
  readonly file: ImageFile;
  readonly mapping: Mapping;
  readonly refcounts: Refcounts;
  /** Whoever changes tables or counts, or writes them back, does so alone; reads and writes of data go on beside. */
  readonly turns: Turns = new Turns();
  #snapshots: SnapshotTable;
  #broken: unknown;

  constructor(file: ImageFile, mapping: Mapping, refcounts: Refcounts, snapshots: SnapshotTable) {
    this.file = file;
    this.mapping = mapping;
    this.refcounts = refcounts;
    this.#snapshots = snapshots;
  }

  get snapshots(): SnapshotTable {
    return this.#snapshots;
  }

  set snapshots(table: SnapshotTable) {
    this.#snapshots = table;
    this.file.guard?.rangesChanged();
  }

  get isBroken(): boolean {
    return this.#broken !== undefined || this.file.header.damaged;
  }

  /** The image had the corrupt bit when it was opened, so that nothing here has changed. */
  get mayBeRepaired(): boolean {
    return this.#broken === undefined && this.file.header.damaged;
  }

  /** What is in memory is not what the file has any more, for the reason given: nothing is written from here on. */
  retire(reason: string): void {
    this.#broken = reason;
  }

  assertUsable(): void {
    if (this.file.header.damaged) throw condemnedImage(this.file.name, this.#broken);
    if (this.#broken !== undefined) throw brokenImage(this.file.name, this.#broken);
  }

  /**
   * After corruption that marks an image: no change is taken any more, nothing in memory is written back, and the
   * corrupt bit is set durably. Version 2 has no such bit. What was caught matters more than whether the bit got there.
   */
  async condemn(error: unknown): Promise<void> {
    if (!isFatal(error) || isFatal(this.#broken)) return;
    this.#broken = error;
    await this.turns.take(() => this.file.markDamaged().catch(() => undefined));
  }

  /** A check has found, or made, everything right: the corrupt bit goes, and the image takes changes again. */
  async absolve(): Promise<void> {
    await this.file.update({ damaged: false, dirty: false, autoclear: keptAutoclear(this.file) });
  }

  /** Hands the L2 table of an L1 index to `use` such that it may be changed: made or copied when it must be. */
  withOwnTable<T>(l1Index: number, use: (table: Table) => Awaitable<T>): Awaitable<T> {
    const isOwned = this.mapping.isOwned(l1Index);
    const table = this.mapping.tables.peek(l1Index);
    if (isOwned && table !== undefined) return use(table);
    const coming = isOwned ? this.mapping.table(l1Index) : this.#makeOwn(l1Index);
    if (coming === undefined) {
      throw corrupt(this.file.name, 'l1_table.entry', 'COPIED is set without an L2 table', {
        index: l1Index,
      });
    }
    return andThen<unknown, T>(coming, () => this.withOwnTable(l1Index, use));
  }

  async #makeOwn(l1Index: number): Promise<void> {
    const { tables } = this.mapping;
    const { clusterBytes } = this.file.geometry;
    const { first } = await this.refcounts.allocate(1);
    let bytes: Uint8Array;
    try {
      bytes = (await this.mapping.table(l1Index))?.bytes ?? new Uint8Array(clusterBytes);
    } catch (error) {
      this.refcounts.release(first, 1, false);
      throw error;
    }
    const oldOffset = this.mapping.tableOffset(l1Index);
    if (oldOffset !== 0) this.refcounts.release(oldOffset / clusterBytes, 1, false);
    const table = tables.peek(l1Index) ?? tables.insert(l1Index, oldOffset, bytes);
    table.hostOffset = first * clusterBytes;
    table.fresh = true;
    tables.markDirty(table, 0, clusterBytes);
    this.mapping.setL1(l1Index, table.hostOffset, true);
  }

  /** Notes that an L2 entry no longer refers to its clusters. */
  releaseEntry(hi: number, lo: number, discard: boolean): void {
    const { clusterBytes } = this.file.geometry;
    // Clusters in a data file are not counted.
    if (this.file.hasDataFile) return;
    if ((hi & compressedFlag) !== 0) {
      const { offset, end } = compressedPlace(hi, lo, this.file.header.clusterBits);
      const first = Math.floor(offset / clusterBytes);
      this.refcounts.release(first, Math.ceil(end / clusterBytes) - first, discard);
      return;
    }
    const hostOffset = hostOffsetOf(hi, lo & ~zeroFlag);
    if (hostOffset !== 0) this.refcounts.release(hostOffset / clusterBytes, 1, discard);
  }

  /** At the end of a turn that changed something: writes back when the caches ask for it. */
  settle(): Awaitable<void> {
    const { tables } = this.mapping;
    if (tables.dirtyCount * 2 > tables.capacity || this.refcounts.writeBackDue) return this.writeBack();
  }

  flush(): Awaitable<void> {
    this.assertUsable();
    // All metadata are durable then, and what is left are bytes of the guest.
    const { dataStorage } = this.file;
    if (!this.turns.busy && !this.#mustWriteBack) return dataStorage.flush();
    return this.turns.take(() => (this.#mustWriteBack ? this.writeBack() : dataStorage.flush()));
  }

  /** With lazy refcounts, changed counts alone can wait: the dirty bit says that they do. */
  get #mustWriteBack(): boolean {
    return this.mapping.hasChanges || (this.refcounts.hasChanges && !this.#isLazy);
  }

  get #isLazy(): boolean {
    const { version, lazyRefcounts } = this.file.header;
    return version === 3 && lazyRefcounts;
  }

  /** What a flush does, for those who have the turn. */
  async writeBack(): Promise<void> {
    const { file } = this;
    const mapped = this.mapping.hasChanges;
    const counted = !this.#isLazy || this.refcounts.writeBackDue;
    if (this.#isLazy && !this.file.header.dirty) await this.file.update({ dirty: true });
    if (counted) await this.refcounts.write();
    await this.mapping.writeFresh();
    await file.flush();
    if (counted) this.refcounts.written();
    this.mapping.freshWritten();
    if (mapped) {
      await this.mapping.write();
      await file.storage.flush();
      this.mapping.written();
    }
    await this.refcounts.applyReleases();
  }

  /** Everything on disk, nothing left in memory: the state that `check` and snapshot operations start from. */
  async sync(): Promise<void> {
    this.assertUsable();
    await this.turns.take(async () => {
      if (this.mapping.hasChanges) await this.writeBack();
      await this.refcounts.applyReleases();
      while (this.refcounts.hasChanges) {
        await this.writeAll();
        await this.refcounts.applyReleases();
      }
      await this.file.flush();
      if (this.#isLazy && this.file.header.dirty) await this.file.update({ dirty: false });
    });
  }

  /**
   * Runs a transaction: wholly done when it returns; when it throws, or power fails, done not at all (or, where
   * only the last confirmation was lost, wholly). `recover` rebuilds the refcounts from what the header reaches.
   */
  async transact(transaction: Transaction, recover: () => Promise<void>): Promise<void> {
    await this.sync();
    try {
      if (this.file.header.version === 3) await this.#underDirtyBit(transaction);
      else await this.#inSteps(transaction);
    } catch (error) {
      if (isFatal(error)) await this.condemn(error);
      else await this.#undo(error, recover);
      throw error;
    }
  }

  async #underDirtyBit({ raise, lower, switched }: Transaction): Promise<void> {
    await this.refcounts.takeFreed();
    await this.file.update({ dirty: true });
    const patch = await raise();
    await lower();
    const freed = await this.refcounts.takeFreed();
    await this.writeAll();
    await this.file.update({ ...patch, dirty: false });
    await switched();
    await this.refcounts.discard(freed);
  }

  /** Version 2 has no dirty bit, so nothing may be counted down before the header has switched. */
  async #inSteps({ raise, lower, switched }: Transaction): Promise<void> {
    await this.refcounts.takeFreed();
    const patch = await raise();
    await this.writeAll();
    await this.file.update(patch);
    await switched();
    await lower();
    const freed = await this.refcounts.takeFreed();
    await this.writeAll();
    await this.refcounts.discard(freed);
  }

  /** Writes everything changed in one go: for when nothing durable depends on it yet, or the dirty bit is set. */
  async writeAll(): Promise<void> {
    await this.refcounts.write();
    await this.mapping.write();
    await this.file.storage.flush();
    this.refcounts.written();
    this.mapping.written();
  }

  async #undo(error: unknown, recover: () => Promise<void>): Promise<void> {
    try {
      await this.reload();
      await recover();
    } catch {
      // The file keeps what is there, for the next open to recover.
      this.#broken = error;
    }
  }

  /** Reads everything again, as the header has it. */
  async reload(): Promise<void> {
    await this.refcounts.reload();
    await this.mapping.reload();
    this.snapshots = await loadSnapshots(this.file);
    await this.guardSnapshots();
  }

  /** Tells the guard where the L2 tables of snapshots are, when it wants to know. */
  async guardSnapshots(): Promise<void> {
    const { guard } = this.file;
    if (guard?.wantsInactiveTables !== true) return;
    const offsets = new Set<number>();
    for (const { l1Offset, l1EntryCount } of this.snapshots.snapshots) {
      const place = { offset: l1Offset, entryCount: l1EntryCount };
      const l1 = viewOf(await readL1(this.file, place, 'snapshot_table.l1_table_offset'));
      for (let at = 0; at < l1.byteLength; at += 8) {
        const offset = hostOffsetOf(l1.getUint32(at), l1.getUint32(at + 4));
        if (offset !== 0) offsets.add(offset);
      }
    }
    guard.setInactiveTables([...offsets]);
  }

  /** Notes that a structure of `bytes` at `offset` is no longer used. */
  async countDown(offset: number, bytes: number): Promise<void> {
    const { clusterBytes } = this.file.geometry;
    const count = Math.ceil(bytes / clusterBytes);
    if (count > 0) await this.refcounts.change({ first: offset / clusterBytes, count }, -1);
  }

  /** Writes a structure into clusters of its own; its offset. */
  async writeNew(bytes: Uint8Array, purpose: 'snapshot' | 'mapping'): Promise<number> {
    const { clusterBytes } = this.file.geometry;
    const clusters = Math.max(1, Math.ceil(bytes.length / clusterBytes));
    const offset = await this.refcounts.allocateTogether(clusters);
    const whole = new Uint8Array(clusters * clusterBytes);
    whole.set(bytes);
    try {
      await this.file.writeMetadata(offset, whole, purpose);
    } catch (error) {
      this.refcounts.release(offset / clusterBytes, clusters, false);
      throw error;
    }
    return offset;
  }
}

export function abortError(file: string): CowlabError {
  return new CowlabError('ERR_ABORTED', `${file}: aborted`, { file });
}

/** The snapshot table is read in pieces: entries of the usual length, as many as there are, at most so many bytes. */
const usualEntryBytes = 96;
const maxAheadBytes = 65_536;

/** Reads the snapshot table that the header points to. Throws `ERR_CORRUPT` naming the field. */
export async function loadSnapshots(file: ImageFile): Promise<SnapshotTable> {
  const { snapshotCount, snapshotTableOffset, size } = file.header;
  const ahead = Math.min(maxAheadBytes, snapshotCount * usualEntryBytes);
  let piece = new Uint8Array(0);
  let from = 0;
  const reader: TableReader = {
    file: file.name,
    async read(at, length) {
      const left = file.storage.size() - snapshotTableOffset - at;
      if (length > left) {
        throw corrupt(
          file.name,
          'header.snapshots_offset',
          'the snapshot table reaches past the end of the file',
        );
      }
      if (at < from || at + length > from + piece.length) {
        piece = new Uint8Array(Math.min(left, Math.max(length, ahead)));
        from = at;
        await file.storage.read(snapshotTableOffset + at, piece, 'snapshot');
      }
      return piece.subarray(at - from, at - from + length);
    },
  };
  return decodeSnapshotTable(reader, snapshotCount, size);
}
