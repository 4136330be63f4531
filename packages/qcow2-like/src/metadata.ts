import { type Awaitable, andThen, CowlabError, corrupt } from '@cowlab/core';
import { compressedFlag, compressedPlace, hostOffsetOf, zeroFlag } from './entries.ts';
import { brokenImage, type ImageFile } from './image-file.ts';
import type { HeaderPatch } from './layout.ts';
import type { Mapping } from './mapping.ts';
import type { Refcounts } from './refcounts.ts';
import { decodeSnapshotTable, type SnapshotTable, type TableReader } from './snapshot-table.ts';
import type { Table } from './table-cache.ts';

/** What changes together: raise counts and write new structures, switch the header, then count down. */
export interface Transaction {
  /** Nothing that the present header reaches may lose a reference here. */
  raise(): Promise<HeaderPatch>;
  lower(): Promise<void>;
}

/** The metadata of an image that is open for writing, and the order in which it reaches the disk (see image.ts). */
export class Metadata {
  readonly file: ImageFile;
  readonly mapping: Mapping;
  readonly refcounts: Refcounts;
  snapshots: SnapshotTable;
  #broken: unknown;

  constructor(file: ImageFile, mapping: Mapping, refcounts: Refcounts, snapshots: SnapshotTable) {
    this.file = file;
    this.mapping = mapping;
    this.refcounts = refcounts;
    this.snapshots = snapshots;
  }

  get isBroken(): boolean {
    return this.#broken !== undefined;
  }

  assertUsable(): void {
    if (this.#broken !== undefined) throw brokenImage(this.file.name, this.#broken);
  }

  /** Refuses changes from now on; the file keeps what is there, for the next open to recover. */
  giveUp(cause: unknown): void {
    this.#broken = cause;
  }

  /** The L2 table of an L1 index, such that it may be changed: made or copied when it must be. */
  ownTable(l1Index: number): Awaitable<Table> {
    if (!this.mapping.isOwned(l1Index)) return this.#makeOwn(l1Index);
    return andThen(this.mapping.table(l1Index), (table) => table ?? this.#lost(l1Index));
  }

  #lost(l1Index: number): never {
    throw corrupt(this.file.name, 'l1_table.entry', 'COPIED is set without an L2 table', { index: l1Index });
  }

  async #makeOwn(l1Index: number): Promise<Table> {
    const { tables } = this.mapping;
    const { clusterBytes } = this.file.geometry;
    const old = await this.mapping.table(l1Index);
    const { first } = await this.refcounts.allocate(1);
    const table = old ?? tables.insert(l1Index, 0, new Uint8Array(clusterBytes));
    if (old !== undefined) this.refcounts.release(old.hostOffset / clusterBytes, 1, false);
    table.hostOffset = first * clusterBytes;
    tables.markDirty(table, 0, clusterBytes);
    table.fresh = true;
    this.mapping.setL1(l1Index, table.hostOffset, true);
    return table;
  }

  /** Notes that an L2 entry no longer refers to its clusters. */
  releaseEntry(hi: number, lo: number, discard: boolean): void {
    const { clusterBytes } = this.file.geometry;
    if ((hi & compressedFlag) !== 0) {
      const { offset, end } = compressedPlace(hi, lo, this.file.header.clusterBits);
      const first = Math.floor(offset / clusterBytes);
      this.refcounts.release(first, Math.ceil(end / clusterBytes) - first, false);
      return;
    }
    const hostOffset = hostOffsetOf(hi, lo & ~zeroFlag);
    if (hostOffset !== 0) this.refcounts.release(hostOffset / clusterBytes, 1, discard);
  }

  /** Called after changes: writes back when the caches ask for it. */
  settle(): Awaitable<void> {
    const { tables } = this.mapping;
    if (tables.dirtyCount * 2 > tables.capacity || this.refcounts.writeBackDue) return this.flush();
  }

  flush(): Awaitable<void> {
    this.assertUsable();
    if (!this.mapping.hasChanges && !this.refcounts.hasChanges) return this.file.storage.flush();
    return this.#writeBack();
  }

  async #writeBack(): Promise<void> {
    const { storage } = this.file;
    const mapped = this.mapping.hasChanges;
    await this.refcounts.write();
    await this.mapping.writeFresh();
    await storage.flush();
    this.refcounts.written();
    this.mapping.freshWritten();
    if (mapped) {
      await this.mapping.write();
      await storage.flush();
      this.mapping.written();
    }
    await this.refcounts.applyReleases();
  }

  /** Everything on disk, nothing left in memory: the state that `check` and snapshot operations start from. */
  async sync(): Promise<void> {
    await this.flush();
    while (this.mapping.hasChanges || this.refcounts.hasChanges) await this.#writeBack();
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
      await this.#undo(error, recover);
      throw error;
    }
  }

  async #underDirtyBit({ raise, lower }: Transaction): Promise<void> {
    await this.refcounts.takeFreed();
    await this.file.update({ dirty: true });
    const patch = await raise();
    await lower();
    const freed = await this.refcounts.takeFreed();
    await this.#writeAll();
    await this.file.update({ ...patch, dirty: false });
    await this.refcounts.discard(freed);
  }

  /** Version 2 has no dirty bit, so nothing may be counted down before the header has switched. */
  async #inSteps({ raise, lower }: Transaction): Promise<void> {
    await this.refcounts.takeFreed();
    const patch = await raise();
    await this.#writeAll();
    await this.file.update(patch);
    await lower();
    const freed = await this.refcounts.takeFreed();
    await this.#writeAll();
    await this.refcounts.discard(freed);
  }

  async #writeAll(): Promise<void> {
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
      this.giveUp(error);
    }
  }

  /** Reads everything again, as the header has it. */
  async reload(): Promise<void> {
    await this.refcounts.reload();
    await this.mapping.reload();
    this.snapshots = await loadSnapshots(this.file);
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
    await this.file.storage.write(offset, whole, purpose);
    return offset;
  }
}

export function abortError(file: string): CowlabError {
  return new CowlabError('ERR_ABORTED', `${file}: aborted`, { file });
}

/** Reads the snapshot table that the header points to. Throws `ERR_CORRUPT` naming the field. */
export async function loadSnapshots(file: ImageFile): Promise<SnapshotTable> {
  const { snapshotCount, snapshotTableOffset, size } = file.header;
  const reader: TableReader = {
    file: file.name,
    async read(at, length) {
      const bytes = new Uint8Array(length);
      if (snapshotTableOffset + at + length > file.storage.size()) {
        throw corrupt(file.name, 'header.snapshots_offset', 'the snapshot table reaches past the end of the file');
      }
      await file.storage.read(snapshotTableOffset + at, bytes, 'snapshot');
      return bytes;
    },
  };
  return decodeSnapshotTable(reader, snapshotCount, size);
}
