import type { Awaitable, Purpose, Storage } from '@cowlab/core';
import { InterceptedFolder, type StorageCall } from '../intercepted-folder.ts';
import type { PageFile, PageFolder } from './page-folder.ts';

/*
 * A folder that remembers every change. What a power loss may leave of it is `Medium`'s business.
 * Files are told apart by what they are, not by their names: names move.
 */

/** Stands for what a discarded range may hold. */
const undefinedByte = 0xdd;

export type FileId = number;

export interface ContentChange {
  readonly kind: 'content';
  readonly file: FileId;
  readonly offset: number;
  /** What is there afterwards; for a new length, undefined, and `offset` is the length. */
  readonly bytes?: Uint8Array;
  readonly purpose: Purpose;
}

export interface NameChange {
  readonly kind: 'name';
  readonly set?: { readonly name: string; readonly file: FileId };
  readonly unset?: string;
}

export type Entry =
  | ContentChange
  | NameChange
  | { readonly kind: 'flush'; readonly file: FileId }
  | { readonly kind: 'flushNames' };

/** What there was at the start, and what happened since. */
export interface CrashLog {
  readonly files: ReadonlyMap<FileId, PageFile>;
  readonly names: ReadonlyMap<string, FileId>;
  readonly entries: readonly Entry[];
}

export class CrashFolder extends InterceptedFolder {
  readonly #entries: Entry[] = [];
  readonly #startFiles = new Map<FileId, PageFile>();
  readonly #startNames: ReadonlyMap<string, FileId>;
  readonly #names: Map<string, FileId>;
  readonly #files = new WeakMap<Storage, FileId>();
  #nextFile = 0;

  /** What the folder holds now is durable. */
  constructor(inner: PageFolder) {
    super(inner);
    this.#names = new Map();
    const ids = new Map<PageFile, FileId>();
    for (const [name, file] of inner.files) {
      const id = ids.get(file) ?? this.#nextFile++;
      ids.set(file, id);
      this.#names.set(name, id);
      this.#startFiles.set(id, file.copy());
    }
    this.#startNames = new Map(this.#names);
  }

  /** How many changes and flushes there have been. */
  get position(): number {
    return this.#entries.length;
  }

  get log(): CrashLog {
    return { files: this.#startFiles, names: this.#startNames, entries: this.#entries };
  }

  override intercept<T>(call: StorageCall, run: () => Awaitable<T>): Awaitable<T> {
    const result = run();
    if (!(result instanceof Promise)) {
      this.#note(call, result);
      return result;
    }
    return result.then((value) => {
      this.#note(call, value);
      return value;
    });
  }

  #note(call: StorageCall, result: unknown): void {
    const { method, file: name, to, storage } = call;
    if (method === 'create') {
      const file = this.#nextFile++;
      this.#names.set(name, file);
      this.#entries.push({ kind: 'name', set: { name, file } });
    }
    if (method === 'create' || method === 'open') this.#files.set(result as Storage, this.#idOf(name));
    if (method === 'flushFolder') this.#entries.push({ kind: 'flushNames' });
    if (method === 'remove') {
      this.#names.delete(name);
      this.#entries.push({ kind: 'name', unset: name });
    }
    if (to !== undefined) this.#move(name, to, method === 'rename');
    if (storage !== undefined) this.#noteContent(call, this.#files.get(storage)!);
  }

  #move(from: string, to: string, removes: boolean): void {
    const file = this.#idOf(from);
    this.#names.set(to, file);
    if (removes) this.#names.delete(from);
    this.#entries.push({ kind: 'name', set: { name: to, file }, ...(removes && { unset: from }) });
  }

  #noteContent({ method, offset, length, source, purpose, storage }: StorageCall, file: FileId): void {
    const change = (at: number, bytes?: Uint8Array): unknown =>
      this.#entries.push({ kind: 'content', file, offset: at, purpose, ...(bytes && { bytes }) });
    if (method === 'flush') this.#entries.push({ kind: 'flush', file });
    if (method === 'truncate') change(length);
    if (method === 'allocate' && storage?.size() === offset + length) change(offset + length);
    if (method === 'write' && source !== undefined) change(offset, source.slice());
    if (method === 'zero') change(offset, new Uint8Array(length));
    if (method === 'discard') change(offset, new Uint8Array(length).fill(undefinedByte));
  }

  #idOf(name: string): FileId {
    const file = this.#names.get(name);
    if (file === undefined) throw new TypeError(`no file ${name}`);
    return file;
  }
}
