import { posix } from 'node:path';
import { CowlabError, type Storage, type StorageFolder, type StorageOpenOptions } from '@cowlab/core';
import type { SessionOptions } from './session.ts';
import { NbdStorage } from './storage.ts';
import { type NbdClientTls, tlsOptions } from './tls.ts';
import { identityOf, type NbdUri, parseNbdUri } from './uri.ts';

export interface NbdClientOptions {
  /** False by default. */
  readonly readOnly?: boolean;
  /** Lets a server be written to that has no FLUSH: then `flush` promises nothing. */
  readonly withoutFlush?: boolean;
  /** Keys and certificates, in the place of files that the URI names. */
  readonly tls?: NbdClientTls;
  /** For a connection and its handshake, ms; 10,000 by default. */
  readonly connectTimeoutMs?: number;
  /** For all tries to connect again after a connection was lost, ms; 30,000 by default, 0 for none. */
  readonly reconnectTimeoutMs?: number;
  /** A server that says nothing for so long, while it is asked, is taken for gone, ms; 120,000 by default, 0 for never. */
  readonly replyTimeoutMs?: number;
  /** Most bytes of reads and writes under way; 16 MiB by default. */
  readonly maxInFlightBytes?: number;
  /** Most requests under way; 128 by default. */
  readonly maxInFlightRequests?: number;
  /** Ends everything: what is under way, and what comes later, rejects with `ERR_ABORTED`. */
  readonly signal?: AbortSignal;
}

const MIB = 1024 * 1024;
/** So much is made zeros at a time. */
const CLEAR_BYTES = 1024 * MIB;

function sessionOptions(uri: string, parsed: NbdUri, options: NbdClientOptions): SessionOptions {
  return {
    file: uri,
    export: parsed.export,
    address: parsed.address,
    tls: tlsOptions(uri, parsed, options.tls ?? {}),
    maxInFlightBytes: options.maxInFlightBytes ?? 16 * MIB,
    maxInFlightRequests: options.maxInFlightRequests ?? 128,
    connectTimeoutMs: options.connectTimeoutMs ?? 10_000,
    reconnectTimeoutMs: options.reconnectTimeoutMs ?? 30_000,
    replyTimeoutMs: options.replyTimeoutMs ?? 120_000,
    signal: options.signal,
  };
}

/**
 * Opens an export as a storage (`fixedSize`). Rejects with `ERR_INVALID_URI`, `ERR_NOT_FOUND` for a socket or an export that
 * is not there, `ERR_READ_ONLY`, `ERR_UNSUPPORTED` (a server without FLUSH, an old one), `ERR_TLS`, `ERR_PROTOCOL`,
 * `ERR_IO` for a connection that the system refuses, `ERR_CONNECTION_LOST`, `ERR_ABORTED`.
 */
export async function openNbd(uri: string, options: NbdClientOptions = {}): Promise<Storage> {
  const parsed = parseNbdUri(uri);
  const { readOnly = false, withoutFlush = false } = options;
  const setup = { name: uri, readOnly, withoutFlush, identity: identityOf(parsed) };
  return NbdStorage.open(setup, sessionOptions(uri, parsed, options));
}

/**
 * The folder of one file: the export that a URI names. `openDisk({ folder, file: folder.file })` opens an image in it, and
 * `createDisk` makes one there: the export takes the place of the empty file, and reads as zeros then. There are no other
 * files: an image in it can have no backing file, and no other parts.
 */
export class NbdFolder implements StorageFolder {
  /** The file's name: the URI. */
  readonly file: string;
  readonly location: string;
  readonly #options: Omit<NbdClientOptions, 'readOnly'>;

  /** Does not connect. Throws `ERR_INVALID_URI`. */
  constructor(uri: string, options: Omit<NbdClientOptions, 'readOnly'> = {}) {
    this.file = uri;
    this.location = identityOf(parseNbdUri(uri));
    this.#options = options;
  }

  async open(name: string, { readOnly, lock }: StorageOpenOptions): Promise<Storage> {
    if (!this.#isFile(name)) throw this.#noSuchFile(name);
    const storage = await openNbd(this.file, { ...this.#options, readOnly });
    try {
      if (lock !== undefined) await storage.lock(lock);
    } catch (error) {
      await storage.close();
      throw error;
    }
    return storage;
  }

  /** Makes the whole export read as zeros, but for what the server says does already. */
  async create(name: string): Promise<Storage> {
    if (!this.#isFile(name)) throw this.#oneFile('create', name);
    const storage = await this.open(name, { readOnly: false, lock: 'exclusive' });
    try {
      await clear(storage);
      await storage.lock('none');
    } catch (error) {
      await storage.close();
      throw error;
    }
    return storage;
  }

  async exists(name: string): Promise<boolean> {
    return this.#isFile(name);
  }

  async remove(name: string): Promise<void> {
    throw this.#oneFile('remove', name);
  }

  async rename(from: string): Promise<void> {
    throw this.#oneFile('rename', from);
  }

  async link(from: string): Promise<void> {
    throw this.#oneFile('link', from);
  }

  async list(): Promise<string[]> {
    return [this.file];
  }

  async flush(): Promise<void> {
    // There are no names to make durable.
  }

  async identify(name: string): Promise<string> {
    return this.#isFile(name) ? this.location : `${this.location}:${name}`;
  }

  /** Drivers take names for paths, and may have put one together from its directory and the rest. */
  #isFile(name: string): boolean {
    return posix.normalize(name) === posix.normalize(this.file);
  }

  #noSuchFile(name: string): CowlabError {
    const message = `${name}: no such file: there is nothing beside ${this.file}`;
    return new CowlabError('ERR_NOT_FOUND', message, { file: name });
  }

  #oneFile(call: string, name: string): CowlabError {
    const problem = `a server's export is one file, which stays`;
    return new CowlabError('ERR_UNSUPPORTED', `${name}: ${call}: ${problem}`, { file: name, field: call });
  }
}

async function clear(storage: Storage): Promise<void> {
  const size = storage.size();
  for (let at = 0; at < size; ) {
    const { data, length } = await storage.status(at, Math.min(size - at, CLEAR_BYTES));
    if (data) await storage.zero(at, length);
    at += length;
  }
}
