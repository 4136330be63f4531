import { Bitset, corrupt, type Storage, viewOf } from '@cowlab/core';
import type { TableFields } from './layout.ts';

/* The lookup table of a compact version 1 image: one level, a number a guest chunk, wholly in memory. */

/** A guest chunk without a place of its own. */
export const EMPTY = 0xffffffff;
/** Set while an allocation was not in the journal yet; journal records were copied with it. */
const DIRTY = 0x8000_0000;
const PIECE_ENTRIES = 2 ** 18;
/** Host chunks that are told apart by a bit for each, 8 MiB in all, when an image opens; where more are, by sorting. */
const MAX_SEEN = 2 ** 26;

/** An entry as it is on disk → a host chunk, or {@link EMPTY}. */
export function maskEntry(entry: number): number {
  return entry === EMPTY ? EMPTY : (entry & ~DIRTY) >>> 0;
}

export interface ChunkTable {
  readonly chunkBytes: number;
  /** By guest chunk: its host chunk, or {@link EMPTY}. */
  readonly entries: Uint32Array;
}

export async function readTable(storage: Storage, fields: TableFields): Promise<ChunkTable> {
  const entries = new Uint32Array(fields.entries);
  for (let first = 0; first < entries.length; first += PIECE_ENTRIES) {
    const count = Math.min(PIECE_ENTRIES, entries.length - first);
    const piece = new Uint8Array(4 * count);
    await storage.read(fields.offset + 4 * first, piece, 'mapping');
    const view = viewOf(piece);
    for (let index = 0; index < count; index++) {
      entries[first + index] = maskEntry(view.getUint32(4 * index, true));
    }
  }
  return { chunkBytes: fields.chunkBytes, entries };
}

/** The host chunks in use, in order; twice what two entries share. */
export function hostChunksOf({ entries }: ChunkTable): Uint32Array {
  return entries.filter((entry) => entry !== EMPTY).toSorted();
}

/**
 * Guest chunks whose place cannot be right: outside the data, or shared with another one. Whoever reads one is told;
 * the rest of the image can still be read.
 */
export class DamagedChunks {
  readonly #table: ChunkTable;
  readonly #hostChunks: number;
  readonly #bits: Bitset | undefined;

  /** `hostChunks`: how many there are whole. */
  constructor(table: ChunkTable, hostChunks: number) {
    this.#table = table;
    this.#hostChunks = hostChunks;
    if (isSurelySound(table, hostChunks)) return;
    const used = hostChunksOf(table);
    const shared = used.filter((host, index) => host === used[index - 1]);
    const bits = new Bitset(table.entries.length);
    table.entries.forEach((host, chunk) => {
      if (host !== EMPTY && (host >= hostChunks || contains(shared, host))) bits.set(chunk);
    });
    this.#bits = bits;
  }

  has(chunk: number): boolean {
    return this.#bits?.get(chunk) ?? false;
  }

  get residentBytes(): number {
    return this.#bits?.words.byteLength ?? 0;
  }

  *[Symbol.iterator](): Generator<number> {
    if (this.#bits === undefined) return;
    for (let chunk = this.#bits.nextSet(0); chunk >= 0; chunk = this.#bits.nextSet(chunk + 1)) yield chunk;
  }

  describe(chunk: number): string {
    const host = this.#table.entries[chunk]!;
    const problem =
      host >= this.#hostChunks ? `is past the ${this.#hostChunks} that there are` : 'has another user too';
    return `guest chunk ${chunk} lies at host chunk ${host}, which ${problem}`;
  }

  assertSound(chunk: number, file: string): void {
    if (!this.has(chunk)) return;
    const value = this.#table.entries[chunk]!;
    throw corrupt(file, `table[${chunk}]`, this.describe(chunk), { value });
  }
}

/** Whether every host chunk is there and has one user; false also when there are too many to tell by a bit for each. */
function isSurelySound({ entries }: ChunkTable, hostChunks: number): boolean {
  const seen = new Bitset(Math.min(hostChunks, MAX_SEEN));
  for (const host of entries) {
    if (host === EMPTY) continue;
    if (host >= seen.length || seen.get(host)) return false;
    seen.set(host);
  }
  return true;
}

/** Whether `value` is among `sorted`. */
function contains(sorted: Uint32Array, value: number): boolean {
  let low = 0;
  for (let high = sorted.length; low < high; ) {
    const middle = (low + high) >>> 1;
    if (sorted[middle]! < value) low = middle + 1;
    else high = middle;
  }
  return sorted[low] === value;
}
