import { InterceptedFolder, type Random, type StorageCall } from '@cowlab/conformance';
import { type Awaitable, CowlabError, type Storage } from '@cowlab/core';

/** What becomes of bytes that no flush has made durable: all arrive, none, or each sector by chance. */
export type Fate = 'kept' | 'lost' | 'by chance';

interface Pending {
  readonly offset: number;
  /** Undefined for zeros, and for a new length. */
  readonly bytes: Uint8Array | undefined;
  readonly length: number;
  readonly kind: 'write' | 'zero' | 'truncate';
}

interface Unflushed {
  /** The file at its last flush. */
  readonly base: Uint8Array;
  readonly pending: Pending[];
}

const SECTOR = 512;
const changing = new Set([
  'write',
  'zero',
  'truncate',
  'flush',
  'create',
  'remove',
  'rename',
  'link',
  'flushFolder',
]);

/** Storages in memory have read before they return. */
function contentsOf(storage: Storage): Uint8Array {
  const bytes = new Uint8Array(storage.size());
  void storage.read(0, bytes);
  return bytes;
}

/**
 * Files in memory whose power fails before a chosen call that would change something; from then on every call fails. Names are
 * durable in the order of their calls, as a journalling file system keeps them; bytes are not before a flush.
 */
export class CrashFolder extends InterceptedFolder {
  readonly #unflushed = new Map<Storage, Unflushed>();
  readonly #storages = new Set<Storage>();
  #left = Number.POSITIVE_INFINITY;

  /** The power fails at the nth changing call from now; 1 is the next. */
  cutAt(nth: number): void {
    this.#left = nth;
  }

  get isOff(): boolean {
    return this.#left <= 0;
  }

  override intercept<T>(call: StorageCall, run: () => Awaitable<T>): Awaitable<T> {
    if (changing.has(call.method)) this.#left--;
    if (this.isOff) throw new CowlabError('ERR_IO', `${call.file}: ${call.method}: no power`);
    const { storage } = call;
    if (storage !== undefined) this.#storages.add(storage);
    if (storage === undefined || !changing.has(call.method)) return run();
    if (call.method === 'flush') this.#unflushed.delete(storage);
    else this.#note(storage, call);
    return run();
  }

  /** Leaves the files below as the power cut does, and nobody's locks on them. */
  async settle(fate: Fate, random: Random): Promise<void> {
    for (const [storage, { base, pending }] of this.#unflushed) {
      if (fate === 'kept') continue;
      await storage.truncate(0);
      await storage.write(0, base);
      if (fate === 'by chance') for (const one of pending) await this.#replay(storage, one, random);
    }
    for (const storage of this.#storages) await storage.close();
  }

  #note(storage: Storage, { method, offset, length, source }: StorageCall): void {
    const known = this.#unflushed.get(storage) ?? { base: contentsOf(storage), pending: [] };
    this.#unflushed.set(storage, known);
    const bytes = source === undefined ? undefined : new Uint8Array(source);
    known.pending.push({
      offset,
      bytes,
      length,
      kind: method === 'write' || method === 'zero' ? method : 'truncate',
    });
  }

  async #replay(storage: Storage, { kind, offset, bytes, length }: Pending, random: Random): Promise<void> {
    if (kind === 'truncate') {
      if (random.below(2) === 0) await storage.truncate(length);
      return;
    }
    for (let at = 0; at < length; at += SECTOR) {
      const end = Math.min(length, at + SECTOR);
      if (random.below(2) === 0) continue;
      await storage.write(offset + at, bytes?.subarray(at, end) ?? new Uint8Array(end - at));
    }
  }
}
