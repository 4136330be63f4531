import { type Bitset, corrupt, type Storage, viewOf } from '@cowlab/core';
import { type Region, SECTOR_BYTES } from '../structure.ts';
import type { Header } from './layout.ts';
import { type ChunkTable, EMPTY, maskEntry } from './table.ts';

/*
 * The journal of version 1, replayed into memory. A sector stands for itself: records back to back, a bitmap record
 * last. There is neither checksum nor sequence number; sectors of earlier sessions stay and are replayed too, which
 * is harmless because in this format a chunk never moves and a block never goes back to the base. So
 *
 *   a record that breaks off, or is none    the sector was torn, and was never acknowledged: dropped with what
 *                                           follows in its sector, for `check` to report
 *   a whole record of what is not there,    damage: the image is refused
 *   or of a chunk that lies elsewhere
 */

const TABLE_RECORD = 0xb4e6f7ac;
const BITMAP_RECORD = 0x3f2ab8ed;
const PIECE_BYTES = 1024 * 1024;

interface TableRecord {
  readonly kind: 'table';
  readonly first: number;
  /** As they are on disk. */
  readonly entries: readonly number[];
}

interface BitmapRecord {
  readonly kind: 'bitmap';
  /** Sectors of the disk. */
  readonly first: number;
  readonly count: number;
}

interface JournalSector {
  readonly records: readonly (TableRecord | BitmapRecord)[];
  readonly torn: boolean;
}

/** The records of one sector. */
function decodeSector(bytes: Uint8Array): JournalSector {
  const view = viewOf(bytes);
  const records: (TableRecord | BitmapRecord)[] = [];
  for (let at = 0; at < SECTOR_BYTES; ) {
    const room = SECTOR_BYTES - at;
    const type = view.getUint32(at, true);
    if (type === 0) break;
    if (type === BITMAP_RECORD && room >= 16) {
      const count = view.getUint32(at + 4, true);
      records.push({ kind: 'bitmap', count, first: Number(view.getBigInt64(at + 8, true)) });
      break;
    }
    const count = type === TABLE_RECORD && room >= 16 ? view.getUint32(at + 8, true) : 0;
    if (count === 0 || 12 + 4 * count > room) return { records, torn: true };
    const start = at + 12;
    const entries = Array.from({ length: count }, (_, index) => view.getUint32(start + 4 * index, true));
    records.push({ kind: 'table', first: view.getUint32(at + 4, true), entries });
    at = start + 4 * count;
  }
  return { records, torn: false };
}

/** What records are applied to. */
export interface Mapping {
  readonly header: Header;
  readonly table: ChunkTable | undefined;
  /** Blocks that are in the image. */
  readonly bitmap: Bitset | undefined;
}

export interface Replay {
  /** Sectors with records. */
  readonly sectors: number;
  /** Where torn sectors lie in the file. */
  readonly torn: readonly number[];
}

/** Applies the whole journal. Throws `ERR_CORRUPT` for a record that cannot be. */
export async function replay(storage: Storage, region: Region, mapping: Mapping): Promise<Replay> {
  const torn: number[] = [];
  let sectors = 0;
  for (let at = 0; at < region.bytes; at += PIECE_BYTES) {
    const piece = new Uint8Array(Math.min(PIECE_BYTES, region.bytes - at));
    await storage.read(region.offset + at, piece, 'journal');
    for (let start = 0; start < piece.length; start += SECTOR_BYTES) {
      const sector = decodeSector(piece.subarray(start, start + SECTOR_BYTES));
      const place = `journal[${(at + start) / SECTOR_BYTES}]`;
      if (sector.torn) torn.push(region.offset + at + start);
      if (sector.records.length > 0) sectors++;
      for (const record of sector.records) {
        if (record.kind === 'table') applyTable(record, mapping, storage.name, place);
        else applyBitmap(record, mapping, storage.name, place);
      }
    }
  }
  return { sectors, torn };
}

function applyTable({ first, entries }: TableRecord, { table }: Mapping, file: string, place: string): void {
  const last = first + entries.length - 1;
  const chunks = table?.entries.length ?? 0;
  if (table === undefined || last >= chunks) {
    const problem = `chunks ${first} to ${last} are not all among the table's ${chunks}`;
    throw corrupt(file, `${place}.first_entry`, problem, { value: first });
  }
  entries.forEach((raw, index) => {
    const chunk = first + index;
    const entry = maskEntry(raw);
    const known = table.entries[chunk]!;
    if (entry === EMPTY) return;
    if (known !== EMPTY && known !== entry) {
      const problem = `guest chunk ${chunk} lies at ${entry} here, at ${known} elsewhere`;
      throw corrupt(file, `${place}.entry`, problem, { value: entry });
    }
    table.entries[chunk] = entry;
  });
}

/** Marks every block that the sectors touch; what is past the base has no block. */
function applyBitmap({ first, count }: BitmapRecord, mapping: Mapping, file: string, place: string): void {
  const { bitmap, header } = mapping;
  if (first < 0 || first + count > header.size / SECTOR_BYTES) {
    const problem = `sectors ${first} to ${first + count} are not all on the disk`;
    throw corrupt(file, `${place}.first_sector`, problem, { value: first });
  }
  // Once all data are in the image it has no bitmap any more; records of the time before stay.
  if (bitmap === undefined || header.base === undefined) return;
  const { blockBytes } = header.base;
  const start = Math.floor((first * SECTOR_BYTES) / blockBytes);
  const end = Math.min(bitmap.length, Math.ceil(((first + count) * SECTOR_BYTES) / blockBytes));
  if (start < end) bitmap.setRange(start, end);
}
