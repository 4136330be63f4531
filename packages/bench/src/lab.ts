import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { performance } from 'node:perf_hooks';
import {
  CountingFolder,
  createDisk,
  type Disk,
  FileFolder,
  type FileIo,
  openDisk,
  type OptionValues,
} from '@cowlab/core';
import { countsFor, type Subject } from './formats.ts';
import { breathe, toCalls } from './measure.ts';
import type { Profile } from './profiles.ts';
import type { Calls } from './schema.ts';
import { patternBytes } from './workload.ts';

/*
 * Where the images are. A *cell* is one format at one snapshot count: a folder of its own with one image in it,
 * fully mapped, with N snapshots. A format's image is filled once and its files copied for every N, so all cells of
 * a format start from the same bytes, laid out and cached alike; nothing is written between the snapshots but what
 * the deleted ones in the middle hold. Everything lies in one temporary folder that goes away with the lab.
 */

export const IMAGE_FILE = 'disk.img';

export interface Cell {
  readonly subject: Subject;
  /** N. */
  readonly snapshots: number;
  readonly folder: string;
  /** Names of snapshots in the middle that hold bytes of their own, to be deleted. */
  readonly held: readonly string[];
}

/** An opened image whose storage calls are counted. */
export interface Session {
  readonly disk: Disk;
  readonly folder: CountingFolder;
  /** What opening it cost. */
  readonly opening: Calls;
  /** Milliseconds from the first read of a refcount to the end of opening; 0 where none is read. */
  readonly refcountScanMs: number;
}

/** A cell while its image is open. */
export interface OpenCell {
  readonly cell: Cell;
  readonly session: Session;
}

export const FILL_BYTES: number = 1024 * 1024;

/** Of snapshots whose bytes are counted: a time is text in some formats, and not of one length. */
export const createdAt: Date = new Date('2011-03-13T00:00:00Z');

/** Called with how much of the present step is done, 0 … 1. */
export type Tick = (done: number) => void;

/** Opens for writing, as a running machine would. */
export async function openSession(
  subject: Subject,
  directory: string,
  options: OptionValues = {},
  io: FileIo = 'sync',
): Promise<Session> {
  const folder = new CountingFolder(new FileFolder(directory, { io }));
  let scanBegan = Number.POSITIVE_INFINITY;
  folder.onRead = (purpose) => {
    if (purpose === 'refcount') scanBegan = Math.min(scanBegan, performance.now());
  };
  const disk = await openDisk(
    { folder, file: IMAGE_FILE },
    { drivers: [subject.driver], format: subject.driver.name, options: { ...subject.open, ...options } },
  );
  const refcountScanMs = Math.max(0, performance.now() - scanBegan);
  folder.onRead = undefined;
  return { disk, folder, opening: toCalls(folder.reset()), refcountScanMs };
}

export async function createImage(
  subject: Subject,
  directory: string,
  size: number,
  options: OptionValues = {},
): Promise<void> {
  await fs.promises.mkdir(directory, { recursive: true });
  await createDisk(
    { folder: new FileFolder(directory), file: IMAGE_FILE },
    { driver: subject.driver, size, options: { ...subject.create, ...options } },
  );
}

/** Writes every byte of a range. */
export async function fill(disk: Disk, offset: number, length: number, tick: Tick): Promise<void> {
  const pattern = patternBytes(offset + 1, FILL_BYTES);
  for (let done = 0; done < length; done += FILL_BYTES) {
    await disk.write(offset + done, pattern.subarray(0, Math.min(FILL_BYTES, length - done)));
    tick(done / length);
    if (done % (64 * FILL_BYTES) === 0) await breathe();
  }
  await disk.flush();
}

/** Where Linux keeps files in memory: they may be longer there than on most disks. */
const MEMORY_FOLDER = '/dev/shm';

export class Lab {
  readonly root: string;
  /** A second root, in memory, for what is too long a file for the file system of the first. */
  #elsewhere: string | undefined;
  readonly #remove: () => void;

  constructor() {
    this.root = fs.mkdtempSync(path.join(os.tmpdir(), 'cowlab-bench-'));
    // Also when the process is told to stop in the middle: gigabytes are not left behind.
    this.#remove = () => {
      for (const root of [this.root, this.#elsewhere ?? this.root]) {
        fs.rmSync(root, { recursive: true, force: true });
      }
    };
    process.once('exit', this.#remove);
  }

  path(name: string): string {
    return path.join(this.root, name);
  }

  /** A path below a root whose file system takes files of so many bytes; the first root, where none does. */
  pathFor(name: string, fileBytes: number): string {
    if (holdsFiles(this.root, fileBytes)) return this.path(name);
    try {
      this.#elsewhere ??= fs.mkdtempSync(path.join(MEMORY_FOLDER, 'cowlab-bench-'));
    } catch {
      // No such folder, or not for us.
      return this.path(name);
    }
    return holdsFiles(this.#elsewhere, fileBytes) ? path.join(this.#elsewhere, name) : this.path(name);
  }

  discard(directory: string): Promise<void> {
    return fs.promises.rm(directory, { recursive: true, force: true });
  }

  /** Bytes that the file system still has for the images. */
  freeBytes(): number {
    const status = fs.statfsSync(this.root);
    return status.bavail * status.bsize;
  }

  close(): void {
    process.off('exit', this.#remove);
    this.#remove();
  }

  /** The cells of one format, each with its own copy of the filled image and its snapshots. */
  async prepare(subject: Subject, profile: Profile, tick: Tick): Promise<Cell[]> {
    const counts = countsFor(subject, profile.snapshotCounts, profile.snapshotIterations);
    const filled = this.path(`${subject.name}-filled`);
    await createImage(subject, filled, profile.imageBytes);
    const { disk } = await openSession(subject, filled);
    await fill(disk, 0, profile.imageBytes, (done) => tick(done / 4));
    await disk.close();
    const cells: Cell[] = [];
    for (const [index, snapshots] of counts.entries()) {
      const folder = this.path(`${subject.name}-${snapshots}`);
      await copyFolder(filled, folder);
      const step: Tick = (done) => tick(0.25 + (0.75 * (index + done)) / counts.length);
      const held = await takeSnapshots(subject, folder, snapshots, profile, step);
      cells.push({ subject, snapshots, folder, held });
    }
    await this.discard(filled);
    return cells;
  }
}

/** Whether a file may be so long there. A hole of that length is tried: it takes no room. */
function holdsFiles(directory: string, bytes: number): boolean {
  const probe = path.join(directory, 'length-probe');
  const file = fs.openSync(probe, 'w');
  try {
    fs.ftruncateSync(file, bytes);
    return true;
  } catch {
    return false;
  } finally {
    fs.closeSync(file);
    fs.rmSync(probe);
  }
}

/** Copies every file, and sees it to the device: no flush under the stopwatch shall find a gigabyte that is not its own. */
export async function copyFolder(from: string, to: string): Promise<void> {
  await fs.promises.mkdir(to);
  for (const name of await fs.promises.readdir(from)) {
    const copy = path.join(to, name);
    await fs.promises.copyFile(path.join(from, name), copy, fs.constants.COPYFILE_FICLONE);
    const file = await fs.promises.open(copy, 'r+');
    await file.sync();
    await file.close();
  }
}

/** Bytes that the files in a folder take on their device; holes take none. */
export async function occupiedBytes(directory: string): Promise<number> {
  let bytes = 0;
  for (const name of await fs.promises.readdir(directory)) {
    bytes += (await fs.promises.stat(path.join(directory, name))).blocks * 512;
  }
  return bytes;
}

/** Takes N snapshots; before some in the middle, writes what only they will hold. Returns the names of those. */
async function takeSnapshots(
  subject: Subject,
  directory: string,
  count: number,
  profile: Profile,
  tick: Tick,
): Promise<string[]> {
  if (count === 0) return [];
  const { disk } = await openSession(subject, directory);
  const first = Math.floor((count - profile.snapshotIterations) / 2);
  const held: string[] = [];
  for (let index = 0; index < count; index++) {
    const name = `s${index}`;
    if (index > 0 && index >= first && index < first + profile.snapshotIterations) {
      await fill(disk, heldOffset(held.length, disk.size, profile), profile.heldBytes, () => undefined);
      held.push(name);
    }
    await disk.snapshots.create(name, { createdAt });
    tick(index / count);
    if (index % 16 === 0) await breathe();
  }
  await disk.close();
  return count === 1 ? ['s0'] : held;
}

/** Reads every byte, so that nobody meets a cold cache under the stopwatch: neither the page cache nor the driver's own. */
export async function warmUp(disk: Disk): Promise<void> {
  const target = new Uint8Array(FILL_BYTES);
  for (let offset = 0; offset < disk.size; offset += FILL_BYTES) {
    await disk.read(offset, target.subarray(0, Math.min(FILL_BYTES, disk.size - offset)));
    if (offset % (64 * FILL_BYTES) === 0) await breathe();
  }
}

/** Where the bytes go that the n-th deleted snapshot holds: places of their own as long as the disk has some. */
export function heldOffset(index: number, diskBytes: number, profile: Pick<Profile, 'heldBytes'>): number {
  const places = Math.max(1, Math.floor(diskBytes / profile.heldBytes));
  return (index % places) * profile.heldBytes;
}
