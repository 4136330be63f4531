import type { Awaitable } from './awaitable.ts';
import type { Backing, BackingReference, DriverImage, ImageStats, ResolvedExtent } from './driver.ts';
import type { Disk } from './disk.ts';
import { CowlabError } from './errors.ts';

/** The image that names a backing, and where in it. */
interface NamedBy {
  readonly file: string;
  readonly field: string;
}

/**
 * A snapshot of an image as the backing of another one, which is a clone of it. The image is open read-only for
 * nothing else, and closes with the snapshot. Snapshots never change, so whoever writes to the image meanwhile, here
 * or elsewhere, changes nothing for the clone; only deleting the snapshot does.
 */
export class SnapshotBacking implements Backing {
  readonly #disk: Disk;
  readonly #snapshot: Disk;

  private constructor(disk: Disk, snapshot: Disk) {
    this.#disk = disk;
    this.#snapshot = snapshot;
  }

  /** Takes over `disk`. By its id alone: a name may be another snapshot's by now. */
  static async open(disk: Disk, reference: BackingReference, by: NamedBy): Promise<SnapshotBacking> {
    const { file: name, snapshot: id } = reference;
    try {
      const found = (await disk.snapshots.list()).find((snapshot) => snapshot.id === id);
      if (found === undefined) {
        const message = `${by.file}: ${by.field}: ${name} has no snapshot with the id ${id} any more`;
        throw new CowlabError('ERR_SNAPSHOT_NOT_FOUND', message, { ...by, value: id!, backing: name });
      }
      return new SnapshotBacking(disk, await disk.snapshots.open(found.id));
    } catch (error) {
      await disk.close();
      throw error;
    }
  }

  get format(): string {
    return this.#disk.format;
  }

  get size(): number {
    return this.#snapshot.size;
  }

  get image(): DriverImage {
    return this.#snapshot.image;
  }

  read(offset: number, target: Uint8Array): Awaitable<void> {
    return this.#snapshot.read(offset, target);
  }

  resolve(offset: number, length: number): Promise<ResolvedExtent> {
    return this.#snapshot.resolve(offset, length);
  }

  /** The tables of both are in memory. */
  stats(): ImageStats {
    const [own, under] = [this.#snapshot.stats(), this.#disk.stats()];
    return { ...own, residentMetadataBytes: own.residentMetadataBytes + under.residentMetadataBytes };
  }

  close(): Promise<void> {
    return this.#disk.close();
  }
}
