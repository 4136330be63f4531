import type { Awaitable } from '@cowlab/core';

/*
 * A bounded cache of one kind of one-cluster metadata table (L2 tables by L1 index, refcount blocks by
 * refcount table index). The slot array makes a hit one array access; the clock evicts.
 *
 *   clean  → evictable         dirty → stays until the owner has written it back and called `clean`
 *   fresh  → dirty, and nothing on disk points to it yet: it may be written before what it points to
 *
 * The cache never writes. When every table is dirty it grows past its capacity, and the owner, who asks
 * `dirtyCount`, writes back soon after.
 *
 * Whoever waited for anything asks `peek` again before he changes a table: it may have been evicted meanwhile.
 */

export interface Table {
  index: number;
  hostOffset: number;
  readonly bytes: Uint8Array;
  readonly view: DataView;
  /** Changed bytes, half-open; equal when clean. */
  dirtyFrom: number;
  dirtyTo: number;
  fresh: boolean;
  used: boolean;
}

export class TableCache {
  readonly tableBytes: number;
  readonly capacity: number;
  hits = 0;
  misses = 0;
  #slots: (Table | undefined)[] = [];
  #ring: Table[] = [];
  #hand = 0;
  #dirty = new Set<Table>();
  readonly #loading = new Map<number, Promise<Table>>();

  /** `budgetBytes` is rounded down to whole tables, but never below `minTables`. */
  constructor(tableBytes: number, budgetBytes: number, minTables: number) {
    this.tableBytes = tableBytes;
    this.capacity = Math.max(minTables, Math.floor(budgetBytes / tableBytes));
  }

  get residentBytes(): number {
    return this.#ring.length * this.tableBytes + this.#slots.length * 8;
  }

  get dirtyCount(): number {
    return this.#dirty.size;
  }

  /** The table if it is here. */
  peek(index: number): Table | undefined {
    const table = this.#slots[index];
    if (table !== undefined) {
      table.used = true;
      this.hits += 1;
    }
    return table;
  }

  /** Takes in a table from the file. Who asks while it is on its way gets the same one: two would drift apart. */
  load(index: number, hostOffset: number, read: (target: Uint8Array) => Awaitable<void>): Awaitable<Table> {
    const under = this.#loading.get(index);
    if (under !== undefined) return under;
    const bytes = new Uint8Array(this.tableBytes);
    const reading = read(bytes);
    if (!(reading instanceof Promise)) return this.insert(index, hostOffset, bytes);
    const loading = reading
      .then(() => this.insert(index, hostOffset, bytes))
      .finally(() => this.#loading.delete(index));
    this.#loading.set(index, loading);
    return loading;
  }

  /** Takes in a table that is not here yet, clean. */
  insert(index: number, hostOffset: number, bytes: Uint8Array): Table {
    this.misses += 1;
    this.#makeRoom();
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const table: Table = {
      index,
      hostOffset,
      bytes,
      view,
      dirtyFrom: 0,
      dirtyTo: 0,
      fresh: false,
      used: true,
    };
    while (this.#slots.length < index) this.#slots.push(undefined);
    this.#slots[index] = table;
    this.#ring.push(table);
    return table;
  }

  markDirty(table: Table, from: number, to: number): void {
    if (table.dirtyFrom === table.dirtyTo) {
      table.dirtyFrom = from;
      table.dirtyTo = to;
      this.#dirty.add(table);
      return;
    }
    if (from < table.dirtyFrom) table.dirtyFrom = from;
    if (to > table.dirtyTo) table.dirtyTo = to;
  }

  /** Everything dirty, by place in the file, so that write-back runs forward. */
  dirtyTables(): Table[] {
    return [...this.#dirty].toSorted((a, b) => a.hostOffset - b.hostOffset);
  }

  clean(table: Table): void {
    table.dirtyFrom = 0;
    table.dirtyTo = 0;
    table.fresh = false;
    this.#dirty.delete(table);
  }

  /** Evicts what lies beyond the capacity and is clean. */
  trim(): void {
    while (this.#ring.length > this.capacity && this.#evictOne());
  }

  /** Forgets every table that `keep` does not name. */
  keepOnly(keep: (table: Table) => boolean): void {
    const kept = this.#ring.filter(keep);
    this.reset();
    for (const { index, hostOffset, bytes } of kept) this.insert(index, hostOffset, bytes);
    this.misses -= kept.length;
  }

  /** Forgets everything, dirty or not. */
  reset(): void {
    this.#slots = [];
    this.#ring = [];
    this.#hand = 0;
    this.#dirty.clear();
  }

  #makeRoom(): void {
    if (this.#ring.length >= this.capacity) this.#evictOne();
  }

  #evictOne(): boolean {
    if (this.#dirty.size === this.#ring.length) return false;
    for (let step = 0; step <= this.#ring.length * 2; step += 1) {
      if (this.#hand >= this.#ring.length) this.#hand = 0;
      const table = this.#ring[this.#hand] as Table;
      if (table.dirtyFrom === table.dirtyTo) {
        if (!table.used) {
          this.#remove(table);
          return true;
        }
        table.used = false;
      }
      this.#hand += 1;
    }
    return false;
  }

  #remove(table: Table): void {
    const last = this.#ring.pop() as Table;
    if (last !== table) this.#ring[this.#hand] = last;
    this.#slots[table.index] = undefined;
  }
}
