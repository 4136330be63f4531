import { type Awaitable, MemoryFolder, type Storage } from '@cowlab/core';
import { InterceptedFolder, type StorageCall } from './intercepted-folder.ts';
import type { Random } from './random.ts';

/*
 * A folder that remembers every change, and builds what a power loss may leave of it.
 *
 *     contents   a change is durable after a flush of its file; before, any of its 512-byte sectors may be there
 *     names      create, remove, rename and link are durable, in order, after a flush of the folder; before, any
 *                number of the first of them may be there
 *     discard    the range may hold anything
 *
 * Files are told apart by what they are, not by their names: names move.
 */

const sectorBytes = 512;
/** Stands for what a discarded range may hold. */
const undefinedByte = 0xdd;

type FileId = number;

interface ContentChange {
  readonly kind: 'content';
  readonly file: FileId;
  readonly offset: number;
  /** What is there afterwards; for a truncate, undefined. */
  readonly bytes?: Uint8Array;
}

interface NameChange {
  readonly kind: 'name';
  readonly set?: { readonly name: string; readonly file: FileId };
  readonly unset?: string;
}

type Entry =
  | ContentChange
  | NameChange
  | { readonly kind: 'flush'; readonly file: FileId }
  | { readonly kind: 'flushNames' };

export class CrashFolder extends InterceptedFolder {
  readonly #log: Entry[] = [];
  readonly #names = new Map<string, FileId>();
  readonly #start = new Map<FileId, Uint8Array>();
  readonly #startNames = new Map<string, FileId>();
  readonly #files = new WeakMap<Storage, FileId>();
  #nextFile = 0;

  private constructor(inner: MemoryFolder) {
    super(inner);
  }

  /** What the folder holds now is durable. */
  static async on(inner: MemoryFolder): Promise<CrashFolder> {
    const folder = new CrashFolder(inner);
    for (const name of await inner.list()) {
      const file = folder.#name(name);
      folder.#startNames.set(name, file);
      folder.#start.set(file, await contentsOf(inner, name));
    }
    return folder;
  }

  /** How many changes and flushes there have been. */
  get position(): number {
    return this.#log.length;
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

  /** Every state that the log allows at each of its positions, `torn` of them with any part of what was in flight. */
  *crashes(
    random: Random,
    torn: number,
  ): Generator<{ readonly position: number; readonly folder: Promise<MemoryFolder> }> {
    const medium = new Medium(this.#start, this.#startNames);
    for (const [at, entry] of this.#log.entries()) {
      medium.happen(entry);
      const position = at + 1;
      yield { position, folder: medium.survive(() => true, medium.pendingNames) };
      yield { position, folder: medium.survive(() => false, 0) };
      for (let n = 0; n < torn; n += 1) {
        const names = random.below(medium.pendingNames + 1);
        yield { position, folder: medium.survive(() => random.below(2) === 0, names) };
      }
    }
  }

  /** A number for a new file. */
  #name(name: string): FileId {
    const file = this.#nextFile++;
    this.#names.set(name, file);
    return file;
  }

  #note(call: StorageCall, result: unknown): void {
    const { method, file: name, to, storage } = call;
    if (method === 'create') this.#log.push({ kind: 'name', set: { name, file: this.#name(name) } });
    if (method === 'create' || method === 'open') this.#files.set(result as Storage, this.#idOf(name));
    if (method === 'flushFolder') this.#log.push({ kind: 'flushNames' });
    if (method === 'remove') {
      this.#names.delete(name);
      this.#log.push({ kind: 'name', unset: name });
    }
    if (to !== undefined) this.#move(name, to, method === 'rename');
    if (storage !== undefined) this.#noteContent(call, this.#files.get(storage)!);
  }

  #move(from: string, to: string, removes: boolean): void {
    const file = this.#idOf(from);
    this.#names.set(to, file);
    if (removes) this.#names.delete(from);
    this.#log.push({ kind: 'name', set: { name: to, file }, ...(removes && { unset: from }) });
  }

  #noteContent({ method, offset, length, source }: StorageCall, file: FileId): void {
    if (method === 'flush') this.#log.push({ kind: 'flush', file });
    if (method === 'truncate') this.#log.push({ kind: 'content', file, offset: length });
    if (method === 'write' && source !== undefined) {
      this.#log.push({ kind: 'content', file, offset, bytes: source.slice() });
    }
    if (method === 'zero') this.#log.push({ kind: 'content', file, offset, bytes: new Uint8Array(length) });
    if (method === 'discard') {
      this.#log.push({ kind: 'content', file, offset, bytes: new Uint8Array(length).fill(undefinedByte) });
    }
  }

  #idOf(name: string): FileId {
    const file = this.#names.get(name);
    if (file === undefined) throw new TypeError(`no file ${name}`);
    return file;
  }
}

async function contentsOf(folder: MemoryFolder, name: string): Promise<Uint8Array> {
  const storage = await folder.open(name, { readOnly: true });
  const bytes = new Uint8Array(storage.size());
  await storage.read(0, bytes);
  await storage.close();
  return bytes;
}

/** What is durable, and what is on its way. */
class Medium {
  readonly #durable: Map<FileId, Uint8Array>;
  readonly #inFlight = new Map<FileId, ContentChange[]>();
  readonly #names: Map<string, FileId>;
  #nameChanges: NameChange[] = [];

  constructor(contents: ReadonlyMap<FileId, Uint8Array>, names: ReadonlyMap<string, FileId>) {
    this.#durable = new Map(contents);
    this.#names = new Map(names);
  }

  get pendingNames(): number {
    return this.#nameChanges.length;
  }

  happen(entry: Entry): void {
    switch (entry.kind) {
      case 'content':
        this.#inFlight.set(entry.file, [...(this.#inFlight.get(entry.file) ?? []), entry]);
        return;
      case 'name':
        this.#nameChanges.push(entry);
        return;
      case 'flush':
        this.#durable.set(
          entry.file,
          this.#contents(entry.file, () => true),
        );
        this.#inFlight.delete(entry.file);
        return;
      case 'flushNames':
        for (const change of this.#nameChanges) applyName(this.#names, change);
        this.#nameChanges = [];
    }
  }

  /** The folder after a power loss now: the first `names` of the name changes, and the sectors that `keep` says. */
  async survive(keep: () => boolean, names: number): Promise<MemoryFolder> {
    const present = new Map(this.#names);
    for (const change of this.#nameChanges.slice(0, names)) applyName(present, change);
    const folder = new MemoryFolder();
    const first = new Map<FileId, string>();
    for (const [name, file] of present) {
      const other = first.get(file);
      if (other !== undefined) {
        await folder.link(other, name);
        continue;
      }
      first.set(file, name);
      const storage = await folder.create(name);
      await storage.write(0, this.#contents(file, keep));
      await storage.close();
    }
    return folder;
  }

  #contents(file: FileId, keep: () => boolean): Uint8Array {
    let bytes = this.#durable.get(file) ?? new Uint8Array(0);
    for (const change of this.#inFlight.get(file) ?? []) bytes = applyContent(bytes, change, keep);
    return bytes === this.#durable.get(file) ? bytes.slice() : bytes;
  }
}

function applyName(names: Map<string, FileId>, { set, unset }: NameChange): void {
  if (unset !== undefined) names.delete(unset);
  if (set !== undefined) names.set(set.name, set.file);
}

/** `before` with the sectors of a change that `keep` says. */
function applyContent(before: Uint8Array, { offset, bytes }: ContentChange, keep: () => boolean): Uint8Array {
  if (bytes === undefined) return keep() ? resized(before, offset) : before;
  let after: Uint8Array = before.slice();
  for (let at = 0; at < bytes.length; ) {
    const end = Math.min(bytes.length, at + sectorBytes - ((offset + at) % sectorBytes));
    if (keep()) {
      if (offset + end > after.length) after = resized(after, offset + end);
      after.set(bytes.subarray(at, end), offset + at);
    }
    at = end;
  }
  return after;
}

function resized(bytes: Uint8Array, length: number): Uint8Array {
  const copy = new Uint8Array(length);
  copy.set(bytes.subarray(0, length));
  return copy;
}
