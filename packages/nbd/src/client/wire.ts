import net from 'node:net';
import tls from 'node:tls';
import { CowlabError, fromSystemError } from '@cowlab/core';
import type { NbdAddress } from './uri.ts';

/*
 * The bytes of one connection, without a meaning. What arrives goes to a receiver, which may say where the next bytes
 * belong: then the system's read puts them there, and nobody copies them. TLS decrypts into buffers of its own.
 *
 * What is sent within one turn of the event loop leaves in one system call.
 */

/** Who hears of what arrives. One takes the place of another as a connection goes on; none hears of the same twice. */
export interface Receiver {
  /** Where the next bytes should go; undefined for anywhere. They are given to `take` all the same. */
  room(): Uint8Array | undefined;
  /** Takes all of `bytes`, which are valid during the call only. */
  take(bytes: Uint8Array): void;
  /** Nothing comes any more; undefined when the other side ended it. Called once. */
  ended(error: Error | undefined): void;
}

const SCRATCH_BYTES = 256 * 1024;
/** Under so many bytes one more copy is cheaper than one more piece for the system call. */
const SMALL_BYTES = 16 * 1024;
/** So long a server may take to end its side of a connection. */
const END_MS = 2000;

export class Wire {
  #socket: net.Socket;
  readonly #scratch: Buffer = Buffer.allocUnsafeSlow(SCRATCH_BYTES);
  #receiver: Receiver | undefined;
  /** Bytes that came while nobody listened. */
  #early: Buffer[] = [];
  #outgoing: Uint8Array[] = [];
  #ended = false;
  #failure: Error | undefined;

  private constructor(address: NbdAddress, direct: boolean) {
    const place = 'path' in address ? { path: address.path } : { host: address.host, port: address.port };
    const onread = {
      buffer: () => this.#receiver?.room() ?? this.#scratch,
      callback: (count: number, buffer: Uint8Array) => {
        this.#take(buffer.subarray(0, count));
        return true;
      },
    };
    // Direct reading is set up when a socket is made, and cannot be handed over to TLS.
    this.#socket = net.connect({ ...place, noDelay: true, ...(direct && { onread }) });
    if (!direct) this.#socket.on('data', (bytes) => this.#take(bytes));
    this.#watch(this.#socket);
  }

  /**
   * Connects. Rejects with `ERR_NOT_FOUND` when there is no such socket, else `ERR_IO`. `direct` asks for reading without
   * a copy, which `secure` rules out. When `signal` is aborted the connection ends as if the other side had ended it.
   */
  static async connect(
    file: string,
    address: NbdAddress,
    direct: boolean,
    signal: AbortSignal,
  ): Promise<Wire> {
    const wire = new Wire(address, direct);
    const socket = wire.#socket;
    signal.addEventListener('abort', () => wire.#socket.destroy(), { once: true });
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', (error) => reject(fromSystemError(error, file, 'connect')));
      socket.once('close', () => reject(new CowlabError('ERR_IO', `${file}: connect: closed`, { file })));
    });
    return wire;
  }

  /** Goes on over TLS. Rejects with `ERR_TLS`. */
  async secure(file: string, options: tls.ConnectionOptions): Promise<void> {
    const plain = this.#socket;
    plain.removeAllListeners('data');
    const socket = tls.connect({ ...options, socket: plain });
    this.#socket = socket;
    this.#watch(socket);
    await new Promise<void>((resolve, reject) => {
      const refuse = (reason: unknown): void => {
        const text = reason instanceof Error ? reason.message : 'the server ended the connection';
        reject(new CowlabError('ERR_TLS', `${file}: TLS: ${text}`, { file, field: 'TLS' }, reason));
      };
      socket.once('secureConnect', resolve);
      socket.once('error', refuse);
      socket.once('close', () => refuse(undefined));
    });
    socket.on('data', (bytes) => this.#take(bytes));
  }

  /** From now on `receiver` hears of what arrives, and of what has arrived unheard. */
  listen(receiver: Receiver): void {
    this.#receiver = receiver;
    for (const bytes of this.#early.splice(0)) this.#take(bytes);
    if (this.#ended) queueMicrotask(() => receiver.ended(this.#failure));
  }

  /** Sends `pieces`, which must stay as they are until the answer to them has come. */
  send(...pieces: readonly Uint8Array[]): void {
    if (this.#outgoing.length === 0) queueMicrotask(() => this.#flush());
    this.#outgoing.push(...pieces);
  }

  /** Sends what is left to send, ends the connection, and resolves when the other side has, too, or took too long. */
  async end(): Promise<void> {
    this.#flush();
    if (this.#ended) return;
    await new Promise<void>((resolve) => {
      const late = setTimeout(() => this.#socket.destroy(), END_MS);
      this.#socket.once('close', () => {
        clearTimeout(late);
        resolve();
      });
      this.#socket.end();
    });
  }

  /** Ends the connection at once; nothing is written into anybody's buffer afterwards. */
  destroy(): void {
    this.#receiver = undefined;
    this.#outgoing = [];
    this.#socket.destroy();
  }

  #flush(): void {
    const pieces = this.#outgoing;
    this.#outgoing = [];
    if (pieces.length === 0 || this.#socket.destroyed) return;
    this.#socket.cork();
    for (let at = 0; at < pieces.length; ) {
      const end = endOfSmall(pieces, at);
      this.#socket.write(end - at > 1 ? Buffer.concat(pieces.slice(at, end)) : pieces[at]!);
      at = Math.max(end, at + 1);
    }
    this.#socket.uncork();
  }

  #take(bytes: Uint8Array): void {
    if (this.#receiver !== undefined) this.#receiver.take(bytes);
    else this.#early.push(Buffer.from(bytes));
  }

  #watch(socket: net.Socket): void {
    socket.on('error', (error) => (this.#failure ??= error));
    socket.on('close', () => {
      if (socket !== this.#socket || this.#ended) return;
      this.#ended = true;
      this.#receiver?.ended(this.#failure);
    });
  }
}

/** Where a run of pieces ends that are small, and together not large. */
function endOfSmall(pieces: readonly Uint8Array[], at: number): number {
  let bytes = 0;
  let end = at;
  while (end < pieces.length && bytes + pieces[end]!.length <= SMALL_BYTES) bytes += pieces[end++]!.length;
  return end;
}
