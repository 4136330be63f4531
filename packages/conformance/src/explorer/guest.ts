import { type Disk, openDisk, type StorageFolder } from '@cowlab/core';
import { type Lab, mainFile } from '../lab.ts';
import { compressible, pattern, type Random } from '../random.ts';
import { type GuestEvent, resized } from './contract.ts';

/** The file that is the backing, where a workload has one. */
export const baseFile = 'base.img';

const sectorBytes = 512;

/** Another image with other bytes, where a workload changes backings. */
export const otherFile = 'other.img';

/** What tells where in its log a folder is; a folder that keeps none is always at 0. */
export interface Recorder {
  readonly position: number;
}

/** What a guest finds when it starts. */
export interface StartingPoint {
  readonly disk: Uint8Array;
  readonly snapshots: ReadonlyMap<string, Uint8Array>;
  readonly backing: 'named' | 'released';
}

/** What a guest's choices come from, and the bytes that it counts in. */
export interface GuestHabits {
  readonly random: Random;
  readonly stride: number;
}

/** The image in `folder`, opened without being kept by the lab: a run opens some millions. */
export function openIn(
  lab: Lab,
  folder: StorageFolder,
  how: { readonly readOnly: boolean; readonly copyOnRead?: boolean },
): Promise<Disk> {
  const { drivers, driver } = lab;
  return openDisk({ folder, file: mainFile }, { drivers, format: driver.name, ...how });
}

/** Someone who uses a disk, knows what must be on it, and notes what that allows after a crash. */
export class Guest {
  readonly events: GuestEvent[] = [];
  readonly random: Random;
  readonly stride: number;
  readonly disk: Disk;
  readonly snapshots: Map<string, Uint8Array>;
  readonly #folder: Recorder;
  #model: Uint8Array;
  #count: number;

  constructor(disk: Disk, folder: Recorder, start: StartingPoint, { random, stride }: GuestHabits) {
    this.random = random;
    this.stride = stride;
    this.disk = disk;
    this.#folder = folder;
    this.#model = start.disk;
    this.snapshots = new Map(start.snapshots);
    // Bytes of a later guest are none of an earlier one.
    this.#count = this.random.below(0x4000_0000);
    this.#note({ kind: 'flushed', disk: this.#model });
    for (const [name, bytes] of start.snapshots) {
      this.#note({ kind: 'creating', name, disk: bytes });
      this.#note({ kind: 'created', name, disk: bytes });
    }
    if (start.backing === 'released') this.#note({ kind: 'released' });
  }

  get model(): Uint8Array {
    return this.#model;
  }

  get capabilities(): Disk['capabilities'] {
    return this.disk.capabilities;
  }

  get size(): number {
    return this.#model.length;
  }

  /** Whole strides of the disk. */
  get strides(): number {
    return Math.floor(this.size / this.stride);
  }

  async write(offset: number, length: number): Promise<void> {
    const bytes = pattern((this.#count += 1), length);
    const model = this.#model.slice();
    model.set(bytes, offset);
    this.#issue(model);
    await this.disk.write(offset, bytes);
  }

  /** Whole strides, most units of which are stored compressed. */
  async writeCompressed(first: number, count: number): Promise<void> {
    const bytes = compressible((this.#count += 1), count * this.stride, this.disk.unitBytes);
    const model = this.#model.slice();
    model.set(bytes, first * this.stride);
    this.#issue(model);
    await this.disk.writeCompressed(first * this.stride, bytes);
  }

  /** Some sectors anywhere between two strides, mostly not whole units. */
  async writeSome(first = 0, end: number = this.strides, mostSectors = 20): Promise<void> {
    const length = (1 + this.random.below(mostSectors)) * sectorBytes;
    const room = Math.floor(((end - first) * this.stride - length) / sectorBytes);
    await this.write(first * this.stride + this.random.below(Math.max(1, room)) * sectorBytes, length);
  }

  async discard(first: number, count: number): Promise<void> {
    this.#issue(this.#model.slice().fill(0, first * this.stride, (first + count) * this.stride));
    await this.disk.discard(first * this.stride, count * this.stride);
  }

  async writeZeroes(offset: number, length: number): Promise<void> {
    this.#issue(this.#model.slice().fill(0, offset, offset + length));
    await this.disk.writeZeroes(offset, length);
  }

  /** Reads, which changes the image where reads copy, and never the disk. */
  async read(offset: number, length: number): Promise<void> {
    await this.disk.read(offset, new Uint8Array(length));
  }

  async populate(first: number, count: number): Promise<void> {
    const offset = first * this.stride;
    await this.disk.populate(offset, Math.min(count * this.stride, this.size - offset));
  }

  async flush(): Promise<void> {
    const model = this.#model;
    await this.disk.flush();
    this.#note({ kind: 'flushed', disk: model });
  }

  async create(name: string): Promise<void> {
    const disk = this.#model;
    this.#note({ kind: 'creating', name, disk });
    await this.disk.snapshots.create(name);
    this.#note({ kind: 'created', name, disk });
    this.snapshots.set(name, disk);
  }

  async delete(name: string): Promise<void> {
    this.snapshots.delete(name);
    this.#note({ kind: 'deleting', name });
    await this.disk.snapshots.delete(name);
    this.#note({ kind: 'deleted', name });
  }

  async apply(name: string): Promise<void> {
    const disk = this.snapshots.get(name);
    if (disk === undefined) throw new TypeError(`no snapshot ${name}`);
    this.#model = disk;
    this.#note({ kind: 'replacing', disk });
    await this.disk.snapshots.apply(name);
    this.#note({ kind: 'applied', disk });
  }

  async rename(name: string, newName: string): Promise<void> {
    const disk = this.snapshots.get(name)!;
    this.#note({ kind: 'renaming', name, newName });
    await this.disk.snapshots.rename(name, newName);
    this.#note({ kind: 'renamed', name, newName });
    this.snapshots.delete(name);
    this.snapshots.set(newName, disk);
  }

  async resize(strides: number): Promise<void> {
    const size = strides * this.stride;
    this.#note({ kind: 'resizing', size });
    await this.disk.resize(size);
    this.#model = resized(this.#model, size);
    this.#note({ kind: 'resized', size });
  }

  /** Promises nothing, and takes nothing back. */
  async compact(): Promise<void> {
    await this.disk.compact({ move: this.capabilities.compact === 'move' });
  }

  async releaseBacking(): Promise<void> {
    this.#note({ kind: 'releasing' });
    await this.disk.releaseBacking();
    this.#note({ kind: 'released' });
  }

  /** The other backing, or none. The disk's bytes stay. */
  async rebase(to: 'other' | 'none'): Promise<void> {
    if (to === 'other') {
      await this.disk.rebase({ file: otherFile, format: this.disk.format });
      return;
    }
    // Snapshots of a chain are named as backings are, so that this one is gone would not be seen.
    const shows = this.capabilities.snapshots !== 'chain';
    if (shows) this.#note({ kind: 'releasing' });
    await this.disk.rebase(null);
    if (shows) this.#note({ kind: 'released' });
  }

  /** Everything is durable when the disk is closed. */
  async close(): Promise<void> {
    await this.disk.close();
    this.#note({ kind: 'closed', disk: this.#model });
  }

  #issue(model: Uint8Array): void {
    this.#model = model;
    this.#note({ kind: 'issued', disk: model });
  }

  #note(event: EventOf<GuestEvent>): void {
    this.events.push({ ...event, at: this.#folder.position });
  }
}

type EventOf<T> = T extends { readonly at: number } ? Omit<T, 'at'> : never;
