import { CowlabError, type Disk, type FileIo, openDisk, type StorageFolder } from '@cowlab/core';
import { isNbdUri } from '@cowlab/nbd';
import { invalidUse, underPath } from './errors.ts';
import { driverOf, drivers } from './formats.ts';
import { ExportFolder, fileOf, type Place, placeOf } from './places.ts';

/* Opening images by the paths or URIs that people type, and putting new ones in the place of old ones. */

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
  /** How files are read and written. */
  readonly io?: FileIo | undefined;
  /** That of the file, where the caller wants to know what happens there. */
  readonly place?: Place;
}

/** An opened image with the identities of all files that it reads from, backing files included. */
export interface OpenedImage {
  readonly disk: Disk;
  readonly files: ReadonlySet<string>;
}

export async function openImage(typed: string, request: OpenRequest = {}): Promise<OpenedImage> {
  const { allow, writable = false, forRepair = false, forceShare = false, withoutBacking = false } = request;
  if (writable && forceShare) throw invalidUse('--force-share', 'only reads');
  if (request.format !== undefined) driverOf(request.format, `${typed}: format`);
  const { folder, file, opened } = request.place ?? placeOf(typed, request.io);
  const gate = { allow: allow ?? [] };
  const probed = request.format === undefined && folder instanceof ExportFolder ? folder : undefined;
  try {
    const format = request.format ?? (await probed?.probe(drivers, !writable))?.name;
    const disk = await openDisk(
      { folder, file },
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
    return { disk, files: opened };
  } catch (error) {
    throw underPath(error, typed, file);
  } finally {
    await probed?.disconnect();
  }
}

/** Opens an image, runs `use`, and closes it whatever happens; a failure of `use` is the one that is reported. */
export async function withImage<T>(
  typed: string,
  request: OpenRequest,
  use: (disk: Disk) => Promise<T>,
): Promise<T> {
  const { disk } = await openImage(typed, request);
  return closing(disk, typed, () => use(disk));
}

/** Runs `use` and then closes the disk, keeping the first failure. */
export async function closing<T>(disk: Disk, typed: string, use: () => Promise<T>): Promise<T> {
  let result: T;
  try {
    result = await use();
  } catch (error) {
    // What went wrong first is what matters.
    await disk.close().catch(() => undefined);
    throw underPath(error, typed, fileOf(typed));
  }
  await disk.close();
  return result;
}

/**
 * Runs `make`, which creates an image anew. An old file of that name is refused, or with `force` set aside until
 * `make` has succeeded: a failure leaves it as it was. An export of a server is there always, and cannot be set aside.
 */
export async function inPlaceOf(typed: string, force: boolean, make: () => Promise<void>): Promise<void> {
  const { folder, file } = placeOf(typed);
  const replaced = await folder.exists(file);
  if (replaced && !force) {
    throw new CowlabError('ERR_EXISTS', `${typed}: exists already; --force replaces it`, { file: typed });
  }
  try {
    await (replaced && !isNbdUri(typed) ? replacing(folder, file, make) : make());
  } catch (error) {
    throw underPath(error, typed, file);
  }
}

async function replacing(folder: StorageFolder, name: string, make: () => Promise<void>): Promise<void> {
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
