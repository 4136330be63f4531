import { EXTENDED_REQUEST_MAGIC, REQUEST_MAGIC } from './protocol.ts';

/*
 * Requests out of the chunks that a socket yields, wherever those are cut. Nothing is allocated for a request: its
 * fields are those of the reader until the next one is read, and a payload that lies whole in a chunk is lent. Where the
 * socket lets us (own-buffer.ts), chunks lie in a buffer that is used again, and the rest of a long payload is read
 * straight to where it belongs.
 *
 *   compact    magic 4  flags 2  type 2  cookie 8  offset 8  length 4
 *   extended   magic 4  flags 2  type 2  cookie 8  offset 8  length 8
 */

const COMPACT_BYTES = 28;
const EXTENDED_BYTES = 32;
const HIGH: number = 2 ** 32;
const NOTHING: Buffer = Buffer.alloc(0);
/** What is read at once: about as much as a Unix socket holds. */
const ROOM_BYTES = 192 * 1024;
/** From this length on the rest of a payload is worth a read of its own. */
const DIRECT_BYTES = 32 * 1024;

/** A payload that comes in pieces. */
interface Payload {
  readonly target: Buffer;
  readonly length: number;
  filled: number;
}

export class RequestReader {
  flags = 0;
  type = 0;
  /** The client's mark of the request, given back in the reply; two halves, since nobody counts with it. */
  cookieHigh = 0;
  cookieLow = 0;
  /** Exact up to 2^53, and past the end of any disk beyond. */
  offset = 0;
  length = 0;
  readonly #extended: boolean;
  readonly #magic: number;
  readonly #headerBytes: number;
  /** A header that is cut by the end of a chunk. */
  readonly #cut: Buffer = Buffer.alloc(EXTENDED_BYTES);
  #cutBytes = 0;
  #chunk: Buffer = NOTHING;
  #at = 0;
  #payload: Payload | undefined;
  /** The buffer that chunks lie in, where it can be used again. */
  #room: Buffer | undefined;
  /** The next bytes go straight to the payload. */
  #direct = false;

  constructor(extended: boolean) {
    this.#extended = extended;
    this.#magic = extended ? EXTENDED_REQUEST_MAGIC : REQUEST_MAGIC;
    this.#headerBytes = extended ? EXTENDED_BYTES : COMPACT_BYTES;
  }

  push(chunk: Buffer): void {
    const left = this.#chunk.length - this.#at;
    this.#chunk = left === 0 ? chunk : Buffer.concat([this.#chunk.subarray(this.#at), chunk]);
    this.#at = 0;
  }

  /** Where the next bytes of the stream are to go; `filled` says that they are there. */
  room(): Buffer {
    const payload = this.#payload;
    this.#direct = payload !== undefined && payload.length - payload.filled >= DIRECT_BYTES;
    if (payload !== undefined && this.#direct) return payload.target.subarray(payload.filled, payload.length);
    // What is not looked at yet must stay.
    if (this.#at < this.#chunk.length) this.#room = undefined;
    this.#room ??= Buffer.allocUnsafeSlow(ROOM_BYTES);
    return this.#room;
  }

  filled(bytes: number): void {
    if (this.#direct && this.#payload !== undefined) this.#payload.filled += bytes;
    else if (this.#room !== undefined) this.push(this.#room.subarray(0, bytes));
  }

  /** Somebody goes on using bytes that were lent: what comes next is not written over them. */
  keep(lent: Buffer): void {
    if (lent.buffer === this.#room?.buffer) this.#room = undefined;
  }

  /** Reads the next header into the fields. `incomplete`: push more. `malformed`: not a request; the stream is lost. */
  readHeader(): 'request' | 'incomplete' | 'malformed' {
    const wanted = this.#headerBytes;
    if (this.#cutBytes === 0 && this.#chunk.length - this.#at >= wanted) {
      const at = this.#at;
      this.#at += wanted;
      return this.#parse(this.#chunk, at);
    }
    const part = Math.min(wanted - this.#cutBytes, this.#chunk.length - this.#at);
    this.#chunk.copy(this.#cut, this.#cutBytes, this.#at, this.#at + part);
    this.#cutBytes += part;
    this.#at += part;
    // A stranger is found out by the first four bytes; no need to wait for more of them.
    if (this.#cutBytes >= 4 && this.#cut.readUInt32BE(0) !== this.#magic) return 'malformed';
    if (this.#cutBytes < wanted) return 'incomplete';
    this.#cutBytes = 0;
    return this.#parse(this.#cut, 0);
  }

  /** The payload where it lies, when the chunk has all of it. It stays as it is in this turn, and for whom `keep` is told. */
  takeWhole(length: number): Buffer | undefined {
    const start = this.#at;
    if (this.#chunk.length - start < length) return undefined;
    this.#at = start + length;
    return this.#chunk.subarray(start, this.#at);
  }

  /** The payload comes in pieces: it is put together in `target`. */
  gather(target: Buffer, length: number): void {
    this.#payload = { target, length, filled: 0 };
  }

  /** Puts what has come to the payload; whether it is whole now. */
  gathered(): boolean {
    const payload = this.#payload;
    if (payload === undefined) return true;
    const part = Math.min(payload.length - payload.filled, this.#chunk.length - this.#at);
    this.#chunk.copy(payload.target, payload.filled, this.#at, this.#at + part);
    this.#at += part;
    payload.filled += part;
    if (payload.filled < payload.length) return false;
    this.#payload = undefined;
    return true;
  }

  /** Passes over so many bytes, as far as they have come; how many are left to pass over. */
  skip(bytes: number): number {
    const part = Math.min(bytes, this.#chunk.length - this.#at);
    this.#at += part;
    return bytes - part;
  }

  #parse(bytes: Buffer, at: number): 'request' | 'malformed' {
    if (bytes.readUInt32BE(at) !== this.#magic) return 'malformed';
    this.flags = bytes.readUInt16BE(at + 4);
    this.type = bytes.readUInt16BE(at + 6);
    this.cookieHigh = bytes.readUInt32BE(at + 8);
    this.cookieLow = bytes.readUInt32BE(at + 12);
    this.offset = bytes.readUInt32BE(at + 16) * HIGH + bytes.readUInt32BE(at + 20);
    this.length = this.#extended
      ? bytes.readUInt32BE(at + 24) * HIGH + bytes.readUInt32BE(at + 28)
      : bytes.readUInt32BE(at + 24);
    return 'request';
  }
}
