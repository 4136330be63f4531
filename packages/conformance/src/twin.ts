import assert from 'node:assert/strict';
import type {
  CompactOptions,
  CompactReport,
  DiffExtent,
  Disk,
  SnapshotInfo,
  StorageFolder,
} from '@cowlab/core';
import { assertDiff } from './diff-oracle.ts';
import { assertSameBytes } from './expect.ts';
import type { Lab } from './lab.ts';
import { compressible, pattern } from './random.ts';
import { ReferenceModel } from './reference-model.ts';

export interface TwinParts {
  readonly file: string;
  readonly folder: StorageFolder;
  readonly disk: Disk;
  readonly initial?: Uint8Array;
}

/** Everything a disk holds. */
export async function contentsOf(disk: Disk): Promise<Uint8Array> {
  const bytes = new Uint8Array(disk.size);
  await disk.read(0, bytes);
  return bytes;
}

/** A disk and its model: what is done to one is done to the other, and then they are compared. */
export class Twin {
  readonly file: string;
  readonly folder: StorageFolder;
  readonly model: ReferenceModel;
  disk: Disk;
  /** What `verifyClosed` found in the list. */
  lastSnapshots: readonly SnapshotInfo[] = [];
  readonly #lab: Lab;
  #nextTag = 1;

  constructor(lab: Lab, parts: TwinParts) {
    this.#lab = lab;
    this.file = parts.file;
    this.folder = parts.folder;
    this.disk = parts.disk;
    this.model = new ReferenceModel(parts.disk.size, parts.disk.unitBytes, parts.initial);
  }

  get size(): number {
    return this.model.size;
  }

  /** Writes `length` bytes that no earlier write had, unless `tag` says which. */
  async write(offset: number, length: number, tag: number = this.#nextTag++): Promise<void> {
    const bytes = pattern(tag, length);
    await this.disk.write(offset, bytes);
    this.model.write(offset, bytes);
  }

  /** Writes whole units; most of what an image takes space by can be made smaller. How many bytes are stored so. */
  async writeCompressed(offset: number, length: number, tag: number = this.#nextTag++): Promise<number> {
    const { reserveBytes, unitBytes } = this.disk.image;
    const bytes = compressible(tag, length, reserveBytes ?? unitBytes);
    const compressed = await this.disk.writeCompressed(offset, bytes);
    this.model.write(offset, bytes);
    return compressed;
  }

  async writeZeroes(offset: number, length: number): Promise<void> {
    await this.disk.writeZeroes(offset, length);
    this.model.writeZeroes(offset, length);
  }

  async discard(offset: number, length: number): Promise<void> {
    await this.disk.discard(offset, length);
    this.model.discard(offset, length);
  }

  async resize(size: number): Promise<void> {
    await this.disk.resize(size);
    this.model.resize(size);
  }

  /** Every byte becomes a new one. */
  async fill(): Promise<void> {
    await this.write(0, this.size);
  }

  /** Nothing that can be read changes. */
  compact(options: CompactOptions = {}): Promise<CompactReport> {
    return this.disk.compact({ move: this.#lab.capabilities.compact === 'move', ...options });
  }

  async reopen(): Promise<void> {
    await this.disk.close();
    this.disk = await this.#lab.open({ file: this.file, folder: this.folder });
  }

  async createSnapshot(name: string): Promise<SnapshotInfo> {
    const info = await this.disk.snapshots.create(name);
    this.model.createSnapshot(name);
    return info;
  }

  async deleteSnapshot(name: string): Promise<void> {
    await this.disk.snapshots.delete(name);
    this.model.deleteSnapshot(name);
  }

  async applySnapshot(name: string): Promise<void> {
    await this.disk.snapshots.apply(name);
    this.model.applySnapshot(name);
  }

  async renameSnapshot(name: string, newName: string): Promise<void> {
    await this.disk.snapshots.rename(name, newName);
    this.model.renameSnapshot(name, newName);
  }

  /** Bytes outside of what `diff` reports are equal in both states (`to` left out: the disk as it is). */
  async verifyDiff(from: string, to?: string): Promise<DiffExtent[]> {
    const extents: DiffExtent[] = [];
    for await (const extent of this.disk.snapshots.diff(from, to)) extents.push(extent);
    const other = to === undefined ? this.model.bytes : this.model.snapshot(to);
    const states = [this.model.snapshot(from), other] as const;
    assertDiff(extents, states, this.disk.unitBytes, `diff of ${from} and ${to ?? 'the disk'}`);
    return extents;
  }

  /** The tree as the list tells it. */
  async verifyParents(disk: Disk = this.disk): Promise<void> {
    const list = await disk.snapshots.list();
    const names = new Map(list.map(({ id, name }) => [id, name]));
    for (const { name, parent } of list) {
      const found = parent === undefined || parent === null ? parent : names.get(parent);
      const wanted = this.#lab.capabilities.snapshotParents ? this.model.parents.get(name) : undefined;
      assert.equal(found, wanted, `the parent of snapshot ${name}`);
    }
  }

  async readAndCompare(offset: number, length: number): Promise<void> {
    const bytes = new Uint8Array(length);
    await this.disk.read(offset, bytes);
    assertSameBytes(bytes, this.model.read(offset, length), `${length} bytes from ${offset}`);
  }

  /** The writable state equals the model's. */
  async verify(when: string): Promise<void> {
    assertSameBytes(await contentsOf(this.disk), this.model.bytes, `the disk ${when}`);
  }

  /** Opens the snapshot as a disk and compares it. */
  async verifySnapshot(name: string, disk: Disk = this.disk): Promise<void> {
    const snapshot = await disk.snapshots.open(name);
    try {
      assertSameBytes(await contentsOf(snapshot), this.model.snapshot(name), `snapshot ${name}`);
    } finally {
      await snapshot.close();
    }
  }

  async verifySnapshots(disk: Disk = this.disk): Promise<void> {
    for (const name of this.model.snapshots.keys()) await this.verifySnapshot(name, disk);
  }

  /** Reads the closed image anew, from `folder`, and compares everything. */
  async verifyClosed(folder: StorageFolder): Promise<void> {
    const disk = await this.#lab.open({ file: this.file, folder, readOnly: true });
    assertSameBytes(await contentsOf(disk), this.model.bytes, 'the disk after reopening');
    this.lastSnapshots = await disk.snapshots.list();
    assert.deepEqual(
      this.lastSnapshots.map(({ name }) => name).toSorted(),
      [...this.model.snapshots.keys()].toSorted(),
      'the list of snapshots after reopening',
    );
    await this.verifyParents(disk);
    await this.verifySnapshots(disk);
    await this.#lab.assertClean(disk);
    await disk.close();
  }
}
