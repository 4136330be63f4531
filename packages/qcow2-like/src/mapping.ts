import { type Awaitable, roundUp, viewOf } from '@cowlab/core';
import { compressedFlag, copiedFlag, hostOffsetOf, isMalformed, setEntry } from './entries.ts';
import { malformedEntry } from './corruption.ts';
import type { ImageFile } from './image-file.ts';
import { sectorBytes } from './layout.ts';
import { type Table, TableCache } from './table-cache.ts';

/*
 * Where guest clusters are: an L1 table, whole in memory, and a bounded cache of L2 tables, found by their
 * L1 index. The active state has one, and every opened snapshot has one of its own.
 */

/** Where an L1 table lies. */
export interface L1Place {
  readonly offset: number;
  readonly entryCount: number;
}

const ownL1 = ['active L1 table'] as const;
const ownL2 = ['active L2 table'] as const;

export class Mapping {
  readonly file: ImageFile;
  readonly tables: TableCache;
  #l1: DataView;
  readonly #dirtySectors = new Set<number>();

  private constructor(file: ImageFile, l1: Uint8Array, budgetBytes: number) {
    this.file = file;
    this.#l1 = viewOf(l1);
    this.tables = new TableCache(file.geometry.clusterBytes, budgetBytes, 4);
  }

  static async load(file: ImageFile, l1: L1Place, budgetBytes: number): Promise<Mapping> {
    return new Mapping(file, await readL1(file, l1, 'l1_table_offset'), budgetBytes);
  }

  get l1EntryCount(): number {
    return Math.floor(this.#l1.byteLength / 8);
  }

  /** The L1 table as it is in memory. */
  get l1(): DataView {
    return this.#l1;
  }

  get residentBytes(): number {
    return this.#l1.byteLength + this.tables.residentBytes;
  }

  get hasChanges(): boolean {
    return this.tables.dirtyCount > 0 || this.#dirtySectors.size > 0;
  }

  /** Puts another L1 table in the place of this one; cached tables that it does not have are forgotten. */
  replaceL1(l1: Uint8Array): void {
    this.#l1 = viewOf(l1);
    this.#dirtySectors.clear();
    this.file.guard?.tablesChanged();
    this.tables.keepOnly(
      ({ index, hostOffset }) => index < this.l1EntryCount && this.tableOffset(index) === hostOffset,
    );
  }

  /** Reads the active L1 table again and forgets cached tables: someone rewrote them on disk. */
  async reload(): Promise<void> {
    const { l1Offset, l1EntryCount } = this.file.header;
    const place = { offset: l1Offset, entryCount: l1EntryCount };
    const l1 = await readL1(this.file, place, 'l1_table_offset');
    this.tables.reset();
    this.replaceL1(l1);
  }

  /** Host offset of an L2 table; 0 where there is none. Throws `ERR_CORRUPT`. */
  tableOffset(l1Index: number): number {
    return tableOffsetIn(this.file, this.#l1, l1Index);
  }

  /** Whether nothing else refers to the L2 table. */
  isOwned(l1Index: number): boolean {
    return (this.#l1.getUint32(l1Index * 8) & copiedFlag) !== 0;
  }

  setL1(l1Index: number, hostOffset: number, copied: boolean): void {
    const before = hostOffsetOf(this.#l1.getUint32(l1Index * 8), this.#l1.getUint32(l1Index * 8 + 4));
    if (before !== hostOffset) this.file.guard?.moveTable('active L2 table', before, hostOffset);
    setEntry(this.#l1, l1Index, hostOffset, copied ? copiedFlag : 0, 0);
    this.#dirtySectors.add(Math.floor((l1Index * 8) / sectorBytes));
  }

  /** The L2 table of an L1 index; undefined where there is none. */
  table(l1Index: number): Awaitable<Table> | undefined {
    const cached = this.tables.peek(l1Index);
    if (cached !== undefined) return cached;
    const hostOffset = this.tableOffset(l1Index);
    if (hostOffset === 0) return undefined;
    return this.tables.load(l1Index, hostOffset, (target) =>
      this.file.readCluster(hostOffset, target, 'l1_table.entry'),
    );
  }

  /** Writes tables that nothing on disk points to yet; they may go before what they point to. */
  async writeFresh(): Promise<void> {
    for (const table of this.tables.dirtyTables()) {
      if (table.fresh) await this.file.writeMetadata(table.hostOffset, table.bytes, 'mapping', ownL2);
    }
  }

  /** What `writeFresh` wrote is durable. */
  freshWritten(): void {
    for (const table of this.tables.dirtyTables()) if (table.fresh) this.tables.clean(table);
  }

  /** Writes all other changed tables, and the changed sectors of the L1 table. */
  async write(): Promise<void> {
    const { header } = this.file;
    for (const table of this.tables.dirtyTables()) {
      if (table.fresh) continue;
      const from = Math.floor(table.dirtyFrom / sectorBytes) * sectorBytes;
      const part = table.bytes.subarray(from, roundUp(table.dirtyTo, sectorBytes));
      await this.file.writeMetadata(table.hostOffset + from, part, 'mapping', ownL2);
    }
    for (const sector of this.#dirtySectors) {
      const at = sector * sectorBytes;
      const bytes = Math.min(sectorBytes, this.#l1.byteLength - at);
      const part = new Uint8Array(this.#l1.buffer, this.#l1.byteOffset + at, bytes);
      await this.file.writeMetadata(header.l1Offset + at, part, 'mapping', ownL1);
    }
  }

  /** What `write` wrote is durable. */
  written(): void {
    for (const table of this.tables.dirtyTables()) this.tables.clean(table);
    this.#dirtySectors.clear();
    this.tables.trim();
  }
}

/** The place of an L2 table, by the L1 table given; 0 where there is none. Throws `ERR_CORRUPT`. */
export function tableOffsetIn(file: ImageFile, l1: DataView, l1Index: number): number {
  const hi = l1.getUint32(l1Index * 8);
  const lo = l1.getUint32(l1Index * 8 + 4);
  const { clusterBytes } = file.geometry;
  if (isMalformed(hi, lo, clusterBytes, 0) || (hi & compressedFlag) !== 0)
    throw malformedEntry(file.name, 'l1_table.entry', hi, lo, clusterBytes, l1Index);
  return hostOffsetOf(hi, lo);
}

/** Reads and bounds an L1 table. Throws `ERR_CORRUPT` naming `field`. */
export async function readL1(file: ImageFile, l1: L1Place, field: string): Promise<Uint8Array> {
  const bytes = new Uint8Array(l1.entryCount * 8);
  if (bytes.length > 0) await file.readCluster(l1.offset, bytes, field);
  return bytes;
}
