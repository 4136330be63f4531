import {
  type Backing,
  type BackingReference,
  type BlockDriver,
  type Capabilities,
  type CheckReport,
  corrupt,
  type CreateRequest,
  type DriverImage,
  type Extent,
  type ImageInfo,
  type Measurement,
  type MeasureRequest,
  type OpenContext,
  type Placement,
  type Storage,
  type StorageFolder,
} from '@cowlab/core';

/*
 * The simplest driver that maps and has a backing: it is here to try the suite on.
 *
 *     0      header: magic, disk size (u32), length and bytes of the backing's format and file
 *     512    one byte for each unit: 0 ask the backing, 1 data, 2 zeros
 *     then   the units, each at its own place
 *
 * Flush makes the data durable first, then writes the map.
 */

const headerBytes = 512;
const unitBytes = 4096;
const magic = new TextEncoder().encode('MAPDISK1');
const inData = 1;
const isZero = 2;

const capabilities: Capabilities = {
  write: true,
  snapshots: 'none',
  maxSnapshots: 0,
  renameSnapshots: false,
  snapshotParents: false,
  diff: false,
  backing: true,
  backingSnapshot: false,
  releaseBacking: true,
  changeBacking: true,
  empty: true,
  backingContentId: false,
  resize: 'none',
  compress: 'none',
  compact: 'none',
  measure: true,
  amend: [],
  repair: [],
  concurrency: 'perRange',
  afterPowerLoss: 'clean',
  maxSize: 2 ** 30,
  sizeMultiple: 1,
};

/** How a header names a backing. */
function recorded(backing: BackingReference | undefined): string {
  return backing === undefined ? '' : `${backing.format ?? ''}:${backing.file}`;
}

interface Header {
  readonly size: number;
  /** `FORMAT:FILE`, empty without a backing. */
  readonly backing: string;
}

function encodeHeader({ size, backing }: Header): Uint8Array {
  const bytes = new Uint8Array(headerBytes);
  const view = new DataView(bytes.buffer);
  const name = new TextEncoder().encode(backing);
  bytes.set(magic);
  view.setUint32(8, size);
  view.setUint16(12, name.length);
  bytes.set(name, 14);
  return bytes;
}

async function readHeader(storage: Storage): Promise<Header> {
  const bytes = new Uint8Array(headerBytes);
  await storage.read(0, bytes, 'header');
  const view = new DataView(bytes.buffer);
  const size = view.getUint32(8);
  const nameEnd = 14 + view.getUint16(12);
  if (!magic.every((byte, index) => bytes[index] === byte))
    throw corrupt(storage.name, 'header.magic', 'wrong');
  if (size === 0 || dataStart(size) > storage.size())
    throw corrupt(storage.name, 'header.size', 'past the end');
  if (nameEnd > headerBytes) throw corrupt(storage.name, 'header.backing', 'past the header');
  return { size, backing: new TextDecoder().decode(bytes.subarray(14, nameEnd)) };
}

function dataStart(size: number): number {
  return Math.ceil((headerBytes + Math.ceil(size / unitBytes)) / unitBytes) * unitBytes;
}

class MappingImage implements DriverImage {
  readonly unitBytes = unitBytes;
  readonly size: number;
  readonly #storage: Storage;
  #header: Header;
  #backing: Backing | undefined;
  readonly #states: Uint8Array;
  #dirty = false;

  constructor(storage: Storage, header: Header, states: Uint8Array, backing: Backing | undefined) {
    this.size = header.size;
    this.#storage = storage;
    this.#header = header;
    this.#states = states;
    this.#backing = backing;
  }

  map(offset: number, length: number): Extent {
    const unit = Math.floor(offset / unitBytes);
    const state = this.#states[unit];
    const part = Math.min(length, (unit + 1) * unitBytes - offset);
    if (state === inData) {
      const hostOffset = dataStart(this.size) + offset;
      return { kind: 'data', length: part, storage: this.#storage, hostOffset, owned: true };
    }
    if (state === isZero || this.#backing === undefined) {
      return { kind: 'zero', length: part, allocated: state === isZero };
    }
    return { kind: 'backing', length: part, source: this.#backing, offset };
  }

  reserve(offset: number, length: number): Placement {
    const head = offset % unitBytes;
    const part = Math.min(length, unitBytes - head);
    const unitEnd = Math.min(this.size, offset - head + unitBytes);
    const hostOffset = dataStart(this.size) + offset;
    const tail = unitEnd - offset - part;
    const storage = this.#storage;
    return { storage, guestOffset: offset, length: part, hostOffset, head, tail, fresh: false };
  }

  commit({ guestOffset }: Placement): void {
    this.#states[Math.floor(guestOffset / unitBytes)] = inData;
    this.#dirty = true;
  }

  abort(): void {
    // Every unit has its own place: there is nothing to give back.
  }

  unmap(offset: number, length: number): void {
    this.#states.fill(isZero, offset / unitBytes, Math.ceil((offset + length) / unitBytes));
    this.#dirty = true;
  }

  async flush(): Promise<void> {
    await this.#storage.flush();
    if (!this.#dirty) return;
    this.#dirty = false;
    try {
      await this.#storage.write(headerBytes, this.#states.slice(), 'mapping');
      await this.#storage.flush();
    } catch (error) {
      this.#dirty = true;
      throw error;
    }
  }

  async check(): Promise<CheckReport> {
    const allocatedBytes = this.#states.filter((state) => state === inData).length * unitBytes;
    const wrong = this.#states.some((state) => state > isZero) ? 1 : 0;
    const imageEndBytes = this.#storage.size();
    return { corruptions: wrong, leaks: 0, repaired: 0, findings: [], allocatedBytes, imageEndBytes };
  }

  async releaseBacking(): Promise<void> {
    if (this.#backing !== undefined) await this.changeBacking(undefined, undefined);
  }

  /** The map is durable first; the header is one sector. */
  async changeBacking(reference: BackingReference | undefined, backing: Backing | undefined): Promise<void> {
    await this.flush();
    const header = { size: this.size, backing: recorded(reference) };
    await this.#storage.write(0, encodeHeader(header), 'header');
    await this.#storage.flush();
    const before = this.#backing;
    this.#header = header;
    this.#backing = backing;
    await before?.close();
  }

  async empty(): Promise<void> {
    this.#states.fill(0);
    this.#dirty = true;
    await this.flush();
  }

  info(): ImageInfo {
    const { size } = this;
    const files = [this.#storage.name];
    const file = this.#header.backing.split(':')[1];
    const common = {
      format: 'mapping',
      size,
      unitBytes,
      files,
      storageBytes: this.#storage.size(),
      details: {},
    };
    return file === undefined ? common : { ...common, backing: { file } };
  }

  stats(): { residentMetadataBytes: number } {
    return { residentMetadataBytes: this.#states.length };
  }

  async close(): Promise<void> {
    try {
      if (!this.#storage.readOnly) await this.flush();
    } finally {
      await this.#storage.close();
      await this.#backing?.close();
    }
  }
}

async function openOn(storage: Storage, context: OpenContext): Promise<DriverImage> {
  const header = await readHeader(storage);
  const states = new Uint8Array(Math.ceil(header.size / unitBytes));
  await storage.read(headerBytes, states, 'mapping');
  const [format, file] = header.backing.split(':');
  if (file === undefined || format === undefined) return new MappingImage(storage, header, states, undefined);
  const reference = format === '' ? { file } : { file, format };
  return new MappingImage(storage, header, states, await context.openBacking(reference, 'header.backing'));
}

export const mapping: BlockDriver = {
  name: 'mapping',
  capabilities,
  options: {},
  openOptions: {},

  probe(head: Uint8Array): number {
    return magic.every((byte, index) => head[index] === byte) ? 100 : 0;
  },

  async create(folder: StorageFolder, file: string, { size, backing }: CreateRequest): Promise<void> {
    const storage = await folder.open(file, { readOnly: false, lock: 'exclusive' });
    try {
      await storage.write(0, encodeHeader({ size, backing: recorded(backing) }), 'header');
      await storage.truncate(dataStart(size));
      await storage.flush();
    } finally {
      await storage.close();
    }
  },

  async measure({ size }: MeasureRequest): Promise<Measurement> {
    const bytes = dataStart(size) + Math.ceil(size / unitBytes) * unitBytes;
    return { requiredBytes: bytes, fullyAllocatedBytes: bytes };
  },

  async open(folder: StorageFolder, file: string, context: OpenContext): Promise<DriverImage> {
    const storage = await folder.open(file, { readOnly: context.readOnly, lock: context.lock });
    try {
      return await openOn(storage, context);
    } catch (error) {
      await storage.close();
      throw error;
    }
  },
};
