import type { Awaitable } from './awaitable.ts';
import type { SimulatedDevice } from './simulated-device.ts';
import type {
  LockMode,
  Purpose,
  Storage,
  StorageFolder,
  StorageOpenOptions,
  StorageStatus,
} from './storage.ts';

/*
 * A folder whose files lie on simulated devices: their bytes are those of another folder, their time is that of each
 * device. What is asked for does not depend on how long it takes, so one run of a workload times any number of them.
 */

/** Files lie so far from each other on the device, in the order in which they were first met. */
const FILE_SPACING_BYTES: number = 64 * 1024 ** 3;

class SimulatedStorage implements Storage {
  readonly #inner: Storage;
  readonly #devices: readonly SimulatedDevice[];
  readonly #base: number;

  constructor(inner: Storage, devices: readonly SimulatedDevice[], base: number) {
    this.#inner = inner;
    this.#devices = devices;
    this.#base = base;
  }

  get name(): string {
    return this.#inner.name;
  }

  get readOnly(): boolean {
    return this.#inner.readOnly;
  }

  get fixedSize(): boolean {
    return this.#inner.fixedSize === true;
  }

  size(): number {
    return this.#inner.size();
  }

  read(offset: number, target: Uint8Array, purpose?: Purpose): Awaitable<void> {
    for (const device of this.#devices) device.read(this.#base + offset, target.length);
    return this.#inner.read(offset, target, purpose);
  }

  write(offset: number, source: Uint8Array, purpose?: Purpose): Awaitable<void> {
    for (const device of this.#devices) device.write(this.#base + offset, source.length);
    return this.#inner.write(offset, source, purpose);
  }

  zero(offset: number, length: number, purpose?: Purpose): Awaitable<void> {
    for (const device of this.#devices) device.command();
    return this.#inner.zero(offset, length, purpose);
  }

  discard(offset: number, length: number, purpose?: Purpose): Awaitable<void> {
    for (const device of this.#devices) device.command();
    return this.#inner.discard(offset, length, purpose);
  }

  allocate(offset: number, length: number, purpose?: Purpose): Awaitable<void> {
    for (const device of this.#devices) device.command();
    return this.#inner.allocate(offset, length, purpose);
  }

  flush(): Awaitable<void> {
    for (const device of this.#devices) device.flush();
    return this.#inner.flush();
  }

  truncate(length: number): Awaitable<void> {
    for (const device of this.#devices) device.command();
    return this.#inner.truncate(length);
  }

  status(offset: number, length: number): Awaitable<StorageStatus> {
    return this.#inner.status(offset, length);
  }

  lock(mode: LockMode): Awaitable<void> {
    return this.#inner.lock(mode);
  }

  close(): Awaitable<void> {
    return this.#inner.close();
  }
}

export class SimulatedFolder implements StorageFolder {
  readonly devices: readonly SimulatedDevice[];
  readonly #inner: StorageFolder;
  readonly #bases = new Map<string, number>();
  #files = 0;

  constructor(inner: StorageFolder, devices: readonly SimulatedDevice[]) {
    this.#inner = inner;
    this.devices = devices;
  }

  get location(): string {
    return this.#inner.location;
  }

  async open(name: string, options: StorageOpenOptions): Promise<Storage> {
    return new SimulatedStorage(await this.#inner.open(name, options), this.devices, this.#baseOf(name));
  }

  async create(name: string): Promise<Storage> {
    this.#command();
    this.#bases.delete(name);
    return new SimulatedStorage(await this.#inner.create(name), this.devices, this.#baseOf(name));
  }

  exists(name: string): Promise<boolean> {
    return this.#inner.exists(name);
  }

  remove(name: string): Promise<void> {
    this.#command();
    return this.#inner.remove(name);
  }

  rename(from: string, to: string): Promise<void> {
    this.#command();
    this.#bases.set(to, this.#baseOf(from));
    return this.#inner.rename(from, to);
  }

  link(from: string, to: string): Promise<void> {
    this.#command();
    this.#bases.set(to, this.#baseOf(from));
    return this.#inner.link(from, to);
  }

  list(): Promise<string[]> {
    return this.#inner.list();
  }

  flush(): Promise<void> {
    for (const device of this.devices) device.flush();
    return this.#inner.flush();
  }

  identify(name: string): Promise<string> {
    return this.#inner.identify(name);
  }

  #command(): void {
    for (const device of this.devices) device.command();
  }

  /** Where the file of this name begins on the device. */
  #baseOf(name: string): number {
    let base = this.#bases.get(name);
    if (base === undefined) {
      base = this.#files * FILE_SPACING_BYTES;
      this.#files += 1;
      this.#bases.set(name, base);
    }
    return base;
  }
}
