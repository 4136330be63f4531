import { CowlabError, readU64BE, viewOf, writeU64BE } from '@cowlab/core';
import {
  Chunk,
  CHUNK_DONE,
  Command,
  REQUEST_MAGIC,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_MAGIC,
} from '../protocol.ts';
import { Coverage } from './coverage.ts';
import { protocolError, refusedRequest } from './errors.ts';
import type { Negotiated } from './handshake.ts';
import { fieldOf, type Request } from './request.ts';
import type { Receiver, Wire } from './wire.ts';

/*
 * A connection in its transmission phase (proto.md, "Transmission phase"): requests go out as they come, replies come back
 * in any order, each with the cookie of its request. What arrives is taken apart by steps:
 *
 *   magic ─ simple ──────── bytes of a read, into its target
 *         └ structured ──── data (offset, then bytes into the target), hole, block status, error
 *                           until a chunk says that it was the last
 *
 * Nothing is believed: a reply to no request, a chunk that lies outside of what was asked, comes twice or is of another
 * kind, an end before everything has come; each ends the connection with `ERR_PROTOCOL`. A server that says nothing while
 * requests run is as good as gone after a time.
 */

const SIMPLE_HEAD_BYTES = 16;
const CHUNK_HEAD_BYTES = 20;
/** Longest text of an error, and what goes with it. */
const MAX_ERROR_BYTES = 4096 + 14;
const MAX_STATUS_BYTES = 16 * 1024 * 1024;
/** A read that waits for so much has its bytes put in place by the system. */
const DIRECT_BYTES = 64 * 1024;

interface Flight {
  readonly request: Request;
  readonly cookie: number;
  /** What has come of a read, or undefined where one reply is all. */
  readonly coverage: Coverage | undefined;
  error: CowlabError | undefined;
}

/** Who owns a connection. */
export interface ConnectionOwner {
  /** A request has its answer, and has been settled. */
  answered(request: Request, ok: boolean): void;
  /** The connection is gone; these were sent and have no answer, in the order they were sent. */
  lost(reason: CowlabError, unanswered: readonly Request[]): void;
}

export class Connection implements Receiver {
  readonly #file: string;
  readonly #wire: Wire;
  readonly #negotiated: Negotiated;
  readonly #owner: ConnectionOwner;
  readonly #replyTimeoutMs: number;
  readonly #flights: Map<number, Flight> = new Map();
  #cookie = 0;
  /** Bytes of a part that has not arrived whole. */
  #part: Buffer = Buffer.alloc(0);
  #wanted = 4;
  #step: (part: Buffer) => void = (part) => this.#magic(part);
  /** What is left of a target to be filled, and what to do then. */
  #sink: Uint8Array | undefined;
  #filled: () => void = () => undefined;
  #isOver = false;
  #lastHeard = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(
    file: string,
    wire: Wire,
    negotiated: Negotiated,
    owner: ConnectionOwner,
    replyTimeoutMs: number,
  ) {
    this.#file = file;
    this.#wire = wire;
    this.#negotiated = negotiated;
    this.#owner = owner;
    this.#replyTimeoutMs = replyTimeoutMs;
    wire.listen(this);
  }

  send(request: Request): void {
    const cookie = this.#nextCookie();
    const structured = this.#negotiated.structured && request.command === Command.read;
    const coverage = structured ? new Coverage(request.length) : undefined;
    if (this.#flights.size === 0) this.#watch();
    this.#flights.set(cookie, { request, cookie, coverage, error: undefined });
    const head = Buffer.allocUnsafe(28);
    const view = viewOf(head);
    view.setUint32(0, REQUEST_MAGIC);
    view.setUint16(4, request.flags);
    view.setUint16(6, request.command);
    writeU64BE(view, 8, cookie);
    writeU64BE(view, 16, request.offset);
    view.setUint32(24, request.length);
    if (request.payload === undefined) this.#wire.send(head);
    else this.#wire.send(head, request.payload);
  }

  /** Says goodbye and ends the connection. Nothing is under way. */
  async close(): Promise<void> {
    if (this.#isOver) return;
    this.#stop();
    const head = Buffer.alloc(28);
    head.writeUInt32BE(REQUEST_MAGIC, 0);
    head.writeUInt16BE(Command.disconnect, 6);
    this.#wire.send(head);
    await this.#wire.end();
  }

  /** Ends the connection at once. What has no answer is lost. */
  fail(reason: CowlabError): void {
    if (this.#isOver) return;
    this.#stop();
    this.#wire.destroy();
    const unanswered = [...this.#flights.values()].map(({ request }) => request);
    this.#flights.clear();
    this.#owner.lost(reason, unanswered);
  }

  room(): Uint8Array | undefined {
    return this.#sink !== undefined && this.#sink.length >= DIRECT_BYTES ? this.#sink : undefined;
  }

  take(bytes: Uint8Array): void {
    this.#lastHeard = performance.now();
    let rest = bytes;
    try {
      while (rest.length > 0 && !this.#isOver)
        rest = this.#sink === undefined ? this.#gather(rest) : this.#fill(rest);
    } catch (error) {
      if (!(error instanceof CowlabError)) throw error;
      this.fail(error);
    }
  }

  ended(error: Error | undefined): void {
    const why = error === undefined ? 'the server ended it' : error.message;
    this.fail(this.#lost(why, error));
  }

  #nextCookie(): number {
    do this.#cookie = this.#cookie === Number.MAX_SAFE_INTEGER ? 1 : this.#cookie + 1;
    while (this.#flights.has(this.#cookie));
    return this.#cookie;
  }

  #lost(why: string, cause?: Error): CowlabError {
    const message = `${this.#file}: connection lost: ${why}`;
    return new CowlabError('ERR_CONNECTION_LOST', message, { file: this.#file, field: 'connection' }, cause);
  }

  #stop(): void {
    this.#isOver = true;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#sink = undefined;
  }

  /** Notices a server that is silent while something is to be answered. */
  #watch(): void {
    this.#lastHeard = performance.now();
    if (this.#timer !== undefined || this.#replyTimeoutMs === 0) return;
    const decide = (): void => {
      if (this.#isOver || this.#flights.size === 0 || this.#timer !== undefined) return;
      const silent = performance.now() - this.#lastHeard;
      if (silent >= this.#replyTimeoutMs) this.fail(this.#lost(`no answer for ${Math.round(silent)} ms`));
      else this.#timer = setTimeout(look, this.#replyTimeoutMs - silent + 1).unref();
    };
    const look = (): void => {
      this.#timer = undefined;
      // When it was this process that had no time, answers are there to be read: first they are.
      setImmediate(decide);
    };
    this.#timer = setTimeout(look, this.#replyTimeoutMs).unref();
  }

  #bad(field: string, problem: string, value?: number): CowlabError {
    return protocolError(this.#file, field, problem, value);
  }

  /** Collects the bytes of the next part; returns what is behind it. */
  #gather(bytes: Uint8Array): Uint8Array {
    const missing = this.#wanted - this.#part.length;
    if (bytes.length < missing) {
      this.#part = Buffer.concat([this.#part, bytes]);
      return bytes.subarray(bytes.length);
    }
    const head = bytes.subarray(0, missing);
    const part =
      this.#part.length > 0
        ? Buffer.concat([this.#part, head])
        : Buffer.from(head.buffer, head.byteOffset, head.length);
    this.#part = Buffer.alloc(0);
    this.#step(part);
    return bytes.subarray(missing);
  }

  /** Puts bytes where they belong, unless they were read into it; returns what is behind them. */
  #fill(bytes: Uint8Array): Uint8Array {
    const sink = this.#sink!;
    const count = Math.min(sink.length, bytes.length);
    const isInPlace = bytes.buffer === sink.buffer && bytes.byteOffset === sink.byteOffset;
    if (!isInPlace) sink.set(bytes.subarray(0, count));
    this.#sink = sink.subarray(count);
    if (this.#sink.length === 0) {
      this.#sink = undefined;
      this.#filled();
    }
    return bytes.subarray(count);
  }

  #expect(bytes: number, step: (part: Buffer) => void): void {
    this.#wanted = bytes;
    this.#step = step;
  }

  #expectReply(): void {
    this.#expect(4, (part) => this.#magic(part));
  }

  #magic(part: Buffer): void {
    const magic = part.readUInt32BE(0);
    if (magic === SIMPLE_REPLY_MAGIC) this.#expect(SIMPLE_HEAD_BYTES - 4, (rest) => this.#simple(rest));
    else if (magic === STRUCTURED_REPLY_MAGIC && this.#negotiated.structured) {
      this.#expect(CHUNK_HEAD_BYTES - 4, (rest) => this.#chunk(rest));
    } else throw this.#bad('reply magic', `is 0x${magic.toString(16)}`, magic);
  }

  #flightOf(part: Buffer): Flight {
    const high = part.readUInt32BE(4);
    const cookie = high < 0x20_0000 ? readU64BE(viewOf(part), 4) : -1;
    const flight = this.#flights.get(cookie);
    if (flight === undefined) throw this.#bad('reply cookie', 'is that of no request');
    return flight;
  }

  #simple(part: Buffer): void {
    const number = part.readUInt32BE(0);
    const flight = this.#flightOf(part);
    const { request, coverage } = flight;
    if (coverage !== undefined) throw this.#bad('reply to a read', 'is not structured');
    if (request.command === Command.blockStatus && number === 0) {
      throw this.#bad('reply to a block status', 'is not structured');
    }
    if (number !== 0) flight.error = this.#refused(request, number, '');
    if (number !== 0 || request.target === undefined) return this.#done(flight);
    this.#fillFrom(request.target, () => this.#done(flight));
  }

  #fillFrom(target: Uint8Array, filled: () => void): void {
    this.#sink = target;
    this.#filled = filled;
    if (target.length > 0) return;
    this.#sink = undefined;
    filled();
  }

  #chunk(part: Buffer): void {
    const isLast = (part.readUInt16BE(0) & CHUNK_DONE) !== 0;
    const type = part.readUInt16BE(2);
    const flight = this.#flightOf(part);
    const length = part.readUInt32BE(12);
    const end = (): void => (isLast ? this.#done(flight) : this.#expectReply());
    switch (type) {
      case Chunk.none:
        if (length !== 0 || !isLast)
          throw this.#bad('chunk of type NONE', 'is not an empty last one', length);
        return end();
      case Chunk.offsetData:
        if (length < 9) throw this.#bad('data chunk', `has ${length} bytes`, length);
        return this.#expect(8, (offset) => this.#data(flight, offset, length - 8, end));
      case Chunk.offsetHole:
        if (length !== 12) throw this.#bad('hole chunk', `has ${length} bytes, not 12`, length);
        return this.#expect(12, (hole) => this.#hole(flight, hole, end));
      case Chunk.blockStatus:
        if (length < 12 || length > MAX_STATUS_BYTES || length % 8 !== 4) {
          throw this.#bad('block status chunk', `has ${length} bytes`, length);
        }
        return this.#expect(length, (status) => this.#status(flight, status, end));
      default:
        return this.#errorChunk(flight, type, length, end);
    }
  }

  #data(flight: Flight, part: Buffer, length: number, end: () => void): void {
    const start = this.#cover(flight, part, length, 'data chunk');
    this.#fillFrom(flight.request.target!.subarray(start, start + length), end);
  }

  #hole(flight: Flight, part: Buffer, end: () => void): void {
    const length = part.readUInt32BE(8);
    const start = this.#cover(flight, part, length, 'hole chunk');
    flight.request.target!.fill(0, start, start + length);
    end();
  }

  /** Where in the target a chunk's bytes belong. */
  #cover({ request, coverage }: Flight, part: Buffer, length: number, field: string): number {
    if (coverage === undefined) throw this.#bad(field, `does not answer a ${fieldOf(request)}`);
    let offset: number;
    try {
      offset = readU64BE(viewOf(part), 0);
    } catch {
      throw this.#bad(field, 'lies outside the request');
    }
    const start = offset - request.offset;
    const problem = coverage.add(start, length);
    if (problem !== undefined) throw this.#bad(field, problem, offset);
    return start;
  }

  #status({ request }: Flight, part: Buffer, end: () => void): void {
    const field = 'block status chunk';
    if (request.command !== Command.blockStatus) {
      throw this.#bad(field, `does not answer a ${fieldOf(request)}`);
    }
    const context = part.readUInt32BE(0);
    if (context !== this.#negotiated.allocationContext)
      throw this.#bad(field, 'has an unknown context', context);
    if (request.runs !== undefined) throw this.#bad(field, 'came before');
    request.runs = [];
    let at = 0;
    for (let i = 4; i < part.length; i += 8) {
      const length = part.readUInt32BE(i);
      if (length === 0) throw this.#bad(field, 'has an empty extent');
      if (at >= request.length) throw this.#bad(field, 'has extents behind the request');
      request.runs.push({ length: Math.min(length, request.length - at), state: part.readUInt32BE(i + 4) });
      at += length;
    }
    end();
  }

  #errorChunk(flight: Flight, type: number, length: number, end: () => void): void {
    if (type < 0x8000) throw this.#bad('chunk', `has the unknown type ${type}`, type);
    if (length < 6 || length > MAX_ERROR_BYTES) throw this.#bad('error chunk', `has ${length} bytes`, length);
    this.#expect(length, (part) => {
      const number = part.readUInt32BE(0);
      const words = part.readUInt16BE(4);
      if (number === 0) throw this.#bad('error chunk', 'has no error');
      if (6 + words > length) throw this.#bad('error chunk', 'has a text longer than itself', words);
      flight.error ??= this.#refused(flight.request, number, part.toString('utf8', 6, 6 + words));
      end();
    });
  }

  #refused(request: Request, number: number, words: string): CowlabError {
    const { offset, length } = request;
    return refusedRequest(this.#file, { field: fieldOf(request), offset, length }, number, words);
  }

  #done(flight: Flight): void {
    const { request, coverage, error, cookie } = flight;
    this.#expectReply();
    if (error === undefined) {
      if (coverage?.isWhole === false) throw this.#bad('reply to a read', 'ends before all bytes have come');
      if (request.command === Command.blockStatus && request.runs === undefined) {
        throw this.#bad('reply to a block status', 'tells none');
      }
    }
    this.#flights.delete(cookie);
    request.settle(error);
    this.#owner.answered(request, error === undefined);
  }
}
