import {
  type Awaitable,
  corrupt,
  type LockMode,
  type Storage,
  type StorageFolder,
  unsupported,
} from '@cowlab/core';
import { GrainAllocator } from './allocator.ts';
import { Descriptor, NO_PARENT, newCid } from './descriptor.ts';
import {
  decodeDirectory,
  decodeHeader,
  encodeDirectory,
  encodeHeader,
  GRAIN_TABLE_ENTRIES,
  planExtent,
  SECTOR,
  type SparseHeader,
  signatureOf,
  ZEROED_GRAIN,
} from './layout.ts';
import { GrainTables } from './tables.ts';

/*
 * One file of a chain: header, descriptor, grain tables and the place of the next grain. Knows nothing of its
 * parent but the name and the content id (CID).
 *
 * The CID says which content a child was made from. It changes with the first write after an open, durably and
 * before the write itself, so that a parent that was written to behind its child's back is noticed at open.
 */

export interface ExtentOptions {
  readonly readOnly: boolean;
  readonly lock: LockMode;
  /** Bytes of grain tables to keep in memory. */
  readonly cacheBytes: number;
}

export interface NewExtent {
  readonly size: number;
  readonly grainBytes: number;
  readonly zeroedGrains: boolean;
  readonly adapterType: string;
  /** The file's name once it is in its place. */
  readonly extentName: string;
  readonly parent?: { readonly hint: string; readonly cid: number };
}

interface ExtentParts {
  readonly file: string;
  readonly storage: Storage;
  readonly header: SparseHeader;
  readonly descriptor: Descriptor;
  readonly tables: GrainTables;
}

export class SparseExtent {
  readonly storage: Storage;
  readonly header: SparseHeader;
  readonly tables: GrainTables;
  readonly grains: GrainAllocator;
  #descriptor: Descriptor;
  #file: string;
  #frozen = false;
  #cidIsNew = false;
  #cidChange: Promise<void> | undefined;
  /** The CID of the parent, where the descriptor has another one; see {@link acceptsParent}. */
  #foundParentCid: number | undefined;
  /** What has to be done before the CID may change. */
  #unsettled: (() => Promise<void>) | undefined;

  private constructor(parts: ExtentParts) {
    this.#file = parts.file;
    this.storage = parts.storage;
    this.header = parts.header;
    this.tables = parts.tables;
    this.#descriptor = parts.descriptor;
    this.grains = new GrainAllocator(parts.file, parts.storage, parts.header);
  }

  /** Opens and validates a file. Throws `ERR_NOT_FOUND`, `ERR_CORRUPT`, `ERR_UNSUPPORTED`; modifies nothing. */
  static async open(folder: StorageFolder, file: string, options: ExtentOptions): Promise<SparseExtent> {
    const storage = await folder.open(file, { readOnly: options.readOnly, lock: options.lock });
    try {
      return await SparseExtent.#read(file, storage, options);
    } catch (error) {
      await storage.close();
      throw error;
    }
  }

  /** Writes an empty extent into an empty storage, durably, and goes on with it. */
  static async create(
    file: string,
    storage: Storage,
    fields: NewExtent,
    cacheBytes: number,
  ): Promise<SparseExtent> {
    const header = planExtent(file, fields.size, fields.grainBytes, fields.zeroedGrains);
    const descriptor = Descriptor.create({
      cid: newCid(),
      parentCid: fields.parent?.cid ?? NO_PARENT,
      ...(fields.parent && { parentHint: fields.parent.hint }),
      extentName: fields.extentName,
      size: fields.size,
      adapterType: fields.adapterType,
    });
    const head = new Uint8Array(header.descriptorOffset + header.descriptorBytes);
    head.set(encodeHeader(header));
    head.set(padded(file, descriptor, header.descriptorBytes), header.descriptorOffset);
    await storage.write(0, head, 'header');
    for (const offset of [header.redundantDirectoryOffset, header.directoryOffset]) {
      if (offset !== undefined) await storage.write(offset, encodeDirectory(header, offset), 'mapping');
    }
    await storage.truncate(header.overheadBytes);
    await storage.flush();
    const extent = await SparseExtent.#read(file, storage, { readOnly: false, cacheBytes });
    extent.#cidIsNew = true;
    return extent;
  }

  /** The file's name now, as its folder knows it. */
  get file(): string {
    return this.#file;
  }

  /** Opened read-only, or a snapshot since. */
  get readOnly(): boolean {
    return this.#frozen || this.storage.readOnly;
  }

  /** The file has become a snapshot of another name, and is not written to any more. */
  freeze(file: string): void {
    this.#file = file;
    this.#frozen = true;
    this.tables.freeze();
  }

  /** The file was moved into its place. */
  moved(file: string): void {
    this.#file = file;
  }

  get cid(): number {
    return this.#descriptor.cid(this.file, 'CID');
  }

  /** The CID that the parent has; see {@link acceptsParent}. */
  get parentCid(): number {
    return this.#foundParentCid ?? this.#descriptor.cid(this.file, 'parentCID');
  }

  /** The parent's file as the descriptor names it; undefined without a parent. */
  get parentHint(): string | undefined {
    return this.parentCid === NO_PARENT ? undefined : this.#descriptor.get('parentFileNameHint');
  }

  get adapterType(): string {
    return this.#descriptor.get('ddb.adapterType') ?? 'ide';
  }

  /** Whether this opening has a CID of its own already: then writes may go in place. */
  get cidIsNew(): boolean {
    return this.#cidIsNew;
  }

  /** Gives the content about to change an id of its own; once for each opening. */
  changeCid(cid: number = newCid()): Promise<void> {
    this.#cidChange ??= this.#changeCid(cid);
    return this.#cidChange;
  }

  /**
   * Whether a parent of this CID is the one that this file was made over. One with the file's own CID is, too: a merge
   * or a commit has given it that, because it gets the file's content, and then power failed before the file's descriptor said so
   * (snapshots.ts). The next change of the descriptor does.
   */
  acceptsParent(cid: number): boolean {
    if (cid === this.parentCid) return true;
    if (cid !== this.cid) return false;
    this.#foundParentCid = cid;
    return true;
  }

  /**
   * Gives the parent this file's CID and name, since it is about to get its content and place; then records that CID.
   * When it fails in between, the next change of this file's CID goes on with it first: who has the parent's old CID
   * recorded must not get another CID while it is not known which one the parent has.
   */
  async lendIdentity(parent: SparseExtent): Promise<void> {
    const lend = async (): Promise<void> => {
      await parent.#standInFor(this);
      this.#foundParentCid = this.cid;
    };
    this.#unsettled = lend;
    // The medium must have what memory has, should an earlier change have failed half-way.
    await this.#changeDescriptor(() => undefined);
    await lend();
    await this.#changeDescriptor(() => undefined);
    this.#unsettled = undefined;
  }

  /** Gives the parent this file's CID, since it is about to get its content, but not its place; then records that. */
  async lendCid(parent: SparseExtent): Promise<void> {
    await parent.changeCid(this.cid);
    this.#foundParentCid = this.cid;
    await this.#changeDescriptor(() => undefined);
  }

  /** No grain is mapped any more, durably; then what they held is cut off. */
  async clear(): Promise<void> {
    for (let index = 0; index < this.tables.directory.length; index++) {
      const isUsed = await this.tables.use(index, ({ entries }) => entries.some((entry) => entry !== 0));
      if (isUsed) await this.setGrains(index * GRAIN_TABLE_ENTRIES, 0, GRAIN_TABLE_ENTRIES, 0);
      if (this.tables.crowded) await this.tables.flush();
    }
    await this.tables.flush();
    await this.storage.truncate(this.header.overheadBytes);
    this.grains.restart();
    await this.storage.flush();
  }

  /** Names another parent, durably; undefined for none. */
  relink(parentCid: number, hint: string | undefined): Promise<void> {
    return this.#changeDescriptor((next) => next.setParent(parentCid, hint));
  }

  get extentName(): string | undefined {
    return this.#descriptor.extents[0]?.fileName;
  }

  /** The disk's size as the descriptor has it. */
  get extentSectors(): number | undefined {
    return this.#descriptor.extents[0]?.sectors;
  }

  /** Puts a new file name into the extent's own line, durably. */
  rename(extentName: string): Promise<void> {
    return this.#changeDescriptor((next) => next.setExtentName(extentName));
  }

  /** Makes grains without a place read as zeros: by a flag, or by new grains of zeros where the header has no flag. */
  async zeroGrains(firstGrain: number, count: number): Promise<void> {
    const index = Math.floor(firstGrain / GRAIN_TABLE_ENTRIES);
    this.tables.assertWritable(index);
    if (this.header.zeroedGrains) return this.setGrains(firstGrain, ZEROED_GRAIN, count, 0);
    for (let done = 0; done < count; ) {
      const taken = this.grains.take(count - done);
      try {
        await this.storage.zero(taken.sector * SECTOR, taken.count * this.header.grainBytes);
      } catch (error) {
        this.grains.giveBack(taken.sector, taken.count);
        throw error;
      }
      await this.setGrains(firstGrain + done, taken.sector, taken.count);
      done += taken.count;
    }
  }

  /** Changes the entries of grains that lie in one table, in memory: the first to `value`, each next to `step` more. */
  setGrains(
    firstGrain: number,
    value: number,
    count: number,
    step: number = this.header.grainBytes / SECTOR,
  ): Awaitable<void> {
    return this.tables.use(Math.floor(firstGrain / GRAIN_TABLE_ENTRIES), (table) => {
      const first = firstGrain % GRAIN_TABLE_ENTRIES;
      for (let i = 0; i < count; i++) this.tables.set(table, first + i, value + i * step);
    });
  }

  async #standInFor(child: SparseExtent): Promise<void> {
    const name = child.extentName;
    await this.#changeDescriptor((next) => {
      next.setCid(child.cid);
      if (name !== undefined) next.setExtentName(name);
    });
    this.#cidIsNew = child.cidIsNew;
  }

  async #changeCid(cid: number): Promise<void> {
    try {
      await this.#unsettled?.();
      await this.#changeDescriptor((next) => next.setCid(cid));
      this.#unsettled = undefined;
      this.#cidIsNew = true;
    } catch (error) {
      this.#cidChange = undefined;
      throw error;
    }
  }

  /**
   * Writes the sectors of the descriptor that change: one, unless the text is laid out as by others. Then the first
   * sector comes last, on its own: until it is there the old one is followed by lines that it has already, and of
   * two lines with one key the first counts.
   */
  async #changeDescriptor(change: (next: Descriptor) => void): Promise<void> {
    const next = this.#descriptor.clone();
    if (this.#foundParentCid !== undefined) next.setParent(this.#foundParentCid, this.parentHint);
    change(next);
    const { descriptorOffset, descriptorBytes } = this.header;
    const wanted = padded(this.#file, next, descriptorBytes);
    const current = new Uint8Array(descriptorBytes);
    await this.storage.read(descriptorOffset, current, 'header');
    let written = 0;
    for (let at = descriptorBytes - SECTOR; at >= 0; at -= SECTOR) {
      const sector = wanted.subarray(at, at + SECTOR);
      if (sector.every((byte, i) => byte === current[at + i])) continue;
      if (at === 0 && written > 0) await this.storage.flush();
      await this.storage.write(descriptorOffset + at, sector, 'header');
      written++;
    }
    await this.storage.flush();
    this.#descriptor = next;
    this.#foundParentCid = undefined;
  }

  static async #read(
    file: string,
    storage: Storage,
    options: Omit<ExtentOptions, 'lock'>,
  ): Promise<SparseExtent> {
    const header = await readHeader(file, storage, options.readOnly);
    const descriptor = await readDescriptor(file, storage, header);
    const directory = await readDirectory(file, storage, header, header.directoryOffset, 'grain directory');
    // Who only reads has no use for the second copy.
    const redundant =
      options.readOnly || header.redundantDirectoryOffset === undefined
        ? undefined
        : await readDirectory(
            file,
            storage,
            header,
            header.redundantDirectoryOffset,
            'redundant grain directory',
          );
    const tables = new GrainTables(file, storage, header, directory, redundant, options.cacheBytes);
    return new SparseExtent({ file, storage, header, descriptor, tables });
  }
}

/** The descriptor's text in the room it has. Throws `ERR_UNSUPPORTED` when it does not fit. */
function padded(file: string, descriptor: Descriptor, length: number): Uint8Array {
  const text = descriptor.encode();
  if (text.length > length)
    throw unsupported(file, 'descriptor', `${text.length} bytes do not fit ${length}`);
  const bytes = new Uint8Array(length);
  bytes.set(text);
  return bytes;
}

async function readHeader(file: string, storage: Storage, readOnly: boolean): Promise<SparseHeader> {
  const bytes = new Uint8Array(SECTOR);
  await storage.read(0, bytes, 'header');
  switch (signatureOf(bytes)) {
    case 'other':
      throw corrupt(file, 'header.magicNumber', 'not a VMDK file');
    case 'cowd':
      throw unsupported(file, 'createType', 'vmfsSparse (a COWD extent)', { value: 'vmfsSparse' });
    case 'descriptor':
      throw await unsupportedDescriptorFile(file, storage);
    case 'sparse':
  }
  if (storage.size() < SECTOR) throw corrupt(file, 'header', 'file ends inside the header');
  const header = decodeHeader(file, bytes, storage.size());
  if (header.version === 3 && !readOnly && !header.streamOptimized) {
    // Version 3 may have a changed-block map beside it, which a writer would have to keep.
    throw unsupported(file, 'header.version', '3 can only be opened read-only', { value: 3 });
  }
  return header;
}

async function unsupportedDescriptorFile(file: string, storage: Storage): Promise<Error> {
  const bytes = new Uint8Array(Math.min(storage.size(), 64 * 1024));
  await storage.read(0, bytes, 'header');
  return unsupportedType(file, Descriptor.parse(bytes).get('createType') ?? 'missing');
}

function unsupportedType(file: string, createType: string): Error {
  const problem = `${createType} disks are not supported, only monolithicSparse ones`;
  return unsupported(file, 'descriptor.createType', problem, { value: createType });
}

async function readDescriptor(file: string, storage: Storage, header: SparseHeader): Promise<Descriptor> {
  const bytes = new Uint8Array(header.descriptorBytes);
  await storage.read(header.descriptorOffset, bytes, 'header');
  const descriptor = Descriptor.parse(bytes);
  const createType = descriptor.get('createType');
  if (createType === undefined) throw corrupt(file, 'descriptor.createType', 'is missing');
  if (createType !== 'monolithicSparse') throw unsupportedType(file, createType);
  if (header.streamOptimized) {
    throw unsupported(file, 'header.flags', 'compressed grains or markers are not supported');
  }
  const { extents } = descriptor;
  if (extents.length !== 1 || extents[0]?.type !== 'SPARSE') {
    throw unsupported(file, 'descriptor.extent', `${extents.length} extents, where one SPARSE is expected`);
  }
  descriptor.cid(file, 'CID');
  const parentCid = descriptor.cid(file, 'parentCID');
  if (parentCid !== NO_PARENT && descriptor.get('parentFileNameHint') === undefined) {
    throw corrupt(file, 'descriptor.parentFileNameHint', 'is missing, though there is a parentCID');
  }
  return descriptor;
}

/** A directory, validated. The header's check has made sure that it lies inside the file. */
async function readDirectory(
  file: string,
  storage: Storage,
  header: SparseHeader,
  offset: number,
  name: string,
): Promise<Uint32Array> {
  const bytes = new Uint8Array(header.tableCount * 4);
  await storage.read(offset, bytes, 'mapping');
  return decodeDirectory(file, name, bytes, storage.size());
}
