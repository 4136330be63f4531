import { CowlabError, type DriverImage, type DriverSnapshots, type SnapshotInfo } from '@cowlab/core';
import type { FvdImage } from './image.ts';
import { type Directory, decodeCatalog, type Region, type SnapshotEntry, ZERO } from './layout.ts';
import { SnapshotImage } from './snapshot-image.ts';
import { readState, type State } from './tree.ts';

/*
 * Snapshots. The catalog on disk is the directory and the static refcounts: for each host chunk, how many snapshots
 * reach it, be it with data or with pages of their tables. It is read here, changed here, and let go again; between
 * these calls nothing of it is in memory (P1). Each operation is one publication (publisher.ts), so it happens
 * wholly or not at all, and moves no data.
 *
 *   create   counts + 1 for all that the front reaches; the front's root becomes the snapshot's
 *   delete   counts - 1 for all that the snapshot reaches; what falls to 0 is static no longer
 *   apply    the snapshot's root becomes the front's; counts stay
 */

export interface Catalog {
  readonly directory: Directory;
  readonly counts: Uint16Array;
  readonly tailFrom?: number;
}

const EMPTY: Catalog = { directory: { nextId: 1, current: 0, snapshots: [] }, counts: new Uint16Array(0) };

/** Every host chunk that a state reaches: its root, its pages, its data. */
export function reachedBy(image: FvdImage, state: State): Set<number> {
  const reached = new Set<number>();
  const add = (region: Region): void => {
    for (const chunk of image.space.chunksOf(region)) reached.add(chunk);
  };
  add(state.root);
  state.pages.bytes.forEach((bytes, page) => add({ offset: state.pages.offsets[page]!, bytes }));
  for (let chunk = 0; chunk < state.table.chunks; chunk++) {
    const whole = state.table.whole(chunk);
    if (whole > 0) reached.add(whole);
    else if (typeof state.table.get(chunk) !== 'number') {
      state.table.eachRun(chunk, (_start, count, host) => {
        if (host <= ZERO) return;
        reached.add(image.space.chunkOf(host));
        reached.add(image.space.chunkOf(host + count - 1));
      });
    }
  }
  return reached;
}

function infoOf(snapshot: SnapshotEntry): SnapshotInfo {
  return {
    id: String(snapshot.id),
    name: snapshot.name,
    createdAt: new Date(snapshot.createdAt),
    size: snapshot.size,
    parent: snapshot.parent === 0 ? null : String(snapshot.parent),
  };
}

export class FvdSnapshots implements DriverSnapshots {
  readonly #image: FvdImage;

  constructor(image: FvdImage) {
    this.#image = image;
  }

  async list(): Promise<readonly SnapshotInfo[]> {
    return (await this.readCatalog()).directory.snapshots.map(infoOf);
  }

  async create(name: string, createdAt: Date): Promise<SnapshotInfo> {
    const image = this.#image;
    const before = await this.readCatalog();
    const { nextId, current, snapshots } = before.directory;
    let entry: SnapshotEntry | undefined;
    await image.publish({
      catalog: async (root, dead) => {
        entry = { id: nextId, parent: current, name, createdAt: createdAt.getTime(), size: image.size, root };
        const counts = grown(before.counts, image.space.hostChunks);
        for (const chunk of image.space.frontChunks()) if (!dead.has(chunk)) counts[chunk]!++;
        const directory = { nextId: nextId + 1, current: nextId, snapshots: [...snapshots, entry] };
        return { directory, counts, tailFrom: image.space.packNext };
      },
    });
    for (const chunk of image.space.frontChunks()) image.space.setStatic(chunk);
    return infoOf(entry!);
  }

  async delete(id: string): Promise<void> {
    const image = this.#image;
    const before = await this.readCatalog();
    const { nextId, current, snapshots } = before.directory;
    const gone = this.#find(snapshots, id);
    const reached = reachedBy(image, await this.#read(gone));
    const counts = before.counts.slice();
    for (const chunk of reached) counts[chunk]!--;
    // Children of the deleted snapshot, and the front, grew from its parent in the end.
    const adopted = (parent: number): number => (parent === gone.id ? gone.parent : parent);
    const directory: Directory = {
      nextId,
      current: adopted(current),
      snapshots: snapshots
        .filter((snapshot) => snapshot !== gone)
        .map((snapshot) => ({ ...snapshot, parent: adopted(snapshot.parent) })),
    };
    await image.publish({ catalog: async () => ({ directory, counts }) });
    const free: number[] = [];
    for (const chunk of reached) {
      if (counts[chunk] !== 0) continue;
      image.space.clearStatic(chunk);
      if (!image.space.isUsed(chunk)) free.push(chunk);
    }
    await image.publisher.settle(free);
  }

  async apply(id: string): Promise<void> {
    const image = this.#image;
    const before = await this.readCatalog();
    const entry = this.#find(before.directory.snapshots, id);
    const state = await this.#read(entry);
    const abandoned = [...image.space.frontChunks()];
    const directory = { ...before.directory, current: entry.id };
    await image.publish({ state, catalog: async () => ({ directory, counts: before.counts }) });
    image.space.clearFront();
    image.space.addTree(state);
    image.space.addTable(state.table, image.storage.name);
    image.adopt(state);
    await image.publisher.settle(abandoned.filter((chunk) => !image.space.isUsed(chunk)));
  }

  async open(id: string): Promise<DriverImage> {
    const { directory } = await this.readCatalog();
    return new SnapshotImage(this.#image, await this.#read(this.#find(directory.snapshots, id)));
  }

  /** The catalog as it lies on disk; empty where there never was a snapshot. */
  async readCatalog(): Promise<Catalog> {
    const { storage, geometry, publisher } = this.#image;
    return readCatalog(storage, publisher.superblock.catalog, geometry, publisher.superblock.hostChunks);
  }

  #read(snapshot: SnapshotEntry): Promise<State> {
    const { storage, geometry, publisher } = this.#image;
    return readState(storage, snapshot.root, snapshot.size, geometry, publisher.superblock.hostChunks);
  }

  #find(snapshots: readonly SnapshotEntry[], id: string): SnapshotEntry {
    const found = snapshots.find((snapshot) => String(snapshot.id) === id);
    if (found === undefined) {
      throw new CowlabError(
        'ERR_SNAPSHOT_NOT_FOUND',
        `${this.#image.storage.name}: snapshot ${id}: no such snapshot`,
        {
          file: this.#image.storage.name,
          value: id,
        },
      );
    }
    return found;
  }
}

function grown(counts: Uint16Array, length: number): Uint16Array {
  const longer = new Uint16Array(Math.max(length, counts.length));
  longer.set(counts);
  return longer;
}

/** Reads directory and counts. Throws `ERR_CORRUPT` when they do not fit the file. */
export async function readCatalog(
  storage: FvdImage['storage'],
  region: Region,
  geometry: FvdImage['geometry'],
  hostChunks: number,
): Promise<Catalog> {
  if (region.bytes === 0) return EMPTY;
  if (region.offset + region.bytes > storage.size()) {
    throw new CowlabError('ERR_CORRUPT', `${storage.name}: catalog.offset: is past the end of the file`, {
      file: storage.name,
      field: 'catalog.offset',
      offset: region.offset,
    });
  }
  const bytes = new Uint8Array(region.bytes);
  await storage.read(region.offset, bytes, 'refcount');
  return decodeCatalog(bytes, geometry, hostChunks, storage.name);
}
