import {
  CowlabError,
  type LockMode,
  MemoryFolder,
  type Storage,
  type StorageFolder,
  type StorageOpenOptions,
  type StorageStatus,
} from '@cowlab/core';

/*
 * A folder of devices: files whose length is given (`fixedSize`), in memory. What a file would forget a device keeps:
 * `truncate` to less leaves what is there, and what was discarded holds something else afterwards.
 */

const DEVICE_BYTES = 64 * 1024 * 1024;
/** In the place of what was discarded. */
const LEFTOVER = 0xd5;
/** So much of a discarded range is spoiled; a test needs no more. */
const SPOILED_BYTES = 4 * 1024 * 1024;

class DeviceStorage implements Storage {
  readonly fixedSize = true;
  readonly #inner: Storage;

  constructor(inner: Storage) {
    this.#inner = inner;
  }

  get name(): string {
    return this.#inner.name;
  }

  get readOnly(): boolean {
    return this.#inner.readOnly;
  }

  size(): number {
    return DEVICE_BYTES;
  }

  read(offset: number, target: Uint8Array): void {
    void this.#inner.read(offset, target);
  }

  write(offset: number, source: Uint8Array): void {
    this.#assertInside(offset + source.length);
    void this.#inner.write(offset, source);
  }

  zero(offset: number, length: number): void {
    this.#assertInside(offset + length);
    void this.#inner.zero(offset, length);
  }

  discard(offset: number, length: number): void {
    void this.#inner.discard(offset, length);
    const spoiled = Math.min(length, DEVICE_BYTES - offset, SPOILED_BYTES);
    if (spoiled > 0) void this.#inner.write(offset, new Uint8Array(spoiled).fill(LEFTOVER));
  }

  allocate(offset: number, length: number): void {
    this.#assertInside(offset + length);
    void this.#inner.allocate(offset, length);
  }

  flush(): void {
    void this.#inner.flush();
  }

  truncate(length: number): void {
    this.#assertInside(length);
    // Refused where a change would be.
    void this.#inner.truncate(DEVICE_BYTES);
  }

  status(offset: number, length: number): StorageStatus | Promise<StorageStatus> {
    return this.#inner.status(offset, length);
  }

  lock(mode: LockMode): void {
    void this.#inner.lock(mode);
  }

  close(): void {
    void this.#inner.close();
  }

  #assertInside(end: number): void {
    if (end <= DEVICE_BYTES) return;
    const message = `${this.name}: the device ends at ${DEVICE_BYTES}, not at ${end}`;
    throw new CowlabError('ERR_NO_SPACE', message, { file: this.name, offset: end });
  }
}

/** As `MemoryFolder`, but every file is a device, which reads as zeros when it is made. */
export class DeviceFolder extends MemoryFolder implements StorageFolder {
  override async open(name: string, options: StorageOpenOptions): Promise<Storage> {
    return new DeviceStorage(await super.open(name, options));
  }

  override async create(name: string): Promise<Storage> {
    const storage = await super.create(name);
    await storage.truncate(DEVICE_BYTES);
    return new DeviceStorage(storage);
  }
}
