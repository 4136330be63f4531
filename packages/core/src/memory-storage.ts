import { posix } from 'node:path';
import { CowlabError } from './errors.ts';
import { lockedBy } from './file-lock.ts';
import type { LockMode, Storage, StorageFolder, StorageOpenOptions, StorageStatus } from './storage.ts';

/** Bytes of one page; pages that were never written take no memory, so that a sparse terabyte fits. */
const PAGE_BYTES = 64 * 1024;

/** The contents of a memory file; several storages may be open on it. */
class MemoryFile {
  size: number = 0;
  readonly pages: Map<number, Uint8Array> = new Map();
  readonly locks: Map<Storage, 'shared' | 'exclusive'> = new Map();
}

/** A storage in memory, sparse by pages of 64 KiB. */
export class MemoryStorage implements Storage {
  readonly name: string;
  readonly readOnly: boolean;
  readonly #file: MemoryFile;
  #open = true;

  constructor(name = 'memory', file: MemoryFile = new MemoryFile(), readOnly = false) {
    this.name = name;
    this.readOnly = readOnly;
    this.#file = file;
  }

  size(): number {
    return this.#file.size;
  }

  read(offset: number, target: Uint8Array): void {
    this.#assertOpen();
    this.#eachPage(offset, target.length, (index, within, done, length) => {
      const page = this.#file.pages.get(index);
      if (page === undefined) target.fill(0, done, done + length);
      else target.set(page.subarray(within, within + length), done);
    });
  }

  write(offset: number, source: Uint8Array): void {
    this.#assertWritable();
    this.#eachPage(offset, source.length, (index, within, done, length) => {
      let page = this.#file.pages.get(index);
      if (page === undefined) {
        page = new Uint8Array(PAGE_BYTES);
        this.#file.pages.set(index, page);
      }
      page.set(source.subarray(done, done + length), within);
    });
    this.#file.size = Math.max(this.#file.size, offset + source.length);
  }

  zero(offset: number, length: number): void {
    this.#assertWritable();
    this.#clear(offset, length);
    this.#file.size = Math.max(this.#file.size, offset + length);
  }

  discard(offset: number, length: number): void {
    this.#assertWritable();
    this.#clear(offset, Math.min(length, Math.max(0, this.#file.size - offset)));
  }

  allocate(offset: number, length: number): void {
    this.#assertWritable();
    this.#file.size = Math.max(this.#file.size, offset + length);
  }

  flush(): void {
    this.#assertOpen();
  }

  truncate(length: number): void {
    this.#assertWritable();
    if (length < this.#file.size) this.#clear(length, this.#file.size - length);
    this.#file.size = length;
  }

  status(offset: number, length: number): StorageStatus {
    this.#assertOpen();
    const index = Math.floor(offset / PAGE_BYTES);
    const data = this.#file.pages.has(index);
    let end = (index + 1) * PAGE_BYTES;
    while (end < offset + length && this.#file.pages.has(end / PAGE_BYTES) === data) end += PAGE_BYTES;
    return { data, length: Math.min(length, end - offset) };
  }

  lock(mode: LockMode): void {
    this.#assertOpen();
    const { locks } = this.#file;
    for (const [other, held] of locks) {
      if (other === this || mode === 'none' || (mode === 'shared' && held === 'shared')) continue;
      throw lockedBy(this.name, { wants: mode, writes: held === 'exclusive', pid: process.pid });
    }
    if (mode === 'none') locks.delete(this);
    else locks.set(this, mode);
  }

  close(): void {
    this.#open = false;
    this.#file.locks.delete(this);
  }

  #clear(offset: number, length: number): void {
    const touched = Math.ceil(length / PAGE_BYTES) + 1;
    if (touched > this.#file.pages.size) {
      for (const index of this.#file.pages.keys()) {
        const start = Math.max(offset, index * PAGE_BYTES);
        const end = Math.min(offset + length, (index + 1) * PAGE_BYTES);
        if (start < end) this.#clearPage(index, start - index * PAGE_BYTES, end - start);
      }
      return;
    }
    this.#eachPage(offset, length, (index, within, _done, part) => this.#clearPage(index, within, part));
  }

  #clearPage(index: number, within: number, length: number): void {
    if (length === PAGE_BYTES) this.#file.pages.delete(index);
    else this.#file.pages.get(index)?.fill(0, within, within + length);
  }

  #eachPage(
    offset: number,
    length: number,
    visit: (index: number, within: number, done: number, length: number) => void,
  ): void {
    let done = 0;
    while (done < length) {
      const at = offset + done;
      const index = Math.floor(at / PAGE_BYTES);
      const within = at - index * PAGE_BYTES;
      const part = Math.min(PAGE_BYTES - within, length - done);
      visit(index, within, done, part);
      done += part;
    }
  }

  #assertOpen(): void {
    if (!this.#open)
      throw new CowlabError('ERR_CLOSED', `${this.name}: storage is closed`, { file: this.name });
  }

  #assertWritable(): void {
    this.#assertOpen();
    if (this.readOnly) {
      throw new CowlabError('ERR_READ_ONLY', `${this.name}: storage is open read-only`, { file: this.name });
    }
  }
}

/** A folder in memory. A file lives until its last name is removed and its last storage is let go. */
export class MemoryFolder implements StorageFolder {
  readonly location = 'memory:';
  /** By the shortest way of writing the name. */
  readonly #files = new Map<string, MemoryFile>();

  async open(name: string, options: StorageOpenOptions): Promise<Storage> {
    const storage = new MemoryStorage(name, this.#get(name), options.readOnly);
    storage.lock(options.lock ?? 'none');
    return storage;
  }

  async create(name: string): Promise<Storage> {
    const file = new MemoryFile();
    this.#add(name, file);
    return new MemoryStorage(name, file);
  }

  async exists(name: string): Promise<boolean> {
    return this.#files.has(posix.normalize(name));
  }

  async remove(name: string): Promise<void> {
    this.#get(name);
    this.#files.delete(posix.normalize(name));
  }

  async rename(from: string, to: string): Promise<void> {
    const file = this.#get(from);
    this.#files.delete(posix.normalize(from));
    this.#files.set(posix.normalize(to), file);
  }

  async link(from: string, to: string): Promise<void> {
    this.#add(to, this.#get(from));
  }

  async list(): Promise<string[]> {
    return [...this.#files.keys()].filter((name) => !name.includes('/')).toSorted();
  }

  async flush(): Promise<void> {
    // Memory has no power to lose.
  }

  async identify(name: string): Promise<string> {
    return posix.isAbsolute(name) ? posix.normalize(name) : posix.join(this.location, name);
  }

  #get(name: string): MemoryFile {
    const file = this.#files.get(posix.normalize(name));
    if (file === undefined) {
      throw new CowlabError('ERR_NOT_FOUND', `${name}: no such file`, { file: name });
    }
    return file;
  }

  #add(name: string, file: MemoryFile): void {
    const plain = posix.normalize(name);
    if (this.#files.has(plain)) {
      throw new CowlabError('ERR_EXISTS', `${name}: file exists`, { file: name });
    }
    this.#files.set(plain, file);
  }
}
