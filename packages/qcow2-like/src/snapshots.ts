import {
  corrupt,
  CowlabError,
  type DiffBatch,
  type DriverImage,
  type DriverSnapshots,
  type LongCallOptions,
  type SnapshotInfo,
  unsupported,
  viewOf,
} from '@cowlab/core';
import { recover } from './check.ts';
import { diffStates, type Side } from './diff.ts';
import {
  activeTables,
  bytesOf,
  countDown,
  countUp,
  markSoleOwners,
  tablesOf,
  type Walk,
  without,
} from './counting.ts';
import { copiedFlag } from './entries.ts';
import type { TableAt } from './walk.ts';
import type { ImageParts } from './image.ts';
import type { ImageFile } from './image-file.ts';
import { type L1Place, Mapping, readL1 } from './mapping.ts';
import type { Metadata, Transaction } from './metadata.ts';
import {
  encodeSnapshotTable,
  newSnapshot,
  type Snapshot,
  snapshotInfo,
  type SnapshotTable,
} from './snapshot-table.ts';

/*
 * Internal snapshots: a second L1 table over the same L2 tables and data. A cluster's count is the number of
 * ways that lead to it from all L1 tables, so each operation is one pass over the L2 tables that it concerns,
 * in the order of the file, with counts kept in memory until the end:
 *
 *   create   every table and cluster of the active state: count + 1, COPIED off; a copy of the L1 table
 *   delete   every one of the snapshot: count - 1; where the active state alone is left: COPIED on
 *   apply    tables that differ: the snapshot's + 1, the active one's - 1; a copy of the snapshot's L1 table
 *   rename   none; another snapshot table
 *
 * The snapshot table is always written anew, beside the old one; the header decides which one is true.
 */

export class Qcow2Snapshots implements DriverSnapshots {
  readonly #parts: ImageParts;
  readonly #openView: (parts: ImageParts, size: number) => DriverImage;

  constructor(parts: ImageParts, openView: (parts: ImageParts, size: number) => DriverImage) {
    this.#parts = parts;
    this.#openView = openView;
  }

  list(): readonly SnapshotInfo[] {
    return this.#table().snapshots.map(snapshotInfo);
  }

  async create(name: string, createdAt: Date): Promise<SnapshotInfo> {
    const metadata = this.#metadata();
    const { file } = metadata;
    const { snapshots } = metadata.snapshots;
    if (snapshots.length + 2 > file.geometry.maxRefcount) throw tooMany(metadata);
    const id = nextId(metadata);
    const walk: Walk = { metadata, options: {} };
    let made: Snapshot | undefined;
    await this.#change(metadata, async () => {
      await countUp(walk, activeTables(metadata));
      for (const { l1Index, hostOffset } of activeTables(metadata))
        metadata.mapping.setL1(l1Index, hostOffset, false);
      const l1 = bytesOf(metadata.mapping.l1);
      const l1Offset = await metadata.writeNew(l1, 'snapshot');
      made = newSnapshot(String(id), name, createdAt, {
        l1Offset,
        l1EntryCount: metadata.mapping.l1EntryCount,
        size: file.header.size,
      });
      return {
        snapshots: [...snapshots, made],
        patch: { nextSnapshotId: id + 1 },
        lower: async () => undefined,
      };
    });
    return snapshotInfo(made as unknown as Snapshot);
  }

  async delete(id: string, options: LongCallOptions): Promise<void> {
    const metadata = this.#metadata();
    const snapshot = this.#find(id);
    const walk: Walk = { metadata, options };
    const { tables } = await readTables(metadata, snapshot);
    await this.#change(metadata, async () => ({
      snapshots: metadata.snapshots.snapshots.filter((each) => each !== snapshot),
      patch: { nextSnapshotId: nextId(metadata) },
      lower: async () => {
        await countDown(walk, tables);
        await metadata.countDown(snapshot.l1Offset, snapshot.l1EntryCount * 8);
        await markSoleOwners(metadata, tables);
      },
    }));
  }

  async apply(id: string, options: LongCallOptions): Promise<void> {
    const metadata = this.#metadata();
    const { file, mapping } = metadata;
    if (file.bitmaps !== undefined)
      throw unsupported(file.name, 'bitmaps', 'what applying a snapshot changes, no dirty bitmap would know');
    const snapshot = this.#find(id);
    const walk: Walk = { metadata, options };
    const { l1, tables: wanted } = await readTables(metadata, snapshot);
    const present = activeTables(metadata);
    const { l1Offset: oldOffset, l1EntryCount: oldEntryCount } = file.header;
    await this.#change(metadata, async () => {
      await countUp(walk, without(wanted, present));
      const copy = l1.slice();
      const view = viewOf(copy);
      for (const { l1Index } of wanted)
        view.setUint32(l1Index * 8, (view.getUint32(l1Index * 8) & ~copiedFlag) >>> 0);
      const l1Offset = await metadata.writeNew(copy, 'mapping');
      return {
        patch: { l1Offset, l1EntryCount: snapshot.l1EntryCount, size: snapshot.size },
        lower: async () => {
          await countDown(walk, without(present, wanted));
          await metadata.countDown(oldOffset, oldEntryCount * 8);
          mapping.replaceL1(copy);
        },
      };
    });
  }

  async rename(id: string, name: string): Promise<void> {
    const metadata = this.#metadata();
    const renamed = this.#find(id);
    await this.#change(metadata, async () => ({
      snapshots: metadata.snapshots.snapshots.map((each) => (each === renamed ? { ...each, name } : each)),
      patch: {},
      lower: async () => undefined,
    }));
  }

  async open(id: string): Promise<DriverImage> {
    const { file, backing, l2CacheBytes } = this.#parts;
    const snapshot = this.#find(id);
    assertWhole(file, snapshot);
    const mapping = await Mapping.load(file, placeOf(snapshot), l2CacheBytes);
    const parts = { file, mapping, snapshots: this.#table(), l2CacheBytes, backing };
    return this.#openView(parts, snapshot.size);
  }

  async diff(from: string | null, to: string | null, offset: number, end: number): Promise<DiffBatch> {
    const { file, backing } = this.#parts;
    const sides = [await this.#side(from), await this.#side(to)] as const;
    return diffStates({ file, hasBacking: backing.current !== undefined, sides }, offset, end);
  }

  async #side(id: string | null): Promise<Side> {
    const { file, mapping } = this.#parts;
    if (id === null) return { l1: mapping.l1, mapping };
    const snapshot = this.#find(id);
    assertWhole(file, snapshot);
    return { l1: viewOf(await readL1(file, placeOf(snapshot), 'snapshot_table.l1_table_offset')) };
  }

  /** One transaction that may write the snapshot table anew and switches the header. */
  async #change(metadata: Metadata, prepare: () => Promise<Change>): Promise<void> {
    const { file } = metadata;
    const old = { ...metadata.snapshots, offset: file.header.snapshotTableOffset };
    let table: SnapshotTable | undefined;
    let lower: Transaction['lower'] | undefined;
    await metadata.transact(
      {
        raise: async () => {
          const change = await prepare();
          lower = change.lower;
          if (change.snapshots === undefined) return change.patch;
          const bytes = encodeSnapshotTable(change.snapshots);
          table = { snapshots: change.snapshots, bytes: bytes.length };
          const snapshotTableOffset = bytes.length === 0 ? 0 : await metadata.writeNew(bytes, 'snapshot');
          return { ...change.patch, snapshotTableOffset, snapshotCount: change.snapshots.length };
        },
        lower: async () => {
          await lower?.();
          if (table !== undefined) await metadata.countDown(old.offset, old.bytes);
        },
        switched: async () => {
          if (table === undefined) return;
          metadata.snapshots = table;
          await metadata.guardSnapshots();
        },
      },
      () => recover(metadata),
    );
  }

  #table(): SnapshotTable {
    return this.#parts.metadata?.snapshots ?? this.#parts.snapshots;
  }

  #find(id: string): Snapshot {
    const found = this.#table().snapshots.find((snapshot) => snapshot.id === id);
    if (found !== undefined) return found;
    const { name } = this.#parts.file;
    throw new CowlabError('ERR_SNAPSHOT_NOT_FOUND', `${name}: no snapshot with id ${id}`, {
      file: name,
      field: 'id',
    });
  }

  #metadata(): Metadata {
    const { metadata, file } = this.#parts;
    if (metadata !== undefined) return metadata;
    throw new CowlabError('ERR_READ_ONLY', `${file.name}: the image is open read-only`, { file: file.name });
  }
}

/** What an operation changes: a new list of snapshots (where it changes), header fields, counts that go down at the end. */
interface Change {
  readonly snapshots?: readonly Snapshot[];
  readonly patch: Awaited<ReturnType<Transaction['raise']>>;
  readonly lower: Transaction['lower'];
}

/** Throws `ERR_CORRUPT` when the L1 table is too small for the disk that the snapshot is of. */
function assertWhole(file: ImageFile, { l1EntryCount, size }: Snapshot): void {
  if (l1EntryCount >= Math.ceil(size / file.geometry.l2SpanBytes)) return;
  const data = { value: l1EntryCount };
  throw corrupt(file.name, 'snapshot_table.l1_size', 'too small for the size of the snapshot', data);
}

/** The L1 table of a snapshot, and the L2 tables it points to. */
export async function readTables(
  metadata: Metadata,
  snapshot: Snapshot,
): Promise<{ readonly l1: Uint8Array; readonly tables: readonly TableAt[] }> {
  const l1 = await readL1(metadata.file, placeOf(snapshot), 'snapshot_table.l1_table_offset');
  try {
    return { l1, tables: tablesOf(metadata, l1) };
  } catch (error) {
    await metadata.condemn(error);
    throw error;
  }
}

function placeOf({ l1Offset, l1EntryCount }: Snapshot): L1Place {
  return { offset: l1Offset, entryCount: l1EntryCount };
}

/** Ids are numbers in QEMU's images and ours. The counter is ours: where others took it away, the largest id decides. */
function nextId({ file, snapshots }: Metadata): number {
  const numbers = snapshots.snapshots.map(({ id }) => (/^\d{1,15}$/.test(id) ? Number(id) : 0));
  return numbers.reduce((most, number) => Math.max(most, number + 1), file.header.nextSnapshotId ?? 1);
}

function tooMany({ file }: Metadata): CowlabError {
  const { refcountBits } = file.geometry;
  const problem = `refcounts of ${refcountBits} bits cannot count another snapshot`;
  return new CowlabError('ERR_SNAPSHOT_LIMIT', `${file.name}: ${problem}`, {
    file: file.name,
    field: 'header.refcount_order',
    value: refcountBits,
  });
}
