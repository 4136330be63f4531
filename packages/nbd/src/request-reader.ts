import { EXTENDED_REQUEST_MAGIC, REQUEST_MAGIC } from './protocol.ts';

/*
 * Requests out of the chunks that a socket yields, wherever those are cut. Nothing is allocated for a request: its
 * fields are those of the reader until the next one is read, and a payload that lies whole in a chunk is lent.
 *
 *   compact    magic 4  flags 2  type 2  cookie 8  offset 8  length 4
 *   extended   magic 4  flags 2  type 2  cookie 8  offset 8  length 8
 */

const COMPACT_BYTES = 28;
const EXTENDED_BYTES = 32;
const HIGH: number = 2 ** 32;
const NOTHING: Buffer = Buffer.alloc(0);

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

  /** The payload where it lies, when the chunk has all of it; the chunk is nobody else's, so it stays as it is. */
  takeWhole(length: number): Buffer | undefined {
    const start = this.#at;
    if (this.#chunk.length - start < length) return undefined;
    this.#at = start + length;
    return this.#chunk.subarray(start, this.#at);
  }

  /** Copies what has come of a payload to `target`, from `filled` to at most `end`; how far it is filled then. */
  fill(target: Buffer, filled: number, end: number): number {
    const part = Math.min(end - filled, this.#chunk.length - this.#at);
    this.#chunk.copy(target, filled, this.#at, this.#at + part);
    this.#at += part;
    return filled + part;
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
