import {
  CowlabError,
  type DiffBatch,
  type DriverImage,
  type DriverSnapshots,
  type SnapshotInfo,
} from '@cowlab/core';
import { type Catalog, type CatalogPlace, readCatalog, readDirectory } from './catalog.ts';
import { diffStates, type Side } from './diff.ts';
import { reachedBy } from './front-use.ts';
import type { FvdImage } from './image.ts';
import { type Directory, MAX_SNAPSHOTS, type SnapshotEntry } from './layout.ts';
import { lower, raised } from './refcounts.ts';
import { SnapshotImage } from './snapshot-image.ts';
import { readRoot, readState, type State } from './tree.ts';

/*
 * Snapshots. The catalog on disk is the directory and the static refcounts: for each host chunk, how many snapshots
 * reach it, be it with data or with pages of their tables. It is read here, changed here, and let go again; between
 * these calls nothing of it is in memory (P1). Each operation is one publication (publisher.ts), so it happens
 * wholly or not at all, and moves no data.
 *
 *   create   counts + 1 for all that the front reaches; the front's root becomes the snapshot's
 *   delete   counts - 1 for all that the snapshot reaches; what falls to 0 is static no longer
 *   apply    the snapshot's root becomes the front's; counts stay
 *   rename   another directory; counts stay
 *
 * The tree: a snapshot's parent is `current` at its create, the snapshot that the front stands on: the last one
 * created or applied. Children of a deleted one, and `current`, go over to its parent.
 */

const MAX_ID = 0xffff_ffff;

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
    return (await readDirectory(this.#place())).snapshots.map(infoOf);
  }

  async create(name: string, createdAt: Date): Promise<SnapshotInfo> {
    const { space, publisher, storage, size } = this.#image;
    const before = await this.readCatalog();
    const { nextId, current, snapshots } = before.directory;
    if (snapshots.length >= MAX_SNAPSHOTS || nextId >= MAX_ID) {
      const about = { file: storage.name, field: 'snapshot', value: name };
      throw new CowlabError('ERR_SNAPSHOT_LIMIT', `${storage.name}: no number is left for a snapshot`, about);
    }
    let entry: SnapshotEntry | undefined;
    try {
      await this.#image.publish({
        tailFrom: () => space.packNext,
        catalog: (root, dead) => {
          const reached = space.frontChunks();
          for (const chunk of dead) reached.clear(chunk);
          entry = { id: nextId, parent: current, name, createdAt: createdAt.getTime(), size, root };
          const directory = { nextId: nextId + 1, current: nextId, snapshots: [...snapshots, entry] };
          return { directory, counts: raised(before.counts, reached, space.hostChunks) };
        },
      });
    } catch (error) {
      // The snapshot may be there after a crash: what it would reach must not change until that is settled.
      if (publisher.isInDoubt) space.freezeFront();
      throw error;
    }
    space.freezeFront();
    return infoOf(entry!);
  }

  async delete(id: string): Promise<void> {
    const { space, publisher, storage } = this.#image;
    const before = await this.readCatalog();
    const { nextId, current, snapshots } = before.directory;
    const gone = this.#find(snapshots, id);
    const { counts } = before;
    const reached = reachedBy(await this.#read(gone), publisher.superblock.hostChunks);
    const fallen = lower(counts, reached, storage.name);
    // Children of the deleted snapshot, and the front, grew from its parent in the end.
    const adopted = (parent: number): number => (parent === gone.id ? gone.parent : parent);
    const directory: Directory = {
      nextId,
      current: adopted(current),
      snapshots: snapshots
        .filter((snapshot) => snapshot !== gone)
        .map((snapshot) => ({ ...snapshot, parent: adopted(snapshot.parent) })),
    };
    const tail = (): number => ((counts[space.chunkOf(space.tailFrom)] ?? 0) === 0 ? 0 : space.tailFrom);
    await this.#image.publish({ catalog: () => ({ directory, counts }), tailFrom: tail });
    space.clearStaticWhere(fallen);
    await publisher.settle(space.unusedOf(fallen));
  }

  async apply(id: string): Promise<void> {
    const { space, publisher, storage } = this.#image;
    const before = await this.readCatalog();
    const entry = this.#find(before.directory.snapshots, id);
    const state = await this.#read(entry);
    const use = space.survey(state, storage.name);
    const abandoned = space.frontChunks();
    const directory = { ...before.directory, current: entry.id };
    await this.#image.publish({ state, catalog: () => ({ directory, counts: before.counts }) });
    space.adoptFront(use);
    await publisher.settle(space.unusedOf(abandoned));
  }

  async open(id: string): Promise<DriverImage> {
    const { snapshots } = await readDirectory(this.#place());
    return new SnapshotImage(this.#image, await this.#read(this.#find(snapshots, id)));
  }

  async rename(id: string, name: string): Promise<void> {
    const { directory, counts } = await this.readCatalog();
    const renamed = this.#find(directory.snapshots, id);
    const snapshots = directory.snapshots.map((each) => (each === renamed ? { ...each, name } : each));
    await this.#image.publish({ catalog: () => ({ directory: { ...directory, snapshots }, counts }) });
  }

  async diff(from: string | null, to: string | null, offset: number, end: number): Promise<DiffBatch> {
    const { storage, geometry, publisher, base } = this.#image;
    const { snapshots } = await readDirectory(this.#place());
    const { hostChunks } = publisher.superblock;
    const side = async (id: string | null): Promise<Side> => {
      if (id === null) return this.#front();
      const { root, size } = this.#find(snapshots, id);
      return { pages: await readRoot(storage, root, size, geometry, hostChunks) };
    };
    const sides = [await side(from), await side(to)] as const;
    return diffStates({ storage, geometry, hostChunks, hasBase: base !== undefined, sides }, offset, end);
  }

  #front(): Side {
    const { state, publisher } = this.#image;
    const { table } = state;
    return { pages: publisher.pages, front: { table, isTouched: (page) => publisher.isTouched(page) } };
  }

  /** The catalog as it lies on disk; empty where there never was a snapshot. */
  readCatalog(): Promise<Catalog> {
    return readCatalog(this.#place());
  }

  #place(): CatalogPlace {
    const { storage, geometry, publisher } = this.#image;
    const { catalog, hostChunks } = publisher.superblock;
    return { storage, region: catalog, geometry, hostChunks };
  }

  #read(snapshot: SnapshotEntry): Promise<State> {
    const { storage, geometry, publisher } = this.#image;
    return readState(storage, snapshot.root, snapshot.size, geometry, publisher.superblock.hostChunks);
  }

  #find(snapshots: readonly SnapshotEntry[], id: string): SnapshotEntry {
    const found = snapshots.find((snapshot) => String(snapshot.id) === id);
    if (found !== undefined) return found;
    const { name } = this.#image.storage;
    const about = { file: name, value: id };
    throw new CowlabError('ERR_SNAPSHOT_NOT_FOUND', `${name}: snapshot ${id}: no such snapshot`, about);
  }
}
