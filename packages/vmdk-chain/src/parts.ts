import { corrupt, roundUp, type Storage, type StorageOpenOptions, unsupported } from '@cowlab/core';
import { GuardedExtent, NoAccessExtent, type PlaceInDisk, ZeroExtent } from './closed-extents.ts';
import { DirtyStorage } from './dirty-storage.ts';
import { headerIn, readHead, SparseExtent } from './extent.ts';
import type { ExtentLine } from './extent-line.ts';
import { FlatExtent } from './flat-extent.ts';
import { SECTOR } from './layout.ts';
import type { Part } from './part.ts';

/*
 * The extents of a descriptor become the parts of a disk, one behind the other. Each file is opened once, through core's
 * gate, whatever number of lines names it: FLAT extents may share one, where they do not lie on one another.
 *
 * A disk is written only where every grain lies between two multiples of the grain size, from the disk's start: so a
 * request that is rounded to grains touches whole ones. (Readers of others' disks need no such thing.)
 */

/** Most extents of a disk: each is an open file. 16 TiB in extents of 2 GiB. */
export const MAX_EXTENTS = 8192;

export interface PartsRequest {
  /** The disk's file, whose descriptor names the extents. */
  readonly file: string;
  readonly lines: readonly ExtentLine[];
  readonly access: StorageOpenOptions;
  readonly forRepair: boolean;
  /** Bytes of grain tables to keep in memory, for all extents together. */
  readonly cacheBytes: number;
  openPart(name: string, field: string, access: StorageOpenOptions): Promise<Storage>;
}

export interface OpenedParts {
  readonly parts: readonly Part[];
  readonly storages: readonly Storage[];
}

/** Undefined where no extent has grains. */
export function grainBytesOf(parts: readonly Part[]): number | undefined {
  return sparseOf(parts)[0]?.header.grainBytes;
}

/** The extents with grain tables. */
export function sparseOf(parts: readonly Part[]): SparseExtent[] {
  return parts
    .map((part) => (part instanceof GuardedExtent ? part.inner : part))
    .filter((part) => part instanceof SparseExtent);
}

/** Closes every one, whatever becomes of the others; then throws the first failure. */
export async function closeAll(storages: readonly Storage[]): Promise<void> {
  const results = await Promise.allSettled(storages.map(async (storage) => storage.close()));
  const failed = results.find((result) => result.status === 'rejected');
  if (failed !== undefined) throw failed.reason;
}

/** Opens every extent. Rejects with `ERR_CORRUPT`, `ERR_UNSUPPORTED`, `ERR_BACKING_…`; nothing stays open then. */
export async function openParts(request: PartsRequest): Promise<OpenedParts> {
  const { file, lines } = request;
  if (lines.length === 0) throw corrupt(file, 'descriptor.extent', 'there is none');
  if (lines.length > MAX_EXTENTS) {
    throw unsupported(file, 'descriptor.extent', `${lines.length} extents are more than ${MAX_EXTENTS}`);
  }
  const opener = new PartOpener(request);
  try {
    for (const [index, line] of lines.entries()) await opener.open(line, index);
    opener.assertGrains();
    return opener;
  } catch (error) {
    await closeAll(opener.storages);
    throw error;
  }
}

/** A file that extents lie in. */
interface PartFile {
  readonly storage: Storage;
  /** Those that share it; a sparse one has its file for itself. */
  readonly flats: FlatExtent[];
  readonly isSparse: boolean;
}

class PartOpener implements OpenedParts {
  readonly parts: Part[] = [];
  readonly storages: Storage[] = [];
  readonly #request: PartsRequest;
  readonly #files = new Map<string, PartFile>();
  #end = 0;

  constructor(request: PartsRequest) {
    this.#request = request;
  }

  async open(line: ExtentLine, index: number): Promise<void> {
    const { file } = this.#request;
    const field = `descriptor.extent[${index}]`;
    const place = { start: this.#end, size: line.sectors * SECTOR, file, field };
    this.#end += place.size;
    if (!Number.isSafeInteger(this.#end)) throw corrupt(file, field, 'the disk is larger than any');
    const part = await this.#part(line, place);
    this.parts.push(line.access === 'RDONLY' ? new GuardedExtent(part, place) : part);
  }

  /** Grains must be of one size and, for a writer, lie in step with the disk's start. */
  assertGrains(): void {
    const { file, access } = this.#request;
    const grainBytes = grainBytesOf(this.parts);
    for (const [index, part] of this.parts.entries()) {
      const [extent] = sparseOf([part]);
      if (extent === undefined || grainBytes === undefined) continue;
      const field = `descriptor.extent[${index}]`;
      if (extent.header.grainBytes !== grainBytes) {
        throw unsupported(
          file,
          field,
          `grains of ${extent.header.grainBytes} bytes, others have ${grainBytes}`,
        );
      }
      if (!access.readOnly && part.start % grainBytes !== 0) {
        throw unsupported(file, field, 'begins inside a grain; such a disk can only be opened read-only');
      }
    }
  }

  async #part(line: ExtentLine, place: PlaceInDisk): Promise<Part> {
    if (line.access === 'NOACCESS') return new NoAccessExtent(place);
    switch (line.type) {
      case 'ZERO':
        return new ZeroExtent(place);
      case 'FLAT':
        return this.#flat(line, place);
      case 'SPARSE':
        return this.#sparse(line, place);
      default:
        throw unsupported(place.file, place.field, `${line.type} extents are not supported`, {
          value: line.type,
        });
    }
  }

  async #flat(line: ExtentLine, place: PlaceInDisk): Promise<Part> {
    const { start, size, file, field } = place;
    const { storage, flats } = await this.#open(line.fileName ?? '', field, false);
    const hostStart = (line.offset ?? 0) * SECTOR;
    if (hostStart + size > storage.size()) {
      const problem = `${storage.name} has ${storage.size()} bytes, where ${hostStart + size} are needed`;
      throw corrupt(file, field, problem, { value: storage.size() });
    }
    if (
      flats.some((other) => hostStart < other.hostStart + other.size && other.hostStart < hostStart + size)
    ) {
      throw corrupt(file, field, `lies on another extent in ${storage.name}`, { value: line.offset ?? 0 });
    }
    const flat = new FlatExtent(storage, start, size, hostStart);
    flats.push(flat);
    return flat;
  }

  async #sparse(line: ExtentLine, place: PlaceInDisk): Promise<Part> {
    const { start, size, field } = place;
    const { access, cacheBytes, forRepair, lines } = this.#request;
    const { storage } = await this.#open(line.fileName ?? '', field, true);
    const header = await headerIn(storage.name, storage, await readHead(storage), access.readOnly);
    if (header.streamOptimized) {
      throw unsupported(storage.name, 'header.flags', 'compressed grains or markers are not supported');
    }
    // Some programs give the header whole grains.
    if (roundUp(header.size, header.grainBytes) !== roundUp(size, header.grainBytes) || header.size < size) {
      const problem = `${size} bytes, where the header of ${storage.name} has ${header.size}`;
      throw corrupt(place.file, field, problem, { value: line.sectors });
    }
    const share = Math.floor(cacheBytes / lines.length);
    return SparseExtent.read(storage.name, storage, header, {
      start,
      size,
      readOnly: access.readOnly,
      forRepair,
      cacheBytes: share,
    });
  }

  async #open(name: string, field: string, isSparse: boolean): Promise<PartFile> {
    const { file, lines, access } = this.#request;
    const known = this.#files.get(name);
    if (known !== undefined) {
      if (!known.isSparse && !isSparse) return known;
      throw corrupt(file, field, `${name} is another extent already`, { value: name });
    }
    const inner = await this.#request.openPart(name, field, access);
    const storage = lines.length === 1 ? inner : new DirtyStorage(inner);
    this.storages.push(storage);
    const opened: PartFile = { storage, flats: [], isSparse };
    this.#files.set(name, opened);
    return opened;
  }
}
