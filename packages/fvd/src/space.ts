import { Bitset } from '@cowlab/core';
import { chunksOf, type StateUse, surveyState } from './front-use.ts';
import type { Geometry, Region } from './layout.ts';
import type { State } from './tree.ts';

/*
 * Which host chunks are in use, in memory: two bits a chunk, computed at open and never stored.
 *
 *   static   some snapshot reaches it (its refcount is above 0)
 *   front    the front reaches it: data, or pages of its table
 * and a handful of chunks that only the superblock reaches (chunk 0, journal, catalog): `fixed`.
 * A chunk is free when it is none of these. So a crash cannot leak: what nothing reaches is free at the next open.
 *
 * Chunks that the front refers to block by block (split chunks, log chunks) have a count of such blocks in
 * `partial`; at zero the chunk is given back. What is given back stays marked until the record that freed it is
 * durable (before that, a crash would bring the old reference back) and until its hole is punched (after that, the
 * hole would take a new tenant's bytes):
 *
 *   release → given back → durable: reclaim → hole punched: free → findFree
 *
 * Packed chunks take blocks of any guest chunk one after the other. A block never lies there at its own index:
 * that place in a chunk is a home's.
 */

/** What V8 takes for a map or a set of so many numbers: room for a power of two of them, 4 at least. */
function hashBytes(entries: number): number {
  return 40 * 2 ** Math.ceil(Math.log2(Math.max(4, entries)));
}

/** Bits that there are at least, and by which share of them the bitmaps grow: a 64th, so that they stay near their size. */
const MIN_BITS = 1024;
const SPARE = 1 / 64;

function withSpare(chunks: number): number {
  return chunks + Math.max(MIN_BITS, Math.ceil(chunks * SPARE));
}

/** Behind the last bit that is set. */
function endOf({ words }: Bitset): number {
  let at = words.length;
  while (at > 0 && words[at - 1] === 0) at--;
  return at === 0 ? 0 : at * 32 - Math.clz32(words[at - 1]!);
}

export class Space {
  readonly #geometry: Geometry;
  #static: Bitset;
  #front: Bitset;
  readonly #fixed = new Set<number>();
  #partial = new Map<number, number>();
  #givenBack = new Set<number>();
  #cursor = 1;
  /** Host chunks that the file has, up to the last one in use or more. */
  hostChunks: number;
  /** The next packed block, as a host block; 0 when no packed chunk is open. */
  packNext: number;
  /** The chunk that pages and roots are being written to; it stays ours even when nothing in it is live. */
  logChunk = 0;
  /** A power of two, so that multiplying by it is exact. */
  readonly #chunksPerBlock: number;
  #tailFrom = 0;
  #tailChunk = 0;

  constructor(geometry: Geometry, hostChunks: number, packNext = 0, tailFrom = 0) {
    this.#geometry = geometry;
    this.#chunksPerBlock = 1 / geometry.blocksPerChunk;
    this.hostChunks = hostChunks;
    this.packNext = packNext;
    this.tailFrom = tailFrom;
    const capacity = withSpare(hostChunks);
    this.#static = new Bitset(capacity);
    this.#front = new Bitset(capacity);
  }

  get residentBytes(): number {
    const hashes = [this.#partial, this.#fixed, this.#givenBack].map(({ size }) => hashBytes(size));
    return hashes.reduce((sum, bytes) => sum + bytes, 2 * this.bitmapBytes);
  }

  /** Of each of the two bitmaps. */
  get bitmapBytes(): number {
    return this.#static.words.byteLength;
  }

  chunkOf(hostBlock: number): number {
    return Math.floor(hostBlock * this.#chunksPerBlock);
  }

  /** Blocks from here to the end of their chunk are the front's even though the chunk is static; 0 for none. */
  get tailFrom(): number {
    return this.#tailFrom;
  }

  set tailFrom(hostBlock: number) {
    this.#tailFrom = hostBlock;
    this.#tailChunk = this.chunkOf(hostBlock);
  }

  /** `tailFrom`, as long as its chunk is static: later the chunk may be anything, or behind the end. */
  get staticTail(): number {
    return this.isStatic(this.#tailChunk) ? this.#tailFrom : 0;
  }

  isStatic(chunk: number): boolean {
    return this.#static.get(chunk);
  }

  isUsed(chunk: number): boolean {
    return this.#front.get(chunk) || this.#isHeld(chunk);
  }

  isFront(chunk: number): boolean {
    return this.#front.get(chunk);
  }

  /** Whether the front may overwrite the block where it is. */
  isOwned(hostBlock: number): boolean {
    const chunk = this.chunkOf(hostBlock);
    if (!this.#static.get(chunk)) return true;
    return chunk === this.#tailChunk && hostBlock >= this.#tailFrom;
  }

  /** The same for every block of the host chunk; undefined when only a part of it is the front's. */
  ownsAllOf(hostBlock: number): boolean | undefined {
    const chunk = this.chunkOf(hostBlock);
    return chunk === this.#tailChunk ? undefined : !this.#static.get(chunk);
  }

  fix(region: Region): void {
    for (const chunk of this.chunksOf(region)) this.#fixed.add(chunk);
  }

  unfix(region: Region): void {
    for (const chunk of this.chunksOf(region)) this.#fixed.delete(chunk);
  }

  /** The host chunks that a region touches. */
  chunksOf(region: Region): number[] {
    return chunksOf(region, this.#geometry.chunkBytes);
  }

  /** The front refers to `count` more blocks of a chunk that it shares out block by block. */
  addBlocks(chunk: number, count: number): void {
    this.#ensure(chunk + 1);
    this.#front.set(chunk);
    this.#partial.set(chunk, (this.#partial.get(chunk) ?? 0) + count);
  }

  /** The front refers to the whole chunk, from one guest chunk. */
  addWhole(chunk: number): void {
    this.#ensure(chunk + 1);
    this.#front.set(chunk);
  }

  /** The front stops referring to `count` blocks. A chunk without an entry in `partial` was whole. */
  release(chunk: number, count: number): void {
    const left = (this.#partial.get(chunk) ?? this.#geometry.blocksPerChunk) - count;
    if (left > 0) {
      this.#partial.set(chunk, left);
      return;
    }
    this.#partial.delete(chunk);
    this.#givenBack.add(chunk);
  }

  /** A chunk of which the table has just taken all blocks at their own index needs no count. */
  collapse(chunk: number): void {
    this.#partial.delete(chunk);
  }

  /** What has been given back since the last call; pass it to `reclaim` when that is durable. */
  takeGivenBack(): number[] {
    const taken = [...this.#givenBack];
    this.#givenBack.clear();
    return taken;
  }

  putBack(taken: readonly number[]): void {
    for (const chunk of taken) this.#givenBack.add(chunk);
  }

  /** Those of the chunks that the front has not taken again since. One that it has given back anew must wait anew. */
  unreached(taken: readonly number[]): number[] {
    return taken.filter((chunk) => !this.#partial.has(chunk) && !this.#givenBack.has(chunk));
  }

  /** Chunks whose release is durable. Yields those that nobody holds any more; `free` each once its hole is punched. */
  reclaim(taken: readonly number[]): number[] {
    return this.unreached(taken).filter((chunk) => {
      if (!this.#isHeld(chunk)) return true;
      this.#front.clear(chunk);
      return false;
    });
  }

  /** What the last superblock alone has held (an old catalog, a log chunk that is full) may be taken again. */
  searchFromStart(): void {
    this.#cursor = 1;
  }

  free(first: number, count: number): void {
    this.#front.clearRange(first, first + count);
    this.#cursor = Math.min(this.#cursor, first);
  }

  /** The first of `count` free host chunks in a row; they are not marked yet. */
  findFree(count = 1): number {
    let start = this.#nextFree(count === 1 ? this.#cursor : 1);
    for (let chunk = start + 1; chunk < start + count; chunk++) {
      if (chunk < this.#static.length && this.isUsed(chunk)) {
        start = this.#nextFree(chunk + 1);
        chunk = start;
      }
    }
    this.#ensure(start + count);
    if (count === 1) this.#cursor = start + 1;
    this.hostChunks = Math.max(this.hostChunks, start + count);
    return start;
  }

  /** The first free host chunk, when it lies before `limit`; not marked yet. */
  takeBelow(limit: number): number | undefined {
    const chunk = this.#nextFree(this.#cursor);
    if (chunk >= limit) return undefined;
    this.#cursor = chunk + 1;
    return chunk;
  }

  /** Whether `count` free host chunks in a row lie before `limit`. */
  hasFreeRun(count: number, limit: number): boolean {
    let run = 0;
    for (let chunk = this.#nextFree(1); chunk < limit && run < count; chunk++) {
      run = this.isUsed(chunk) ? 0 : run + 1;
    }
    return run === count;
  }

  /** Behind the last host chunk that a snapshot reaches. */
  staticEnd(): number {
    return endOf(this.#static);
  }

  /** Behind the last host chunk that is in use. */
  usedEnd(): number {
    const open = this.packNext > 0 ? this.chunkOf(this.packNext) : 0;
    const last = Math.max(open, this.logChunk, ...this.#fixed);
    return Math.max(last + 1, endOf(this.#static), endOf(this.#front));
  }

  /** Takes `count` packed blocks in a row for blocks that start at `index` of their chunk; a host block. */
  takePacked(count: number, index: number): number {
    const { blocksPerChunk } = this.#geometry;
    let at = this.packNext === 0 ? 0 : this.packNext % blocksPerChunk;
    if (at === index) at++;
    if (this.packNext === 0 || at + count > blocksPerChunk) {
      const chunk = this.findFree();
      at = index === 0 ? 1 : 0;
      this.packNext = chunk * blocksPerChunk;
      // A whole number of blocks must follow; callers ask for fewer than a chunk less one.
    }
    const chunk = this.chunkOf(this.packNext);
    this.addBlocks(chunk, count);
    const next = at + count;
    this.packNext = next >= blocksPerChunk ? 0 : chunk * blocksPerChunk + next;
    return chunk * blocksPerChunk + at;
  }

  /** Takes a free host chunk for `count` blocks that lie in it at their own index, from `index` on; a host block. */
  takeHome(count: number, index: number): number {
    const chunk = this.findFree();
    this.addBlocks(chunk, count);
    return chunk * this.#geometry.blocksPerChunk + index;
  }

  setStatic(chunk: number): void {
    this.#ensure(chunk + 1);
    this.#static.set(chunk);
  }

  /** Chunks whose refcount is above 0, a piece of the counts at a time: there may be millions. */
  setStaticWhere(first: number, counts: Uint16Array): void {
    this.#ensure(first + counts.length);
    const { words } = this.#static;
    for (let at = 0; at < counts.length; at++) {
      if (counts[at]! > 0) words[(first + at) >>> 5]! |= 1 << (at & 31);
    }
  }

  clearStatic(chunk: number): void {
    this.#static.clear(chunk);
  }

  /** Chunks whose refcount has come to 0. */
  clearStaticWhere({ words }: Bitset): void {
    for (let at = 0; at < words.length; at++) this.#static.words[at]! &= ~words[at]!;
  }

  /** Those of the chunks that nobody uses. */
  unusedOf({ words }: Bitset): number[] {
    const unused: number[] = [];
    for (let at = 0; at < words.length; at++) {
      const word = words[at]! & ~this.#static.words[at]! & ~this.#front.words[at]!;
      for (let bit = 0; word >>> bit !== 0 && bit < 32; bit++) {
        const chunk = at * 32 + bit;
        if ((word >>> bit) & 1 && !this.#isHeld(chunk)) unused.push(chunk);
      }
    }
    return unused;
  }

  /** A snapshot has been taken: it reaches all that the front reaches, and nothing that is packed from now on. */
  freezeFront(): void {
    this.#front.words.forEach((word, at) => {
      this.#static.words[at]! |= word;
    });
    this.tailFrom = this.packNext;
  }

  /** The host chunks that the front reaches, as they are now. */
  frontChunks(): Bitset {
    return this.#front.resized(this.#front.length);
  }

  /** Blocks of a chunk that the front shares out; undefined when it has it whole, or not at all. */
  blocksIn(chunk: number): number | undefined {
    return this.#partial.get(chunk);
  }

  /** What a state reaches. Throws `ERR_CORRUPT` where it cannot be the front's. */
  survey(state: State, file: string): StateUse {
    return surveyState(state, {
      geometry: this.#geometry,
      hostChunks: this.hostChunks,
      capacity: this.#front.length,
      fixed: this.#fixed,
      logChunk: this.logChunk,
      file,
    });
  }

  /** The front is the state that `survey` looked at. */
  adoptFront({ chunks, partial }: StateUse): void {
    const { length } = this.#static;
    this.#front = chunks.length === length ? chunks : chunks.resized(length);
    this.#partial = partial;
    this.#givenBack.clear();
    this.#cursor = 1;
  }

  /** The front refers to a root or a page. */
  addRegion(region: Region): void {
    for (const chunk of this.chunksOf(region)) this.addBlocks(chunk, 1);
  }

  /** Whether anyone but the front's own references holds the chunk. */
  #isHeld(chunk: number): boolean {
    if (this.#static.get(chunk) || this.#fixed.has(chunk) || chunk === this.logChunk) return true;
    return this.packNext > 0 && chunk === this.chunkOf(this.packNext);
  }

  /** The first chunk from `from` on that is not in use; may lie past the end. */
  #nextFree(from: number): number {
    const statics = this.#static.words;
    const fronts = this.#front.words;
    for (let chunk = from; ; chunk++) {
      // A whole word of chunks in use is passed at once: there may be a million of them.
      while (
        chunk % 32 === 0 &&
        chunk < this.#static.length &&
        (statics[chunk >>> 5]! | fronts[chunk >>> 5]!) === -1
      ) {
        chunk += 32;
      }
      if (chunk >= this.#static.length || !this.isUsed(chunk)) return chunk;
    }
  }

  #ensure(chunks: number): void {
    if (chunks <= this.#static.length) return;
    const length = withSpare(chunks);
    this.#static = this.#static.resized(length);
    this.#front = this.#front.resized(length);
  }
}
