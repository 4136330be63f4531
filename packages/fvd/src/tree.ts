import { corrupt, type Storage } from '@cowlab/core';
import {
  type ChunkEntry,
  decodePage,
  decodeRoot,
  encodePage,
  type Geometry,
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
 * alone, whatever happened to the others.
 */

/** One state: table, and where it lies. */
export interface State {
  readonly table: ChunkTable;
  readonly size: number;
  readonly root: Region;
  readonly pages: PagePointers;
}

/** Pages lie close together; one read takes in up to this many bytes of them. */
const READ_BYTES = 1024 * 1024;
/** Reading through a gap this long is cheaper than another call. */
const GAP_BYTES = 64 * 1024;

/** The state of a new image: a root, and nothing mapped. */
export function emptyState(geometry: Geometry, size: number, root: Region): State {
  const table = new ChunkTable(geometry, Math.ceil(size / geometry.chunkBytes));
  return { table, size, root, pages: newPointers(pageCount(geometry, size)) };
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
  const chunks = Math.ceil(size / geometry.chunkBytes);
  const table = new ChunkTable(geometry, chunks);
  await eachPage(storage, pages, (page, content) => {
    decodePage(content, page, geometry, hostChunks, file, (slot, count, entry) => {
      const chunk = page * geometry.pageChunks + slot;
      if (chunk + count > chunks) {
        throw corrupt(file, `page[${page}]`, `chunk ${chunk + count - 1} is past the end of the disk`);
      }
      table.load(chunk, count, entry);
    });
  });
  return { table, size, root, pages };
}

/** Reads every page, in the order they lie on disk, in large pieces. */
export async function eachPage(
  storage: Storage,
  pages: PagePointers,
  visit: (page: number, content: Uint8Array) => void,
): Promise<void> {
  const present = [...pages.bytes.keys()].filter((page) => pages.bytes[page]! > 0);
  present.sort((a, b) => pages.offsets[a]! - pages.offsets[b]!);
  for (let first = 0; first < present.length; ) {
    const start = pages.offsets[present[first]!]!;
    let end = start;
    let next = first;
    while (next < present.length) {
      const page = present[next]!;
      const pageEnd = pages.offsets[page]! + pages.bytes[page]!;
      if (pages.offsets[page]! > end + GAP_BYTES || (next > first && pageEnd - start > READ_BYTES)) break;
      end = Math.max(end, pageEnd);
      next++;
    }
    const piece = new Uint8Array(end - start);
    await storage.read(start, piece, 'mapping');
    for (; first < next; first++) {
      const page = present[first]!;
      const at = pages.offsets[page]! - start;
      visit(page, piece.subarray(at, at + pages.bytes[page]!));
    }
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
