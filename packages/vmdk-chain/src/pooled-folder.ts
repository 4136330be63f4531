import path from 'node:path';
import {
  type Awaitable,
  corrupt,
  CowlabError,
  type LockMode,
  type Purpose,
  type Storage,
  type StorageFolder,
  type StorageOpenOptions,
  type StorageStatus,
} from '@cowlab/core';

/*
 * Files of a long chain, of which only some are open. A storage that is only read gives its descriptor up when too many
 * are open, and takes one again when it is asked for something:
 *
 *   a disk's own file         stays open: its lock keeps others away from the whole chain
 *   opened for writing        stays open; a reader from the moment its lock becomes a reader's (a disk's file that has
 *                             become a snapshot's)
 *   opened for reading        open, or resting: no descriptor and no lock
 *   a name that is gone       stays open: nobody could open it again. A rename moves the name along, a link adds one
 *
 * While a file rests, others may write to it. Whoever does changes its CID first, so the CID is looked at before a rest
 * and after it. Which one rests is chosen by a hand that goes round and passes whoever was used since it last came by.
 */

/** Reads what tells one content of a file from another; undefined where it has none. */
type Mark = (storage: Storage) => Promise<number | undefined>;

class PooledStorage implements Storage {
  readonly readOnly: boolean;
  readonly fixedSize: boolean;
  readonly #pool: PooledFolder;
  #names: readonly string[];
  #inner: Storage | undefined;
  #isReader: boolean;
  #lock: LockMode;
  #size: number;
  #mark: number | undefined;
  #waking: Promise<Storage> | undefined;
  /** Calls under way. */
  #busy = 0;
  #isClosed = false;
  /** Since the hand came by. */
  wasUsed = true;

  constructor(pool: PooledFolder, name: string, inner: Storage, lock: LockMode) {
    this.#pool = pool;
    this.#names = [name];
    this.#inner = inner;
    this.readOnly = inner.readOnly;
    this.fixedSize = inner.fixedSize === true;
    this.#isReader = inner.readOnly;
    this.#lock = lock;
    this.#size = inner.size();
  }

  get name(): string {
    return this.#names[0] ?? this.#inner?.name ?? '';
  }

  get isOpen(): boolean {
    return this.#inner !== undefined;
  }

  /** May do without its descriptor now. */
  get canRest(): boolean {
    return this.#inner !== undefined && this.#isReader && this.#busy === 0 && this.#names.length > 0;
  }

  has(name: string): boolean {
    return this.#names.includes(name);
  }

  renamed(from: string, to: string | undefined): void {
    const others = this.#names.filter((name) => name !== from);
    this.#names = to === undefined ? others : [to, ...others];
  }

  linked(name: string): void {
    this.#names = [...this.#names, name];
  }

  /** Keeps its descriptor and its lock, as the file of a disk does; links rest. */
  async pin(): Promise<void> {
    this.#isReader = false;
    if (this.#inner === undefined) await this.status(0, 1);
  }

  /** Somebody of this process writes to the file: what its mark was says nothing. */
  forgetMark(): void {
    this.#mark = undefined;
  }

  async rest(): Promise<void> {
    const inner = this.#inner;
    if (inner === undefined) return;
    const mark = await this.#pool.mark(inner);
    // Who was used meanwhile, or was closed, is left alone.
    if (!this.canRest || this.#inner !== inner) return;
    this.#mark = mark;
    this.#size = inner.size();
    this.#inner = undefined;
    this.#pool.openCount--;
    await inner.close();
  }

  size(): number {
    return this.#inner?.size() ?? this.#size;
  }

  read(offset: number, target: Uint8Array, purpose?: Purpose): Awaitable<void> {
    this.wasUsed = true;
    if (this.#inner === undefined) return this.#awake((inner) => inner.read(offset, target, purpose));
    return this.#counted(this.#inner.read(offset, target, purpose));
  }

  status(offset: number, length: number): Awaitable<StorageStatus> {
    this.wasUsed = true;
    if (this.#inner === undefined) return this.#awake((inner) => inner.status(offset, length));
    return this.#counted(this.#inner.status(offset, length));
  }

  write(offset: number, source: Uint8Array, purpose?: Purpose): Awaitable<void> {
    return this.#writer.write(offset, source, purpose);
  }

  zero(offset: number, length: number, purpose?: Purpose): Awaitable<void> {
    return this.#writer.zero(offset, length, purpose);
  }

  discard(offset: number, length: number, purpose?: Purpose): Awaitable<void> {
    return this.#writer.discard(offset, length, purpose);
  }

  allocate(...range: Parameters<Storage['allocate']>): ReturnType<Storage['allocate']> {
    return this.#writer.allocate(...range);
  }

  flush(): Awaitable<void> {
    // Who rests has nothing to flush.
    return this.#isClosed ? this.#writer.flush() : this.#inner?.flush();
  }

  truncate(length: number): Awaitable<void> {
    return this.#writer.truncate(length);
  }

  lock(mode: LockMode): Awaitable<void> {
    const changed = this.#inner?.lock(mode);
    const done = (): void => {
      if (this.#lock === 'exclusive' && mode === 'shared') this.#isReader = true;
      this.#lock = mode;
    };
    return changed instanceof Promise ? changed.then(done) : done();
  }

  close(): Awaitable<void> {
    if (!this.#isClosed) this.#pool.forget(this);
    this.#isClosed = true;
    return this.#inner?.close();
  }

  /** For calls that readers do not make. */
  get #writer(): Storage {
    if (this.#inner !== undefined) return this.#inner;
    throw new CowlabError('ERR_READ_ONLY', `${this.name}: storage is open read-only`, { file: this.name });
  }

  #counted<T>(result: Awaitable<T>): Awaitable<T> {
    if (!(result instanceof Promise)) return result;
    this.#busy++;
    return result.finally(() => this.#busy--);
  }

  async #awake<T>(run: (inner: Storage) => Awaitable<T>): Promise<T> {
    this.#busy++;
    try {
      this.#waking ??= this.#wake().finally(() => (this.#waking = undefined));
      return await run(await this.#waking);
    } finally {
      this.#busy--;
    }
  }

  async #wake(): Promise<Storage> {
    if (this.#isClosed) {
      throw new CowlabError('ERR_CLOSED', `${this.name}: storage is closed`, { file: this.name });
    }
    const inner = await this.#pool.openAgain(this.name, this.#lock);
    try {
      const found = this.#mark === undefined ? undefined : await this.#pool.mark(inner);
      if (found !== this.#mark) {
        const problem = 'was changed while it was in a chain';
        throw corrupt(this.name, 'descriptor.CID', problem, { value: found ?? 0 });
      }
    } catch (error) {
      await inner.close();
      throw error;
    }
    if (this.#isClosed) {
      await inner.close();
    } else {
      this.#inner = inner;
      this.#pool.openCount++;
    }
    return inner;
  }
}

const pools = new WeakMap<StorageFolder, PooledFolder>();

export class PooledFolder implements StorageFolder {
  readonly mark: Mark;
  readonly #inner: StorageFolder;
  readonly #storages = new Set<PooledStorage>();
  /** Links that an image above them is about to open. */
  readonly #expected = new Set<{ readonly file: string }>();
  #hand: IterableIterator<PooledStorage> | undefined;
  #limit: number;
  /** Goes up with every change of a chain: who has merged what links say must do so again. */
  epoch = 0;
  /** Storages with a descriptor. */
  openCount = 0;

  private constructor(inner: StorageFolder, limit: number, mark: Mark) {
    this.#inner = inner;
    this.#limit = limit;
    this.mark = mark;
  }

  /** The one of a folder: links of a chain are opened one by one, and share it. */
  static of(folder: StorageFolder, limit: number, mark: Mark): PooledFolder {
    if (folder instanceof PooledFolder) return folder;
    const pool = pools.get(folder) ?? new PooledFolder(folder, limit, mark);
    pool.#limit = limit;
    pools.set(folder, pool);
    return pool;
  }

  get location(): string {
    return this.#inner.location;
  }

  async open(name: string, options: StorageOpenOptions): Promise<Storage> {
    await this.#makeRoom();
    return this.#add(name, await this.#inner.open(name, options), options.lock ?? 'none');
  }

  async create(name: string): Promise<Storage> {
    return this.#add(name, await this.#inner.create(name), 'none');
  }

  async openAgain(name: string, lock: LockMode): Promise<Storage> {
    await this.#makeRoom();
    return this.#inner.open(name, { readOnly: true, lock });
  }

  /** Runs `open`, which opens the link `file` by way of core. */
  async openingLink<T>(file: string, open: () => Promise<T>): Promise<T> {
    const expected = { file };
    this.#expected.add(expected);
    try {
      return await open();
    } finally {
      this.#expected.delete(expected);
    }
  }

  /** What was opened just now keeps its descriptor, unless it is a link. */
  async opened(file: string, storage: Storage | undefined): Promise<void> {
    for (const expected of this.#expected) {
      if (expected.file !== file) continue;
      this.#expected.delete(expected);
      return;
    }
    if (storage instanceof PooledStorage) await storage.pin();
  }

  exists(name: string): Promise<boolean> {
    return this.#inner.exists(name);
  }

  async remove(name: string): Promise<void> {
    await this.#hold(name);
    await this.#inner.remove(name);
    for (const storage of this.#named(name)) storage.renamed(path.normalize(name), undefined);
  }

  async rename(from: string, to: string): Promise<void> {
    await this.#hold(to);
    await this.#inner.rename(from, to);
    const [moved, replaced] = [this.#named(from), this.#named(to)];
    for (const storage of replaced) storage.renamed(path.normalize(to), undefined);
    for (const storage of moved) storage.renamed(path.normalize(from), path.normalize(to));
  }

  async link(from: string, to: string): Promise<void> {
    await this.#inner.link(from, to);
    for (const storage of this.#named(from)) storage.linked(path.normalize(to));
  }

  list(): Promise<string[]> {
    return this.#inner.list();
  }

  flush(): Promise<void> {
    return this.#inner.flush();
  }

  identify(name: string): Promise<string> {
    return this.#inner.identify(name);
  }

  forget(storage: PooledStorage): void {
    this.#storages.delete(storage);
    if (storage.isOpen) this.openCount--;
  }

  #named(name: string): PooledStorage[] {
    const wanted = path.normalize(name);
    return [...this.#storages].filter((storage) => storage.has(wanted));
  }

  /** A file whose last name is about to go must be open. */
  async #hold(name: string): Promise<void> {
    for (const storage of this.#named(name)) {
      if (!storage.isOpen) await storage.status(0, 1);
    }
  }

  #add(name: string, inner: Storage, lock: LockMode): Storage {
    const wanted = path.normalize(name);
    if (!inner.readOnly) for (const storage of this.#named(wanted)) storage.forgetMark();
    const storage = new PooledStorage(this, wanted, inner, lock);
    this.#storages.add(storage);
    this.openCount++;
    return storage;
  }

  /** One more may be open. All of them stay when none can rest. */
  async #makeRoom(): Promise<void> {
    let left = 2 * this.#storages.size;
    while (this.openCount >= this.#limit && left-- > 0) {
      const next = (this.#hand ??= this.#storages.values()).next();
      if (next.done === true) {
        this.#hand = undefined;
        continue;
      }
      const { value: storage } = next;
      if (!storage.canRest) continue;
      if (storage.wasUsed) storage.wasUsed = false;
      else await storage.rest();
    }
  }
}
