import { setImmediate } from 'node:timers/promises';
import { Bitset, type CompactOptions, type CompactReport, CowlabError, type Storage } from '@cowlab/core';
import type { Catalog } from './catalog.ts';
import { markData } from './front-use.ts';
import type { FvdImage } from './image.ts';
import { encodeCatalog, SECTOR_BYTES, ZERO } from './layout.ts';
import type { ChunkTable } from './table.ts';
import { pageOf } from './tree.ts';

/*
 * The file gets shorter when the last of its host chunks are free. What keeps them from that, and what becomes of it:
 *
 *   static     some snapshot reaches it: stays. What lies before the last of these cannot shorten the file, and stays too
 *   journal    stays: it lies behind chunk 0 from the beginning
 *   data       only the front reaches it: with `move`, copied into the first free chunk
 *   log        pages, deltas and root of the front, and what is written to next: written anew into the first free chunks
 *   catalog    the same; without the counts behind the last one that is not 0
 *
 *   1  checkpoint
 *   2  (move) the last chunk of data goes into the first free one, and so on, until they meet. A block keeps its index
 *      within the host chunk, so a home stays a home and packed stays packed. This is what a guest's write is: bytes to
 *      free space, the table in memory, a run. After some chunks a flush: F, journal, F; then what they have left is free
 *   3  log and catalog, as long as the last chunk in use is theirs and there is room before it: a publication each time
 *   4  a publication that says how many host chunks there are; then the file is cut, F
 *
 * A crash between 4's publication and the cut leaves a file that is longer than its superblock says, which is legal. Holes
 * are filled from the file itself, so it does not grow, but for what a publication writes before it frees the old.
 */

/** So much is copied before it is made durable, and before an abort and timers have their turn. */
const BATCH_BYTES = 16 * 1024 * 1024;
/** Of so many host chunks at a time it is known who refers to them. */
const WINDOW_CHUNKS = 16_384;

export async function compactImage(image: FvdImage, options: CompactOptions): Promise<CompactReport> {
  const { storage, space } = image;
  const bytesBefore = storage.size();
  await image.checkpoint();
  space.searchFromStart();
  closePacked(image, options.move === true);
  const movedBytes = options.move === true ? await moveData(image, options) : 0;
  const floor = immovableEnd(image);
  await lowerMetadata(image, floor);
  await trimCounts(image, floor);
  await cut(image);
  return { bytesBefore, bytesAfter: storage.size(), movedBytes };
}

/** The chunk that packed blocks go to is in the way when nothing is in it, and when it would have to move. */
function closePacked({ space }: FvdImage, moves: boolean): void {
  if (space.packNext === 0) return;
  const chunk = space.chunkOf(space.packNext);
  const isEmpty = !space.isFront(chunk) && !space.isStatic(chunk);
  if (isEmpty || (moves && chunk >= space.staticEnd())) space.packNext = 0;
}

/** Copies data from the end of the file into free chunks before them; how many bytes. */
async function moveData(image: FvdImage, options: CompactOptions): Promise<number> {
  const { space } = image;
  const moves = new Moves(image, options, space.staticEnd());
  for (let end = space.usedEnd(); end > moves.floor; end -= WINDOW_CHUNKS) {
    const first = Math.max(moves.floor, end - WINDOW_CHUNKS);
    if (!(await moves.moveFrom(piecesBetween(image.state.table, first, end)))) break;
  }
  await image.checkpoint();
  // What the last batch has moved is durable, and an abort leaves it at that.
  await moves.turn(moves.floor);
  return moves.bytes;
}

/** Blocks of one guest chunk that lie in one host chunk. */
interface Piece {
  readonly chunk: number;
  readonly start: number;
  readonly count: number;
  readonly host: number;
}

/** Who refers to which of the host chunks, by host chunk. */
function piecesBetween(table: ChunkTable, first: number, end: number): Map<number, Piece[]> {
  const { blocksPerChunk } = table.geometry;
  const pieces = new Map<number, Piece[]>();
  const add = (chunk: number, start: number, count: number, host: number): void => {
    const place = Math.floor(host / blocksPerChunk);
    if (place < first || place >= end) return;
    const others = pieces.get(place);
    if (others === undefined) pieces.set(place, [{ chunk, start, count, host }]);
    else others.push({ chunk, start, count, host });
  };
  for (let chunk = 0; chunk < table.chunks; chunk++) {
    const wholes = table.wholeRun(chunk);
    if (wholes > 0) {
      const host = table.whole(chunk);
      for (let at = Math.max(host, first); at < Math.min(host + wholes, end); at++) {
        add(chunk + at - host, 0, blocksPerChunk, at * blocksPerChunk);
      }
      chunk += wholes - 1;
    } else if (table.isSplit(chunk)) {
      table.eachRun(chunk, (start, count, host) => {
        if (host > ZERO) add(chunk, start, count, host);
      });
    }
  }
  return pieces;
}

class Moves {
  readonly #image: FvdImage;
  readonly #options: CompactOptions;
  /** Nothing before this chunk moves. */
  readonly floor: number;
  readonly #total: number;
  bytes = 0;
  #batch = 0;

  constructor(image: FvdImage, options: CompactOptions, floor: number) {
    this.#image = image;
    this.#options = options;
    this.floor = floor;
    this.#total = Math.max(0, image.space.usedEnd() - floor);
  }

  /** The last chunk first. False when no free one is before it. */
  async moveFrom(pieces: ReadonlyMap<number, readonly Piece[]>): Promise<boolean> {
    for (const chunk of [...pieces.keys()].toSorted((a, b) => b - a)) {
      const target = this.#image.space.takeBelow(chunk);
      if (target === undefined) return false;
      await this.#move(chunk, pieces.get(chunk)!, target);
      if (this.#batch < BATCH_BYTES) continue;
      this.#batch = 0;
      await this.#image.flush();
      await this.turn(chunk);
    }
    return true;
  }

  /** Between two batches: everything is durable. */
  async turn(chunk: number): Promise<void> {
    const { geometry, storage } = this.#image;
    const { onProgress, signal } = this.#options;
    const total = this.#total * geometry.chunkBytes;
    onProgress?.({ done: total - (chunk - this.floor) * geometry.chunkBytes, total });
    await setImmediate();
    if (signal?.aborted !== true) return;
    const about = { file: storage.name };
    throw new CowlabError('ERR_ABORTED', `${storage.name}: compact: aborted`, about, signal.reason);
  }

  async #move(from: number, pieces: readonly Piece[], target: number): Promise<void> {
    const { space, geometry, storage } = this.#image;
    const { blocksPerChunk, blockBytes } = geometry;
    const distance = (target - from) * blocksPerChunk;
    for (const { host, count } of pieces) {
      await copyBytes(storage, host * blockBytes, (host + distance) * blockBytes, count * blockBytes);
    }
    for (const { chunk, start, count, host } of pieces) {
      space.addBlocks(target, count);
      this.#image.setRun(chunk, start, count, host + distance);
      this.bytes += count * blockBytes;
      this.#batch += count * blockBytes;
    }
  }
}

/** Holes stay holes where the storage knows them. */
async function copyBytes(storage: Storage, from: number, to: number, length: number): Promise<void> {
  for (let done = 0; done < length; ) {
    const status = await storage.status(from + done, length - done);
    if (status.data) {
      const bytes = new Uint8Array(status.length);
      await storage.read(from + done, bytes);
      await storage.write(to + done, bytes);
    } else {
      await storage.zero(to + done, status.length);
    }
    done += status.length;
  }
}

/** Behind the last chunk that holds neither log nor catalog. */
function immovableEnd({ space, state, publisher, geometry }: FvdImage): number {
  const { journal } = publisher.superblock;
  const others = new Bitset(space.usedEnd());
  markData(state, others);
  if (space.packNext > 0) others.set(space.chunkOf(space.packNext));
  let end = Math.max(space.staticEnd(), (journal.offset + journal.bytes) / geometry.chunkBytes);
  for (let at = others.nextSet(end); at >= 0; at = others.nextSet(at + 1)) end = at + 1;
  return end;
}

/** Log and catalog leave the end of the file, as long as there is room for them before it. */
async function lowerMetadata(image: FvdImage, floor: number): Promise<void> {
  const { space, publisher, geometry } = image;
  // What is taken lies before the last chunk in use, which becomes free each time.
  for (let last = Infinity; space.usedEnd() - 1 < last && space.usedEnd() > floor; ) {
    last = space.usedEnd() - 1;
    const { catalog } = publisher.superblock;
    const isCatalogs = Math.ceil((catalog.offset + catalog.bytes) / geometry.chunkBytes) - 1 === last;
    if (!(await (isCatalogs ? lowerCatalog(image, last) : lowerLog(image, floor, last)))) return;
  }
}

async function lowerCatalog(image: FvdImage, last: number): Promise<boolean> {
  const catalog = trimmed(await image.snapshots.readCatalog());
  const bytes = encodeCatalog(catalog.directory, catalog.counts).length;
  if (!image.space.hasFreeRun(Math.ceil(bytes / image.geometry.chunkBytes), last)) return false;
  await image.publish({ catalog: () => catalog });
  return true;
}

async function lowerLog(image: FvdImage, floor: number, last: number): Promise<boolean> {
  const { space, publisher, geometry, state } = image;
  const pages = publisher.pagesFrom(floor);
  const bytes = pages.reduce(
    (sum, page) => sum + (pageOf(state.table, page)?.length ?? 0),
    publisher.superblock.root.bytes + SECTOR_BYTES,
  );
  // They fill a chunk, or each leaves less than its own length unused at the end of one.
  const chunks = bytes <= geometry.chunkBytes ? 1 : Math.ceil((2 * bytes) / geometry.chunkBytes) + 1;
  if (!space.hasFreeRun(chunks, last)) return false;
  publisher.rewriteLog(pages);
  await image.publish();
  return true;
}

/** Counts behind the last chunk in use must go, or the catalog would name chunks that are not there. */
async function trimCounts(image: FvdImage, floor: number): Promise<void> {
  const { space } = image;
  const catalog = await image.snapshots.readCatalog();
  if (space.usedEnd() >= space.hostChunks || catalog.counts.length <= space.usedEnd()) return;
  await image.publish({ catalog: () => trimmed(catalog) });
  await lowerMetadata(image, floor);
}

function trimmed({ directory, counts }: Catalog): Catalog {
  let end = counts.length;
  while (end > 0 && counts[end - 1] === 0) end--;
  return { directory, counts: counts.slice(0, end) };
}

/** The superblock says first that the chunks are not there. */
async function cut(image: FvdImage): Promise<void> {
  const { space, storage, geometry } = image;
  const hostChunks = space.usedEnd();
  if (hostChunks < space.hostChunks) await image.publish({ hostChunks });
  if (storage.size() <= hostChunks * geometry.chunkBytes) return;
  await storage.truncate(hostChunks * geometry.chunkBytes);
  await storage.flush();
}
