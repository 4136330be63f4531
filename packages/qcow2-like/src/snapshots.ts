import { CowlabError, type DriverImage, type DriverSnapshots, type LongCallOptions, type SnapshotInfo, viewOf } from '@cowlab/core';
import { recover } from './check.ts';
import { compressedFlag, compressedPlace, copiedFlag, hostOffsetOf, isMalformed, zeroFlag } from './entries.ts';
import type { ImageParts } from './image.ts';
import type { HeaderPatch } from './layout.ts';
import { type L1Place, Mapping, readL1 } from './mapping.ts';
import { abortError, type Metadata } from './metadata.ts';
import { encodeSnapshotTable, newSnapshot, type Snapshot, snapshotInfo, type SnapshotTable } from './snapshot-table.ts';
import { type TableAt, walkTables } from './walk.ts';

/*
 * Internal snapshots: a second L1 table over the same L2 tables and data. A cluster's count is the number of
 * ways that lead to it from all L1 tables, so each operation is one pass over the L2 tables that it concerns,
 * in the order of the file, with counts kept in memory until the end:
 *
 *   create   every table and cluster of the active state: count + 1, COPIED off; a copy of the L1 table
 *   delete   every one of the snapshot: count - 1; where the active state alone is left: COPIED on
 *   apply    tables that differ: the snapshot's + 1, the active one's - 1; a copy of the snapshot's L1 table
 *
 * The snapshot table is always written anew, beside the old one; the header decides which one is true.
 */

interface L1Table extends L1Place {
  readonly view: DataView;
}

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
    const idNumber = nextId(metadata);
    let made: Snapshot | undefined;
    await this.#change(metadata, {
      raise: async () => {
        await countActive(metadata);
        const { view } = activeL1(metadata);
        const l1 = new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
        const l1Offset = await metadata.writeNew(l1, 'snapshot');
        const place = { l1Offset, l1EntryCount: metadata.mapping.l1EntryCount, size: file.header.size };
        made = newSnapshot(String(idNumber), name, createdAt, place);
        return { ...(await writeTable(metadata, [...snapshots, made])), nextSnapshotId: idNumber + 1 };
      },
      lower: () => metadata.countDown(...oldTable),
    });
    return snapshotInfo(made as unknown as Snapshot);
  }

  async delete(id: string, options: LongCallOptions): Promise<void> {
  }
}
