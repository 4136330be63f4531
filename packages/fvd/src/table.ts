import {
  ABSENT,
  type ChunkEntry,
  ENTRY_ABSENT,
  ENTRY_ZERO,
  type Geometry,
  type Runs,
  ZERO,
} from './layout.ts';

/*
 * The lookup table of one state, wholly in memory: 4 bytes a chunk, and run lists for the chunks that are split.
 *
 *   entry            meaning
 *   0                absent: the base answers, or zeros
 *   0xffffffff       zero
 *   bit 31 set       split: the other bits number a run list
 *   else             the whole chunk lies in this host chunk, block i at block i
 *
 * A chunk whose blocks lie in several places is split. Its home is the host chunk in which blocks lie at their own
 * index; packed blocks never do (space.ts sees to it), so that a home belongs to one guest chunk alone. When one
 * run covers the chunk again, the split ends.
 */

const SPLIT = 0x8000_0000;
const ZERO_ENTRY = 0xffff_ffff;

/** Where the block is that lies `blocks` after the first of a run. */
export function continuation(host: number, blocks: number): number {
  return host > ZERO ? host + blocks : host;
}

/** Told of every run of host blocks that a state stops referring to. */
export type Released = (host: number, count: number) => void;

export class ChunkTable {
  readonly geometry: Geometry;
  #entries: Uint32Array;
  readonly #splits: (Runs | undefined)[] = [];
  readonly #freeSplits: number[] = [];
  #runs = 0;

  constructor(geometry: Geometry, chunks: number) {
    this.geometry = geometry;
    this.#entries = new Uint32Array(chunks);
  }

  get chunks(): number {
    return this.#entries.length;
  }

  get residentBytes(): number {
    const splits = this.#splits.length - this.#freeSplits.length;
    return this.#entries.byteLength + this.#runs * 16 + splits * 64;
  }

  get splitChunks(): number {
    return this.#splits.length - this.#freeSplits.length;
  }

  /** The host chunk that holds the whole chunk, or 0 when it is absent, zero or split. */
  whole(chunk: number): number {
    const entry = this.#entries[chunk]!;
    return entry < SPLIT ? entry : 0;
  }

  get(chunk: number): ChunkEntry {
    const entry = this.#entries[chunk]!;
    if (entry < SPLIT) return entry;
    return entry === ZERO_ENTRY ? ENTRY_ZERO : this.#splits[entry - SPLIT]!;
  }

  /** Puts a decoded entry in the place of an absent one. */
  load(chunk: number, entry: ChunkEntry): void {
    if (typeof entry !== 'number') this.#split(chunk, entry);
    else this.#entries[chunk] = entry === ENTRY_ZERO ? ZERO_ENTRY : entry;
  }

  /** Where the block is, and for how many blocks the answer holds within its chunk. */
  find(chunk: number, block: number): { host: number; count: number } {
    const { blocksPerChunk } = this.geometry;
    const entry = this.#entries[chunk]!;
    if (entry === ENTRY_ABSENT) return { host: ABSENT, count: blocksPerChunk - block };
    if (entry === ZERO_ENTRY) return { host: ZERO, count: blocksPerChunk - block };
    if (entry < SPLIT) return { host: entry * blocksPerChunk + block, count: blocksPerChunk - block };
    const { starts, hosts } = this.#splits[entry - SPLIT]!;
    let low = 0;
    let high = starts.length;
    while (high - low > 1) {
      const middle = (low + high) >>> 1;
      if (starts[middle]! <= block) low = middle;
      else high = middle;
    }
    const host = hosts[low]!;
    const end = low + 1 < starts.length ? starts[low + 1]! : blocksPerChunk;
    return { host: continuation(host, block - starts[low]!), count: end - block };
  }

  /** Visits the runs of a chunk in order. */
  eachRun(chunk: number, visit: (start: number, count: number, host: number) => void): void {
    const { blocksPerChunk } = this.geometry;
    for (let block = 0; block < blocksPerChunk; ) {
      const { host, count } = this.find(chunk, block);
      visit(block, count, host);
      block += count;
    }
  }

  /** Blocks `start … start + count` of the chunk are at `host …` from now on (or ABSENT, or ZERO). */
  set(chunk: number, start: number, count: number, host: number, released: Released): void {
    const { blocksPerChunk } = this.geometry;
    for (let block = start; block < start + count; ) {
      const old = this.find(chunk, block);
      const part = Math.min(old.count, start + count - block);
      if (old.host > ZERO) released(old.host, part);
      block += part;
    }
    const starts: number[] = [];
    const hosts: number[] = [];
    const push = (at: number, place: number): void => {
      const last = starts.length - 1;
      const joins = last >= 0 && place === continuation(hosts[last]!, at - starts[last]!);
      if (joins) return;
      starts.push(at);
      hosts.push(place);
    };
    const end = start + count;
    this.eachRun(chunk, (at, length, place) => {
      if (at < start) push(at, place);
      if (at <= start && start < at + length) push(start, host);
      if (at + length > end) {
        const from = Math.max(at, end);
        push(from, continuation(place, from - at));
      }
    });
    this.#store(chunk, { starts, hosts }, blocksPerChunk);
  }

  /** A table of another length with the same entries. */
  resize(chunks: number): void {
    const entries = new Uint32Array(chunks);
    entries.set(this.#entries.subarray(0, chunks));
    this.#entries = entries;
  }

  #store(chunk: number, runs: Runs, blocksPerChunk: number): void {
    this.#unsplit(chunk);
    const host = runs.hosts[0]!;
    const alone = runs.starts.length === 1;
    if (alone && host === ABSENT) this.#entries[chunk] = ENTRY_ABSENT;
    else if (alone && host === ZERO) this.#entries[chunk] = ZERO_ENTRY;
    else if (alone && host % blocksPerChunk === 0) this.#entries[chunk] = host / blocksPerChunk;
    else this.#split(chunk, runs);
  }

  #split(chunk: number, runs: Runs): void {
    const index = this.#freeSplits.pop() ?? this.#splits.length;
    this.#splits[index] = runs;
    this.#runs += runs.starts.length;
    this.#entries[chunk] = SPLIT + index;
  }

  #unsplit(chunk: number): void {
    const entry = this.#entries[chunk]!;
    if (entry < SPLIT || entry === ZERO_ENTRY) return;
    const index = entry - SPLIT;
    this.#runs -= this.#splits[index]!.starts.length;
    this.#splits[index] = undefined;
    this.#freeSplits.push(index);
  }
}
