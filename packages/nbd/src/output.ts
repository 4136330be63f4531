import type { Socket } from 'node:net';
import type { BufferPool } from './buffer-pool.ts';
import type { MemoryAccount } from './memory.ts';

/*
 * Replies on their way to one client. Small ones are put one behind the other into a slab, and what one turn of the
 * event loop has put there leaves in one write; large ones have a buffer of their own. A slab is used from its start
 * again when everything in it has left.
 *
 * Every reply returns what its request owes the account when the kernel has taken it (see memory.ts).
 */

const SLAB_BYTES = 256 * 1024;
/** Larger ones go into a buffer of their own. */
export const MOST_SLAB_REPLY_BYTES: number = SLAB_BYTES / 2;

interface Slab {
  readonly buffer: Buffer;
  used: number;
  sent: number;
  owed: number;
  /** Writes that are under way. */
  writes: number;
  /** Nothing is put into it any more. */
  retired: boolean;
}

export class Output {
  /** Bytes handed to the socket. */
  bytes = 0;
  /** Writes that the kernel has not taken, and their bytes. */
  pending = 0;
  unsentBytes = 0;
  #socket: Socket;
  readonly #pool: BufferPool;
  readonly #account: MemoryAccount;
  readonly #taken: () => void;
  #slab: Slab;
  #scheduled: NodeJS.Immediate | undefined;

  /** `taken` is called whenever the kernel has taken a write. */
  constructor(socket: Socket, pool: BufferPool, account: MemoryAccount, taken: () => void) {
    this.#socket = socket;
    this.#pool = pool;
    this.#account = account;
    this.#taken = taken;
    this.#slab = this.#newSlab();
  }

  /** Another socket for the same client. */
  use(socket: Socket): void {
    this.#socket = socket;
  }

  /** Where the next small reply goes: `buffer`, from `at` on. Valid until `commit`, `flush` or another `reserve`. */
  reserve(bytes: number): void {
    if (this.#slab.used + bytes <= SLAB_BYTES) return;
    this.#retire();
    this.#slab = this.#newSlab();
  }

  get buffer(): Buffer {
    return this.#slab.buffer;
  }

  get at(): number {
    return this.#slab.used;
  }

  /** The reply is written up to `end`. */
  commit(end: number, owed: number): void {
    this.#slab.used = end;
    this.#slab.owed += owed;
  }

  /** The reserved place is going to be filled later, by somebody who has it from now on. */
  leave(): void {
    this.flush();
    // The old one is not used again: the collector takes it when the read is done.
    this.#slab = this.#newSlab();
  }

  /** A reply in a buffer of its own, which goes back to the pool. */
  send(buffer: Buffer, length: number, owed: number): void {
    this.#write(buffer.subarray(0, length), () => {
      this.#pool.give(buffer);
      this.#account.give(owed);
    });
  }

  /** A reply in a part of some buffer that nobody writes to. */
  sendPart(part: Buffer, owed: number): void {
    this.#write(part, () => this.#account.give(owed));
  }

  /** Everything put so far leaves. */
  flush(): void {
    const slab = this.#slab;
    const { sent, used, owed } = slab;
    if (sent === used) return;
    slab.sent = used;
    slab.owed = 0;
    slab.writes++;
    this.#write(slab.buffer.subarray(sent, used), () => {
      slab.writes--;
      if (slab.writes === 0) this.#restart(slab);
      this.#account.give(owed);
    });
  }

  /** Everything put until the end of this turn leaves together. */
  flushSoon(): void {
    this.#scheduled ??= setImmediate(() => {
      this.#scheduled = undefined;
      this.flush();
    });
  }

  /** The socket is gone. */
  close(): void {
    clearImmediate(this.#scheduled);
  }

  #write(bytes: Buffer, done: () => void): void {
    if (this.#socket.destroyed) return;
    this.pending++;
    this.unsentBytes += bytes.length;
    this.bytes += bytes.length;
    this.#socket.write(bytes, () => {
      this.pending--;
      this.unsentBytes -= bytes.length;
      done();
      this.#taken();
    });
  }

  #newSlab(): Slab {
    const buffer = this.#pool.take(SLAB_BYTES);
    return { buffer, used: 0, sent: 0, owed: 0, writes: 0, retired: false };
  }

  #retire(): void {
    const slab = this.#slab;
    this.flush();
    slab.retired = true;
    if (slab.writes === 0) this.#pool.give(slab.buffer);
  }

  #restart(slab: Slab): void {
    if (slab.retired) return this.#pool.give(slab.buffer);
    if (slab !== this.#slab || slab.sent !== slab.used) return;
    slab.used = 0;
    slab.sent = 0;
  }
}
