import type { Socket } from 'node:net';
import { TLSSocket } from 'node:tls';
import type { BufferPool } from './buffer-pool.ts';
import type { NbdExport } from './exports.ts';
import { type Agreement, greeting, Handshake, type Step } from './handshake.ts';
import type { MemoryAccount, MemoryBudget } from './memory.ts';
import { Output } from './output.ts';
import { withOwnBuffer } from './own-buffer.ts';
import { startTls, type NbdTlsOptions } from './tls.ts';
import { type RequestCounts, Transmission } from './transmission.ts';

/*
 * One client, from its greeting to its end.
 *
 *   options ──STARTTLS──▶ TLS handshake ──▶ options ──GO, EXPORT_NAME──▶ transmission ──▶ finishing ──▶ closed
 *
 * A client has limited time until its transmission begins. Whatever it does, it ends with its socket closed and its
 * memory given back: `close` of the socket is the one event that all ways lead to.
 */

/** How long replies that are on their way may take when the connection is to end. */
const FINISH_MS = 3000;
/** How long the client may take to close its side when it has everything. */
const LINGER_MS = 1000;
/** A peer that is silent is asked this often whether it is still there. */
const KEEP_ALIVE_MS = 60_000;
/** Replies to options that the client has not taken, before it is asked nothing more. */
const MOST_UNREAD_BYTES = 64 * 1024;

/** What the connections of a server have in common. */
export interface Common {
  readonly exports: ReadonlyMap<string, NbdExport>;
  readonly tls: NbdTlsOptions | undefined;
  readonly handshakeTimeoutMs: number;
  readonly budget: MemoryBudget;
  readonly pool: BufferPool;
  readonly counts: RequestCounts;
  /** A client broke the rules, or its line broke. */
  readonly onTrouble: (problem: string, error?: unknown) => void;
}

export class Connection {
  /** Resolves when the socket is closed; nothing of the connection goes on then, but what the disk is at. */
  readonly closed: Promise<void>;
  /** Whether it ever came to transmission. */
  served = false;
  readonly #common: Common;
  readonly #account: MemoryAccount;
  #over: () => void = () => undefined;
  #socket: Socket;
  #timer: NodeJS.Timeout | undefined;
  #handshake: Handshake | undefined;
  #output: Output | undefined;
  #transmission: Transmission | undefined;
  #finishing = false;
  #draining = false;

  constructor(socket: Socket, common: Common) {
    this.#socket = socket;
    this.#common = common;
    this.#account = common.budget.open(() => this.#evict());
    this.closed = new Promise((resolve) => (this.#over = resolve));
    socket.setNoDelay(true);
    socket.setKeepAlive(true, KEEP_ALIVE_MS);
    this.#watch(socket);
    this.#timer = setTimeout(() => this.#expel('the handshake takes too long'), common.handshakeTimeoutMs);
    this.#haggle(common.tls === undefined ? 'none' : common.tls.mode === 'require' ? 'required' : 'offered');
    socket.write(greeting());
    this.#listen(socket);
  }

  /** Lets what runs end, and ends. */
  drain(): void {
    if (this.#draining) return;
    this.#draining = true;
    if (this.#transmission === undefined) return void this.#socket.destroy();
    this.#transmission.drain();
  }

  /** The socket whose end is the connection's. */
  #watch(socket: Socket): void {
    socket.on('error', (error) => this.#lost(error));
    socket.once('close', () => this.#gone());
  }

  #listen(socket: Socket): void {
    socket.on('data', (chunk: Buffer) => this.#receive(chunk));
    socket.on('end', () => this.#inputEnded());
  }

  #haggle(tls: 'none' | 'offered' | 'required' | 'active', clientFlags?: number): void {
    const send = (bytes: Buffer): void => void this.#socket.write(bytes);
    this.#handshake = new Handshake({ exports: this.#common.exports, tls, send }, clientFlags);
  }

  #receive(chunk: Buffer): void {
    if (this.#finishing) return;
    if (this.#transmission !== undefined) return this.#transmission.push(chunk);
    this.#handshake?.push(chunk);
    this.#answerOptions();
  }

  /** Answers what has come, as long as the client takes the answers. */
  #answerOptions(): void {
    for (;;) {
      const step: Step | undefined = this.#handshake?.next();
      switch (step?.kind) {
        case 'reply':
          if (this.#socket.writableLength <= MOST_UNREAD_BYTES) continue;
          this.#socket.pause();
          this.#socket.once('drain', () => {
            this.#socket.resume();
            this.#answerOptions();
          });
          return;
        case 'tls':
          return this.#upgrade();
        case 'transmission':
          return this.#transmit(step.agreement);
        case 'end':
          if (step.problem !== undefined) return this.#abandon(step.problem);
          return this.#finish();
        default:
          return;
      }
    }
  }

  #upgrade(): void {
    const { tls } = this.#common;
    const plain = this.#socket;
    const clientFlags = this.#handshake?.clientFlags;
    this.#handshake = undefined;
    plain.removeAllListeners('data');
    plain.removeAllListeners('end');
    plain.pause();
    if (tls === undefined) return;
    startTls(plain, tls, this.#common.handshakeTimeoutMs).then(
      (secure) => {
        if (this.#draining) return void secure.destroy();
        this.#socket = secure;
        secure.on('error', (error) => this.#lost(error));
        secure.once('close', () => plain.destroy());
        this.#haggle('active', clientFlags);
        this.#listen(secure);
      },
      (error: unknown) => this.#lost(error),
    );
  }

  #transmit(agreement: Agreement): void {
    clearTimeout(this.#timer);
    this.served = true;
    const { pool, counts } = this.#common;
    const account = this.#account;
    const output = new Output(this.#socket, pool, account, () => this.#taken());
    const line = {
      pause: () => void this.#socket.pause(),
      resume: () => void this.#socket.resume(),
      finish: () => this.#finish(),
      complain: (problem: string) => this.#common.onTrouble(problem),
    };
    const transmission = new Transmission({ agreement, output, account, pool, line, counts });
    const rest = this.#handshake?.rest;
    this.#handshake = undefined;
    this.#output = output;
    this.#transmission = transmission;
    this.#readOnTheSpot(transmission, output);
    if (rest !== undefined && rest.length > 0) transmission.push(rest);
  }

  /** Reads go to where the transmission wants them, where this socket can do that. */
  #readOnTheSpot(transmission: Transmission, output: Output): void {
    if (this.#socket instanceof TLSSocket) return;
    const own = withOwnBuffer(this.#socket, {
      room: () => transmission.room(),
      filled: (bytes) => transmission.filled(bytes),
    });
    if (own === undefined) return;
    this.#socket = own;
    output.use(own);
    this.#watch(own);
    own.on('end', () => this.#inputEnded());
  }

  #inputEnded(): void {
    if (this.#transmission === undefined) return this.#finish();
    this.#transmission.inputEnded();
  }

  #taken(): void {
    this.#account.moved();
    this.#transmission?.repliesTaken();
  }

  /** What is on its way leaves, then the line is closed; in the end also when the client takes nothing. */
  #finish(): void {
    if (this.#finishing) return;
    this.#finishing = true;
    this.#endAfter(FINISH_MS);
    // What still comes is read and forgotten: a socket that is closed over it would take the last replies along.
    this.#socket.end(() => this.#endAfter(LINGER_MS));
    this.#socket.resume();
  }

  #endAfter(ms: number): void {
    clearTimeout(this.#timer);
    if (this.#socket.destroyed) return;
    this.#timer = setTimeout(() => this.#socket.destroy(), ms);
  }

  /** The client broke the rules: what it was answered before still reaches it. */
  #abandon(problem: string): void {
    if (this.#finishing) return;
    this.#common.onTrouble(problem);
    this.#finish();
  }

  #expel(problem: string): void {
    this.#common.onTrouble(problem);
    this.#socket.destroy();
  }

  #lost(error: unknown): void {
    if (!this.#finishing) this.#common.onTrouble('the connection broke', error);
    this.#socket.destroy();
  }

  /** Others wait for memory that this one holds, and nothing has moved for some time. Is it the client's turn? */
  #evict(): void {
    const unread = (this.#output?.pending ?? 0) > 0;
    if (unread || this.#transmission?.waitsForClient === true) this.#expel('the client stands still');
  }

  #gone(): void {
    clearTimeout(this.#timer);
    this.#transmission?.close();
    this.#output?.close();
    this.#account.close();
    this.#over();
  }
}
