import {
  type Awaitable,
  andThen,
  CowlabError,
  type Purpose,
  type Storage,
  viewOf,
  writeU64BE,
} from '@cowlab/core';
import type { Bitmaps } from './bitmaps.ts';
import { type Codec, codecOf } from './codecs.ts';
import type { Guard, Structure } from './guard.ts';
import type { DataFile } from './data-file.ts';
import { type HeaderChange, rewriteHeader } from './header-area.ts';
import {
  decodeHeader,
  type Geometry,
  geometryOf,
  type Header,
  headerAreaBytes,
  type HeaderPatch,
  patchHeader,
  requireRegion,
  sectorBytes,
} from './layout.ts';

/** Opens the external data file that a header names. */
export type OpenDataFile = (dataFile: DataFile) => Promise<Storage>;

/*
 * The file with its header, and beside it the data file where there is one. A header change is one write of the first sector, which holds every field that
 * ever changes: after a power loss it is there or it is not.
 */
export class ImageFile {
  readonly storage: Storage;
  /** Where guest clusters are: `storage`, or the external data file. */
  readonly dataStorage: Storage;
  readonly geometry: Geometry;
  /** How compressed clusters are read and written. */
  readonly codec: Codec;
  header: Header;
  /** What watches over metadata while the image is open for writing. */
  guard: Guard | undefined;
  /** Who has to know of changes of the disk, while it is open for writing. */
  bitmaps: Bitmaps | undefined;
  #page: Uint8Array;

  private constructor(
    storage: Storage,
    header: Header,
    codec: Codec,
    page: Uint8Array,
    dataStorage: Storage = storage,
  ) {
    this.storage = storage;
    this.dataStorage = dataStorage;
    this.header = header;
    this.codec = codec;
    this.geometry = geometryOf(header);
    this.#page = page;
  }

  /** Reads and validates the header. Throws `ERR_CORRUPT` or `ERR_UNSUPPORTED` naming the field. */
  static async open(storage: Storage, openDataFile: OpenDataFile): Promise<ImageFile> {
    const page = new Uint8Array(Math.min(sectorBytes, storage.size()));
    await storage.read(0, page, 'header');
    const area = new Uint8Array(Math.min(headerAreaBytes(page, storage.name), storage.size()));
    await storage.read(0, area, 'header');
    const header = decodeHeader(area, storage.size(), storage.name);
    const codec = await codecOf(header.compressionType);
    const dataStorage = header.dataFile && (await openDataFile(header.dataFile));
    return new ImageFile(storage, header, codec, area.slice(0, sectorBytes), dataStorage);
  }

  /** Guest clusters are in a file of their own, each at its guest offset. */
  get hasDataFile(): boolean {
    return this.dataStorage !== this.storage;
  }

  /** The data file reads as the disk does, at every moment. */
  get hasRawDataFile(): boolean {
    return this.header.dataFile?.raw === true;
  }

  get name(): string {
    return this.storage.name;
  }

  /** Throws `ERR_CORRUPT` unless a structure of `bytes` at `offset` is cluster-aligned and inside the file. */
  requireRegion(offset: number, bytes: number, field: string): void {
    requireRegion(offset, bytes, this.geometry.clusterBytes, this.storage.size(), this.name, field);
  }

  readCluster(offset: number, target: Uint8Array, field: string): Awaitable<void> {
    this.requireRegion(offset, target.length, field);
    return this.storage.read(offset, target, field.startsWith('refcount') ? 'refcount' : 'mapping');
  }

  /** Whether guest bytes may be overwritten where they are, without anybody being told. */
  mayOverwrite(hostOffset: number, bytes: number, guestOffset: number): boolean {
    return (
      !this.header.damaged &&
      (this.hasDataFile || this.guard === undefined || this.guard.isFree(hostOffset, bytes)) &&
      (this.bitmaps === undefined || this.bitmaps.covers(guestOffset, bytes))
    );
  }

  /** Takes no change any more from now on, and says so durably; version 2 has no bit for it. */
  async markDamaged(): Promise<void> {
    this.header = { ...this.header, damaged: true };
    if (this.header.version === 3) await this.update({ damaged: true });
  }

  /**
   * Writes metadata, which may lie on structures of the kinds `own` names (none for what has just got its place) and on
   * no others. Throws `ERR_CORRUPT` naming the one that would be hit; nothing is written then.
   */
  writeMetadata(
    offset: number,
    bytes: Uint8Array,
    purpose: Purpose,
    own: readonly Structure[] = [],
  ): Awaitable<void> {
    this.guard?.assertFree(offset, bytes.length, own);
    return this.storage.write(offset, bytes, purpose);
  }

  /** Guest bytes first: what metadata points to is durable before it. */
  flush(): Awaitable<void> {
    if (!this.hasDataFile) return this.storage.flush();
    return andThen(this.dataStorage.flush(), () => this.storage.flush());
  }

  async close(): Promise<void> {
    try {
      await this.storage.close();
    } finally {
      await this.dataStorage.close();
    }
  }

  /** Writes the changed fields and makes them durable; everything they point to has to be durable already. */
  async update(patch: HeaderPatch): Promise<void> {
    const page = this.#page.slice();
    patchHeader(page, patch);
    await this.#writeNextSnapshotId(page, patch.nextSnapshotId);
    await this.storage.write(0, page, 'header');
    this.#page = page;
    this.header = { ...this.header, ...patch };
    this.guard?.rangesChanged();
    await this.storage.flush();
  }

  /**
   * Another version or backing: what the first cluster says is laid out anew, and the first sector decides. As long as
   * that may not be durable, memory goes on with the old one.
   */
  async rewrite(change: HeaderChange): Promise<void> {
    const { name, storage } = this;
    const area = new Uint8Array(this.geometry.clusterBytes);
    await storage.read(0, area, 'header');
    const next = rewriteHeader(area, change);
    if (next === undefined) {
      const problem = 'the first cluster has no room for the extensions and the name of the backing file';
      throw new CowlabError('ERR_TOO_LARGE', `${name}: header: ${problem}`, { file: name, field: 'header' });
    }
    const { rest, sector } = next;
    if (rest !== undefined) {
      await storage.write(rest.offset, rest.bytes, 'header');
      await storage.flush();
      area.set(rest.bytes, rest.offset);
    }
    area.set(sector);
    const header = decodeHeader(area, storage.size(), name);
    await storage.write(0, sector, 'header');
    await storage.flush();
    this.#page = sector;
    this.header = header;
  }

  /** The counter usually lies in the first sector; where others moved it, it goes ahead: an id may be skipped, not reused. */
  async #writeNextSnapshotId(page: Uint8Array, id: number | undefined): Promise<void> {
    const at = this.header.nextSnapshotIdAt;
    if (id === undefined || at === undefined) return;
    if (at + 8 <= page.length) {
      writeU64BE(viewOf(page), at, id);
      return;
    }
    const bytes = new Uint8Array(8);
    writeU64BE(viewOf(bytes), 0, id);
    await this.storage.write(at, bytes, 'header');
  }
}

/** The image stopped taking changes after a failure it could not undo; opening it again recovers it. */
export function brokenImage(file: string, cause: unknown): CowlabError {
  const problem = 'an earlier failure could not be undone; open the image again to recover it';
  return new CowlabError('ERR_IO', `${file}: ${problem}`, { file }, cause);
}

/** The image has the corrupt bit, or, in version 2, would have it if there were one. */
export function condemnedImage(file: string, cause: unknown): CowlabError {
  const problem = 'the image is marked corrupt: it can only be read, or repaired';
  const field = 'header.incompatible_features';
  return new CowlabError('ERR_CORRUPT', `${file}: ${field}: ${problem}`, { file, field }, cause);
}
