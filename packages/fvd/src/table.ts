import {
  ABSENT,
  type ChunkEntry,
  ENTRY_ABSENT,
  ENTRY_ZERO,
  type Geometry,
  type JournalRun,
  type Runs,
  ZERO,
} from './layout.ts';
import { RunPool } from './run-pool.ts';

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

/** Where the block is that lies `blocks` after the first of a run. */
export function continuation(host: number, blocks: number): number {
  return host > ZERO ? host + blocks : host;
}

/** Told of every run of host blocks that a state stops referring to. */
export type Released = (host: number, count: number) => void;

export class ChunkTable {
  readonly geometry: Geometry;
  readonly #entries: Int32Array;
  #lists = new RunPool();

  constructor(geometry: Geometry, chunks: number) {
    this.geometry = geometry;
    this.#entries = new Int32Array(chunks);
  }

  get chunks(): number {
    return this.#entries.length;
  }

  get residentBytes(): number {
    return this.#entries.byteLength + this.#lists.residentBytes;
  }

  get splitChunks(): number {
    return this.#lists.lists;
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
    return entry >= ENTRY_ZERO ? entry : this.#lists.get(entry - SPLIT);
  }

  isSplit(chunk: number): boolean {
    return this.#entries[chunk]! < ENTRY_ZERO;
  }

  /** The runs of a chunk that is split, as they are now; undefined when it is not. */
  runsOf(chunk: number): Runs | undefined {
    return this.isSplit(chunk) ? this.#lists.get(this.#entries[chunk]! - SPLIT) : undefined;
  }

  /** How many runs a split chunk has; 0 when it is not split. */
  runCount(chunk: number): number {
    return this.isSplit(chunk) ? this.#lists.count(this.#entries[chunk]! - SPLIT) : 0;
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
    const lists = this.#lists;
    const list = entry - SPLIT;
    const run = lists.find(list, block);
    const end = run + 1 < lists.count(list) ? lists.start(list, run + 1) : blocksPerChunk;
    return { host: continuation(lists.host(list, run), block - lists.start(list, run)), count: end - block };
  }

  /**
   * The host block of `first`, when the chunk is split and the blocks from `first` to `last` lie there one after the
   * other; 0 when they do not, or are absent or zero. What a small read of a chunk with a history comes to.
   */
  findInRun(chunk: number, first: number, last: number): number {
    const entry = this.#entries[chunk]!;
    if (entry >= ENTRY_ZERO) return 0;
    const lists = this.#lists;
    const list = entry - SPLIT;
    const run = lists.find(list, first);
    const host = lists.host(list, run);
    if (host <= ZERO || (run + 1 < lists.count(list) && lists.start(list, run + 1) <= last)) return 0;
    return host + first - lists.start(list, run);
  }

  /** Visits the runs of a chunk in order. */
  eachRun(chunk: number, visit: (start: number, count: number, host: number) => void): void {
    const { blocksPerChunk } = this.geometry;
    if (!this.isSplit(chunk)) {
      visit(0, blocksPerChunk, this.find(chunk, 0).host);
      return;
    }
    const lists = this.#lists;
    const list = this.#entries[chunk]! - SPLIT;
    const count = lists.count(list);
    for (let run = 0; run < count; run++) {
      const start = lists.start(list, run);
      const end = run + 1 < count ? lists.start(list, run + 1) : blocksPerChunk;
      visit(start, end - start, lists.host(list, run));
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

  /**
   * What a journal or a delta says: guest blocks from `guest` on, counted over all chunks, are at `host …`. Chunks end
   * on either side within the run; `changed` is told of each guest chunk.
   */
  apply({ guest, count, host }: JournalRun, changed: (chunk: number) => void): void {
    const { blocksPerChunk } = this.geometry;
    for (let done = 0; done < count; ) {
      const chunk = Math.floor((guest + done) / blocksPerChunk);
      const block = guest + done - chunk * blocksPerChunk;
      const at = continuation(host, done);
      const room = blocksPerChunk - Math.max(block, at > ZERO ? at % blocksPerChunk : 0);
      const part = Math.min(count - done, room);
      this.set(chunk, block, part, at, () => undefined);
      changed(chunk);
      done += part;
    }
  }

  /** Where blocks `start … end`, counted over all chunks, are: runs that each go on as long as one can. */
  runsBetween(start: number, end: number): JournalRun[] {
    const { blocksPerChunk } = this.geometry;
    const runs: { guest: number; count: number; host: number }[] = [];
    for (let at = start; at < end; ) {
      const chunk = Math.floor(at / blocksPerChunk);
      const found = this.find(chunk, at - chunk * blocksPerChunk);
      const count = Math.min(found.count, end - at);
      const last = runs.at(-1);
      if (last !== undefined && continuation(last.host, last.count) === found.host) last.count += count;
      else runs.push({ guest: at, count, host: found.host });
      at += count;
    }
    return runs;
  }

  /** A table of its own with the same entries; chunks past `chunks` must be absent. */
  copy(chunks: number): ChunkTable {
    const copy = new ChunkTable(this.geometry, chunks);
    copy.#entries.set(this.#entries.subarray(0, chunks));
    copy.#lists = this.#lists.copy();
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
    this.#entries[chunk] = SPLIT + this.#lists.add(runs);
  }

  #unsplit(chunk: number): void {
    if (this.isSplit(chunk)) this.#lists.remove(this.#entries[chunk]! - SPLIT);
  }
}

function fillRising(entries: Int32Array, from: number, count: number, first: number): void {
  const distance = first - from;
  for (let at = from; at < from + count; at++) entries[at] = at + distance;
}
