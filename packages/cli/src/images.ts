import path from 'node:path';
import {
  CowlabError,
  type Disk,
  FileFolder,
  openDisk,
  type Storage,
  type StorageOpenOptions,
} from '@cowlab/core';
import { invalidUse, underPath } from './errors.ts';
import { driverOf, drivers } from './formats.ts';

/* Opening images by the paths that people type, and putting new ones in the place of old ones. */

export interface OpenRequest {
  readonly format?: string | undefined;
  /** Folders whose files may be backing files, beside the image's own. */
  readonly allow?: readonly string[] | undefined;
  /** False by default: most verbs only look. */
  readonly writable?: boolean;
  /** For `check` with repair: lets an image in that is marked corrupt. */
  readonly forRepair?: boolean;
  /** Takes no lock, and respects none: only for looking. */
  readonly forceShare?: boolean | undefined;
  /** Opens no backing file. */
  readonly withoutBacking?: boolean;
  /** That of the file, where the caller wants to know what happens there. */
  readonly folder?: RecordingFolder;
}

/** A folder that remembers which files were opened through it (what an image consists of), and which names it has made. */
export class RecordingFolder extends FileFolder {
  readonly opened: Set<string> = new Set<string>();
  readonly made: Set<string> = new Set<string>();

  override async open(name: string, options: StorageOpenOptions): Promise<Storage> {
    const storage = await super.open(name, options);
    this.opened.add(await this.identify(name));
    return storage;
  }

  override async create(name: string): Promise<Storage> {
    const storage = await super.create(name);
    this.made.add(name);
    return storage;
  }

  override async link(from: string, to: string): Promise<void> {
    await super.link(from, to);
    this.made.add(to);
  }

  override async rename(from: string, to: string): Promise<void> {
    await super.rename(from, to);
    this.made.add(to);
  }
}

/** An opened image with the real paths of all files that it reads from, backing files included. */
export interface OpenedImage {
  readonly disk: Disk;
  readonly files: ReadonlySet<string>;
}

export async function openImage(file: string, request: OpenRequest = {}): Promise<OpenedImage> {
  const {
    format,
    allow,
    writable = false,
    forRepair = false,
    forceShare = false,
    withoutBacking = false,
  } = request;
  if (writable && forceShare) throw invalidUse('--force-share', 'only reads');
  if (format !== undefined) driverOf(format, `${file}: format`);
  const { folder = new RecordingFolder(path.dirname(file)) } = request;
  const name = path.basename(file);
  const gate = { allow: allow ?? [] };
  try {
    const disk = await openDisk(
      { folder, file: name },
      {
        drivers,
        readOnly: !writable,
        forRepair,
        forceShare,
        withoutBacking,
        gate,
        ...(format !== undefined && { format }),
      },
    );
    return { disk, files: folder.opened };
  } catch (error) {
    throw underPath(error, file, name);
  }
}

/** Opens an image, runs `use`, and closes it whatever happens; a failure of `use` is the one that is reported. */
export async function withImage<T>(
  file: string,
  request: OpenRequest,
  use: (disk: Disk) => Promise<T>,
): Promise<T> {
  const { disk } = await openImage(file, request);
  return closing(disk, file, () => use(disk));
}

/** Runs `use` and then closes the disk, keeping the first failure. */
export async function closing<T>(disk: Disk, file: string, use: () => Promise<T>): Promise<T> {
  let result: T;
  try {
    result = await use();
  } catch (error) {
    // What went wrong first is what matters.
    await disk.close().catch(() => undefined);
    throw underPath(error, file, path.basename(file));
  }
  await disk.close();
  return result;
}

/**
 * Runs `make`, which creates `file` anew. An old file of that name is refused, or with `force` set aside until
 * `make` has succeeded: a failure leaves it as it was.
 */
export async function inPlaceOf(file: string, force: boolean, make: () => Promise<void>): Promise<void> {
  const folder = new FileFolder(path.dirname(file));
  const name = path.basename(file);
  const replaced = await folder.exists(name);
  if (replaced && !force) {
    throw new CowlabError('ERR_EXISTS', `${file}: exists already; --force replaces it`, { file });
  }
  try {
    await (replaced ? replacing(folder, name, make) : make());
  } catch (error) {
    throw underPath(error, file, name);
  }
}

async function replacing(folder: FileFolder, name: string, make: () => Promise<void>): Promise<void> {
  // Directories and devices do not open, and are not ours to set aside; nor is an image that somebody has open.
  await (await folder.open(name, { readOnly: true, lock: 'exclusive' })).close();
  const aside = `.${name}.replaced-${process.pid}`;
  await folder.rename(name, aside);
  try {
    await make();
  } catch (error) {
    await folder.rename(aside, name);
    throw error;
  }
  await folder.remove(aside);
}
