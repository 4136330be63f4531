import {
  type BlockDriver,
  type Capabilities,
  type CheckReport,
  corrupt,
  CowlabError,
  type CreateRequest,
  type DataExtent,
  type DiffBatch,
  type DriverImage,
  type DriverSnapshots,
  type ImageInfo,
  type Placement,
  type SnapshotInfo,
  type Storage,
  type StorageFolder,
} from '@cowlab/core';

/*
 * The simplest driver with snapshots: a header of one sector, then guest bytes; a snapshot is a copy of the
 * file, whose name says everything about it: FILE.ID.TIME.NAME. It is here to try the suite on.
 */

const headerBytes = 512;
const magic = new TextEncoder().encode('COPYDISK');

const capabilities: Capabilities = {
  write: true,
  snapshots: 'chain',
  maxSnapshots: 30,
  renameSnapshots: true,
  snapshotParents: false,
  diff: true,
  backing: false,
  backingSnapshot: false,
  releaseBacking: false,
  changeBacking: false,
  empty: false,
  backingContentId: false,
  resize: 'grow',
  compress: 'none',
  compact: 'none',
  measure: false,
  amend: [],
  repair: [],
  concurrency: 'perRange',
  afterPowerLoss: 'clean',
  maxSize: 2 ** 30,
  sizeMultiple: 512,
};

function headerOf(nextId: number): Uint8Array {
  const header = new Uint8Array(headerBytes);
  header.set(magic);
  new DataView(header.buffer).setUint32(8, nextId);
  return header;
}

async function readNextId(storage: Storage): Promise<number> {
  const header = new Uint8Array(headerBytes);
  await storage.read(0, header, 'header');
  if (storage.size() <= headerBytes || !magic.every((byte, index) => header[index] === byte)) {
    throw corrupt(storage.name, 'header.magic', 'not a copying image');
  }
  return new DataView(header.buffer).getUint32(8);
}

/** A whole copy under a new name, or nothing under that name. */
async function copyFile(
  folder: StorageFolder,
  from: Storage,
  to: string,
  header?: Uint8Array,
): Promise<void> {
  const temporary = `${to}.part`;
  if (await folder.exists(temporary)) await folder.remove(temporary);
  const bytes = new Uint8Array(from.size());
  await from.read(0, bytes);
  if (header !== undefined) bytes.set(header);
  const storage = await folder.create(temporary);
  try {
    await storage.write(0, bytes);
    await storage.flush();
  } finally {
    await storage.close();
  }
  await folder.rename(temporary, to);
  await folder.flush();
}

class CopyingImage implements DriverImage {
  readonly unitBytes = 4096;
  readonly snapshots: DriverSnapshots;
  readonly #folder: StorageFolder;
  readonly #file: string;
  #storage: Storage;

  constructor(folder: StorageFolder, storage: Storage) {
    this.#folder = folder;
    this.#file = storage.name;
    this.#storage = storage;
    this.snapshots = {
      list: () => this.#list(),
      create: (name, createdAt) => this.#create(name, createdAt),
      delete: async (id) => {
        await folder.remove(await this.#fileOf(id));
        await folder.flush();
      },
      apply: (id) => this.#apply(id),
      open: async (id) =>
        new CopyingImage(folder, await folder.open(await this.#fileOf(id), { readOnly: true })),
      rename: (id, name) => this.#rename(id, name),
      diff: (from, to, offset, end) => this.#diff(from, to, offset, end),
    };
  }

  get size(): number {
    return this.#storage.size() - headerBytes;
  }

  map(offset: number, length: number): DataExtent {
    return { kind: 'data', length, storage: this.#storage, hostOffset: offset + headerBytes, owned: true };
  }

  reserve(): Placement {
    throw new TypeError('every byte is owned');
  }

  commit(): void {
    throw new TypeError('every byte is owned');
  }

  abort(): void {
    throw new TypeError('every byte is owned');
  }

  async unmap(offset: number, length: number): Promise<void> {
    await this.#storage.zero(offset + headerBytes, length);
  }

  async flush(): Promise<void> {
    await this.#storage.flush();
  }

  async check(): Promise<CheckReport> {
    const common = { corruptions: 0, leaks: 0, repaired: 0, findings: [] };
    return { ...common, allocatedBytes: this.size, imageEndBytes: this.#storage.size() };
  }

  async resize(size: number): Promise<void> {
    await this.#storage.truncate(size + headerBytes);
    await this.#storage.flush();
  }

  async info(): Promise<ImageInfo> {
    const files = [this.#file, ...(await this.#names())];
    const { size, unitBytes } = this;
    return { format: 'copying', size, unitBytes, files, storageBytes: this.#storage.size(), details: {} };
  }

  stats(): { residentMetadataBytes: number } {
    return { residentMetadataBytes: 0 };
  }

  async close(): Promise<void> {
    try {
      if (!this.#storage.readOnly) await this.#storage.flush();
    } finally {
      await this.#storage.close();
    }
  }

  async #names(): Promise<string[]> {
    const names = await this.#folder.list();
    return names.filter((name) => name.startsWith(`${this.#file}.`) && !name.endsWith('.part'));
  }

  async #list(): Promise<SnapshotInfo[]> {
    const snapshots: SnapshotInfo[] = [];
    for (const file of await this.#names()) {
      const [id = '', time = '', name = ''] = file.slice(this.#file.length + 1).split('.');
      const storage = await this.#folder.open(file, { readOnly: true });
      const size = storage.size() - headerBytes;
      await storage.close();
      snapshots.push({ id, name: decodeURIComponent(name), createdAt: new Date(Number(time)), size });
    }
    return snapshots;
  }

  async #fileOf(id: string): Promise<string> {
    const file = (await this.#names()).find((name) => name.startsWith(`${this.#file}.${id}.`));
    if (file === undefined) {
      // A difference may be asked for in parts, and the snapshot deleted between them.
      throw new CowlabError('ERR_SNAPSHOT_NOT_FOUND', `${this.#file}: no snapshot ${id}`, {
        file: this.#file,
      });
    }
    return file;
  }

  async #create(name: string, createdAt: Date): Promise<SnapshotInfo> {
    const nextId = await readNextId(this.#storage);
    await this.#storage.write(0, headerOf(nextId + 1), 'header');
    await this.#storage.flush();
    const id = String(nextId).padStart(6, '0');
    await copyFile(this.#folder, this.#storage, this.#nameFor(id, String(createdAt.getTime()), name));
    return { id, name, createdAt, size: this.size };
  }

  #nameFor(id: string, time: string, name: string): string {
    return `${this.#file}.${id}.${time}.${encodeURIComponent(name).replaceAll('.', '%2E')}`;
  }

  async #rename(id: string, name: string): Promise<void> {
    const file = await this.#fileOf(id);
    const time = file.slice(this.#file.length + 1).split('.')[1] ?? '';
    await this.#folder.rename(file, this.#nameFor(id, time, name));
    await this.#folder.flush();
  }

  /** There is nothing but bytes to compare: they count as the mapping here. */
  async #diff(from: string | null, to: string | null, offset: number, end: number): Promise<DiffBatch> {
    const stop = Math.min(end, offset + this.unitBytes);
    const [one, other] = [await this.#bytesOf(from, offset, stop), await this.#bytesOf(to, offset, stop)];
    const differs = Buffer.compare(one, other) !== 0;
    return { extents: differs ? [{ offset, length: stop - offset }] : [], end: stop };
  }

  async #bytesOf(id: string | null, offset: number, end: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(end - offset);
    const storage =
      id === null ? this.#storage : await this.#folder.open(await this.#fileOf(id), { readOnly: true });
    try {
      await storage.read(headerBytes + offset, bytes, 'mapping');
    } finally {
      if (id !== null) await storage.close();
    }
    return bytes;
  }

  async #apply(id: string): Promise<void> {
    const nextId = await readNextId(this.#storage);
    const source = await this.#folder.open(await this.#fileOf(id), { readOnly: true });
    try {
      await copyFile(this.#folder, source, this.#file, headerOf(nextId));
    } finally {
      await source.close();
      await this.#reopen();
    }
  }

  /** The disk is the file of that name, even when only the last confirmation of it is missing. */
  async #reopen(): Promise<void> {
    await this.#storage.close();
    let failure: unknown;
    for (let attempt = 0; attempt < 3; attempt++) {
      try {
        this.#storage = await this.#folder.open(this.#file, { readOnly: false, lock: 'exclusive' });
        break;
      } catch (error) {
        failure = error;
      }
    }
    if (failure !== undefined) throw failure;
  }
}

export const copying: BlockDriver = {
  name: 'copying',
  capabilities,
  options: {},
  openOptions: {},

  probe(head: Uint8Array): number {
    return magic.every((byte, index) => head[index] === byte) ? 100 : 0;
  },

  async create(folder: StorageFolder, file: string, request: CreateRequest): Promise<void> {
    const storage = await folder.open(file, { readOnly: false, lock: 'exclusive' });
    try {
      await storage.write(0, headerOf(1), 'header');
      await storage.truncate(headerBytes + request.size);
      await storage.flush();
    } finally {
      await storage.close();
    }
  },

  async open(folder: StorageFolder, file: string, { readOnly, lock }): Promise<DriverImage> {
    const storage = await folder.open(file, { readOnly, lock });
    try {
      await readNextId(storage);
    } catch (error) {
      await storage.close();
      throw error;
    }
    return new CopyingImage(folder, storage);
  },
};
