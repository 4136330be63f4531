import path from 'node:path';
import {
  type Awaitable,
  corrupt,
  type Extent,
  isCowlabError,
  type LockMode,
  type OpenContext,
  type ReadSource,
  type Storage,
  type StorageFolder,
  unsupported,
} from '@cowlab/core';
import { NO_PARENT } from './descriptor.ts';
import { DescriptorRoom } from './descriptor-room.ts';
import { headerIn, readHead, SparseExtent } from './extent.ts';
import { DEFAULT_GRAIN_BYTES, signatureOf } from './layout.ts';
import type { Part, PartPlacement } from './part.ts';
import { closeAll, grainBytesOf, openParts, sparseOf } from './parts.ts';
import { openStream, StreamExtent } from './stream-extent.ts';
import { StreamWriter } from './stream-writer.ts';

/*
 * One link of a chain: the file that has the descriptor, and the extents that this names. Knows nothing of its parent but
 * the name and the content id (CID).
 *
 *   monolithicSparse        one file: the descriptor lies in its only extent
 *   monolithicFlat          a descriptor, and `disk-flat.vmdk`
 *   twoGbMaxExtent…         a descriptor, and `disk-s001.vmdk`, … (sparse) or `disk-f001.vmdk`, … (flat)
 *   custom                  a descriptor, and extents of any kinds
 *
 * A disk of one part, the common case, is asked without a search; of several, by halving.
 *
 * The first write after an open takes the way over `reserve` even when it goes in place, so that the CID can change before
 * it (descriptor-room.ts).
 */

/** What lies in a file of its own may be of these types; all extents are looked at one by one anyway. */
const TYPES_WITH_EXTENTS = [
  'monolithicSparse',
  'monolithicFlat',
  'twoGbMaxExtentSparse',
  'twoGbMaxExtentFlat',
  'custom',
];

export interface FileOptions {
  readonly readOnly: boolean;
  /** Opened to be repaired: directories need not be whole. */
  readonly forRepair?: boolean;
  readonly lock: LockMode;
  /** Bytes of grain tables to keep in memory. */
  readonly cacheBytes: number;
}

/** Where a file and its extents are opened. */
export interface Home {
  readonly folder: StorageFolder;
  readonly context: Pick<OpenContext, 'openPart'>;
}

interface Contents {
  readonly room: DescriptorRoom;
  readonly parts: readonly Part[];
  /** Every file, that with the descriptor first. */
  readonly storages: readonly Storage[];
}

/** The path of a file that `file` names. */
export function sibling(file: string, name: string): string {
  return path.isAbsolute(name) ? path.normalize(name) : path.join(path.dirname(file), name);
}

export class ChainFile {
  readonly size: number;
  readonly parts: readonly Part[];
  readonly #room: DescriptorRoom;
  readonly #storages: readonly Storage[];
  /** The part that is the whole disk, where there is only one. */
  readonly #only: Part | undefined;
  readonly #unitBytes: number;
  #frozen = false;

  private constructor({ room, parts, storages }: Contents) {
    this.#room = room;
    this.parts = parts;
    this.#storages = storages;
    this.#only = parts.length === 1 ? parts[0] : undefined;
    const last = parts.at(-1)!;
    this.size = last.start + last.size;
    const stream = this.stream ?? this.streamWriter;
    this.#unitBytes =
      grainBytesOf(parts) ??
      stream?.header.grainBytes ??
      room.descriptor.childGrainBytes ??
      DEFAULT_GRAIN_BYTES;
  }

  /** Opens and validates a file. Throws `ERR_NOT_FOUND`, `ERR_CORRUPT`, `ERR_UNSUPPORTED`; modifies nothing. */
  static async open(home: Home, file: string, options: FileOptions): Promise<ChainFile> {
    const { readOnly, lock } = options;
    const storage = await home.folder.open(file, { readOnly, lock });
    try {
      const head = await readHead(storage);
      const contents =
        signatureOf(head) === 'descriptor'
          ? await readWithExtents(home, file, storage, options)
          : await readEmbedded(file, storage, head, options);
      return new ChainFile(contents);
    } catch (error) {
      await storage.close();
      throw error;
    }
  }

  /** Goes on with a file that was made just now: nobody has recorded its CID. */
  static async openNew(file: string, storage: Storage, cacheBytes: number): Promise<ChainFile> {
    const options = { readOnly: false, cacheBytes };
    const contents = await readEmbedded(file, storage, await readHead(storage), options);
    contents.room.keepCid();
    return new ChainFile(contents);
  }

  /** The file's name now, as its folder knows it. */
  get file(): string {
    return this.#room.file;
  }

  /** The file and those of its extents, by their names now. */
  get files(): string[] {
    return [this.file, ...this.#storages.slice(1).map(({ name }) => name)];
  }

  /** Each with its place among `files`. */
  get storages(): readonly Storage[] {
    return this.#storages;
  }

  /** Opened read-only, or a snapshot since. */
  get readOnly(): boolean {
    return this.#frozen || this.#storages[0]!.readOnly;
  }

  /** The descriptor lies inside the one extent, and names it. */
  get isEmbedded(): boolean {
    return this.#only?.storage === this.#storages[0];
  }

  /** The file has become a snapshot of another name, and is not written to any more. */
  freeze(file: string): void {
    this.#room.moved(file);
    this.#frozen = true;
    for (const part of this.parts) part.freeze();
  }

  /** The file was moved into its place. */
  moved(file: string): void {
    this.#room.moved(file);
  }

  get cid(): number {
    return this.#room.cid;
  }

  get parentCid(): number {
    return this.#room.parentCid;
  }

  /** The parent's file as the descriptor names it; undefined without a parent. */
  get parentHint(): string | undefined {
    return this.#room.parentHint;
  }

  /** Whether this file was made over a parent of this CID. */
  acceptsParent(cid: number): boolean {
    return this.#room.acceptsParent(cid);
  }

  /** Gives the parent this file's CID and name, since it is about to get its content and place. Durable. */
  lendIdentity(parent: ChainFile): Promise<void> {
    const extentName = parent.isEmbedded ? path.basename(this.file) : undefined;
    return this.#room.lendIdentity(parent.#room, extentName);
  }

  /** Gives the parent this file's CID, since it is about to get its content, but not its place. Durable. */
  lendCid(parent: ChainFile): Promise<void> {
    return this.#room.lendCid(parent.#room);
  }

  get adapterType(): string {
    return this.#room.descriptor.get('ddb.adapterType') ?? 'ide';
  }

  get createType(): string {
    return this.#room.descriptor.get('createType') ?? '';
  }

  /** Of every sparse extent; undefined where there is none. */
  get grainBytes(): number | undefined {
    return grainBytesOf(this.parts);
  }

  /** Of a disk without grains, that of its children: so it stays when the first snapshot is taken. */
  get unitBytes(): number {
    return this.#unitBytes;
  }

  /** What a child is made with. */
  get childGrains(): { readonly grainBytes: number; readonly zeroedGrains: boolean } {
    const [extent] = this.sparseExtents;
    if (extent === undefined) return { grainBytes: this.#unitBytes, zeroedGrains: true };
    return { grainBytes: extent.header.grainBytes, zeroedGrains: extent.header.zeroedGrains };
  }

  get sparseExtents(): SparseExtent[] {
    return sparseOf(this.parts);
  }

  /** The one extent that is the whole disk, when it is sparse. */
  get onlySparse(): SparseExtent | undefined {
    return this.#only instanceof SparseExtent ? this.#only : undefined;
  }

  /** Present while the file is written as a stream. */
  get streamWriter(): StreamWriter | undefined {
    return this.#only instanceof StreamWriter ? this.#only : undefined;
  }

  get stream(): StreamExtent | undefined {
    return this.#only instanceof StreamExtent ? this.#only : undefined;
  }

  /** Whether this opening has a CID of its own already: then writes may go in place. */
  get cidIsNew(): boolean {
    return this.#room.cidIsNew;
  }

  /** Names another parent, durably; undefined for none. */
  relink(parentCid: number, hint: string | undefined): Promise<void> {
    return this.#room.change((next) => next.setParent(parentCid, hint));
  }

  get extentName(): string | undefined {
    return this.#room.descriptor.extents(this.file)[0]?.fileName;
  }

  /** The disk's size as the descriptor has it. */
  get extentSectors(): number {
    return this.#room.descriptor.extents(this.file).reduce((sum, { sectors }) => sum + sectors, 0);
  }

  /** Puts a new file name into the line of the extent that has the descriptor inside; others keep their names. Durable. */
  async rename(extentName: string): Promise<void> {
    if (!this.isEmbedded) return;
    await this.#room.change((next) => next.setExtentName(extentName));
  }

  partAt(offset: number): Part {
    if (this.#only !== undefined) return this.#only;
    let [low, high] = [0, this.parts.length - 1];
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if (this.parts[middle]!.start <= offset) low = middle;
      else high = middle - 1;
    }
    return this.parts[low]!;
  }

  /** What this file says, without its parent but for `below`, which answers where the file says nothing. */
  map(offset: number, length: number, below: ReadSource | undefined): Awaitable<Extent> {
    const owned = this.#room.cidIsNew;
    if (this.#only !== undefined) return this.#only.map(offset, length, below, owned);
    const part = this.partAt(offset);
    return part.map(offset, Math.min(length, part.start + part.size - offset), below, owned);
  }

  reserve(offset: number, length: number): Awaitable<PartPlacement> {
    const part = this.partAt(offset);
    // Who takes no such write refuses it before anything changes.
    if (part instanceof StreamWriter) return part.reserve();
    const most = Math.min(length, part.start + part.size - offset);
    if (this.#room.cidIsNew && !part.crowded) return part.reserve(offset, most);
    return this.#prepare(part).then(() => part.reserve(offset, most));
  }

  /** The range reads as zeros; `covers` when something would show through. */
  async unmap(offset: number, length: number, covers: boolean): Promise<void> {
    const end = offset + length;
    for (let at = offset; at < end; ) {
      const part = this.partAt(at);
      if (!(part instanceof StreamWriter)) await this.#prepare(part);
      at = await part.unmap(at, Math.min(end, part.start + part.size), covers);
    }
  }

  flush(): Awaitable<void> {
    return this.#only === undefined ? this.#flushAll() : this.#only.flush();
  }

  /** Nothing is said any more of any byte, durably. */
  async clear(): Promise<void> {
    for (const part of this.parts) {
      if (!(part instanceof SparseExtent)) {
        throw unsupported(this.file, 'descriptor.extent', 'only sparse extents can be emptied');
      }
    }
    for (const extent of this.sparseExtents) await extent.clear();
  }

  async trim(): Promise<void> {
    for (const part of this.parts) await part.trim();
  }

  get residentBytes(): number {
    let bytes = 0;
    for (const part of this.parts) bytes += part.residentBytes;
    return bytes;
  }

  /** Changes the locks on all its files. */
  async lock(mode: LockMode): Promise<void> {
    for (const storage of this.#storages) await storage.lock(mode);
  }

  close(): Promise<void> {
    return closeAll(this.#storages);
  }

  /** The content's id is its own, and there is room for more dirty tables. */
  async #prepare(part: Part): Promise<void> {
    await this.#room.changeCid();
    if (part.crowded) await part.flush();
  }

  async #flushAll(): Promise<void> {
    for (const part of this.parts) await part.flush();
  }
}

function unsupportedType(file: string, createType: string): Error {
  return unsupported(file, 'descriptor.createType', `${createType} disks are not supported`, {
    value: createType,
  });
}

function createTypeOf(file: string, room: DescriptorRoom): string {
  const createType = room.descriptor.get('createType');
  if (createType === undefined) throw corrupt(file, 'descriptor.createType', 'is missing');
  return createType;
}

const isType = (createType: string, types: readonly string[]): boolean =>
  types.some((type) => type.toLowerCase() === createType.toLowerCase());

/** A sparse extent with the descriptor inside. */
async function readEmbedded(
  file: string,
  storage: Storage,
  head: Uint8Array,
  { readOnly, forRepair = false, cacheBytes }: Omit<FileOptions, 'lock'>,
): Promise<Contents> {
  const header = await headerIn(file, storage, head, readOnly);
  const { descriptorOffset, descriptorBytes } = header;
  if (descriptorOffset === 0) {
    throw unsupported(file, 'header.descriptorOffset', 'extent without an embedded descriptor', { value: 0 });
  }
  const room = await DescriptorRoom.read(file, {
    storage,
    offset: descriptorOffset,
    length: descriptorBytes,
  });
  const createType = createTypeOf(file, room);
  const wanted = header.streamOptimized ? 'streamOptimized' : 'monolithicSparse';
  if (!isType(createType, [wanted])) throw unsupportedType(file, createType);
  const extents = room.descriptor.extents(file);
  if (extents.length !== 1 || extents[0]?.type !== 'SPARSE') {
    throw unsupported(file, 'descriptor.extent', `${extents.length} extents, where one SPARSE is expected`);
  }
  if (header.streamOptimized) {
    const isChild = room.parentCid !== NO_PARENT;
    const part = await openStream(file, storage, header, { readOnly, cacheBytes, isChild });
    return { room, parts: [part], storages: [storage] };
  }
  const options = { start: 0, size: header.size, readOnly, forRepair, cacheBytes };
  const extent = await SparseExtent.read(file, storage, header, options);
  return { room, parts: [extent], storages: [storage] };
}

/** A descriptor in a file of its own. */
async function readWithExtents(
  { context }: Home,
  file: string,
  storage: Storage,
  { readOnly, forRepair = false, lock, cacheBytes }: FileOptions,
): Promise<Contents> {
  const room = await DescriptorRoom.read(file, { storage, offset: 0, length: undefined });
  const createType = createTypeOf(file, room);
  if (!isType(createType, TYPES_WITH_EXTENTS)) throw unsupportedType(file, createType);
  const opened = await openParts({
    file,
    lines: room.descriptor.extents(file),
    access: { readOnly, lock },
    forRepair,
    cacheBytes,
    openPart: (name, field, access) => context.openPart(name, field, access),
  });
  return { room, parts: opened.parts, storages: [storage, ...opened.storages] };
}

/** The content id of an opened file, by its descriptor alone; undefined where it has none. */
export async function cidIn(storage: Storage): Promise<number | undefined> {
  try {
    return (await roomIn(storage.name, storage)).room.cid;
  } catch (error) {
    if (isCowlabError(error) && error.code !== 'ERR_IO') return undefined;
    throw error;
  }
}

/** The content id of a file, by its descriptor alone. */
export async function readCid(folder: StorageFolder, file: string): Promise<number> {
  return withDescriptor(folder, file, ({ descriptor }) => descriptor.cid(file, 'CID'));
}

/**
 * The file and those of its extents that are its alone, as far as the descriptor can be read; they need not be there. Who
 * measures or removes them has not asked the gate: so names that lead elsewhere are left out, and extents that may only be
 * read, which others may have too.
 */
export async function filesNamedBy(folder: StorageFolder, file: string): Promise<string[]> {
  try {
    return await withDescriptor(folder, file, ({ descriptor }, isOwnFile) => {
      if (!isOwnFile) return [file];
      const lines = descriptor.extents(file).filter(({ access }) => access === 'RW');
      const names = lines.flatMap(({ fileName }) => fileName ?? []);
      const beside = names.filter((name) => name === path.basename(name) && name !== '..' && name !== '.');
      return [...new Set([file, ...beside.map((name) => sibling(file, name))])];
    });
  } catch (error) {
    if (isCowlabError(error) && error.code !== 'ERR_IO') return [file];
    throw error;
  }
}

async function withDescriptor<T>(
  folder: StorageFolder,
  file: string,
  use: (room: DescriptorRoom, isOwnFile: boolean) => T,
): Promise<T> {
  const storage = await folder.open(file, { readOnly: true });
  try {
    const { room, isOwnFile } = await roomIn(file, storage);
    return use(room, isOwnFile);
  } finally {
    await storage.close();
  }
}

/** The descriptor of a file, which may be all that the file holds. */
async function roomIn(file: string, storage: Storage): Promise<{ room: DescriptorRoom; isOwnFile: boolean }> {
  const head = await readHead(storage);
  if (signatureOf(head) === 'descriptor') {
    const room = await DescriptorRoom.read(file, { storage, offset: 0, length: undefined });
    return { room, isOwnFile: true };
  }
  const { descriptorOffset: offset, descriptorBytes: length } = await headerIn(file, storage, head, true);
  return { room: await DescriptorRoom.read(file, { storage, offset, length }), isOwnFile: false };
}
