import type {
  Awaitable,
  LockMode,
  Purpose,
  Storage,
  StorageFolder,
  StorageOpenOptions,
  StorageStatus,
} from '@cowlab/core';

/** The calls of storages and folders that can be intercepted. */
export type StorageMethod =
  | 'read'
  | 'write'
  | 'zero'
  | 'discard'
  | 'allocate'
  | 'flush'
  | 'truncate'
  | 'status'
  | 'close';
export type FolderMethod =
  | 'open'
  | 'create'
  | 'exists'
  | 'remove'
  | 'rename'
  | 'link'
  | 'list'
  | 'flushFolder';

/** One call on its way to the storage or folder below. */
export interface StorageCall {
  readonly method: StorageMethod | FolderMethod;
  /** The file's name as its folder knows it; empty for `list` and `flushFolder`. */
  readonly file: string;
  /** Bytes; 0 where the method has none. The new length for `truncate`. */
  readonly offset: number;
  readonly length: number;
  /** `data` for an untagged call. */
  readonly purpose: Purpose;
  /** For `write`: the bytes, which are the caller's again once the call is over. */
  readonly source?: Uint8Array;
  /** For `write`: passes only the first `length` bytes on. */
  readonly writePart?: (length: number) => Awaitable<void>;
  /** For calls on a storage: the one below. It tells files apart whose names have moved. */
  readonly storage?: Storage;
  /** For `rename` and `link`: the new name. */
  readonly to?: string;
}

/**
 * A folder that hands every call on it, and on the storages it opens, to `intercept`, which decides when,
 * whether and how it goes on. What is below stays usable beside it.
 */
export abstract class InterceptedFolder implements StorageFolder {
  readonly inner: StorageFolder;
  readonly #open = new Set<Storage>();

  constructor(inner: StorageFolder) {
    this.inner = inner;
  }

  /** `run` makes the call below; it may be run late, once, or not at all. */
  abstract intercept<T>(call: StorageCall, run: () => Awaitable<T>): Awaitable<T>;

  get location(): string {
    return this.inner.location;
  }

  async open(name: string, options: StorageOpenOptions): Promise<Storage> {
    const storage = await this.#pass('open', name, () => this.inner.open(name, options));
    return this.#track(storage);
  }

  async create(name: string): Promise<Storage> {
    return this.#track(await this.#pass('create', name, () => this.inner.create(name)));
  }

  /** The names of storages that were opened here and are not closed, one for each opening. */
  get openFiles(): string[] {
    return [...this.#open].map((storage) => storage.name);
  }

  async exists(name: string): Promise<boolean> {
    return this.#pass('exists', name, () => this.inner.exists(name));
  }

  async remove(name: string): Promise<void> {
    return this.#pass('remove', name, () => this.inner.remove(name));
  }

  async rename(from: string, to: string): Promise<void> {
    return this.#pass('rename', from, () => this.inner.rename(from, to), to);
  }

  async link(from: string, to: string): Promise<void> {
    return this.#pass('link', from, () => this.inner.link(from, to), to);
  }

  async list(): Promise<string[]> {
    return this.#pass('list', '', () => this.inner.list());
  }

  async flush(): Promise<void> {
    return this.#pass('flushFolder', '', () => this.inner.flush());
  }

  /** Names are identified without being intercepted: nothing is read or written. */
  identify(name: string): Promise<string> {
    return this.inner.identify(name);
  }

  #track(inner: Storage): Storage {
    const storage: Storage = new InterceptedStorage(inner, this, () => this.#open.delete(storage));
    this.#open.add(storage);
    return storage;
  }

  #pass<T>(method: FolderMethod, file: string, run: () => Promise<T>, to?: string): Awaitable<T> {
    const call: StorageCall = { method, file, offset: 0, length: 0, purpose: 'data' };
    return this.intercept(to === undefined ? call : { ...call, to }, run);
  }
}

class InterceptedStorage implements Storage {
  readonly #inner: Storage;
  readonly #folder: InterceptedFolder;
  readonly #closed: () => void;

  constructor(inner: Storage, folder: InterceptedFolder, closed: () => void) {
    this.#inner = inner;
    this.#folder = folder;
    this.#closed = closed;
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
    const run = (): Awaitable<void> => this.#inner.read(offset, target, purpose);
    return this.#pass('read', offset, target.length, purpose, run);
  }

  write(offset: number, source: Uint8Array, purpose?: Purpose): Awaitable<void> {
    const writePart = (length: number): Awaitable<void> =>
      this.#inner.write(offset, source.subarray(0, length), purpose);
    const run = (): Awaitable<void> => writePart(source.length);
    return this.#pass('write', offset, source.length, purpose, run, { source, writePart });
  }

  zero(offset: number, length: number, purpose?: Purpose): Awaitable<void> {
    return this.#pass('zero', offset, length, purpose, () => this.#inner.zero(offset, length, purpose));
  }

  discard(offset: number, length: number, purpose?: Purpose): Awaitable<void> {
    return this.#pass('discard', offset, length, purpose, () => this.#inner.discard(offset, length, purpose));
  }

  allocate(offset: number, length: number, purpose?: Purpose): Awaitable<void> {
    const run = (): Awaitable<void> => this.#inner.allocate(offset, length, purpose);
    return this.#pass('allocate', offset, length, purpose, run);
  }

  flush(): Awaitable<void> {
    return this.#pass('flush', 0, 0, undefined, () => this.#inner.flush());
  }

  truncate(length: number): Awaitable<void> {
    return this.#pass('truncate', 0, length, undefined, () => this.#inner.truncate(length));
  }

  status(offset: number, length: number): Awaitable<StorageStatus> {
    return this.#pass('status', offset, length, undefined, () => this.#inner.status(offset, length));
  }

  /** Locks change no byte, and are not intercepted. */
  lock(mode: LockMode): Awaitable<void> {
    return this.#inner.lock(mode);
  }

  close(): Awaitable<void> {
    this.#closed();
    return this.#pass('close', 0, 0, undefined, () => this.#inner.close());
  }

  #pass<T>(
    method: StorageMethod,
    offset: number,
    length: number,
    purpose: Purpose | undefined,
    run: () => Awaitable<T>,
    writing?: Pick<StorageCall, 'source' | 'writePart'>,
  ): Awaitable<T> {
    const storage = this.#inner;
    const call = { method, file: this.name, offset, length, purpose: purpose ?? 'data', storage };
    return this.#folder.intercept(writing === undefined ? call : { ...call, ...writing }, run);
  }
}
