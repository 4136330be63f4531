import { type Awaitable, corrupt, type Storage } from '@cowlab/core';
import {
  type ChunkEntry,
  decodeDelta,
  decodePage,
  decodeRoot,
  type Delta,
  encodePage,
  type Geometry,
  isDelta,
  isWithin,
  newPointers,
  pageCount,
  type PagePointers,
  type Region,
  rootBytes,
  SUPERBLOCKS_BYTES,
} from './layout.ts';
import { ChunkTable } from './table.ts';

/*
 * A state on disk is a root and the pages it points to. Pages are immutable and shared: a new state writes the
 * pages that changed and a new root. So a snapshot costs what changed since the one before, and each can be read
 * alone, whatever happened to the others. Where little of a large page has changed, the root points to a delta, which
 * points to the page (deltas.ts): two reads, never more.
 */

/** One state: table, and where it lies. */
export interface State {
  readonly table: ChunkTable;
  readonly size: number;
  readonly root: Region;
  /** What the root points to: pages and deltas. */
  readonly pages: PagePointers;
  /** Of those that are deltas, the pages under them. */
  readonly fulls: PagePointers;
}

/** A page or a delta, and where it lies. */
export interface PlacedPage extends Region {
  readonly page: number;
}

/** Pages lie close together; one read takes in up to this many bytes of them. */
const READ_BYTES = 1024 * 1024;
/** Reading through a gap this long is cheaper than another call. */
const GAP_BYTES = 64 * 1024;

/** The state of a new image: a root, and nothing mapped. */
export function emptyState(geometry: Geometry, size: number, root: Region): State {
  const table = new ChunkTable(geometry, Math.ceil(size / geometry.chunkBytes));
  const count = pageCount(geometry, size);
  return { table, size, root, pages: newPointers(count), fulls: newPointers(count) };
}

/** Where the pages of a state lie. Memory is bounded by the file: the root lies in it and has 8 bytes for each page. */
export async function readRoot(
  storage: Storage,
  root: Region,
  size: number,
  geometry: Geometry,
  hostChunks: number,
): Promise<PagePointers> {
  const file = storage.name;
  if (!isWithin(root, SUPERBLOCKS_BYTES, storage.size())) {
    throw corrupt(file, 'root.offset', `${root.offset} is outside the file`, { offset: root.offset });
  }
  if (root.bytes !== rootBytes(geometry, size)) {
    throw corrupt(file, 'root.bytes', `${root.bytes} does not fit the size ${size}`, { value: root.bytes });
  }
  const bytes = new Uint8Array(root.bytes);
  await storage.read(root.offset, bytes, 'mapping');
  return decodeRoot(bytes, size, geometry, hostChunks, file);
}

/** Reads a state: its root and all of its pages. */
export async function readState(
  storage: Storage,
  root: Region,
  size: number,
  geometry: Geometry,
  hostChunks: number,
): Promise<State> {
  const file = storage.name;
  const pages = await readRoot(storage, root, size, geometry, hostChunks);
  const fulls = newPointers(pages.bytes.length);
  const table = new ChunkTable(geometry, Math.ceil(size / geometry.chunkBytes));
  await eachPiece(storage, presentPages(pages), async (piece) => {
    const deltas = new Map<number, Delta>();
    for (const [{ page }, content] of piece) {
      if (!isDelta(content)) loadPage(table, page, content, hostChunks, file);
      else deltas.set(page, decodeDelta(content, page, geometry, hostChunks, file));
    }
    const under = [...deltas].map(([page, { full }]) => ({ page, ...full }));
    await eachPiece(storage, under, (below) => {
      for (const [{ page, offset, bytes }, content] of below) {
        fulls.offsets[page] = offset;
        fulls.bytes[page] = bytes;
        loadPage(table, page, content, hostChunks, file);
        applyDelta(table, page, deltas.get(page)!, file);
      }
    });
  });
  return { table, size, root, pages, fulls };
}

/** Puts the entries of a page into a table in which they are absent. */
function loadPage(
  table: ChunkTable,
  page: number,
  content: Uint8Array,
  hostChunks: number,
  file: string,
): void {
  const { geometry, chunks } = table;
  decodePage(content, page, geometry, hostChunks, file, (slot, count, entry) => {
    const chunk = page * geometry.pageChunks + slot;
    if (chunk + count > chunks) throw pastTheEnd(file, page, chunk + count - 1);
    table.load(chunk, count, entry);
  });
}

function applyDelta(table: ChunkTable, page: number, { runs }: Delta, file: string): void {
  const { pageChunks, blocksPerChunk } = table.geometry;
  const first = page * pageChunks * blocksPerChunk;
  for (const { guest, count, host } of runs) {
    const last = Math.floor((first + guest + count - 1) / blocksPerChunk);
    if (last >= table.chunks) throw pastTheEnd(file, page, last);
    table.apply({ guest: first + guest, count, host }, () => undefined);
  }
}

function pastTheEnd(file: string, page: number, chunk: number): Error {
  return corrupt(file, `page[${page}]`, `chunk ${chunk} is past the end of the disk`);
}

/** The pages that are not absent, or those of them that are named. */
export function presentPages(
  { offsets, bytes }: PagePointers,
  wanted: Iterable<number> = bytes.keys(),
): PlacedPage[] {
  const present: PlacedPage[] = [];
  for (const page of wanted) {
    if (bytes[page]! > 0) present.push({ page, offset: offsets[page]!, bytes: bytes[page]! });
  }
  return present;
}

/** Reads pages in the order they lie on disk, in large pieces; `visit` gets the pages of one piece, one piece at a time. */
export async function eachPiece(
  storage: Storage,
  pages: readonly PlacedPage[],
  visit: (piece: readonly (readonly [PlacedPage, Uint8Array])[]) => Awaitable<void>,
): Promise<void> {
  const present = pages.toSorted((a, b) => a.offset - b.offset);
  for (let first = 0; first < present.length; ) {
    const start = present[first]!.offset;
    let end = start;
    let next = first;
    while (next < present.length) {
      const { offset, bytes } = present[next]!;
      if (offset > end + GAP_BYTES || (next > first && offset + bytes - start > READ_BYTES)) break;
      end = Math.max(end, offset + bytes);
      next++;
    }
    const content = new Uint8Array(end - start);
    await storage.read(start, content, 'mapping');
    await visit(
      present.slice(first, next).map((place) => {
        const at = place.offset - start;
        return [place, content.subarray(at, at + place.bytes)] as const;
      }),
    );
    first = next;
  }
}

/** One page of a table as it will lie on disk; undefined when all of it is absent. */
export function pageOf(table: ChunkTable, page: number): Uint8Array | undefined {
  const { pageChunks } = table.geometry;
  const first = page * pageChunks;
  const entries: ChunkEntry[] = [];
  for (let chunk = first; chunk < Math.min(first + pageChunks, table.chunks); chunk++)
    entries.push(table.get(chunk));
  return encodePage(page, entries);
}
