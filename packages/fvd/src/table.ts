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
 *   above 0          the whole chunk lies in this host chunk, block i at block i
 *   -1               zero
 *   below -1         split: without the sign bit, the number of a run list
 *
 * Entries are signed so that they are small integers to the engine, whatever they say.
 *
 * A chunk whose blocks lie in several places is split; each of its runs lies in one host chunk. Its home is the host chunk in which blocks lie at their own
 * index; packed blocks never do (space.ts sees to it), so that a home belongs to one guest chunk alone. When one
 * run covers the chunk again, the split ends.
 */

const SPLIT = -0x8000_0000;

/** What V8 takes for a run (a start and a host, up to 8 bytes each, with room to grow) and for a split itself. */
const RUN_MEMORY = 16;
const SPLIT_MEMORY = 160;

/** Where the block is that lies `blocks` after the first of a run. */
export function continuation(host: number, blocks: number): number {
  return host > ZERO ? host + blocks : host;
}

function fillRising(entries: Int32Array, from: number, count: number, first: number): void {
  const distance = first - from;
  for (let at = from; at < from + count; at++) entries[at] = at + distance;
}

/** The run that the block lies in. */
function runAt(starts: readonly number[], block: number): number {
  let low = 0;
  let high = starts.length;
  while (high - low > 1) {
    const middle = (low + high) >>> 1;
    if (starts[middle]! <= block) low = middle;
    else high = middle;
  }
  return low;
}

/** Told of every run of host blocks that a state stops referring to. */
export type Released = (host: number, count: number) => void;

export class ChunkTable {
  readonly geometry: Geometry;
  readonly #entries: Int32Array;
  #splits: (Runs | undefined)[] = [];
  #freeSplits: number[] = [];
  #runs = 0;

  constructor(geometry: Geometry, chunks: number) {
    this.geometry = geometry;
    this.#entries = new Int32Array(chunks);
  }

  get chunks(): number {
    return this.#entries.length;
  }

  get residentBytes(): number {
    const splits = this.#splits.length - this.#freeSplits.length;
    return this.#entries.byteLength + this.#runs * RUN_MEMORY + splits * SPLIT_MEMORY;
  }

  get splitChunks(): number {
    return this.#splits.length - this.#freeSplits.length;
  }

  /** The host chunk that holds the whole chunk, or 0 when it is absent, zero or split. */
  whole(chunk: number): number {
    const entry = this.#entries[chunk]!;
    return entry > ENTRY_ABSENT ? entry : 0;
  }

  /** How many chunks from this one on lie whole in host chunks that follow each other; 0 when it is not whole. */
  wholeRun(chunk: number): number {
    const entries = this.#entries;
    const first = entries[chunk]!;
    if (first <= ENTRY_ABSENT) return 0;
    let end = chunk + 1;
    while (end < entries.length && entries[end]! - first === end - chunk) end++;
    return end - chunk;
  }

  get(chunk: number): ChunkEntry {
    const entry = this.#entries[chunk]!;
    return entry >= ENTRY_ZERO ? entry : this.#splits[entry - SPLIT]!;
  }

  isSplit(chunk: number): boolean {
    return this.#entries[chunk]! < ENTRY_ZERO;
  }

  /** The runs of a chunk that is split; undefined when it is not. They are never changed, only replaced. */
  runsOf(chunk: number): Runs | undefined {
    return this.isSplit(chunk) ? this.#splits[this.#entries[chunk]! - SPLIT] : undefined;
  }

  /** Puts decoded entries in the place of absent ones: `count` chunks, host chunks following the first one's. */
  load(chunk: number, count: number, entry: ChunkEntry): void {
    if (typeof entry !== 'number') this.#split(chunk, entry);
    else if (entry === ENTRY_ZERO) this.#entries.fill(ENTRY_ZERO, chunk, chunk + count);
    else fillRising(this.#entries, chunk, count, entry);
  }

  /** Where the block is, and for how many blocks the answer holds within its chunk. */
  find(chunk: number, block: number): { host: number; count: number } {
    const { blocksPerChunk } = this.geometry;
    const entry = this.#entries[chunk]!;
    if (entry === ENTRY_ABSENT) return { host: ABSENT, count: blocksPerChunk - block };
    if (entry === ENTRY_ZERO) return { host: ZERO, count: blocksPerChunk - block };
    if (entry > 0) return { host: entry * blocksPerChunk + block, count: blocksPerChunk - block };
    const { starts, hosts } = this.#splits[entry - SPLIT]!;
    const run = runAt(starts, block);
    const end = run + 1 < starts.length ? starts[run + 1]! : blocksPerChunk;
    return { host: continuation(hosts[run]!, block - starts[run]!), count: end - block };
  }

  /**
   * The host block of `first`, when the chunk is split and the blocks from `first` to `last` lie there one after the
   * other; 0 when they do not, or are absent or zero. What a small read of a chunk with a history comes to.
   */
  findInRun(chunk: number, first: number, last: number): number {
    const entry = this.#entries[chunk]!;
    if (entry >= ENTRY_ZERO) return 0;
    const { starts, hosts } = this.#splits[entry - SPLIT]!;
    const run = runAt(starts, first);
    const host = hosts[run]!;
    if (host <= ZERO || (run + 1 < starts.length && starts[run + 1]! <= last)) return 0;
    return host + first - starts[run]!;
  }

  /** Visits the runs of a chunk in order. */
  eachRun(chunk: number, visit: (start: number, count: number, host: number) => void): void {
    const { blocksPerChunk } = this.geometry;
    const runs = this.runsOf(chunk);
    if (runs === undefined) {
      visit(0, blocksPerChunk, this.find(chunk, 0).host);
      return;
    }
    const { starts, hosts } = runs;
    for (let run = 0; run < starts.length; run++) {
      const end = run + 1 < starts.length ? starts[run + 1]! : blocksPerChunk;
      visit(starts[run]!, end - starts[run]!, hosts[run]!);
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
      // Host chunks are counted and freed one by one: a run lies in one.
      const joins =
        last >= 0 &&
        place === continuation(hosts[last]!, at - starts[last]!) &&
        (place <= ZERO || place % blocksPerChunk !== 0);
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

  /** A table of its own with the same entries; chunks past `chunks` must be absent. */
  copy(chunks: number): ChunkTable {
    const copy = new ChunkTable(this.geometry, chunks);
    copy.#entries.set(this.#entries.subarray(0, chunks));
    // Run lists are never changed, only replaced.
    copy.#splits = [...this.#splits];
    copy.#freeSplits = [...this.#freeSplits];
    copy.#runs = this.#runs;
    return copy;
  }

  #store(chunk: number, runs: Runs, blocksPerChunk: number): void {
    this.#unsplit(chunk);
    const host = runs.hosts[0]!;
    const alone = runs.starts.length === 1;
    if (alone && host === ABSENT) this.#entries[chunk] = ENTRY_ABSENT;
    else if (alone && host === ZERO) this.#entries[chunk] = ENTRY_ZERO;
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
    if (entry >= ENTRY_ZERO) return;
    const index = entry - SPLIT;
    this.#runs -= this.#splits[index]!.starts.length;
    this.#splits[index] = undefined;
    this.#freeSplits.push(index);
  }
}
