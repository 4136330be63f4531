import { corrupt, roundUp, type SnapshotInfo, viewOf, writeU64BE } from '@cowlab/core';
import { snapshotFields as fields } from './layout-fields.ts';
import { maxL1Bytes, readField } from './layout.ts';

/*
 * The snapshot table: entries of varying length, one after the other, each padded to 8 bytes.
 *
 *   fixed fields (layout-fields.ts) | extra | id | name
 *   extra: 0 VM state bytes u64 | 8 disk size u64 | whatever others put there, which is kept
 *
 * Source: QEMU, docs/interop/qcow2, "Snapshots".
 */

export interface Snapshot {
  readonly id: string;
  readonly name: string;
  readonly l1Offset: number;
  readonly l1EntryCount: number;
  readonly seconds: number;
  readonly nanoseconds: number;
  readonly runTime: bigint;
  readonly vmStateBytes: number;
  /** As it is in the file. */
  readonly extra: Uint8Array;
  /** Guest bytes; the present size of the disk where the entry does not tell. */
  readonly size: number;
}

const fixedBytes = 40;
const writtenExtraBytes = 16;
const maxExtraBytes = 1024;
/** QEMU's limit. */
const maxSnapshotTableBytes = 64 * 1024 * 1024;

export function snapshotInfo({ id, name, seconds, nanoseconds, size }: Snapshot): SnapshotInfo {
  return { id, name, createdAt: new Date(seconds * 1000 + Math.floor(nanoseconds / 1e6)), size };
}

/** An entry for the present state of a disk. */
export function newSnapshot(
  id: string,
  name: string,
  createdAt: Date,
  place: Pick<Snapshot, 'l1Offset' | 'l1EntryCount' | 'size'>,
): Snapshot {
  const extra = new Uint8Array(writtenExtraBytes);
  writeU64BE(viewOf(extra), 8, place.size);
  const milliseconds = createdAt.getTime();
  const seconds = Math.floor(milliseconds / 1000);
  const nanoseconds = (milliseconds - seconds * 1000) * 1e6;
  return { id, name, seconds, nanoseconds, runTime: 0n, vmStateBytes: 0, extra, ...place };
}

function entryBytes(snapshot: Snapshot): number {
  const text = Buffer.byteLength(snapshot.id) + Buffer.byteLength(snapshot.name);
  return roundUp(fixedBytes + snapshot.extra.length + text, 8);
}

export function encodeSnapshotTable(snapshots: readonly Snapshot[]): Uint8Array {
  const bytes = new Uint8Array(snapshots.reduce((sum, snapshot) => sum + entryBytes(snapshot), 0));
  const view = viewOf(bytes);
  const text = new TextEncoder();
  let at = 0;
  for (const snapshot of snapshots) {
    const id = text.encode(snapshot.id);
    const name = text.encode(snapshot.name);
    writeU64BE(view, at + fields.l1_table_offset.at, snapshot.l1Offset);
    view.setUint32(at + fields.l1_size.at, snapshot.l1EntryCount);
    view.setUint16(at + fields.id_str_size.at, id.length);
    view.setUint16(at + fields.name_size.at, name.length);
    view.setUint32(at + fields.date_sec.at, snapshot.seconds);
    view.setUint32(at + fields.date_nsec.at, snapshot.nanoseconds);
    view.setBigUint64(at + fields.vm_clock_nsec.at, snapshot.runTime);
    view.setUint32(at + fields.vm_state_size.at, snapshot.vmStateBytes);
    view.setUint32(at + fields.extra_data_size.at, snapshot.extra.length);
    bytes.set(snapshot.extra, at + fixedBytes);
    bytes.set(id, at + fixedBytes + snapshot.extra.length);
    bytes.set(name, at + fixedBytes + snapshot.extra.length + id.length);
    at += entryBytes(snapshot);
  }
  return bytes;
}

export interface SnapshotTable {
  readonly snapshots: readonly Snapshot[];
  /** What the table takes in the file. */
  readonly bytes: number;
}

/** Collects bytes of a table from the front on, as far as they are needed. */
export interface TableReader {
  readonly file: string;
  /** `length` bytes from `at` in the table; throws `ERR_CORRUPT` when they reach past the end of the file. */
  read(at: number, length: number): Promise<Uint8Array>;
}

/** Decodes `count` entries. Throws `ERR_CORRUPT` naming the field. */
export async function decodeSnapshotTable(
  reader: TableReader,
  count: number,
  diskSize: number,
): Promise<SnapshotTable> {
  const snapshots: Snapshot[] = [];
  let at = 0;
  for (let index = 0; index < count; index += 1) {
    const fixed = viewOf(await reader.read(at, fixedBytes));
    const extraBytes = fixed.getUint32(fields.extra_data_size.at);
    if (extraBytes > maxExtraBytes) {
      throw corrupt(reader.file, 'snapshot_table.extra_data_size', `${extraBytes} bytes`, {
        index,
        value: extraBytes,
      });
    }
    const variable = await reader.read(
      at + fixedBytes,
      extraBytes + fixed.getUint16(fields.id_str_size.at) + fixed.getUint16(fields.name_size.at),
    );
    const snapshot = decodeEntry(fixed, variable, reader.file, diskSize);
    snapshots.push(snapshot);
    at += roundUp(fixedBytes + variable.length, 8);
    if (at > maxSnapshotTableBytes)
      throw corrupt(reader.file, 'snapshot_table', 'larger than 64 MiB', { index });
  }
  return { snapshots, bytes: at };
}

function decodeEntry(fixed: DataView, variable: Uint8Array, file: string, diskSize: number): Snapshot {
  const extra = variable.slice(0, fixed.getUint32(fields.extra_data_size.at));
  const idEnd = extra.length + fixed.getUint16(fields.id_str_size.at);
  const text = new TextDecoder();
  const l1EntryCount = fixed.getUint32(fields.l1_size.at);
  if (l1EntryCount * 8 > maxL1Bytes) {
    throw corrupt(file, 'snapshot_table.l1_size', `${l1EntryCount} entries`, { value: l1EntryCount });
  }
  return {
    id: text.decode(variable.subarray(extra.length, idEnd)),
    name: text.decode(variable.subarray(idEnd)),
    l1Offset: readField(fixed, fields.l1_table_offset.at, file, 'snapshot_table.l1_table_offset'),
    l1EntryCount,
    seconds: fixed.getUint32(fields.date_sec.at),
    nanoseconds: fixed.getUint32(fields.date_nsec.at),
    runTime: fixed.getBigUint64(fields.vm_clock_nsec.at),
    vmStateBytes: fixed.getUint32(fields.vm_state_size.at),
    extra,
    size: extra.length >= 16 ? readField(viewOf(extra), 8, file, 'snapshot_table.disk_size') : diskSize,
  };
}
