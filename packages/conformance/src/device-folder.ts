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
 * A folder of devices: files whose length is given (`fixedSize`), in memory. Where a file would have an end and zeros, a
 * device has something: what was discarded, and what lies behind a length that it was cut to, is spoiled.
 */

const DEVICE_BYTES = 64 * 1024 * 1024;
const LEFTOVER = 0xd5;
/** So much of a range is spoiled at most; a test needs no more. */
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
    this.#spoil(offset, length);
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
    this.#spoil(length, DEVICE_BYTES);
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

  /** Writes, and so is refused where a change would be. */
  #spoil(offset: number, length: number): void {
    const bytes = Math.max(0, Math.min(length, DEVICE_BYTES - offset, SPOILED_BYTES));
    void this.#inner.write(offset, new Uint8Array(bytes).fill(LEFTOVER));
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
