// @ts-check
// A complete driver, as small as one with snapshots can be: a sector of header, then the guest's bytes, each at its own
// place. A snapshot is a copy of the whole file. docs/write-a-driver.md goes through it.

import { corrupt, CowlabError } from '@cowlab/core';

/** @import { BlockDriver, CheckReport, DriverImage, Extent, ImageInfo, SnapshotInfo, Storage, StorageFolder } from '@cowlab/core' */

const headerBytes = 512;
const magic = new TextEncoder().encode('COPIES01');
/** Each is a whole copy: more would be unkind. */
const maxSnapshots = 30;

/** @type {BlockDriver['capabilities']} */
const capabilities = {
  write: true,
  snapshots: 'chain',
  maxSnapshots,
  renameSnapshots: false,
  snapshotParents: false,
  diff: false,
  backing: false,
  backingSnapshot: false,
  releaseBacking: false,
  changeBacking: false,
  empty: false,
  backingContentId: false,
  resize: 'none',
  compress: 'none',
  measure: false,
  amend: [],
  compact: 'none',
  repair: [],
  concurrency: 'perRange',
  afterPowerLoss: 'clean',
  maxSize: 2 ** 40,
  sizeMultiple: 512,
};

/** The header says what the file is, and which number the next snapshot gets: no id is ever used twice. */
function encodeHeader(/** @type {number} */ nextId) {
  const header = new Uint8Array(headerBytes);
  header.set(magic);
  new DataView(header.buffer).setUint32(8, nextId);
  return header;
}

async function readNextId(/** @type {Storage} */ storage) {
  const header = new Uint8Array(headerBytes);
  await storage.read(0, header, 'header');
  if (storage.size() <= headerBytes || !magic.every((byte, index) => header[index] === byte)) {
    throw corrupt(storage.name, 'header.magic', 'not an image of copies');
  }
  return new DataView(header.buffer).getUint32(8);
}

/** @implements {DriverImage} */
class CopiesImage {
  unitBytes = 4096;
  #folder;
  #storage;

  constructor(/** @type {StorageFolder} */ folder, /** @type {Storage} */ storage) {
    this.#folder = folder;
    this.#storage = storage;
    this.snapshots = {
      list: () => this.#list(),
      create: (/** @type {string} */ name, /** @type {Date} */ createdAt) => this.#create(name, createdAt),
      delete: (/** @type {string} */ id) => this.#delete(id),
      apply: (/** @type {string} */ id) => this.#apply(id),
      open: async (/** @type {string} */ id) =>
        new CopiesImage(folder, await folder.open(await this.#fileOf(id), { readOnly: true })),
    };
  }

  get size() {
    return this.#storage.size() - headerBytes;
  }

  // The data path: every byte has a place of its own, so that a write never has to reserve one.

  /** @returns {Extent} */
  map(/** @type {number} */ offset, /** @type {number} */ length) {
    return { kind: 'data', length, storage: this.#storage, hostOffset: offset + headerBytes, owned: true };
  }

  /** @returns {never} */
  reserve() {
    throw new TypeError('every byte is owned');
  }

  commit() {
    throw new TypeError('every byte is owned');
  }

  abort() {
    throw new TypeError('every byte is owned');
  }

  async unmap(/** @type {number} */ offset, /** @type {number} */ length) {
    await this.#storage.zero(offset + headerBytes, length);
  }

  async flush() {
    await this.#storage.flush();
  }

  // What is known of the image.

  /** @returns {Promise<CheckReport>} */
  async check() {
    const counts = { corruptions: 0, leaks: 0, repaired: 0, findings: [] };
    return { ...counts, allocatedBytes: this.size, imageEndBytes: this.#storage.size() };
  }

  /** @returns {Promise<ImageInfo>} */
  async info() {
    const { name } = this.#storage;
    const files = [name, ...(await this.#entries()).map(({ file }) => file)];
    const storageBytes = this.#storage.size() * files.length;
    return {
      format: copies.name,
      size: this.size,
      unitBytes: this.unitBytes,
      files,
      storageBytes,
      details: {},
    };
  }

  stats() {
    return { residentMetadataBytes: 0 };
  }

  async close() {
    try {
      if (!this.#storage.readOnly) await this.flush();
    } finally {
      await this.#storage.close();
    }
  }

  // Snapshots: files beside the image, named FILE.ID.TIME.NAME. A name appears whole or not at all.

  async #entries() {
    const prefix = `${this.#storage.name}.`;
    const entries = [];
    for (const file of await this.#folder.list()) {
      const [id = '', time = '', ...name] = file.slice(prefix.length).split('.');
      if (!file.startsWith(prefix) || !/^\d+$/.test(id) || !/^\d+$/.test(time)) continue;
      entries.push({ file, id, createdAt: new Date(Number(time)), name: decodeURIComponent(name.join('.')) });
    }
    return entries.toSorted((a, b) => Number(a.id) - Number(b.id));
  }

  async #fileOf(/** @type {string} */ id) {
    const entry = (await this.#entries()).find((each) => each.id === id);
    if (entry !== undefined) return entry.file;
    const { name } = this.#storage;
    throw new CowlabError('ERR_SNAPSHOT_NOT_FOUND', `${name}: snapshot ${id}: no such snapshot`, {
      file: name,
    });
  }

  /** @returns {Promise<SnapshotInfo[]>} */
  async #list() {
    return (await this.#entries()).map(({ id, name, createdAt }) => ({
      id,
      name,
      createdAt,
      size: this.size,
    }));
  }

  /** @returns {Promise<SnapshotInfo>} */
  async #create(/** @type {string} */ name, /** @type {Date} */ createdAt) {
    const id = await readNextId(this.#storage);
    // The number is used up first, durably: a crash may waste it, and never gives it twice.
    await this.#storage.write(0, encodeHeader(id + 1), 'header');
    await this.#storage.flush();
    const file = `${this.#storage.name}.${id}.${createdAt.getTime()}.${encodeURIComponent(name)}`;
    await this.#copy(this.#storage, file, undefined);
    return { id: String(id), name, createdAt, size: this.size };
  }

  async #delete(/** @type {string} */ id) {
    await this.#folder.remove(await this.#fileOf(id));
    await this.#folder.flush();
  }

  /** The copy takes the place of the disk's file, with the disk's own header: numbers go on. */
  async #apply(/** @type {string} */ id) {
    const { name } = this.#storage;
    const source = await this.#folder.open(await this.#fileOf(id), { readOnly: true });
    try {
      await this.#copy(source, name, encodeHeader(await readNextId(this.#storage)));
    } finally {
      await source.close();
    }
    const before = this.#storage;
    this.#storage = await this.#folder.open(name, { readOnly: false });
    await before.close();
    await this.#storage.lock('exclusive');
  }

  /** A whole copy under the name, durable, or nothing that has it. */
  async #copy(
    /** @type {Storage} */ from,
    /** @type {string} */ to,
    /** @type {Uint8Array | undefined} */ header,
  ) {
    const partial = `${this.#storage.name}.part`;
    if (await this.#folder.exists(partial)) await this.#folder.remove(partial);
    const storage = await this.#folder.create(partial);
    try {
      const piece = new Uint8Array(1024 * 1024);
      for (let at = 0; at < from.size(); at += piece.length) {
        const part = piece.subarray(0, Math.min(piece.length, from.size() - at));
        await from.read(at, part);
        await storage.write(at, part);
      }
      if (header !== undefined) await storage.write(0, header, 'header');
      await storage.flush();
    } finally {
      await storage.close();
    }
    await this.#folder.rename(partial, to);
    await this.#folder.flush();
  }
}

/** @type {BlockDriver} */
const copies = {
  name: 'copies',
  capabilities,
  options: {},
  openOptions: {},

  probe: (head) => (magic.every((byte, index) => head[index] === byte) ? 100 : 0),

  async create(folder, file, { size }) {
    const storage = await folder.open(file, { readOnly: false, lock: 'exclusive' });
    try {
      await storage.write(0, encodeHeader(1), 'header');
      await storage.truncate(headerBytes + size);
      await storage.flush();
    } finally {
      await storage.close();
    }
  },

  async open(folder, file, { readOnly, lock }) {
    const storage = await folder.open(file, { readOnly, lock });
    try {
      await readNextId(storage);
      return new CopiesImage(folder, storage);
    } catch (error) {
      await storage.close();
      throw error;
    }
  },
};

export default copies;
