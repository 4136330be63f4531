import type { Disk } from '@cowlab/core';
import type { BufferPool } from './buffer-pool.ts';
import { BlockStatus, MOST_STATUS_BYTES } from './block-status.ts';
import type { NbdExport } from './exports.ts';
import { RefusedRequest, type WireFailure, wireFailure } from './failures.ts';
import type { Agreement } from './handshake.ts';
import type { MemoryAccount } from './memory.ts';
import { MOST_SLAB_REPLY_BYTES, type Output } from './output.ts';
import { Command, CommandFlag, WireError } from './protocol.ts';
import {
  type Asked,
  putDone,
  putEmptyRead,
  putError,
  putReadHeader,
  readHeaderBytes,
  type ReplyMode,
  SMALL_REPLY_BYTES,
} from './replies.ts';
import { changes, requestFailure } from './request-check.ts';
import { RequestReader } from './request-reader.ts';
import { SparseRead } from './sparse-read.ts';
import { Wakefulness } from './wakefulness.ts';
import { cacheRange, mayBeSlow, writeZeros } from './zeroing.ts';

/*
 * The second phase of a connection: requests become calls of a Disk, and their results replies.
 *
 *   chunk → header → check → room (memory.ts) → [payload] → Disk → reply into the slab → one write at the chunk's end
 *
 * Where the Disk answers at once, all requests of a chunk are answered without a promise, and their replies leave in
 * one write. One that has to wait is answered when it is done, in whatever order. After so many requests or bytes in one
 * turn the others have theirs: what is left of the chunk goes on in the next turn of the event loop, and the socket
 * rests until then.
 */

/** What one connection may do before it is the others' turn. */
const REQUESTS_PER_TURN = 256;
const BYTES_PER_TURN: number = 2 * 1024 * 1024;
/** While so much is on its way to the client, nothing new is taken up: buffers that few replies share stay in the cache. */
const MOST_UNSENT_BYTES: number = 1024 * 1024;
/** Requests of one connection that wait for the disk at one time. */
const MOST_RUNNING = 128;
/** Reads from this length on are looked at for zeros, where the client can be told. */
const SPARSE_BYTES = 64 * 1024;
/** What every request owes for its reply. */
const REPLY_OWED = 64;
/** A payload that is not wanted is passed over up to this length; a longer one ends the connection. */
const MOST_SKIPPED_BYTES: number = 2 ** 32;

/** What the connection does for the transmission. */
export interface Line {
  /** No more chunks, please, until `resume`. */
  pause(): void;
  resume(): void;
  /** Replies that are on their way leave, then the connection ends. */
  finish(): void;
  /** The client has broken the rules. */
  complain(problem: string): void;
}

export interface TransmissionParts {
  readonly agreement: Agreement;
  readonly output: Output;
  readonly account: MemoryAccount;
  readonly pool: BufferPool;
  readonly line: Line;
  readonly counts: RequestCounts;
}

/** Requests by command, and what they moved. Errors are replies that told one. */
export interface RequestCounts {
  readonly requests: number[];
  readBytes: number;
  writtenBytes: number;
  errors: number;
}

/** What of a request is still to come over the socket. */
type Coming =
  | { readonly kind: 'nothing' }
  | { readonly kind: 'payload'; readonly buffer: Buffer; readonly length: number }
  | { readonly kind: 'refused'; left: number; readonly failure: WireFailure; readonly owed: number };

const NOTHING: Coming = { kind: 'nothing' };

export class Transmission {
  readonly #disk: Disk;
  readonly #target: NbdExport;
  readonly #mode: ReplyMode;
  readonly #reader: RequestReader;
  readonly #output: Output;
  readonly #account: MemoryAccount;
  readonly #pool: BufferPool;
  readonly #line: Line;
  readonly #counts: RequestCounts;
  readonly #headBytes: number;
  readonly #sparse: SparseRead;
  readonly #blockStatus: BlockStatus;
  #coming: Coming = NOTHING;
  /**
   * The header that the reader holds was not taken up: it waits for the client to take replies, for memory, for a place
   * among those that run, or, having got what it waited for, for its turn.
   */
  #waitsFor: 'nothing' | 'client' | 'memory' | 'place' | 'turn' = 'nothing';
  /** It has got these bytes. */
  #granted = 0;
  /** The disk did not answer the last read at once: reads get buffers of their own until it does again. */
  #diskWaits = false;
  #running = 0;
  readonly #wakefulness = new Wakefulness();
  #paused = false;
  #next: NodeJS.Immediate | undefined;
  #state: 'open' | 'draining' | 'ended' = 'open';
  /** What takes long is to stop. */
  #ending = false;
  readonly #isEnding = (): boolean => this.#ending;

  constructor({ agreement, output, account, pool, line, counts }: TransmissionParts) {
    this.#target = agreement.target;
    this.#disk = agreement.target.disk;
    this.#mode = agreement.mode;
    this.#reader = new RequestReader(agreement.mode === 'extended');
    this.#output = output;
    this.#account = account;
    this.#pool = pool;
    this.#line = line;
    this.#counts = counts;
    this.#headBytes = readHeaderBytes(agreement.mode);
    const parts = { disk: this.#disk, mode: this.#mode, output, pool };
    this.#sparse = new SparseRead(parts);
    this.#blockStatus = new BlockStatus({ ...parts, contexts: agreement.contexts });
  }

  /** Whether the client has yet to send the rest of a write. */
  get waitsForClient(): boolean {
    return this.#coming.kind !== 'nothing';
  }

  push(chunk: Buffer): void {
    if (this.#state === 'ended') return;
    this.#reader.push(chunk);
    if (!this.#paused) this.#run();
  }

  /** Where a socket that can is to put the next bytes. */
  room(): Uint8Array {
    return this.#reader.room();
  }

  /** They are there. */
  filled(bytes: number): void {
    if (this.#state === 'ended') return;
    this.#reader.filled(bytes);
    this.#wakefulness.stir();
    if (!this.#paused) this.#run();
  }

  /** The kernel has taken some replies. */
  repliesTaken(): void {
    if (this.#waitsFor !== 'client' || this.#output.unsentBytes >= MOST_UNSENT_BYTES) return;
    this.#waitsFor = 'turn';
    this.#goOn();
  }

  /** The client has sent its last byte. */
  inputEnded(): void {
    if (this.#state === 'open') this.#state = 'draining';
    if (!this.#paused) this.#finishWhenIdle();
  }

  /** Requests that were taken up are answered, those behind them with ESHUTDOWN; then the connection ends. */
  drain(): void {
    this.#ending = true;
    if (this.#state === 'open') this.#state = 'draining';
    if (!this.#paused) this.#run();
    this.#finishWhenIdle();
  }

  /** The socket is gone. */
  close(): void {
    this.#ending = true;
    this.#state = 'ended';
    clearImmediate(this.#next);
  }

  /** Takes up requests until the chunk, the room or the turn is at its end. */
  #run(): void {
    if (this.#state === 'ended') return;
    const stop = this.#turn();
    this.#output.flush();
    if (stop === 'incomplete') return this.#hear();
    if (stop === 'malformed') return this.#abandon('not a request');
    if (stop === 'ended') return this.#finishWhenIdle();
    this.#rest();
    if (stop === 'turn') this.#goOn();
  }

  /** `room`: somebody else goes on with it. */
  #turn(): 'incomplete' | 'malformed' | 'ended' | 'room' | 'turn' {
    const endBytes = this.#counts.readBytes + this.#counts.writtenBytes + BYTES_PER_TURN;
    for (let count = 0; count < REQUESTS_PER_TURN; count++) {
      if (this.#state === 'ended') return 'ended';
      if (this.#coming.kind !== 'nothing') {
        if (!this.#takeComing()) return 'incomplete';
      } else {
        if (this.#waitsFor === 'nothing') {
          const found = this.#reader.readHeader();
          if (found !== 'request') return found;
        }
        if (this.#reader.type === Command.disconnect) {
          this.#counts.requests[Command.disconnect] = (this.#counts.requests[Command.disconnect] ?? 0) + 1;
          this.#state = 'ended';
          return 'ended';
        }
        if (!this.#begin()) return 'room';
      }
      if (this.#counts.readBytes + this.#counts.writtenBytes >= endBytes) return 'turn';
    }
    return 'turn';
  }

  #rest(): void {
    if (this.#paused) return;
    this.#paused = true;
    this.#line.pause();
  }

  #hear(): void {
    if (this.#state === 'draining') this.#finishWhenIdle();
    if (!this.#paused) return;
    this.#paused = false;
    this.#line.resume();
  }

  /** Takes up the request whose header was read; false when there is no room for it yet. */
  #begin(): boolean {
    const { type, length } = this.#reader;
    const failure = this.#refusal();
    const wanted = REPLY_OWED + (failure === undefined ? this.#wantedBytes(type, length) : 0);
    if (this.#granted === 0 && !this.#makeRoom(wanted)) return false;
    this.#waitsFor = 'nothing';
    const owed = this.#granted > 0 ? this.#granted : wanted;
    this.#granted = 0;
    this.#counts.requests[type] = (this.#counts.requests[type] ?? 0) + 1;
    if (failure !== undefined) {
      this.#refuse(failure, owed);
    } else if (type === Command.write) {
      this.#beginWrite(owed);
    } else {
      this.#perform(type, owed);
    }
    return true;
  }

  /** Takes the bytes; or goes on when they, or a place among the requests that run, are there. */
  #makeRoom(wanted: number): boolean {
    this.#waitsFor = 'client';
    if (this.#output.unsentBytes >= MOST_UNSENT_BYTES) return false;
    this.#waitsFor = 'place';
    if (this.#running >= MOST_RUNNING) return false;
    if (this.#account.tryTake(wanted)) return true;
    this.#waitsFor = 'memory';
    this.#account.wait(wanted, () => {
      this.#granted = wanted;
      this.#goOn();
    });
    return false;
  }

  #goOn(): void {
    this.#next = setImmediate(() => this.#run());
  }

  #wantedBytes(type: number, length: number): number {
    if (type === Command.read || type === Command.write) return length;
    return type === Command.blockStatus ? MOST_STATUS_BYTES : 0;
  }

  /** Why the request is not even tried. */
  #refusal(): WireFailure | undefined {
    if (this.#state === 'draining') return { error: WireError.shutdown, message: 'the server shuts down' };
    const failure = requestFailure(this.#reader, this.#target, this.#mode);
    if (failure !== undefined || this.#reader.type !== Command.blockStatus) return failure;
    return this.#blockStatus.refusal(this.#reader.length);
  }

  /** Tells the failure, behind the payload if there is one. */
  #refuse(failure: WireFailure, owed: number): void {
    const { type, flags, length } = this.#reader;
    const hasPayload =
      type === Command.write || (this.#mode === 'extended' && (flags & CommandFlag.payloadLength) !== 0);
    if (!hasPayload) return this.#fail(this.#reader, failure, owed);
    if (length > MOST_SKIPPED_BYTES) return this.#abandon(`payload of ${length} bytes`);
    this.#coming = { kind: 'refused', left: length, failure, owed };
  }

  #beginWrite(owed: number): void {
    const { length } = this.#reader;
    const whole = this.#reader.takeWhole(length);
    if (whole !== undefined) return this.#write(whole, undefined, owed);
    const buffer = this.#pool.take(length);
    this.#reader.gather(buffer, length);
    this.#coming = { kind: 'payload', buffer, length };
  }

  /** Goes on with what is to come; false when there has to come more. */
  #takeComing(): boolean {
    const coming = this.#coming;
    this.#account.moved();
    if (coming.kind === 'payload') {
      if (!this.#reader.gathered()) return false;
      this.#coming = NOTHING;
      this.#write(coming.buffer.subarray(0, coming.length), coming.buffer, coming.length + REPLY_OWED);
    } else if (coming.kind === 'refused') {
      coming.left = this.#reader.skip(coming.left);
      if (coming.left > 0) return false;
      this.#coming = NOTHING;
      this.#fail(this.#reader, coming.failure, coming.owed);
    }
    return true;
  }

  /** `pooled`: where the payload lies, when that goes back to the pool. */
  #write(payload: Buffer, pooled: Buffer | undefined, owed: number): void {
    const { offset, flags } = this.#reader;
    this.#counts.writtenBytes += payload.length;
    try {
      const pending = this.#disk.write(offset, payload);
      if (pending === undefined && (flags & CommandFlag.fua) === 0) {
        if (pooled !== undefined) this.#pool.give(pooled);
        return this.#succeed(this.#reader, owed);
      }
      if (pooled === undefined) this.#reader.keep(payload);
      this.#runs(pending, owed, (asked) => {
        if (pooled !== undefined) this.#pool.give(pooled);
        this.#succeed(asked, owed);
      });
    } catch (error) {
      this.#fail(this.#reader, wireFailure(error), owed);
    }
  }

  #perform(type: number, owed: number): void {
    const { offset, length, flags } = this.#reader;
    switch (type) {
      case Command.read:
        return this.#read(owed);
      case Command.flush:
        return this.#change(() => this.#disk.flush(), owed);
      case Command.trim:
        return this.#change(() => this.#disk.discard(offset, length), owed);
      case Command.writeZeroes:
        return this.#change(() => this.#writeZeroes(offset, length, flags), owed);
      case Command.cache:
        return this.#change(() => cacheRange(this.#disk, offset, length, this.#isEnding), owed);
      default: {
        const asked = copyOf(this.#reader);
        const mostRuns = (flags & CommandFlag.reqOne) === 0 ? Number.POSITIVE_INFINITY : 1;
        return this.#runs(this.#blockStatus.answer(asked, length, mostRuns, owed), owed, () => undefined);
      }
    }
  }

  #change(run: () => void | Promise<void>, owed: number): void {
    try {
      const pending = run();
      if (pending === undefined && (this.#reader.flags & CommandFlag.fua) === 0) {
        return this.#succeed(this.#reader, owed);
      }
      this.#runs(pending, owed, (asked) => this.#succeed(asked, owed));
    } catch (error) {
      this.#fail(this.#reader, wireFailure(error), owed);
    }
  }

  #writeZeroes(offset: number, length: number, flags: number): void | Promise<void> {
    const keepsSpace = (flags & CommandFlag.noHole) !== 0;
    if ((flags & CommandFlag.fastZero) !== 0 && (keepsSpace || mayBeSlow(this.#disk, offset, length))) {
      throw new RefusedRequest(WireError.notSupported, 'zeros would have to be written');
    }
    return keepsSpace
      ? writeZeros(this.#disk, offset, length, this.#isEnding)
      : this.#disk.writeZeroes(offset, length);
  }

  #read(owed: number): void {
    const { length, flags } = this.#reader;
    this.#counts.readBytes += length;
    if (length === 0) return this.#succeedEmpty(owed);
    if (length >= SPARSE_BYTES && this.#mode !== 'simple' && (flags & CommandFlag.df) === 0) {
      const asked = copyOf(this.#reader);
      return this.#runs(this.#sparse.answer(asked, length, owed), owed, () => undefined);
    }
    const bytes = this.#headBytes + length;
    if (this.#diskWaits || bytes > MOST_SLAB_REPLY_BYTES) return this.#readApart(bytes, owed);
    this.#readIntoSlab(bytes, owed);
  }

  /** The way of most reads: into the place in the slab from where they leave. */
  #readIntoSlab(bytes: number, owed: number): void {
    const { offset, length } = this.#reader;
    this.#output.reserve(bytes);
    const { buffer, at } = this.#output;
    try {
      const pending = this.#disk.read(offset, buffer.subarray(at + this.#headBytes, at + bytes));
      if (pending === undefined) {
        putReadHeader(buffer, at, this.#mode, this.#reader, length);
        return this.#output.commit(at + bytes, owed);
      }
      this.#diskWaits = true;
      this.#output.leave();
      this.#runs(pending, owed, (asked) => {
        putReadHeader(buffer, at, this.#mode, asked, length);
        this.#output.sendPart(buffer.subarray(at, at + bytes), owed);
      });
    } catch (error) {
      this.#fail(this.#reader, wireFailure(error), owed);
    }
  }

  #readApart(bytes: number, owed: number): void {
    const { offset, length } = this.#reader;
    const buffer = this.#pool.take(bytes);
    const leave = (asked: Asked): void => {
      putReadHeader(buffer, 0, this.#mode, asked, length);
      this.#output.send(buffer, bytes, owed);
    };
    try {
      const pending = this.#disk.read(offset, buffer.subarray(this.#headBytes, bytes));
      this.#diskWaits = pending !== undefined;
      if (pending === undefined) leave(this.#reader);
      else this.#runs(pending, owed, leave);
    } catch (error) {
      this.#fail(this.#reader, wireFailure(error), owed);
    }
  }

  /** Waits for the disk, beside whatever else happens; with FUA, for a flush as well. */
  #runs(pending: void | Promise<void>, owed: number, then: (asked: Asked) => void): void {
    const asked = copyOf(this.#reader);
    const durable = (this.#reader.flags & CommandFlag.fua) !== 0 && changes(this.#reader.type);
    this.#running++;
    void this.#wait(pending, durable)
      .then(() => then(asked))
      .catch((error: unknown) => this.#fail(asked, wireFailure(error), owed))
      .finally(() => this.#ran());
  }

  async #wait(pending: void | Promise<void>, durable: boolean): Promise<void> {
    await pending;
    if (durable) await this.#disk.flush();
  }

  #ran(): void {
    this.#running--;
    this.#output.flushSoon();
    // A request behind it may have waited for its place.
    if (this.#waitsFor === 'place' && this.#running === MOST_RUNNING - 1) this.#goOn();
    this.#finishWhenIdle();
  }

  #succeed(asked: Asked, owed: number): void {
    this.#output.reserve(SMALL_REPLY_BYTES);
    this.#output.commit(putDone(this.#output.buffer, this.#output.at, this.#mode, asked), owed);
  }

  /** A read of nothing: even that may not be answered in the simple form where the other was agreed upon. */
  #succeedEmpty(owed: number): void {
    this.#output.reserve(SMALL_REPLY_BYTES);
    this.#output.commit(putEmptyRead(this.#output.buffer, this.#output.at, this.#mode, this.#reader), owed);
  }

  #fail(asked: Asked, failure: WireFailure, owed: number): void {
    this.#counts.errors++;
    this.#output.reserve(SMALL_REPLY_BYTES);
    this.#output.commit(putError(this.#output.buffer, this.#output.at, this.#mode, asked, failure), owed);
  }

  /** The client does not speak NBD: nothing that comes is looked at any more, but what runs is answered. */
  #abandon(problem: string): void {
    this.#state = 'ended';
    this.#line.complain(problem);
    this.#finishWhenIdle();
  }

  #finishWhenIdle(): void {
    if (this.#state === 'open' || this.#running > 0) return;
    this.#state = 'ended';
    this.#output.flush();
    this.#line.finish();
  }
}

/** For replies that come later: the reader's own fields are the next request's by then. */
function copyOf({ cookieHigh, cookieLow, offset }: Asked): Asked {
  return { cookieHigh, cookieLow, offset };
}
