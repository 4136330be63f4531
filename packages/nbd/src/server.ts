import { createConnection, createServer, isIP, type ListenOptions, type Server, type Socket } from 'node:net';
import { lstat, unlink } from 'node:fs/promises';
import { CowlabError, isCowlabError } from '@cowlab/core';
import { BufferPool } from './buffer-pool.ts';
import { type Common, Connection } from './connection.ts';
import { isReadOnly, MOST_STRING_BYTES, type NbdExport } from './exports.ts';
import { MemoryBudget } from './memory.ts';
import { Command } from './protocol.ts';
import { checkTls, type NbdTlsOptions } from './tls.ts';
import type { RequestCounts } from './transmission.ts';

/*
 * Listens, and ends in order. `close` stops listening first, lets every connection end what runs, flushes each disk
 * that can be written, and then has nothing open any more. The disks stay open: they are the caller's.
 */

/** A Unix socket, or TCP; port 0 takes a free one. */
export type NbdAddress = { readonly path: string } | { readonly host?: string; readonly port: number };

export interface NbdServerOptions {
  /** At least one; names differ. */
  readonly exports: readonly NbdExport[];
  /** `host` is `127.0.0.1` when it is left out. */
  readonly listen: NbdAddress;
  readonly tls?: NbdTlsOptions;
  /** Without it, only loopback addresses are taken. */
  readonly allowRemote?: boolean;
  /** Without it, an address beyond loopback needs TLS of mode `require`. */
  readonly allowPlaintext?: boolean;
  /** Clients at one time; more are turned away. Default 128. */
  readonly maxConnections?: number;
  /** How long a client may take until transmission begins. Default 30,000. */
  readonly handshakeTimeoutMs?: number;
  /** What all clients together may hold beyond 1 MiB each: payloads, replies that are not taken. Default 256 MiB. */
  readonly memoryBytes?: number;
  /**
   * How long a client may stand still while others wait for memory that it holds: it sends nothing of its write, or has
   * not taken a reply whole. Default 10,000.
   */
  readonly stallMs?: number;
  /** A client was turned away or lost; the others go on. */
  readonly onError?: (error: Error) => void;
  /** A client that was served has gone, and it was the last one. */
  readonly onIdle?: () => void;
}

/** Counters since the server began to listen. */
export interface NbdServerStats {
  /** Now. */
  readonly connections: number;
  readonly totalConnections: number;
  /** Requests by command, those refused included. */
  readonly requests: Readonly<Record<keyof typeof Command, number>>;
  /** Bytes of the disk that were asked for, and that came. */
  readonly readBytes: number;
  readonly writtenBytes: number;
  /** Replies that told an error. */
  readonly errors: number;
  /** What clients owe now: payloads that are coming or being written, replies that are on their way. */
  readonly heldBytes: number;
}

const LOOPBACK = '127.0.0.1';
const IDLE_POOL_BYTES: number = 64 * 1024 * 1024;
const LEAST_MEMORY_BYTES: number = 64 * 1024 * 1024;

export class NbdServer implements AsyncDisposable {
  /** Where clients find the default export, or the first one: `nbd://`, `nbds://`, `nbd+unix://`, `nbds+unix://`. */
  readonly uri: string;
  readonly #options: NbdServerOptions;
  readonly #server: Server;
  readonly #budget: MemoryBudget;
  readonly #common: Common;
  readonly #connections = new Set<Connection>();
  readonly #counts: RequestCounts = { requests: [], readBytes: 0, writtenBytes: 0, errors: 0 };
  #totalConnections = 0;
  #whenClosed: Promise<void> | undefined;

  private constructor(options: NbdServerOptions, server: Server) {
    this.#options = options;
    this.#server = server;
    this.uri = uriOf(options, server);
    this.#budget = new MemoryBudget(options.memoryBytes ?? 256 * 1024 * 1024, options.stallMs ?? 10_000);
    this.#common = {
      exports: new Map(options.exports.map((each) => [each.name, each])),
      tls: options.tls,
      handshakeTimeoutMs: options.handshakeTimeoutMs ?? 30_000,
      budget: this.#budget,
      pool: new BufferPool(IDLE_POOL_BYTES),
      counts: this.#counts,
      onTrouble: (problem, error) => this.#trouble(problem, error),
    };
    server.on('connection', (socket) => this.#accept(socket));
    server.on('error', (error) => this.#trouble('listening', error));
  }

  /**
   * Rejects with `ERR_INVALID_OPTION` for options that contradict each other or ask for more exposure than was allowed,
   * `ERR_BUSY` when somebody listens there already, `ERR_IO` when the address cannot be had.
   */
  static async listen(options: NbdServerOptions): Promise<NbdServer> {
    checkOptions(options);
    const server = createServer({ allowHalfOpen: true, noDelay: true });
    await listenOn(server, options.listen);
    return new NbdServer(options, server);
  }

  stats(): NbdServerStats {
    const { requests, ...rest } = this.#counts;
    const byName = Object.fromEntries(
      Object.entries(Command).map(([name, number]) => [name, requests[number] ?? 0]),
    ) as Record<keyof typeof Command, number>;
    return {
      connections: this.#connections.size,
      totalConnections: this.#totalConnections,
      requests: byName,
      ...rest,
      heldBytes: this.#budget.heldBytes,
    };
  }

  /** Stops listening, lets requests that run end, ends the connections, and flushes every disk that can be written. */
  close(): Promise<void> {
    this.#whenClosed ??= this.#close();
    return this.#whenClosed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    const stopped = new Promise((resolve) => this.#server.close(resolve));
    const connections = [...this.#connections];
    for (const connection of connections) connection.drain();
    await Promise.all([stopped, ...connections.map(({ closed }) => closed)]);
    await this.#flush();
  }

  /** All of them, also when one fails. One that is closed was flushed by that. */
  async #flush(): Promise<void> {
    const flushes = [...this.#writableDisks()].map(async (disk) => disk.flush());
    for (const result of await Promise.allSettled(flushes)) {
      if (result.status === 'rejected' && !isCowlabError(result.reason, 'ERR_CLOSED')) throw result.reason;
    }
  }

  #writableDisks(): Set<NbdExport['disk']> {
    return new Set(this.#options.exports.filter((each) => !isReadOnly(each)).map(({ disk }) => disk));
  }

  #accept(socket: Socket): void {
    if (this.#whenClosed !== undefined || this.#connections.size >= (this.#options.maxConnections ?? 128)) {
      socket.on('error', () => undefined);
      socket.destroy();
      if (this.#whenClosed === undefined) this.#trouble('too many connections');
      return;
    }
    const connection = new Connection(socket, this.#common);
    this.#connections.add(connection);
    this.#totalConnections++;
    void connection.closed.then(() => {
      this.#connections.delete(connection);
      const last = this.#connections.size === 0 && this.#whenClosed === undefined;
      if (connection.served && last) this.#options.onIdle?.();
    });
  }

  #trouble(problem: string, cause?: unknown): void {
    const detail = cause instanceof Error ? `: ${cause.message}` : '';
    this.#options.onError?.(
      new CowlabError('ERR_IO', `${this.uri}: ${problem}${detail}`, { file: this.uri }, cause),
    );
  }
}

function invalid(field: string, problem: string): CowlabError {
  return new CowlabError('ERR_INVALID_OPTION', `${field}: ${problem}`, { field });
}

function checkOptions(options: NbdServerOptions): void {
  checkExports(options.exports);
  if (options.tls !== undefined) checkTls(options.tls);
  if ((options.memoryBytes ?? LEAST_MEMORY_BYTES) < LEAST_MEMORY_BYTES) {
    throw invalid(
      'memoryBytes',
      `at least ${LEAST_MEMORY_BYTES}, or the largest request would wait for ever`,
    );
  }
  if ('path' in options.listen) return;
  const { host = LOOPBACK } = options.listen;
  if (isLoopback(host)) return;
  if (options.allowRemote !== true) {
    throw invalid('listen.host', `${host} is not a loopback address, and remote clients are not allowed`);
  }
  if (options.tls?.mode !== 'require' && options.allowPlaintext !== true) {
    throw invalid(
      'listen.host',
      `${host} is not a loopback address: TLS must be required, or plain text allowed`,
    );
  }
}

function checkExports(exports: readonly NbdExport[]): void {
  if (exports.length === 0) throw invalid('exports', 'there are none');
  const names = new Set<string>();
  for (const { name, description = '' } of exports) {
    for (const text of [name, description]) {
      if (Buffer.byteLength(text) > MOST_STRING_BYTES || text.includes('\0')) {
        throw invalid(
          'exports',
          `${text.slice(0, 40)}: longer than ${MOST_STRING_BYTES} bytes, or with a NUL`,
        );
      }
    }
    if (names.has(name)) throw invalid('exports', `two have the name ${name}`);
    names.add(name);
  }
}

function isLoopback(host: string): boolean {
  if (host === 'localhost' || host === '::1') return true;
  return isIP(host) === 4 && host.startsWith('127.');
}

async function listenOn(server: Server, address: NbdAddress): Promise<void> {
  const where: ListenOptions =
    'path' in address ? { path: address.path } : { host: address.host ?? LOOPBACK, port: address.port };
  try {
    await begin(server, where);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== 'EADDRINUSE' || where.path === undefined || !(await isLeftBehind(where.path))) {
      throw listenError(where, error);
    }
    // A server that was killed has left its socket behind.
    await unlink(where.path);
    await begin(server, where).catch((again: unknown) => {
      throw listenError(where, again);
    });
  }
}

function begin(server: Server, where: ListenOptions): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(where, () => {
      server.off('error', reject);
      resolve();
    });
  });
}

/** Whether it is a Unix socket at which nobody answers; anything else is not ours to remove. */
async function isLeftBehind(path: string): Promise<boolean> {
  if (!(await lstat(path)).isSocket()) return false;
  return new Promise((resolve) => {
    const probe = createConnection({ path });
    probe.once('connect', () => {
      probe.destroy();
      resolve(false);
    });
    probe.once('error', (error: NodeJS.ErrnoException) => resolve(error.code === 'ECONNREFUSED'));
  });
}

function listenError(where: ListenOptions, cause: unknown): CowlabError {
  const place = where.path ?? `${where.host}:${where.port}`;
  const { code, message } = cause as NodeJS.ErrnoException;
  const known = code === 'EADDRINUSE' ? 'ERR_BUSY' : 'ERR_IO';
  return new CowlabError(known, `${place}: ${message}`, { file: place, systemCode: code }, cause);
}

function uriOf({ exports, listen, tls }: NbdServerOptions, server: Server): string {
  const name = (exports.find((each) => each.name === '') ?? exports[0])?.name ?? '';
  const scheme = tls?.mode === 'require' ? 'nbds' : 'nbd';
  if ('path' in listen)
    return `${scheme}+unix:///${encodeURIComponent(name)}?socket=${encodePath(listen.path)}`;
  const address = server.address();
  const { host = LOOPBACK } = listen;
  const port = typeof address === 'object' && address !== null ? address.port : listen.port;
  return `${scheme}://${isIP(host) === 6 ? `[${host}]` : host}:${port}/${encodeURIComponent(name)}`;
}

function encodePath(path: string): string {
  return encodeURIComponent(path).replaceAll('%2F', '/');
}
