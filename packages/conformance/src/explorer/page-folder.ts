import { createHash } from 'node:crypto';
import { posix } from 'node:path';
import { CowlabError, type Storage, type StorageFolder, type StorageStatus } from '@cowlab/core';

/*
 * Files in memory that are copied for nothing and compared for little: a copy shares every page until one of the
 * two writes to it, and a page remembers its digest until it is written. The explorer makes thousands of states
 * that differ in a few sectors; this keeps each of them at the price of those.
 */

const pageBytes = 4096;

interface Page {
  readonly bytes: Uint8Array;
  digest: string | undefined;
}

/** The contents of a file; several storages may be open on it. */
export class PageFile {
  #size = 0;
  /** A page that was never written is undefined, and reads as zeros. */
  #pages: (Page | undefined)[] = [];
  /** The pages that no copy shares. */
  readonly #own = new Set<number>();

  get size(): number {
    return this.#size;
  }

  copy(): PageFile {
    const copy = new PageFile();
    copy.#size = this.#size;
    copy.#pages = this.#pages.slice();
    this.#own.clear();
    return copy;
  }

  /** Equal for equal contents, and for no others. */
  digest(): string {
    const parts: string[] = [String(this.#size)];
    for (let index = 0; index * pageBytes < this.#size; index += 1) parts.push(digestOf(this.#pages[index]));
    return parts.join();
  }

  read(offset: number, target: Uint8Array): void {
    this.#each(offset, target.length, (index, within, done, length) => {
      const page = this.#pages[index];
      if (page === undefined) target.fill(0, done, done + length);
      else target.set(page.bytes.subarray(within, within + length), done);
    });
  }

  write(offset: number, source: Uint8Array): void {
    this.#each(offset, source.length, (index, within, done, length) => {
      this.#writable(index).set(source.subarray(done, done + length), within);
    });
    this.#size = Math.max(this.#size, offset + source.length);
  }

  /** Zeros; does not change the size. */
  clear(offset: number, length: number): void {
    this.#each(offset, length, (index, within, _done, part) => {
      if (part === pageBytes) this.#pages[index] = undefined;
      else if (this.#pages[index] !== undefined) this.#writable(index).fill(0, within, within + part);
    });
  }

  resize(size: number): void {
    if (size < this.#size) this.clear(size, this.#size - size);
    this.#size = size;
  }

  status(offset: number, length: number): StorageStatus {
    const index = Math.floor(offset / pageBytes);
    const data = this.#pages[index] !== undefined;
    let end = index + 1;
    while (end * pageBytes < offset + length && (this.#pages[end] !== undefined) === data) end += 1;
    return { data, length: Math.min(length, end * pageBytes - offset) };
  }

  #writable(index: number): Uint8Array {
    const page = this.#pages[index];
    if (page !== undefined && this.#own.has(index)) {
      page.digest = undefined;
      return page.bytes;
    }
    const bytes = page === undefined ? new Uint8Array(pageBytes) : page.bytes.slice();
    this.#pages[index] = { bytes, digest: undefined };
    this.#own.add(index);
    return bytes;
  }

  #each(
    offset: number,
    length: number,
    visit: (index: number, within: number, done: number, length: number) => void,
  ): void {
    for (let done = 0; done < length; ) {
      const index = Math.floor((offset + done) / pageBytes);
      const within = offset + done - index * pageBytes;
      const part = Math.min(pageBytes - within, length - done);
      visit(index, within, done, part);
      done += part;
    }
  }
}

const zeroDigest: string = hash(new Uint8Array(pageBytes));

function hash(bytes: Uint8Array | string): string {
  return createHash('sha1').update(bytes).digest('base64');
}

function digestOf(page: Page | undefined): string {
  if (page === undefined) return zeroDigest;
  page.digest ??= hash(page.bytes);
  return page.digest;
}

class PageStorage implements Storage {
  readonly name: string;
  readonly readOnly: boolean;
  readonly file: PageFile;
  #open = true;

  constructor(name: string, file: PageFile, readOnly: boolean) {
    this.name = name;
    this.file = file;
    this.readOnly = readOnly;
  }

  size(): number {
    return this.file.size;
  }

  read(offset: number, target: Uint8Array): void {
    this.#assertOpen();
    this.file.read(offset, target);
  }

  write(offset: number, source: Uint8Array): void {
    this.#assertWritable();
    this.file.write(offset, source);
  }

  zero(offset: number, length: number): void {
    this.#assertWritable();
    this.file.clear(offset, length);
    if (offset + length > this.file.size) this.file.resize(offset + length);
  }

  discard(offset: number, length: number): void {
    this.#assertWritable();
    this.file.clear(offset, Math.min(length, Math.max(0, this.file.size - offset)));
  }

  allocate(offset: number, length: number): void {
    this.#assertWritable();
    if (offset + length > this.file.size) this.file.resize(offset + length);
  }

  flush(): void {
    this.#assertOpen();
  }

  truncate(length: number): void {
    this.#assertWritable();
    this.file.resize(length);
  }

  status(offset: number, length: number): StorageStatus {
    this.#assertOpen();
    return this.file.status(offset, length);
  }

  /** One explorer has one disk open at a time: there is nobody to keep away. */
  lock(): void {
    this.#assertOpen();
  }

  close(): void {
    this.#open = false;
  }

  #assertOpen(): void {
    const about = { file: this.name };
    if (!this.#open) throw new CowlabError('ERR_CLOSED', `${this.name}: storage is closed`, about);
  }

  #assertWritable(): void {
    this.#assertOpen();
    const about = { file: this.name };
    if (this.readOnly) throw new CowlabError('ERR_READ_ONLY', `${this.name}: open read-only`, about);
  }
}

/** A folder of such files. */
export class PageFolder implements StorageFolder {
  readonly location = 'memory:';
  readonly #files: Map<string, PageFile>;

  constructor(files: ReadonlyMap<string, PageFile> = new Map()) {
    this.#files = new Map(files);
  }

  /** Names of one file stay names of one file. */
  copy(): PageFolder {
    const copies = new Map<PageFile, PageFile>();
    const files = new Map<string, PageFile>();
    for (const [name, file] of this.#files) {
      const copy = copies.get(file) ?? file.copy();
      copies.set(file, copy);
      files.set(name, copy);
    }
    return new PageFolder(files);
  }

  /** Equal for folders of equal names and contents. */
  digest(): string {
    const names = [...this.#files].map(([name, file]) => `${name}\n${file.digest()}`);
    return hash(names.toSorted().join('\n'));
  }

  /** The files by their names. */
  get files(): ReadonlyMap<string, PageFile> {
    return this.#files;
  }

  async open(name: string, options: { readonly readOnly: boolean }): Promise<Storage> {
    return new PageStorage(name, this.#get(name), options.readOnly);
  }

  async create(name: string): Promise<Storage> {
    const file = new PageFile();
    this.#add(name, file);
    return new PageStorage(name, file, false);
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
    // Whether names are durable is asked of the crash folder around this one.
  }

  async identify(name: string): Promise<string> {
    return posix.isAbsolute(name) ? posix.normalize(name) : posix.join(this.location, name);
  }

  #get(name: string): PageFile {
    const file = this.#files.get(posix.normalize(name));
    if (file === undefined) throw new CowlabError('ERR_NOT_FOUND', `${name}: no such file`, { file: name });
    return file;
  }

  #add(name: string, file: PageFile): void {
    const plain = posix.normalize(name);
    if (this.#files.has(plain)) throw new CowlabError('ERR_EXISTS', `${name}: file exists`, { file: name });
    this.#files.set(plain, file);
  }
}
