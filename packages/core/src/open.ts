import path from 'node:path';
import { absentBacking } from './absent-backing.ts';
import { SnapshotBacking } from './backing-snapshot.ts';
import { Disk } from './disk.ts';
import type { Backing, BackingReference, BlockDriver, OpenContext, OptionValues } from './driver.ts';
import { CowlabError, isCowlabError } from './errors.ts';
import { FileFolder } from './file-folder.ts';
import type { FileIo } from './file-storage.ts';
import { BackingGate, type GatePolicy } from './gate.ts';
import { checkOptions } from './options.ts';
import { raw } from './raw.ts';
import type { BackingOpener, OpenedBacking } from './rebase.ts';
import type { LockMode, Storage, StorageFolder } from './storage.ts';

/** A file by its path, or by its name in a folder of any kind. */
export type ImageLocation = string | { readonly folder: StorageFolder; readonly file: string };

export interface Formats {
  /** Which formats may be opened, for the image and for what is under it; `raw` is always among them. */
  readonly drivers?: readonly BlockDriver[];
  /** Which backing files may be opened. */
  readonly gate?: GatePolicy;
  /** How files are read and written, when the image is given by its path. */
  readonly io?: FileIo;
}

export interface OpenDiskOptions extends Formats {
  /** The driver's name; without one the format is probed from the file's first bytes. */
  readonly format?: string;
  readonly readOnly?: boolean;
  /**
   * Opens, for writing, also an image that its format has marked as corrupt. Until `check` with repair has left
   * it clean, changes reject with `ERR_CORRUPT`.
   */
  readonly forRepair?: boolean;
  /** Takes no lock and respects none, for a disk that is opened read-only: what is read may be half changed. */
  readonly forceShare?: boolean;
  /**
   * A read that asks the backing makes the allocation units it touches the image's own, as `Disk.populate` does. When
   * that fails the read does not: the bytes come from the backing, and `stats` counts a `failedCopies`.
   */
  readonly copyOnRead?: boolean;
  /**
   * Opens no backing: what it has to answer for cannot be read, and rejects with `ERR_BACKING_MISSING`. For looking at
   * an image, or for an unsafe `rebase` of one, whose backing is not where it says.
   */
  readonly withoutBacking?: boolean;
  /** Options of the driver for this opening, and for backings of its format; see its `openOptions`. */
  readonly options?: OptionValues;
}

export interface CreateDiskOptions extends Formats {
  readonly driver: BlockDriver;
  /** Guest bytes; may be left out when there is a backing, whose size is taken, rounded up to what the format can. */
  readonly size?: number;
  /** `snapshot` may be a name here, too; what is recorded is the snapshot's id. */
  readonly backing?: BackingReference;
  /** Create options of the driver; see its `options`. */
  readonly options?: OptionValues;
}

const PROBE_BYTES = 4096;

export function locate(
  location: ImageLocation,
  io: FileIo = 'sync',
): { folder: StorageFolder; file: string } {
  if (typeof location !== 'string') return location;
  return { folder: new FileFolder(path.dirname(location), { io }), file: path.basename(location) };
}

/** The driver that is surest that a storage is its format. */
export async function probeStorage(storage: Storage, drivers: readonly BlockDriver[]): Promise<BlockDriver> {
  const head = new Uint8Array(Math.min(PROBE_BYTES, storage.size()));
  await storage.read(0, head, 'header');
  const scored = drivers.map((driver) => ({ driver, score: driver.probe(head) }));
  return scored.reduce((best, next) => (next.score > best.score ? next : best)).driver;
}

async function probe(
  folder: StorageFolder,
  file: string,
  drivers: readonly BlockDriver[],
): Promise<BlockDriver> {
  const storage = await folder.open(file, { readOnly: true });
  try {
    return await probeStorage(storage, drivers);
  } finally {
    await storage.close();
  }
}

function byName(drivers: readonly BlockDriver[], format: string, file: string): BlockDriver {
  const driver = drivers.find(({ name }) => name === format);
  if (driver === undefined) {
    const known = drivers.map(({ name }) => name).join(', ');
    throw new CowlabError('ERR_UNKNOWN_FORMAT', `${file}: unknown format ${format}; there are: ${known}`, {
      file,
      field: 'format',
      value: format,
    });
  }
  return driver;
}

function readsOnly(file: string, driver: BlockDriver): CowlabError {
  const problem = `${driver.name} images can only be read`;
  return new CowlabError('ERR_UNSUPPORTED', `${file}: ${problem}`, { file, field: 'write' });
}

function assertCopies(file: string, driver: BlockDriver, readOnly: boolean): void {
  const about = { file, field: 'copyOnRead' };
  if (readOnly) {
    const problem = 'a disk that is opened read-only keeps nothing';
    throw new CowlabError('ERR_INVALID_OPTION', `${file}: copyOnRead: ${problem}`, about);
  }
  if (driver.capabilities.backing) return;
  throw new CowlabError('ERR_UNSUPPORTED', `${file}: copyOnRead: ${driver.name} has no backing`, about);
}

interface OpenRequest {
  readonly folder: StorageFolder;
  readonly file: string;
  /** Who the file is, where the gate has let it through. */
  readonly identity?: string;
  readonly drivers: readonly BlockDriver[];
  readonly gate: BackingGate;
  readonly format: string | undefined;
  readonly readOnly: boolean;
  readonly forRepair: boolean;
  readonly lock: LockMode;
  /** As QEMU has it: who writes an image does not allow what is under it to change, and others may read that. */
  readonly lockBelow: LockMode;
  readonly copyOnRead: boolean;
  /** How many images under this one are opened; something stands for the next one. */
  readonly levelsBelow: number;
  readonly options: OptionValues;
  /** For a backing: the driver of the image above, whose options these are. */
  readonly above?: BlockDriver;
}

async function openImage(request: OpenRequest): Promise<Disk> {
  const { folder, file, drivers, readOnly } = request;
  const driver =
    request.format === undefined ? await probe(folder, file, drivers) : byName(drivers, request.format, file);
  if (!readOnly && !driver.capabilities.write) throw readsOnly(file, driver);
  if (request.copyOnRead) assertCopies(file, driver, readOnly);
  const gate = await request.gate.below(file, request.identity);
  // Options of one format mean nothing to another, and everything to a chain of its own.
  const options = request.above === undefined || request.above === driver ? request.options : {};
  const context: OpenContext = {
    readOnly,
    forRepair: request.forRepair,
    lock: request.lock,
    options: checkOptions(driver.openOptions, options),
    openBacking: async (reference, field) =>
      request.levelsBelow === 0
        ? absentBacking(file, reference)
        : openBacking({ ...request, options, above: driver }, gate, reference, field),
    openPart: async (name, field, access = { readOnly, lock: request.lock }) =>
      folder.open((await gate.admit(file, { file: name }, field)).name, access),
  };
  const { copyOnRead } = request;
  return new Disk(driver, await driver.open(folder, file, context), file, readOnly, {
    copyOnRead,
    // Who only reads has no use for another backing, and a chain may have thousands who do.
    ...(!readOnly && {
      openBacking: opener({ ...request, options, above: driver }, gate),
      identify: (name: string) => folder.identify(name),
    }),
  });
}

/** How a disk that is open comes to another backing. */
function opener(above: OpenRequest & { readonly above: BlockDriver }, gate: BackingGate): BackingOpener {
  const { file } = above;
  return async (wanted, mayMiss) => {
    assertBacking(file, above.above, wanted);
    try {
      return await openWanted({ ...above, levelsBelow: Infinity }, gate, wanted);
    } catch (error) {
      if (!mayMiss || !isCowlabError(error, 'ERR_BACKING_MISSING')) throw error;
      return { reference: wanted, backing: absentBacking(file, wanted) };
    }
  };
}

/** As {@link openBacking}; the snapshot may be given by its name, too. */
async function openWanted(
  above: OpenRequest,
  gate: BackingGate,
  wanted: BackingReference,
): Promise<OpenedBacking> {
  const field = 'backing file';
  if (wanted.snapshot === undefined) {
    return { reference: wanted, backing: await openBacking(above, gate, wanted, field) };
  }
  const disk = await openBackingFile(above, gate, wanted, field);
  let reference: BackingReference;
  try {
    reference = { ...wanted, snapshot: (await disk.snapshots.find(wanted.snapshot)).id };
  } catch (error) {
    await disk.close();
    throw error;
  }
  return { reference, backing: await SnapshotBacking.open(disk, reference, { file: above.file, field }) };
}

async function openBacking(
  above: OpenRequest,
  gate: BackingGate,
  reference: BackingReference,
  field: string,
): Promise<Backing> {
  const disk = await openBackingFile(above, gate, reference, field);
  if (reference.snapshot === undefined) return disk;
  return SnapshotBacking.open(disk, reference, { file: above.file, field: `${field}.snapshot` });
}

async function openBackingFile(
  above: OpenRequest,
  gate: BackingGate,
  reference: BackingReference,
  field: string,
): Promise<Disk> {
  const { name, identity } = await gate.admit(above.file, reference, field);
  return openImage({
    ...above,
    file: name,
    identity,
    gate,
    format: reference.format,
    readOnly: true,
    forRepair: false,
    // A snapshot does not change, whoever writes its image.
    lock: reference.snapshot === undefined ? above.lockBelow : 'none',
    copyOnRead: false,
    levelsBelow: above.levelsBelow - 1,
  });
}

function withRaw(drivers: readonly BlockDriver[] = []): readonly BlockDriver[] {
  return drivers.some(({ name }) => name === raw.name) ? drivers : [...drivers, raw];
}

/** The one place that decides on locks: one writer, or any number of readers. */
function lockFor(file: string, { readOnly, forceShare }: OpenDiskOptions): LockMode {
  if (forceShare !== true) return readOnly === true ? 'shared' : 'exclusive';
  if (readOnly === true) return 'none';
  const problem = 'only for a disk that is opened read-only';
  throw new CowlabError('ERR_INVALID_OPTION', `${file}: forceShare: ${problem}`, {
    file,
    field: 'forceShare',
  });
}

/**
 * Opens an image of any of the given formats. Rejects with `ERR_NOT_FOUND`, `ERR_UNKNOWN_FORMAT`, `ERR_CORRUPT`,
 * `ERR_UNSUPPORTED`, `ERR_LOCKED`, `ERR_BACKING_…`, `ERR_INVALID_OPTION`; nothing was modified then.
 */
export async function openDisk(location: ImageLocation, options: OpenDiskOptions = {}): Promise<Disk> {
  return openLevels(location, options, options.withoutBacking === true ? 0 : Infinity);
}

/** The same with so many images under it opened; the next one is stood in for. */
export async function openLevels(
  location: ImageLocation,
  options: OpenDiskOptions,
  levelsBelow: number,
): Promise<Disk> {
  const { folder, file } = locate(location, options.io);
  return openImage({
    folder,
    file,
    drivers: withRaw(options.drivers),
    gate: BackingGate.above(folder, options.gate),
    format: options.format,
    readOnly: options.readOnly ?? false,
    forRepair: options.forRepair ?? false,
    lock: lockFor(file, options),
    lockBelow: options.forceShare === true ? 'none' : 'shared',
    copyOnRead: options.copyOnRead ?? false,
    levelsBelow,
    options: options.options ?? {},
  });
}

/** The size of what will be under a new image, and how the image is to name it. */
interface LookedUp {
  readonly size: number;
  readonly reference: BackingReference;
}

async function lookUp(
  folder: StorageFolder,
  file: string,
  backing: BackingReference,
  options: CreateDiskOptions,
): Promise<LookedUp> {
  const drivers = withRaw([...(options.drivers ?? []), options.driver]);
  const gate = await BackingGate.above(folder, options.gate).below(file);
  const { name } = await gate.admit(file, backing, 'backing file');
  const disk = await openDisk(
    { folder, file: name },
    {
      drivers,
      readOnly: true,
      // Only its size is asked for: an overlay can be made over an image that somebody writes, as with QEMU.
      forceShare: true,
      ...(options.gate && { gate: options.gate }),
      ...(backing.format && { format: backing.format }),
    },
  );
  try {
    if (backing.snapshot === undefined) return { size: disk.size, reference: backing };
    const { id, size } = await disk.snapshots.find(backing.snapshot);
    return { size, reference: { ...backing, snapshot: id } };
  } finally {
    await disk.close();
  }
}

function assertBacking(file: string, driver: BlockDriver, backing: BackingReference): void {
  const refuse = (field: string, problem: string): never => {
    const message = `${file}: ${field}: ${driver.name} ${problem}`;
    throw new CowlabError('ERR_UNSUPPORTED', message, { file, field });
  };
  if (!driver.capabilities.backing) refuse('backing file', 'has none');
  if (backing.snapshot !== undefined && !driver.capabilities.backingSnapshot) {
    refuse('backing snapshot', 'cannot record that a snapshot of the backing file is meant');
  }
}

/** The files that a create has made for bytes of the image, beside the image's own; taken back when it fails. */
class Parts {
  readonly #folder: StorageFolder;
  readonly #file: string;
  readonly #gate: BackingGate;
  readonly #made: string[] = [];
  readonly #taken: string[] = [];

  constructor(folder: StorageFolder, file: string, gate: BackingGate) {
    this.#folder = folder;
    this.#file = file;
    this.#gate = gate;
  }

  async create(part: string, field: string): Promise<Storage> {
    const { name } = await this.#gate.admitNew(this.#file, { file: part }, field);
    if (!(await this.#folder.exists(name))) {
      await (await this.#folder.create(name)).close();
      this.#made.push(name);
    }
    const storage = await this.#folder.open(name, { readOnly: false, lock: 'exclusive' });
    if (storage.size() === 0) {
      this.#taken.push(name);
      return storage;
    }
    await storage.close();
    const about = { file: this.#file, field, value: part };
    throw new CowlabError('ERR_EXISTS', `${this.#file}: ${field}: ${part} is not empty`, about);
  }

  /** What was made is removed, what was there before is empty again. */
  async takeBack(): Promise<void> {
    for (const name of this.#made) await this.#folder.remove(name);
    for (const name of this.#taken.filter((each) => !this.#made.includes(each))) {
      const storage = await this.#folder.open(name, { readOnly: false });
      await storage.truncate(0);
      await storage.close();
    }
  }
}

/**
 * Makes a new image. Rejects with `ERR_EXISTS` when the file is there, `ERR_INVALID_OPTION`, `ERR_UNSUPPORTED`,
 * `ERR_BACKING_…`; no file is left behind then.
 */
export async function createDisk(location: ImageLocation, options: CreateDiskOptions): Promise<void> {
  const { folder, file } = locate(location, options.io);
  const { driver, backing } = options;
  const { maxSize, sizeMultiple, write } = driver.capabilities;
  if (!write) throw readsOnly(file, driver);
  if (backing !== undefined) assertBacking(file, driver, backing);
  const checked = checkOptions(driver.options, options.options ?? {});
  const below = backing && (await lookUp(folder, file, backing, options));
  if (options.size === undefined && below === undefined) {
    const problem = 'needed when there is no backing file';
    throw new CowlabError('ERR_INVALID_OPTION', `${file}: size: ${problem}`, { file, field: 'size' });
  }
  const size = options.size ?? Math.ceil(below!.size / sizeMultiple) * sizeMultiple;
  if (!Number.isSafeInteger(size) || size <= 0 || size > maxSize || size % sizeMultiple !== 0) {
    const problem = `${size} is not a multiple of ${sizeMultiple} from ${sizeMultiple} to ${maxSize}`;
    throw new CowlabError('ERR_INVALID_OPTION', `${file}: size: ${problem}`, {
      file,
      field: 'size',
      value: size,
    });
  }
  await (await folder.create(file)).close();
  const parts = new Parts(folder, file, await BackingGate.above(folder, options.gate).below(file));
  try {
    await driver.create(folder, file, {
      size,
      options: checked,
      ...(below && { backing: below.reference }),
      createPart: (name, field) => parts.create(name, field),
    });
    await folder.flush();
  } catch (error) {
    // Why it failed matters more than whether the names could be taken back.
    await folder.remove(file).catch(() => undefined);
    await parts.takeBack().catch(() => undefined);
    throw error;
  }
}
