import type { Awaitable } from './awaitable.ts';
import type {
  LockMode,
  Purpose,
  Storage,
  StorageFolder,
  StorageOpenOptions,
  StorageStatus,
} from './storage.ts';

/** Calls and bytes of one purpose. */
export interface PurposeCounts {
  reads: number;
  readBytes: number;
  writes: number;
  writtenBytes: number;
  zeroes: number;
  discards: number;
}

/** What reached the storages of a folder. `purposes` tells what for; flushes are of a whole storage. */
export interface StorageCounts {
  flushes: number;
  /** Operations on names: create, remove, rename, link, and flushes of the folder. */
  folderCalls: number;
  folderFlushes: number;
  readonly purposes: Readonly<Record<Purpose, PurposeCounts>>;
}

function noCounts(): PurposeCounts {
  return { reads: 0, readBytes: 0, writes: 0, writtenBytes: 0, zeroes: 0, discards: 0 };
}

function newCounts(): StorageCounts {
  return {
    flushes: 0,
    folderCalls: 0,
    folderFlushes: 0,
    purposes: {
      data: noCounts(),
      header: noCounts(),
      mapping: noCounts(),
      journal: noCounts(),
      refcount: noCounts(),
      snapshot: noCounts(),
    },
  };
}

/** Sums over all purposes. */
export function totalCounts(counts: StorageCounts): PurposeCounts {
  const total = noCounts();
  for (const one of Object.values(counts.purposes)) {
    for (const key of Object.keys(total) as (keyof PurposeCounts)[]) total[key] += one[key];
  }
  return total;
}

class CountingStorage implements Storage {
  readonly #inner: Storage;
  readonly #folder: CountingFolder;

  constructor(inner: Storage, folder: CountingFolder) {
    this.#inner = inner;
    this.#folder = folder;
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

  read(offset: number, target: Uint8Array, purpose: Purpose = 'data'): Awaitable<void> {
    const counts = this.#folder.counts.purposes[purpose];
    counts.reads++;
    counts.readBytes += target.length;
    this.#folder.onRead?.(purpose);
    return this.#inner.read(offset, target, purpose);
  }

  write(offset: number, source: Uint8Array, purpose: Purpose = 'data'): Awaitable<void> {
    const counts = this.#folder.counts.purposes[purpose];
    counts.writes++;
    counts.writtenBytes += source.length;
    return this.#inner.write(offset, source, purpose);
  }

  zero(offset: number, length: number, purpose: Purpose = 'data'): Awaitable<void> {
    this.#folder.counts.purposes[purpose].zeroes++;
    return this.#inner.zero(offset, length, purpose);
  }

  discard(offset: number, length: number, purpose: Purpose = 'data'): Awaitable<void> {
    this.#folder.counts.purposes[purpose].discards++;
    return this.#inner.discard(offset, length, purpose);
  }

  /** Not counted: it moves no bytes. */
  allocate(offset: number, length: number, purpose: Purpose = 'data'): Awaitable<void> {
    return this.#inner.allocate(offset, length, purpose);
  }

  flush(): Awaitable<void> {
    this.#folder.counts.flushes++;
    return this.#inner.flush();
  }

  truncate(length: number): Awaitable<void> {
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

/** A folder that counts every call to its storages, over all of them. */
export class CountingFolder implements StorageFolder {
  readonly #inner: StorageFolder;
  counts: StorageCounts = newCounts();
  /** Hears of every read before it is made: for whoever asks when, and not only how often. */
  onRead: ((purpose: Purpose) => void) | undefined = undefined;

  constructor(inner: StorageFolder) {
    this.#inner = inner;
  }

  get location(): string {
    return this.#inner.location;
  }

  /** Starts from zero; returns what was counted until now. */
  reset(): StorageCounts {
    const before = this.counts;
    this.counts = newCounts();
    return before;
  }

  async open(name: string, options: StorageOpenOptions): Promise<Storage> {
    return new CountingStorage(await this.#inner.open(name, options), this);
  }

  async create(name: string): Promise<Storage> {
    this.counts.folderCalls++;
    return new CountingStorage(await this.#inner.create(name), this);
  }

  exists(name: string): Promise<boolean> {
    return this.#inner.exists(name);
  }

  remove(name: string): Promise<void> {
    this.counts.folderCalls++;
    return this.#inner.remove(name);
  }

  rename(from: string, to: string): Promise<void> {
    this.counts.folderCalls++;
    return this.#inner.rename(from, to);
  }

  link(from: string, to: string): Promise<void> {
    this.counts.folderCalls++;
    return this.#inner.link(from, to);
  }

  list(): Promise<string[]> {
    return this.#inner.list();
  }

  flush(): Promise<void> {
    this.counts.folderFlushes++;
    return this.#inner.flush();
  }

  identify(name: string): Promise<string> {
    return this.#inner.identify(name);
  }
}
