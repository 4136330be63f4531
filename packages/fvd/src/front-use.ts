import { Bitset, corrupt } from '@cowlab/core';
import { type Geometry, type Region, ZERO } from './layout.ts';
import { presentPages, type State } from './tree.ts';

/** What a state reaches: host chunks, and of those that it shares out block by block, how many blocks. */
export interface StateUse {
  readonly chunks: Bitset;
  readonly partial: Map<number, number>;
}

export interface UseLimits {
  readonly geometry: Geometry;
  /** Host chunks that exist. */
  readonly hostChunks: number;
  /** Length of the bit row to make. */
  readonly capacity: number;
  /** Chunks that hold no data and no log: superblock (which may hold log), journal, catalog. */
  readonly fixed: ReadonlySet<number>;
  /** The chunk that the log goes on in. */
  readonly logChunk: number;
  readonly file: string;
}

/** The host chunks that a region touches. */
export function chunksOf({ offset, bytes }: Region, chunkBytes: number): number[] {
  if (bytes === 0) return [];
  const first = Math.floor(offset / chunkBytes);
  const last = Math.floor((offset + bytes - 1) / chunkBytes);
  return Array.from({ length: last - first + 1 }, (_, i) => first + i);
}

/** The regions that a state's table lies in. */
export function regionsOf({ root, pages, fulls }: State): Region[] {
  return [root, ...presentPages(pages), ...presentPages(fulls)];
}

/** Marks the host chunks in which a state's table lies. */
export function markLog(state: State, marks: Bitset): void {
  for (const region of regionsOf(state)) {
    for (const chunk of chunksOf(region, state.table.geometry.chunkBytes)) marks.set(chunk);
  }
}

/** Marks the host chunks in which a state's data lie. */
export function markData({ table }: State, marks: Bitset): void {
  const { blocksPerChunk } = table.geometry;
  for (let chunk = 0; chunk < table.chunks; chunk++) {
    const wholes = table.wholeRun(chunk);
    if (wholes > 0) {
      // Chunks that follow each other are marked at once: there may be millions of them.
      marks.setRange(table.whole(chunk), table.whole(chunk) + wholes);
      chunk += wholes - 1;
    } else if (table.isSplit(chunk)) {
      table.eachRun(chunk, (_start, count, host) => {
        if (host <= ZERO) return;
        marks.set(Math.floor(host / blocksPerChunk));
        marks.set(Math.floor((host + count - 1) / blocksPerChunk));
      });
    }
  }
}

/** Every host chunk that a state reaches: its root, its pages, its data. `hostChunks` bounds them. */
export function reachedBy(state: State, hostChunks: number): Bitset {
  const reached = new Bitset(hostChunks);
  markLog(state, reached);
  markData(state, reached);
  return reached;
}

/**
 * What a state reaches, with every rule of the format checked that goes beyond one entry: nothing lies where
 * something else has its place, no two guest blocks share a host block, a home is of one guest chunk alone.
 */
export function surveyState(state: State, limits: UseLimits): StateUse {
  const survey = new Survey(limits);
  for (const region of regionsOf(state)) survey.addRegion(region);
  const { table } = state;
  for (let chunk = 0; chunk < table.chunks; chunk++) {
    const wholes = table.wholeRun(chunk);
    if (wholes > 0) {
      // Chunks that follow each other are one question.
      survey.addWhole(chunk, table.whole(chunk), wholes);
      chunk += wholes - 1;
    } else if (table.isSplit(chunk)) {
      table.eachRun(chunk, (start, count, host) => {
        if (host > ZERO) survey.addRun(chunk, start, count, host);
      });
    }
  }
  return survey;
}

/** The first set bit from `from` on, or `end`: looks no farther, so that a million short runs stay cheap. */
function firstSet(bits: Bitset, from: number, end: number): number {
  for (let at = from; at < end; ) {
    if (at % 32 === 0 && at + 32 <= end && bits.words[at >>> 5] === 0) at += 32;
    else if (bits.get(at)) return at;
    else at++;
  }
  return end;
}

/** The guest chunk that a packed chunk is home of. */
const NOBODY = -1;

class Survey implements StateUse {
  readonly chunks: Bitset;
  readonly partial: Map<number, number> = new Map();
  readonly #limits: UseLimits;
  /** Of the chunks that are shared out: blocks in use, and whose home it is. */
  readonly #shared = new Map<number, { readonly blocks: Bitset; readonly owner: number }>();

  constructor(limits: UseLimits) {
    this.#limits = limits;
    this.chunks = new Bitset(limits.capacity);
  }

  addRegion(region: Region): void {
    for (const chunk of chunksOf(region, this.#limits.geometry.chunkBytes)) {
      if (chunk > 0 && this.#limits.fixed.has(chunk)) {
        throw corrupt(this.#limits.file, 'root.page', `lies in chunk ${chunk}, which has another purpose`);
      }
      this.chunks.set(chunk);
      this.#count(chunk, 1);
    }
  }

  /** `count` chunks that lie in host chunks which follow each other. */
  addWhole(guest: number, host: number, count: number): void {
    const { fixed, logChunk } = this.#limits;
    const last = host + count - 1;
    this.#ensure(guest + count - 1, last, true);
    const taken = firstSet(this.chunks, host, last + 1);
    if (taken <= last) this.#ensure(guest + taken - host, taken, false);
    for (const chunk of [logChunk, ...fixed]) {
      if (chunk >= host && chunk <= last) this.#ensure(guest + chunk - host, chunk, false);
    }
    this.chunks.setRange(host, last + 1);
  }

  addRun(guest: number, start: number, count: number, host: number): void {
    const { blocksPerChunk } = this.#limits.geometry;
    for (let done = 0; done < count; ) {
      const chunk = Math.floor((host + done) / blocksPerChunk);
      const from = host + done - chunk * blocksPerChunk;
      const part = Math.min(count - done, blocksPerChunk - from);
      const owner = from === start + done ? guest : NOBODY;
      let shared = this.#shared.get(chunk);
      if (shared === undefined) {
        this.#ensure(guest, chunk, !this.chunks.get(chunk));
        shared = { blocks: new Bitset(blocksPerChunk), owner };
        this.#shared.set(chunk, shared);
        this.chunks.set(chunk);
      }
      const taken = shared.blocks.nextSet(from);
      this.#ensure(guest, chunk, shared.owner === owner && (taken < 0 || taken >= from + part));
      shared.blocks.setRange(from, from + part);
      this.#count(chunk, part);
      done += part;
    }
  }

  #count(chunk: number, blocks: number): void {
    this.partial.set(chunk, (this.partial.get(chunk) ?? 0) + blocks);
  }

  #ensure(guest: number, host: number, alone: boolean): void {
    const { fixed, logChunk, hostChunks, file } = this.#limits;
    if (host >= hostChunks) {
      throw corrupt(file, `table[${guest}]`, `host chunk ${host} is outside the file`, { value: host });
    }
    if (!alone || fixed.has(host) || host === logChunk) {
      throw corrupt(file, `table[${guest}]`, `host chunk ${host} is mapped twice`, { value: host });
    }
  }
}
