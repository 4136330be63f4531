import {
  commitDisk,
  type CommitReport,
  createDisk,
  type Disk,
  type FoundStructure,
  MemoryFolder,
  openDisk,
  type StorageFolder,
} from '@cowlab/core';
import { compressible, pattern, Random } from '../random.ts';
import { ReferenceModel } from '../reference-model.ts';
import { compresses, type ConformanceSubject } from '../subject.ts';

/*
 * Valid images, to be damaged: a seeded guest works on a new disk, and everything that is needed to judge a damaged
 * copy is kept beside the files. What the guest saw at any time (`states`) is what an older structure may bring back.
 */

/** The file that is damaged and opened; other files of the folder may be damaged too. */
const imageFile = 'disk.img';
export const backingFile = 'base.img';

export type Files = ReadonlyMap<string, Uint8Array>;

/** How a base comes about. */
export interface Recipe {
  readonly kind: RecipeKind;
  /** Unique among those of a driver. */
  readonly name: string;
  readonly subject: ConformanceSubject;
  /** For `sample`: instead of a guest's work. */
  readonly files?: () => Files;
}

/**
 * `closed`: as a close leaves the image. `flushed`: as a flush does; what only a close puts away is still there.
 * `backed`: over a backing, closed. `sample`: made by others.
 */
export type RecipeKind = 'closed' | 'flushed' | 'backed' | 'sample';

export function recipesOf(subjects: readonly ConformanceSubject[]): Recipe[] {
  const names = new Set<string>();
  // Two variants of a driver may share their create options.
  const unique = (name: string): string => {
    let free = name;
    for (let nth = 2; names.has(free); nth += 1) free = `${name} (${nth})`;
    names.add(free);
    return free;
  };
  return subjects.flatMap((subject) => {
    const { driver, options = {}, samples = [] } = subject;
    const kinds: RecipeKind[] = ['closed', 'flushed'];
    if (driver.capabilities.backing) kinds.push('backed');
    const own: Recipe[] = kinds.map((kind) => ({
      kind,
      subject,
      name: unique([kind, ...Object.entries(options).map(([name, value]) => `${name}=${value}`)].join(' ')),
    }));
    const others: Recipe[] = samples.map(({ name, files }) => ({
      kind: 'sample',
      subject,
      name: unique(name),
      files,
    }));
    return [...own, ...others];
  });
}

export interface Base {
  readonly recipe: Recipe;
  readonly files: Files;
  /** The files at earlier times. */
  readonly earlier: readonly Files[];
  readonly structures: readonly FoundStructure[];
  /** What the guest saw last, and everything that it ever saw. */
  readonly disk: Uint8Array;
  readonly states: readonly Uint8Array[];
  readonly snapshots: ReadonlyMap<string, Uint8Array>;
}

const strides = 24;
const strideBytes = 4096;
const steps = 36;
const maxSnapshots = 4;

export async function filesOf(folder: StorageFolder): Promise<Map<string, Uint8Array>> {
  const files = new Map<string, Uint8Array>();
  for (const name of await folder.list()) {
    const storage = await folder.open(name, { readOnly: true });
    const bytes = new Uint8Array(storage.size());
    await storage.read(0, bytes);
    await storage.close();
    files.set(name, bytes);
  }
  return files;
}

export async function folderWith(files: Files): Promise<MemoryFolder> {
  const folder = new MemoryFolder();
  for (const [name, bytes] of files) {
    const storage = await folder.create(name);
    await storage.write(0, bytes);
    await storage.truncate(bytes.length);
    await storage.close();
  }
  return folder;
}

export function openIn(
  { driver }: ConformanceSubject,
  folder: StorageFolder,
  readOnly: boolean,
): Promise<Disk> {
  return openDisk({ folder, file: imageFile }, { drivers: [driver], format: driver.name, readOnly });
}

export function commitIn({ driver }: ConformanceSubject, folder: StorageFolder): Promise<CommitReport> {
  return commitDisk({ folder, file: imageFile }, { drivers: [driver], format: driver.name });
}

export async function makeBase(recipe: Recipe, seed: number): Promise<Base> {
  if (recipe.files !== undefined) return found(recipe, recipe.files());
  const { subject, kind } = recipe;
  const folder = new MemoryFolder();
  const size = strides * strideBytes;
  const { driver, options = {} } = subject;
  const initial = kind === 'backed' ? await makeBacking(subject, folder, size - strideBytes) : undefined;
  const backing = initial === undefined ? {} : { backing: { file: backingFile, format: driver.name } };
  await createDisk({ folder, file: imageFile }, { driver, size, options, ...backing });
  const guest = new Guest(subject, folder, new Random(seed), await openIn(subject, folder, false), initial);
  for (let step = 0; step < steps; step += 1) await guest.step();
  const files = await guest.end(kind === 'flushed');
  const structures = structuresOf(subject, files);
  const { earlier, states, model } = guest;
  return { recipe, files, earlier, structures, disk: model.bytes, states, snapshots: model.snapshots };
}

/** A backing of the same format, shorter than the disk over it; gives back its bytes. */
async function makeBacking(
  { driver, options = {} }: ConformanceSubject,
  folder: MemoryFolder,
  size: number,
): Promise<Uint8Array> {
  await createDisk({ folder, file: backingFile }, { driver, size, options });
  const disk = await openDisk({ folder, file: backingFile }, { drivers: [driver], format: driver.name });
  const bytes = pattern(99, size).fill(0, strideBytes, 3 * strideBytes);
  await disk.write(0, bytes.subarray(0, strideBytes));
  await disk.write(3 * strideBytes, bytes.subarray(3 * strideBytes));
  await disk.close();
  return bytes;
}

/** A base that others made: what is read from it now is what it has to be. */
async function found(recipe: Recipe, files: Files): Promise<Base> {
  const disk = await openIn(recipe.subject, await folderWith(files), true);
  const bytes = new Uint8Array(Math.min(disk.size, strides * strideBytes));
  await disk.read(0, bytes);
  await disk.close();
  const structures = structuresOf(recipe.subject, files);
  return { recipe, files, earlier: [], structures, disk: bytes, states: [bytes], snapshots: new Map() };
}

function structuresOf({ structures = () => [] }: ConformanceSubject, files: Files): FoundStructure[] {
  return [...files].flatMap(([name, bytes]) => structures(name, bytes));
}

/** Works at random, and keeps what it saw. */
class Guest {
  readonly model: ReferenceModel;
  readonly states: Uint8Array[] = [];
  readonly earlier: Files[] = [];
  readonly #subject: ConformanceSubject;
  readonly #folder: MemoryFolder;
  readonly #random: Random;
  #disk: Disk;
  #count = 0;

  constructor(
    subject: ConformanceSubject,
    folder: MemoryFolder,
    random: Random,
    disk: Disk,
    initial: Uint8Array | undefined,
  ) {
    this.#subject = subject;
    this.#folder = folder;
    this.#random = random;
    this.#disk = disk;
    this.model = new ReferenceModel(disk.size, disk.unitBytes, initial);
    this.states.push(this.model.bytes.slice());
  }

  async step(): Promise<void> {
    this.#count += 1;
    const choice = this.#random.below(20);
    if (choice < 3 && compresses(this.#subject.driver.capabilities)) await this.#writeCompressed();
    else if (choice < 9) await this.#write();
    else if (choice < 12) await this.#unmap();
    else if (choice < 14) await this.#keep();
    else if (choice < 15) await this.#reopen();
    else if (this.#subject.driver.capabilities.snapshots !== 'none') await this.#snapshot(choice);
    this.states.push(this.model.bytes.slice());
  }

  /** The files when the guest goes: closed, or as a flush has left them. */
  async end(isDirty: boolean): Promise<Map<string, Uint8Array>> {
    await this.#reopen();
    await this.#write();
    await this.#disk.flush();
    await this.#write();
    this.states.push(this.model.bytes.slice());
    await this.#disk.flush();
    const flushed = await filesOf(this.#folder);
    await this.#disk.close();
    return isDirty ? flushed : filesOf(this.#folder);
  }

  async #write(): Promise<void> {
    const sectors = this.#random.pick([1, 8, 20]);
    const length = sectors * 512;
    const offset = this.#random.below((this.model.size - length) / 512) * 512;
    const bytes = pattern(this.#count * 2 + sectors, length);
    await this.#disk.write(offset, bytes);
    this.model.write(offset, bytes);
  }

  async #writeCompressed(): Promise<void> {
    const first = this.#random.below(strides);
    const length = (1 + this.#random.below(Math.min(4, strides - first))) * strideBytes;
    const bytes = compressible(this.#count * 2, length, this.#disk.unitBytes);
    await this.#disk.writeCompressed(first * strideBytes, bytes);
    this.model.write(first * strideBytes, bytes);
  }

  async #unmap(): Promise<void> {
    const first = this.#random.below(strides);
    const length = (1 + this.#random.below(strides - first)) * strideBytes;
    const offset = first * strideBytes;
    if (this.#random.below(2) === 0) {
      await this.#disk.discard(offset, length);
      this.model.discard(offset, length);
    } else {
      await this.#disk.writeZeroes(offset, length);
      this.model.writeZeroes(offset, length);
    }
  }

  async #keep(): Promise<void> {
    await this.#disk.flush();
    this.earlier.push(await filesOf(this.#folder));
  }

  async #reopen(): Promise<void> {
    await this.#disk.close();
    this.earlier.push(await filesOf(this.#folder));
    this.#disk = await openIn(this.#subject, this.#folder, false);
  }

  async #snapshot(choice: number): Promise<void> {
    const names = [...this.model.snapshots.keys()];
    if (names.length === 0 || (choice < 18 && names.length < maxSnapshots)) {
      const name = `s${this.#count}`;
      await this.#disk.snapshots.create(name);
      this.model.createSnapshot(name);
    } else if (choice < 19) {
      const name = this.#random.pick(names);
      await this.#disk.snapshots.apply(name);
      this.model.applySnapshot(name);
    } else {
      const name = this.#random.pick(names);
      await this.#disk.snapshots.delete(name);
      this.model.deleteSnapshot(name);
    }
    this.earlier.push(await filesOf(this.#folder));
  }
}
