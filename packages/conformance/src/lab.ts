import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  type BackingReference,
  type BlockDriver,
  type Capabilities,
  type CheckReport,
  createDisk,
  type Disk,
  FileFolder,
  MemoryFolder,
  openDisk,
  type OptionValues,
  type Storage,
  type StorageFolder,
} from '@cowlab/core';
import { DeviceFolder } from './device-folder.ts';
import { failureOf } from './expect.ts';
import { judgeImage } from './judge.ts';
import { Random } from './random.ts';
import type { ConformanceSubject, Place } from './subject.ts';
import { Twin } from './twin.ts';

/*
 * Where one scenario runs: an empty folder, disks in it, and twins of disk and model. Whatever a scenario was
 * about, `finish` asks the questions that are always asked of what it left behind:
 *
 *     twin still open  →  equal to its model  →  closed  →  reopened read-only from the bare folder
 *                      →  equal, snapshots too  →  check finds nothing  →  (files) the judge agrees
 */

/** The file every scenario calls its image, unless it needs several. */
export const mainFile = 'disk.img';

/** Scenarios count offsets in strides: an allocation unit, or 4 KiB where that is smaller. */
const minStrideBytes = 4096;

export interface ImageRequest {
  readonly file?: string;
  /** Guest bytes. */
  readonly size?: number;
  readonly backing?: BackingReference;
  /** The lab's own folder when left out. */
  readonly folder?: StorageFolder;
}

export interface OpenRequest {
  readonly file?: string;
  readonly readOnly?: boolean;
  readonly copyOnRead?: boolean;
  readonly withoutBacking?: boolean;
  readonly forceShare?: boolean;
  /** The lab's own folder when left out; a wrapper of it otherwise. */
  readonly folder?: StorageFolder;
}

export interface TwinRequest extends ImageRequest {
  /** Size in strides, and a part of one where the driver allows it. */
  readonly strides?: number;
  readonly folder?: StorageFolder;
  /** What the backing shows through. */
  readonly initial?: Uint8Array;
}

/** Holes stay holes. */
async function copyData(from: Storage, to: Storage): Promise<void> {
  const size = from.size();
  for (let at = 0; at < size; ) {
    const { data, length } = await from.status(at, size - at);
    if (data) {
      const bytes = new Uint8Array(length);
      await from.read(at, bytes);
      await to.write(at, bytes);
    }
    at += length;
  }
  await to.truncate(size);
}

const unitBytesOf = new WeakMap<ConformanceSubject, Promise<number>>();

/** The allocation unit of the subject's images, bytes: asked of one. */
async function findUnitBytes(subject: ConformanceSubject): Promise<number> {
  const { driver, options } = subject;
  const folder = new MemoryFolder();
  const size = Math.max(minStrideBytes, driver.capabilities.sizeMultiple);
  const drivers = subject.drivers ?? [driver];
  await createDisk({ folder, file: mainFile }, { driver, size, ...(options && { options }) });
  const disk = await openDisk({ folder, file: mainFile }, { drivers, format: driver.name, readOnly: true });
  const { unitBytes } = disk;
  await disk.close();
  return unitBytes;
}

export class Lab {
  readonly subject: ConformanceSubject;
  readonly place: Place;
  readonly seed: number;
  readonly random: Random;
  readonly folder: StorageFolder;
  /** The folder's path; undefined in memory. */
  readonly path: string | undefined;
  readonly unitBytes: number;
  /** Bytes; a multiple of `unitBytes` and of the driver's `sizeMultiple`. */
  readonly stride: number;
  /** What scenarios have to say about a run that went well. */
  readonly notes: string[] = [];
  readonly #disks = new Set<Disk>();
  readonly #twins: Twin[] = [];
  readonly #removeLater: string[] = [];

  private constructor(
    subject: ConformanceSubject,
    place: Place,
    seed: number,
    path: string | undefined,
    unitBytes: number,
  ) {
    this.subject = subject;
    this.place = place;
    this.seed = seed;
    this.random = new Random(seed);
    this.path = path;
    const inMemory = place === 'devices' ? new DeviceFolder() : new MemoryFolder();
    this.folder = path === undefined ? inMemory : new FileFolder(path);
    this.unitBytes = unitBytes;
    const least = Math.max(unitBytes, minStrideBytes);
    this.stride = Math.ceil(least / this.capabilities.sizeMultiple) * this.capabilities.sizeMultiple;
    if (path !== undefined) this.#removeLater.push(path);
  }

  static async make(subject: ConformanceSubject, place: Place, seed: number): Promise<Lab> {
    let unitBytes = unitBytesOf.get(subject);
    if (unitBytes === undefined) {
      unitBytes = findUnitBytes(subject);
      unitBytesOf.set(subject, unitBytes);
    }
    const path = place === 'files' ? await mkdtemp(join(tmpdir(), 'cowlab-conformance-')) : undefined;
    return new Lab(subject, place, seed, path, await unitBytes);
  }

  get driver(): BlockDriver {
    return this.subject.driver;
  }

  get capabilities(): Capabilities {
    return this.subject.driver.capabilities;
  }

  get drivers(): readonly BlockDriver[] {
    return this.subject.drivers ?? [this.subject.driver];
  }

  get options(): OptionValues {
    return this.subject.options ?? {};
  }

  /** Whether a file of other bytes is told from an image. Formats without a magic number take anything. */
  get hasMagic(): boolean {
    return this.driver.probe(new Uint8Array(4096)) === 0;
  }

  /** Guest bytes of a disk of `strides`, and about half a one more where sizes are fine enough. */
  size(strides: number): number {
    const { sizeMultiple } = this.capabilities;
    const part = Math.floor(this.stride / 2 / sizeMultiple) * sizeMultiple + sizeMultiple;
    return strides * this.stride + (part < this.stride ? part : 0);
  }

  async create(request: ImageRequest = {}): Promise<void> {
    const { file = mainFile, size, backing, folder = this.folder } = request;
    await createDisk(
      { folder, file },
      {
        driver: this.driver,
        drivers: this.drivers,
        options: this.options,
        ...(size === undefined && backing !== undefined ? {} : { size: size ?? this.size(6) }),
        ...(backing && { backing }),
      },
    );
  }

  /** An open disk; `finish` closes it when the scenario does not. */
  async open(request: OpenRequest = {}): Promise<Disk> {
    const { file = mainFile, folder = this.folder, ...options } = request;
    const { drivers, driver } = this;
    const disk = await openDisk({ folder, file }, { drivers, format: driver.name, ...options });
    this.#disks.add(disk);
    return disk;
  }

  /** A new image, opened, beside a model of it. */
  async twin(request: TwinRequest = {}): Promise<Twin> {
    const { strides = 6, file = mainFile, folder = this.folder, initial } = request;
    const size = request.size ?? this.size(strides);
    await this.create({ ...request, size });
    const disk = await this.open({ file, folder });
    const twin = new Twin(this, { file, folder, disk, ...(initial && { initial }) });
    this.#twins.push(twin);
    return twin;
  }

  /** The scenario answers for this twin itself: `finish` leaves it alone. */
  release(twin: Twin): void {
    this.#twins.splice(this.#twins.indexOf(twin), 1);
  }

  /** Closes a disk whose close may fail; gives back how. */
  async closeAnyway(disk: Disk): Promise<unknown> {
    this.#disks.delete(disk);
    return failureOf(() => disk.close());
  }

  /** Fails unless `check` finds the image as it should be. */
  async assertClean(disk: Disk, allowed: 'clean' | 'leaks' = 'clean'): Promise<CheckReport> {
    const report = await disk.check();
    const findings = report.findings.map(({ severity, structure, message }) => ({
      severity,
      structure,
      message,
    }));
    const worst = JSON.stringify(findings.slice(0, 5));
    assert.equal(report.corruptions, 0, `check finds corruptions: ${worst}`);
    if (allowed === 'clean') assert.equal(report.leaks, 0, `check finds leaks: ${worst}`);
    return report;
  }

  /** The contents of every file in the folder (or another one), by name. */
  async files(folder: StorageFolder = this.folder): Promise<Map<string, Uint8Array>> {
    const contents = new Map<string, Uint8Array>();
    for (const name of await folder.list()) {
      const storage = await folder.open(name, { readOnly: true });
      const bytes = new Uint8Array(storage.size());
      await storage.read(0, bytes);
      await storage.close();
      contents.set(name, bytes);
    }
    return contents;
  }

  /** The files as they are at this moment, in a folder of their own: what a power loss now would leave. */
  async copyFolder(folder: StorageFolder = this.folder): Promise<MemoryFolder> {
    const copy = new MemoryFolder();
    for (const name of await folder.list()) {
      const from = await folder.open(name, { readOnly: true });
      const to = await copy.create(name);
      await copyData(from, to);
      await from.close();
      await to.close();
    }
    return copy;
  }

  /** Puts `bytes` in the place of a file's contents. */
  async replaceFile(name: string, bytes: Uint8Array): Promise<void> {
    const storage = await this.folder.open(name, { readOnly: false });
    await storage.truncate(0);
    await storage.write(0, bytes);
    await storage.close();
  }

  /** An absolute name outside the lab's folder, of a file that does not exist yet. */
  async nameElsewhere(): Promise<string> {
    if (this.path === undefined) return '/elsewhere/base.img';
    const path = await mkdtemp(join(tmpdir(), 'cowlab-elsewhere-'));
    this.#removeLater.push(path);
    return join(path, 'base.img');
  }

  async closeAll(): Promise<void> {
    for (const disk of this.#disks) await disk.close();
  }

  /** Something worth knowing about a run that went well. */
  note(text: string): void {
    this.notes.push(text);
  }

  /** The questions asked after every scenario. */
  async finish(): Promise<void> {
    for (const twin of this.#twins) {
      await twin.verify('at the end');
      await twin.disk.close();
      await twin.verifyClosed(this.folder);
    }
    await this.closeAll();
    const { judge } = this.subject;
    if (judge === undefined || this.path === undefined) return;
    for (const { file, model, lastSnapshots } of this.#twins) {
      await judgeImage(judge, this.path, { file, model, snapshots: lastSnapshots });
    }
  }

  /** Closes and removes everything; after a failure, too. */
  async dispose(): Promise<void> {
    // The scenario has failed already, or has closed them: what matters is that nothing stays open.
    for (const disk of this.#disks) await this.closeAnyway(disk);
    for (const path of this.#removeLater) await rm(path, { recursive: true, force: true });
  }
}
