import { Bitset, corrupt } from '@cowlab/core';
import { type Geometry, type Region, ZERO } from './layout.ts';
import type { ChunkTable } from './table.ts';
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
 * `partial`; at zero the chunk is given back. What is given back stays marked until `settle`, which the caller runs
 * when the record that freed it is durable: before that, a crash would bring the old reference back.
 *
 * Packed chunks take blocks of any guest chunk one after the other. A block never lies there at its own index:
 * that place in a chunk is a home's.
 */

export class Space {
  readonly #geometry: Geometry;
  #static: Bitset;
  #front: Bitset;
  readonly #fixed = new Set<number>();
  readonly #partial = new Map<number, number>();
  #givenBack: number[] = [];
  #cursor = 1;
  /** Host chunks up to the last one ever used. */
  hostChunks: number;
  /** The next packed block, as a host block; 0 when no packed chunk is open. */
  packNext: number;
  /** The chunk that pages and roots are being written to; it stays ours even when nothing in it is live. */
  logChunk = 0;
  /** Blocks from here to the end of their chunk are the front's even though the chunk is static; 0 for none. */
  tailFrom: number;

  constructor(geometry: Geometry, hostChunks: number, packNext = 0, tailFrom = 0) {
    this.#geometry = geometry;
    this.hostChunks = hostChunks;
    this.packNext = packNext;
    this.tailFrom = tailFrom;
    const capacity = Math.max(1024, Math.ceil(hostChunks * 1.125));
    this.#static = new Bitset(capacity);
    this.#front = new Bitset(capacity);
  }

  get residentBytes(): number {
    return this.#static.words.byteLength + this.#front.words.byteLength + this.#partial.size * 32;
  }

  chunkOf(hostBlock: number): number {
    return Math.floor(hostBlock / this.#geometry.blocksPerChunk);
  }

  isStatic(chunk: number): boolean {
    return this.#static.get(chunk);
  }

  isUsed(chunk: number): boolean {
    if (this.#static.get(chunk) || this.#front.get(chunk) || this.#fixed.has(chunk)) return true;
    return chunk === this.logChunk || (this.packNext > 0 && chunk === this.chunkOf(this.packNext));
  }

  /** Whether the front may overwrite the block where it is. */
  isOwned(hostBlock: number): boolean {
    const chunk = this.chunkOf(hostBlock);
    if (!this.#static.get(chunk)) return true;
    return this.tailFrom > 0 && hostBlock >= this.tailFrom && this.chunkOf(this.tailFrom) === chunk;
  }

  fix(region: Region): void {
    for (const chunk of this.chunksOf(region)) this.#fixed.add(chunk);
  }

  unfix(region: Region): void {
    for (const chunk of this.chunksOf(region)) this.#fixed.delete(chunk);
  }

  /** The host chunks that a region touches. */
  chunksOf({ offset, bytes }: Region): number[] {
    if (bytes === 0) return [];
    const first = Math.floor(offset / this.#geometry.chunkBytes);
    const last = Math.floor((offset + bytes - 1) / this.#geometry.chunkBytes);
    return Array.from({ length: last - first + 1 }, (_, i) => first + i);
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

  hasFront(chunk: number): boolean {
    return this.#front.get(chunk);
  }

  /** The front stops referring to `count` blocks. A chunk without an entry in `partial` was whole. */
  release(chunk: number, count: number): void {
    const left = (this.#partial.get(chunk) ?? this.#geometry.blocksPerChunk) - count;
    if (left > 0) {
      this.#partial.set(chunk, left);
      return;
    }
    this.#partial.delete(chunk);
    this.#givenBack.push(chunk);
  }

  /** A chunk of which the table has just taken all blocks at their own index needs no count. */
  collapse(chunk: number): void {
    this.#partial.delete(chunk);
  }

  /** What has been given back since the last call; pass it to `settle` when that is durable. */
  takeGivenBack(): number[] {
    const taken = this.#givenBack;
    this.#givenBack = [];
    return taken;
  }

  putBack(taken: readonly number[]): void {
    this.#givenBack = [...taken, ...this.#givenBack];
  }

  /** Those of the chunks that nobody has taken again since they were given back. */
  unreached(taken: readonly number[]): number[] {
    return taken.filter((chunk) => !this.#partial.has(chunk));
  }

  /** Frees chunks for reuse; yields those that nothing else holds, whose space the file system may have back. */
  settle(taken: readonly number[]): number[] {
    return this.unreached(taken).filter((chunk) => {
      this.#front.clear(chunk);
      this.#cursor = Math.min(this.#cursor, chunk);
      return !this.isUsed(chunk);
    });
  }

  /** The first of `count` free host chunks in a row; they are not marked yet. */
  findFree(count = 1): number {
    let start = count === 1 ? this.#cursor : 1;
    for (let chunk = start; ; chunk++) {
      if (chunk >= this.#static.length) this.#ensure(chunk + 1);
      if (this.isUsed(chunk)) start = chunk + 1;
      else if (chunk - start + 1 === count) break;
    }
    if (count === 1) this.#cursor = start + 1;
    this.hostChunks = Math.max(this.hostChunks, start + count);
    return start;
  }

  /** Takes a free chunk for a guest chunk's own blocks. */
  takeHome(blocks: number): number {
    const chunk = this.findFree();
    this.addBlocks(chunk, blocks);
    return chunk;
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

  setStatic(chunk: number): void {
    this.#ensure(chunk + 1);
    this.#static.set(chunk);
  }

  clearStatic(chunk: number): void {
    this.#static.clear(chunk);
  }

  /** Every host chunk that the front reaches. */
  *frontChunks(): Generator<number> {
    for (let chunk = this.#front.nextSet(0); chunk >= 0; chunk = this.#front.nextSet(chunk + 1)) yield chunk;
  }

  /** Forgets what the front reaches; the caller adds another state's. */
  clearFront(): void {
    this.#front = new Bitset(this.#front.length);
    this.#partial.clear();
    this.#givenBack = [];
    this.#cursor = 1;
  }

  /** Adds the root and the pages of a state. */
  addTree({ root, pages }: State): void {
    this.addRegion(root);
    pages.bytes.forEach((bytes, page) => this.addRegion({ offset: pages.offsets[page]!, bytes }));
  }

  /** The front refers to a root or a page. */
  addRegion(region: Region): void {
    for (const chunk of this.chunksOf(region)) this.addBlocks(chunk, 1);
  }

  /** Adds everything a table refers to. Throws `ERR_CORRUPT` when two guest blocks share a host block. */
  addTable(table: ChunkTable, file: string): void {
    const { blocksPerChunk } = this.#geometry;
    const shared = new Map<number, Bitset>();
    const twice = (chunk: number, host: number): never => {
      throw corrupt(file, `table[${chunk}]`, `host chunk ${host} is mapped twice`, { value: host });
    };
    for (let chunk = 0; chunk < table.chunks; chunk++) {
      const whole = table.whole(chunk);
      if (whole > 0) {
        if (this.isUsedByFront(whole)) twice(chunk, whole);
        this.addWhole(whole);
        continue;
      }
      if (typeof table.get(chunk) === 'number') continue;
      table.eachRun(chunk, (_start, count, host) => {
        if (host <= ZERO) return;
        const last = this.chunkOf(host + count - 1);
        for (let at = host; at < host + count; at++) {
          const place = this.chunkOf(at);
          const blocks = shared.get(place) ?? new Bitset(blocksPerChunk);
          if (!shared.has(place) && this.isUsedByFront(place)) twice(chunk, place);
          shared.set(place, blocks);
          if (blocks.get(at % blocksPerChunk)) twice(chunk, place);
          blocks.set(at % blocksPerChunk);
          this.addBlocks(place, 1);
        }
        if (last >= this.hostChunks) twice(chunk, last);
      });
    }
  }

  isUsedByFront(chunk: number): boolean {
    this.#ensure(chunk + 1);
    return this.#front.get(chunk) || this.#fixed.has(chunk);
  }

  #ensure(chunks: number): void {
    if (chunks <= this.#static.length) return;
    const length = Math.max(chunks, Math.ceil(this.#static.length * 1.25));
    this.#static = this.#static.resized(length);
    this.#front = this.#front.resized(length);
  }
}
