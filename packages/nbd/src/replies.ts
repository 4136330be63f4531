import {
  Chunk,
  CHUNK_DONE,
  EXTENDED_REPLY_MAGIC,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_MAGIC,
} from './protocol.ts';

/*
 * Replies, written to where the caller wants them. Three forms, agreed upon in the handshake:
 *
 *   simple       magic 4  error 4  cookie 8                                    then the data of a read
 *   structured   magic 4  flags 2  type 2  cookie 8            length 4        then the payload of a chunk
 *   extended     magic 4  flags 2  type 2  cookie 8  offset 8  length 8        then the payload of a chunk
 *
 * With structured replies, a request without data that went well is answered in the simple form, which is shorter.
 */

export type ReplyMode = 'simple' | 'structured' | 'extended';

/** What a reply has to give back of its request. */
export interface Asked {
  readonly cookieHigh: number;
  readonly cookieLow: number;
  readonly offset: number;
}

const SIMPLE_BYTES = 16;
const HIGH: number = 2 ** 32;
/** More than any error chunk or reply without data takes. */
export const SMALL_REPLY_BYTES = 1024;
const MOST_MESSAGE_BYTES = 512;

export function chunkHeaderBytes(mode: ReplyMode): number {
  return mode === 'extended' ? 32 : 20;
}

/** Bytes in front of the data of a read. */
export function readHeaderBytes(mode: ReplyMode): number {
  return mode === 'simple' ? SIMPLE_BYTES : chunkHeaderBytes(mode) + 8;
}

function putSimple(to: Buffer, at: number, asked: Asked, error: number): number {
  to.writeUInt32BE(SIMPLE_REPLY_MAGIC, at);
  to.writeUInt32BE(error, at + 4);
  to.writeUInt32BE(asked.cookieHigh, at + 8);
  to.writeUInt32BE(asked.cookieLow, at + 12);
  return at + SIMPLE_BYTES;
}

function putOffset(to: Buffer, at: number, offset: number): void {
  to.writeUInt32BE(Math.floor(offset / HIGH), at);
  to.writeUInt32BE(offset % HIGH, at + 4);
}

/** The header of a chunk; returns where its payload begins. */
export function putChunk(
  to: Buffer,
  at: number,
  mode: ReplyMode,
  asked: Asked,
  chunk: { readonly type: number; readonly flags: number; readonly length: number },
): number {
  to.writeUInt32BE(mode === 'extended' ? EXTENDED_REPLY_MAGIC : STRUCTURED_REPLY_MAGIC, at);
  to.writeUInt16BE(chunk.flags, at + 4);
  to.writeUInt16BE(chunk.type, at + 6);
  to.writeUInt32BE(asked.cookieHigh, at + 8);
  to.writeUInt32BE(asked.cookieLow, at + 12);
  if (mode !== 'extended') {
    to.writeUInt32BE(chunk.length, at + 16);
    return at + 20;
  }
  putOffset(to, at + 16, asked.offset);
  putOffset(to, at + 24, chunk.length);
  return at + 32;
}

const DATA_DONE = { type: Chunk.offsetData, flags: CHUNK_DONE };

/** The header in front of all the data of a read. */
export function putReadHeader(to: Buffer, at: number, mode: ReplyMode, asked: Asked, length: number): number {
  if (mode === 'simple') return putSimple(to, at, asked, 0);
  const payload = putChunk(to, at, mode, asked, { ...DATA_DONE, length: length + 8 });
  putOffset(to, payload, asked.offset);
  return payload + 8;
}

/** A part of the data of a read, from `offset` of the disk. */
export function putDataChunk(
  to: Buffer,
  at: number,
  mode: ReplyMode,
  asked: Asked,
  part: { readonly offset: number; readonly length: number; readonly flags: number },
): number {
  const { offset, length, flags } = part;
  const payload = putChunk(to, at, mode, asked, { type: Chunk.offsetData, flags, length: length + 8 });
  putOffset(to, payload, offset);
  return payload + 8;
}

/** A part of a read that is zeros. Its length has 32 bits. */
export function putHoleChunk(
  to: Buffer,
  at: number,
  mode: ReplyMode,
  asked: Asked,
  part: { readonly offset: number; readonly length: number; readonly flags: number },
): number {
  const { offset, length, flags } = part;
  const payload = putChunk(to, at, mode, asked, { type: Chunk.offsetHole, flags, length: 12 });
  putOffset(to, payload, offset);
  return to.writeUInt32BE(length, payload + 8);
}

/** The request went well, and has nothing to tell. */
export function putDone(to: Buffer, at: number, mode: ReplyMode, asked: Asked): number {
  if (mode !== 'extended') return putSimple(to, at, asked, 0);
  return putChunk(to, at, mode, asked, { type: Chunk.none, flags: CHUNK_DONE, length: 0 });
}

/** A read without bytes went well: the one reply to a read that has no data, and still may not be a simple one. */
export function putEmptyRead(to: Buffer, at: number, mode: ReplyMode, asked: Asked): number {
  if (mode === 'simple') return putSimple(to, at, asked, 0);
  return putChunk(to, at, mode, asked, { type: Chunk.none, flags: CHUNK_DONE, length: 0 });
}

/** The request failed; `message` is for a human, and cut where it gets long. */
export function putError(
  to: Buffer,
  at: number,
  mode: ReplyMode,
  asked: Asked,
  failure: { readonly error: number; readonly message: string },
): number {
  if (mode === 'simple') return putSimple(to, at, asked, failure.error);
  const text = cutText(failure.message);
  const chunk = { type: Chunk.error, flags: CHUNK_DONE, length: 6 + text.length };
  const payload = putChunk(to, at, mode, asked, chunk);
  to.writeUInt32BE(failure.error, payload);
  to.writeUInt16BE(text.length, payload + 4);
  to.set(text, payload + 6);
  return payload + 6 + text.length;
}

/** As UTF-8, with no character cut in two and no NUL in it. */
function cutText(text: string): Buffer {
  const bytes = Buffer.from(text.replaceAll('\0', '?'));
  if (bytes.length <= MOST_MESSAGE_BYTES) return bytes;
  let end = MOST_MESSAGE_BYTES;
  while (end > 0 && ((bytes[end] ?? 0) & 0xc0) === 0x80) end--;
  return bytes.subarray(0, end);
}
