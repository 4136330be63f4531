import { Random } from '@cowlab/conformance';
import { Chunk, CHUNK_DONE, Command, CommandFlag, Option, OptionReply, WireError } from '../src/protocol.ts';
import type { ReplyMode } from '../src/replies.ts';
import { u16, u32, u64 } from './bytes.ts';
import { TestClient, text } from './client.ts';
import { pattern } from './serving.ts';

/*
 * Sessions that are right up to some message and wrong from there on. What was right has to be answered right, whatever
 * comes behind it; of the rest only this is asked: replies that are replies, and an end.
 *
 *   flags  options…  GO or EXPORT_NAME  requests…  ‖  the same, mutated  ‖  the client's end
 */

export const DISK_BYTES: number = 1024 * 1024;

interface Message {
  readonly bytes: Buffer;
  /** For an option: what the last reply to it is. */
  readonly option?: { readonly number: number; readonly type: number };
  /** For a request. */
  readonly reply?: {
    readonly cookie: bigint;
    readonly error: number;
    readonly data?: Buffer;
    readonly length: number;
  };
}

export interface Session {
  readonly mode: ReplyMode;
  readonly exportName: boolean;
  readonly noZeroes: boolean;
  readonly messages: readonly Message[];
  /** How many of them were left alone. */
  readonly intact: number;
  /** What is sent, in pieces. */
  readonly pieces: readonly Buffer[];
}

/** Builds sessions over a disk whose content it keeps up with. */
export class SessionMaker {
  readonly #random: Random;
  readonly #encoder = new Map<ReplyMode, TestClient['encode']>();
  #cookie = 1n;

  constructor(seed: number) {
    this.#random = new Random(seed);
    for (const mode of ['simple', 'structured', 'extended'] as const) {
      const encoder = Object.create(TestClient.prototype) as TestClient;
      encoder.mode = mode;
      this.#encoder.set(mode, (ask) => encoder.encode(ask));
    }
  }

  /** `content` is the disk's, and is changed as the intact part of the session changes it. */
  make(content: Buffer): Session {
    const mode = this.#random.pick(['simple', 'structured', 'extended'] as const);
    const exportName = this.#random.below(3) === 0;
    const noZeroes = this.#random.below(2) === 0;
    const count = 4 + this.#random.below(10);
    const handshake = this.#handshake(mode, exportName, noZeroes);
    const intact = this.#random.below(handshake.length + count + 1);
    const messages = [...handshake];
    // A copy: what is mutated must not count.
    const imagined = Buffer.from(content);
    while (messages.length < handshake.length + count) {
      messages.push(this.#request(mode, messages.length < intact ? content : imagined));
    }
    const whole = Buffer.concat(messages.slice(0, intact).map(({ bytes }) => bytes));
    const rest = this.#mutate(Buffer.concat(messages.slice(intact).map(({ bytes }) => bytes)));
    const pieces = this.#cut(Buffer.concat([whole, rest]));
    return { mode, exportName, noZeroes, messages, intact, pieces };
  }

  #handshake(mode: ReplyMode, exportName: boolean, noZeroes: boolean): Message[] {
    const ack = OptionReply.ack;
    const messages: Message[] = [{ bytes: u32(noZeroes ? 3 : 1) }];
    if (mode !== 'simple') messages.push(this.#option(Option.structuredReply, Buffer.alloc(0), ack));
    if (mode === 'extended') messages.push(this.#option(Option.extendedHeaders, Buffer.alloc(0), ack));
    const extras = [
      this.#option(Option.list, Buffer.alloc(0), ack),
      this.#option(Option.info, Buffer.concat([text(''), u16(2), u16(0), u16(3)]), ack),
      this.#option(Option.go, Buffer.concat([text('nobody'), u16(0)]), OptionReply.errUnknown),
      this.#option(
        1000 + this.#random.below(1000),
        pattern(this.#random.below(300)),
        OptionReply.errUnsupported,
      ),
      this.#option(Option.info, pattern(70_000), OptionReply.errTooBig),
      this.#option(
        Option.setMetaContext,
        Buffer.concat([text(''), u32(1), text('base:allocation')]),
        mode === 'simple' ? OptionReply.errInvalid : ack,
      ),
    ];
    for (const extra of extras) if (this.#random.below(3) === 0) messages.push(extra);
    if (exportName) messages.push({ bytes: optionBytes(Option.exportName, Buffer.alloc(0)) });
    else messages.push(this.#option(Option.go, Buffer.concat([text(''), u16(0)]), ack));
    return messages;
  }

  #option(number: number, data: Buffer, type: number): Message {
    return { bytes: optionBytes(number, data), option: { number, type } };
  }

  #request(mode: ReplyMode, content: Buffer): Message {
    const cookie = this.#cookie++;
    const encode = this.#encoder.get(mode)!;
    const offset = this.#random.below(DISK_BYTES - 200_000);
    const length = 1 + this.#random.below(this.#random.pick([512, 5000, 200_000]));
    const range = { offset, length, cookie };
    switch (this.#random.below(9)) {
      case 0:
      case 1: {
        const payload = pattern(length, Number(cookie));
        payload.copy(content, offset);
        const flags = this.#random.pick([0, CommandFlag.fua]);
        return {
          bytes: encode({ type: Command.write, offset, payload, flags, cookie }),
          reply: done(cookie),
        };
      }
      case 2:
      case 3:
      case 4: {
        // A long read may see what is written behind it: the mapping is asked first, and that takes a moment.
        const isLong = mode !== 'simple' && length >= 65_536;
        const data = isLong ? {} : { data: Buffer.from(content.subarray(offset, offset + length)) };
        return {
          bytes: encode({ type: Command.read, ...range }),
          reply: { cookie, error: 0, length, ...data },
        };
      }
      case 5:
        content.fill(0, offset, offset + length);
        return { bytes: encode({ type: Command.writeZeroes, ...range }), reply: done(cookie) };
      case 6:
        return { bytes: encode({ type: Command.flush, cookie }), reply: done(cookie) };
      case 7: {
        const payload = pattern(length);
        const bytes = encode({ type: Command.write, offset: DISK_BYTES - length + 1, payload, cookie });
        return { bytes, reply: { ...done(cookie), error: WireError.noSpace } };
      }
      default: {
        const bytes = encode({ type: Command.read, offset: DISK_BYTES, length, cookie });
        return { bytes, reply: { ...done(cookie), error: WireError.invalid, length } };
      }
    }
  }

  /** One to four things go wrong. */
  #mutate(bytes: Buffer): Buffer {
    let mutated = bytes;
    for (let left = 1 + this.#random.below(4); left > 0 && mutated.length > 0; left--) {
      // Most fields lie near the start of what is wrong: what is behind it is only read when that was still sense.
      const near = this.#random.below(2) === 0 ? Math.min(mutated.length, 64) : mutated.length;
      mutated = this.#mutateAt(mutated, this.#random.below(near));
    }
    return mutated;
  }

  #mutateAt(bytes: Buffer, at: number): Buffer {
    const copy = Buffer.from(bytes);
    const length = 1 + this.#random.below(40);
    switch (this.#random.below(6)) {
      case 0:
        copy[at] = this.#random.below(256);
        return copy;
      case 1:
        return Buffer.concat([copy.subarray(0, at), copy.subarray(at + length)]);
      case 2:
        return Buffer.concat([copy.subarray(0, at + length), copy.subarray(at)]);
      case 3:
        return copy.subarray(0, at);
      case 4:
        return Buffer.concat([copy.subarray(0, at), pattern(length, at), copy.subarray(at)]);
      default: {
        const value = this.#random.pick([
          0,
          1,
          0x7fff_ffff,
          0x8000_0000,
          0xffff_ffff,
          DISK_BYTES,
          2 ** 25 + 1,
        ]);
        return Buffer.concat([copy.subarray(0, at), u32(value), copy.subarray(at + 4)]);
      }
    }
  }

  #cut(bytes: Buffer): Buffer[] {
    const pieces: Buffer[] = [];
    for (let at = 0; at < bytes.length; ) {
      const length = 1 + this.#random.below(this.#random.pick([20, 1000, 300_000]));
      pieces.push(bytes.subarray(at, at + length));
      at += length;
    }
    return pieces;
  }
}

function optionBytes(number: number, data: Buffer): Buffer {
  return Buffer.concat([u64(0x49484156454f5054n), u32(number), u32(data.length), data]);
}

function done(cookie: bigint): { cookie: bigint; error: number; length: number } {
  return { cookie, error: 0, length: 0 };
}

/** Plays a session to its end; everything that the server said. */
export async function play(uri: string, { pieces }: Session): Promise<Buffer> {
  const client = await TestClient.dial(uri);
  for (const piece of pieces) {
    if (client.socket.writable) client.socket.write(piece);
    await new Promise((resolve) => setImmediate(resolve));
  }
  client.socket.end();
  return client.untilClosed();
}

/** What is wrong with what the server said; undefined when it is all right. */
export function judge(session: Session, said: Buffer): string | undefined {
  try {
    return new Hearing(session, said).judge();
  } catch (error) {
    return `cut off: ${(error as Error).message}`;
  }
}

/** The server's words, taken apart. */
class Hearing {
  readonly #session: Session;
  readonly #said: Buffer;
  #at = 0;

  constructor(session: Session, said: Buffer) {
    this.#session = session;
    this.#said = said;
  }

  judge(): string | undefined {
    const { messages, intact } = this.#session;
    this.#take(18);
    const right = messages.slice(0, intact);
    for (const { option } of right) {
      if (option === undefined) continue;
      const type = this.#optionReplies(option.number);
      if (type !== option.type) return `option ${option.number}: ${type.toString(16)}`;
    }
    const begins = messages.findIndex(({ reply }) => reply !== undefined) - 1;
    if (intact <= begins) return undefined;
    if (this.#session.exportName) this.#take(this.#session.noZeroes ? 10 : 134);
    return this.#transmission(right.flatMap(({ reply }) => reply ?? []));
  }

  #take(bytes: number): Buffer {
    if (this.#at + bytes > this.#said.length) throw new Error(`at ${this.#at}: ${bytes} bytes are missing`);
    this.#at += bytes;
    return this.#said.subarray(this.#at - bytes, this.#at);
  }

  #optionReplies(number: number): number {
    for (;;) {
      const head = this.#take(20);
      if (head.readUInt32BE(8) !== number) throw new Error(`reply to option ${head.readUInt32BE(8)}`);
      this.#take(head.readUInt32BE(16));
      const type = head.readUInt32BE(12);
      if (type === OptionReply.ack || type >= 0x8000_0000) return type;
    }
  }

  #transmission(expected: readonly NonNullable<Message['reply']>[]): string | undefined {
    const missing = new Map(expected.map((reply) => [reply.cookie, reply]));
    while (this.#at < this.#said.length) {
      const { cookie, error, data } = this.#reply(missing);
      const reply = missing.get(cookie);
      if (reply === undefined) {
        // To something mutated; in the simple form nobody knows how long it is.
        if (this.#session.mode === 'simple') return undefined;
        continue;
      }
      missing.delete(cookie);
      if (error !== reply.error) return `request ${cookie}: error ${error} instead of ${reply.error}`;
      if (reply.data !== undefined && !data.equals(reply.data)) return `request ${cookie}: other bytes`;
    }
    return missing.size === 0 ? undefined : `no reply to ${[...missing.keys()].join(', ')}`;
  }

  #reply(missing: ReadonlyMap<bigint, { readonly length: number; readonly data?: Buffer }>): {
    cookie: bigint;
    error: number;
    data: Buffer;
  } {
    const { mode } = this.#session;
    const magic = this.#take(4).readUInt32BE(0);
    if (magic === 0x67446698 && mode !== 'extended') {
      const head = this.#take(12);
      const cookie = head.readBigUInt64BE(4);
      const reply = missing.get(cookie);
      const error = head.readUInt32BE(0);
      const length = mode === 'simple' && error === 0 && reply?.data !== undefined ? reply.length : 0;
      return { cookie, error, data: this.#take(length) };
    }
    if (magic !== (mode === 'extended' ? 0x6e8a278c : 0x668e33ef)) {
      throw new Error(`at ${this.#at - 4}: ${magic.toString(16)} is no reply`);
    }
    return this.#chunks();
  }

  /** Chunks of one reply come together here: the server sends a reply in one piece. */
  #chunks(): { cookie: bigint; error: number; data: Buffer } {
    const extended = this.#session.mode === 'extended';
    const parts: Buffer[] = [];
    for (let error = 0; ; this.#take(4)) {
      const head = this.#take(extended ? 28 : 16);
      const length = extended ? Number(head.readBigUInt64BE(20)) : head.readUInt32BE(12);
      const payload = this.#take(length);
      const type = head.readUInt16BE(2);
      if (type === Chunk.offsetData) parts.push(payload.subarray(8));
      else if (type === Chunk.offsetHole) parts.push(Buffer.alloc(payload.readUInt32BE(8)));
      else if (type === Chunk.error) error = payload.readUInt32BE(0);
      else if (type !== Chunk.none && type !== Chunk.blockStatus && type !== Chunk.blockStatusExtended) {
        throw new Error(`chunk of type ${type}`);
      }
      if ((head.readUInt16BE(0) & CHUNK_DONE) !== 0) {
        return { cookie: head.readBigUInt64BE(4), error, data: Buffer.concat(parts) };
      }
    }
  }
}
