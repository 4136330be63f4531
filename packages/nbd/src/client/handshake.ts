import type tls from 'node:tls';
import { CowlabError, readU64BE, viewOf } from '@cowlab/core';
import {
  HandshakeFlag,
  Info,
  NBD_MAGIC,
  Option,
  OPTION_MAGIC,
  OPTION_REPLY_MAGIC,
  OptionReply,
  TransmissionFlag,
} from '../protocol.ts';
import { protocolError } from './errors.ts';
import type { Receiver, Wire } from './wire.ts';

/*
 * The client's side of the fixed newstyle negotiation (proto.md, "Fixed newstyle negotiation" and "Option types"):
 *
 *   magics, flags → [STARTTLS → TLS] → STRUCTURED_REPLY → SET_META_CONTEXT base:allocation → GO
 *
 * What a server does not know of the middle is left out. One that knows no GO gets EXPORT_NAME. An answer that takes
 * more than it may, or is to another question, ends the connection.
 */

/** What a connection has come to. */
export interface Negotiated {
  /** Bytes of the export. */
  readonly size: number;
  /** Bits of {@link TransmissionFlag}. */
  readonly flags: number;
  /** Every offset and length is a multiple of it: a power of two, 1 where the server does not mind. */
  readonly minBlockBytes: number;
  /** Most bytes of a read or write. */
  readonly maxBlockBytes: number;
  readonly structured: boolean;
  /** Id of `base:allocation`; undefined where the server does not tell holes. */
  readonly allocationContext: number | undefined;
}

/** What to ask for. */
export interface Wish {
  /** The URI, for messages. */
  readonly file: string;
  readonly export: string;
  /** Options of `tls.connect`; undefined for a connection without TLS. */
  readonly tls: tls.ConnectionOptions | undefined;
}

const ALLOCATION = 'base:allocation';
/** No server has more to say in one reply to an option. */
const MAX_REPLY_BYTES = 64 * 1024;
/** Nor in more replies. */
const MAX_REPLIES = 1024;
/** What everybody takes where the server says nothing of sizes. */
const DEFAULT_MAX_BLOCK_BYTES = 32 * 1024 * 1024;
const EXPORT_NAME_PADDING = 124;

/**
 * Bytes that arrive, for somebody who waits for a number of them. The handshake always waits for some before the event
 * loop brings more, so what is kept is no more than one arrival and one reply.
 */
class Inbox implements Receiver {
  readonly #file: string;
  #bytes: Buffer = Buffer.alloc(0);
  #waiting: { count: number; resolve: (bytes: Buffer) => void; reject: (error: Error) => void } | undefined;
  #failure: Error | undefined;

  constructor(file: string) {
    this.#file = file;
  }

  /** What has arrived and nobody has asked for. */
  get left(): Uint8Array {
    return this.#bytes;
  }

  read(count: number): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      this.#waiting = { count, resolve, reject };
      this.#serve();
    });
  }

  room(): undefined {
    return undefined;
  }

  take(bytes: Uint8Array): void {
    this.#bytes = Buffer.concat([this.#bytes, bytes]);
    this.#serve();
  }

  ended(error: Error | undefined): void {
    const why = error === undefined ? 'the server ended the connection' : error.message;
    const data = { file: this.#file, field: 'handshake' };
    this.#failure = new CowlabError('ERR_CONNECTION_LOST', `${this.#file}: handshake: ${why}`, data, error);
    this.#serve();
  }

  #serve(): void {
    const waiting = this.#waiting;
    if (waiting === undefined) return;
    if (this.#bytes.length < waiting.count) {
      if (this.#failure !== undefined) waiting.reject(this.#failure);
      return;
    }
    this.#waiting = undefined;
    const bytes = this.#bytes.subarray(0, waiting.count);
    this.#bytes = this.#bytes.subarray(waiting.count);
    waiting.resolve(bytes);
  }
}

interface Reply {
  readonly type: number;
  readonly data: Buffer;
}

function u32(...values: readonly number[]): Buffer {
  const bytes = Buffer.alloc(values.length * 4);
  for (const [index, value] of values.entries()) bytes.writeUInt32BE(value, index * 4);
  return bytes;
}

/** A string of the protocol: its length in 32 bits, then its bytes. */
function textOf(text: string): Buffer {
  const bytes = Buffer.from(text);
  return Buffer.concat([u32(bytes.length), bytes]);
}

function nameOf(reply: number): string {
  return Object.entries(OptionReply).find(([, value]) => value === reply)?.[0] ?? `0x${reply.toString(16)}`;
}

const isError = (type: number): boolean => type >= 0x8000_0000;

class Negotiation {
  readonly #wire: Wire;
  readonly #wish: Wish;
  #inbox: Inbox;
  #noZeroes = false;

  constructor(wire: Wire, wish: Wish) {
    this.#wire = wire;
    this.#wish = wish;
    this.#inbox = new Inbox(wish.file);
    wire.listen(this.#inbox);
  }

  async run(): Promise<Negotiated> {
    await this.#greet();
    if (this.#wish.tls !== undefined) await this.#startTls(this.#wish.tls);
    const structured = await this.#ask(Option.structuredReply, Buffer.alloc(0));
    const context = structured ? await this.#askForAllocation() : undefined;
    const negotiated = (await this.#go(structured, context)) ?? (await this.#exportName(structured, context));
    if (this.#inbox.left.length > 0) throw this.#bad('handshake', 'has bytes behind its end');
    return negotiated;
  }

  async #greet(): Promise<void> {
    const head = await this.#inbox.read(18);
    if (head.readBigUInt64BE(0) !== NBD_MAGIC) throw this.#bad('handshake magic', 'is not that of NBD');
    if (head.readBigUInt64BE(8) !== OPTION_MAGIC) {
      throw this.#unsupported('handshake', 'the server only knows the oldstyle negotiation');
    }
    const flags = head.readUInt16BE(16);
    if ((flags & HandshakeFlag.fixedNewstyle) === 0) {
      throw this.#unsupported('handshake flags', 'the server does not know the fixed newstyle negotiation');
    }
    this.#noZeroes = (flags & HandshakeFlag.noZeroes) !== 0;
    this.#wire.send(u32(HandshakeFlag.fixedNewstyle | (this.#noZeroes ? HandshakeFlag.noZeroes : 0)));
  }

  async #startTls(options: tls.ConnectionOptions): Promise<void> {
    const { file } = this.#wish;
    const { type } = await this.#exchange(Option.starttls, Buffer.alloc(0), () => undefined);
    if (isError(type)) {
      const problem = `the server has no TLS: ${nameOf(type)}`;
      throw new CowlabError('ERR_TLS', `${file}: TLS: ${problem}`, {
        file,
        field: 'TLS',
        value: nameOf(type),
      });
    }
    // What came in the clear must not be taken for something that came over TLS.
    if (this.#inbox.left.length > 0) throw this.#bad('reply to STARTTLS', 'has bytes behind its end');
    await this.#wire.secure(file, options);
    this.#inbox = new Inbox(file);
    this.#wire.listen(this.#inbox);
  }

  /** Whether the server agrees to an option. */
  async #ask(option: number, data: Uint8Array): Promise<boolean> {
    const { type } = await this.#exchange(option, data, () => undefined);
    if (type === OptionReply.errTlsRequired) throw this.#tlsRequired();
    return type === OptionReply.ack;
  }

  async #askForAllocation(): Promise<number | undefined> {
    let id: number | undefined;
    const data = Buffer.concat([textOf(this.#wish.export), u32(1), textOf(ALLOCATION)]);
    const { type } = await this.#exchange(Option.setMetaContext, data, (reply) => {
      if (reply.type !== OptionReply.metaContext) return;
      if (reply.data.length < 4) throw this.#bad('reply to SET_META_CONTEXT', 'is too short');
      if (reply.data.toString('utf8', 4) === ALLOCATION) id = reply.data.readUInt32BE(0);
    });
    return type === OptionReply.ack ? id : undefined;
  }

  /** Undefined when the server knows no GO. */
  async #go(structured: boolean, allocationContext: number | undefined): Promise<Negotiated | undefined> {
    let size: number | undefined;
    let flags = 0;
    let blocks = { minBlockBytes: 1, maxBlockBytes: DEFAULT_MAX_BLOCK_BYTES };
    const wanted = Buffer.alloc(4);
    wanted.writeUInt16BE(1, 0);
    wanted.writeUInt16BE(Info.blockSize, 2);
    const data = Buffer.concat([textOf(this.#wish.export), wanted]);
    const { type, data: text } = await this.#exchange(Option.go, data, (reply) => {
      if (reply.type !== OptionReply.info) return;
      if (reply.data.length < 2) throw this.#bad('reply to GO', 'is too short');
      const kind = reply.data.readUInt16BE(0);
      if (kind === Info.export) [size, flags] = this.#exportInfo(reply.data, 12);
      if (kind === Info.blockSize) blocks = this.#blockSizes(reply.data);
    });
    if (type === OptionReply.errUnsupported) return undefined;
    if (isError(type)) throw this.#refused(type, text);
    if (size === undefined) throw this.#bad('reply to GO', 'does not tell the size of the export');
    return { size, flags, structured, allocationContext, ...blocks };
  }

  /** The older way: the server says size and flags, or ends the connection when it has no such export. */
  async #exportName(structured: boolean, allocationContext: number | undefined): Promise<Negotiated> {
    this.#send(Option.exportName, Buffer.from(this.#wish.export));
    const reply = await this.#inbox.read(10 + (this.#noZeroes ? 0 : EXPORT_NAME_PADDING));
    const [size, flags] = this.#exportInfo(Buffer.concat([Buffer.alloc(2), reply.subarray(0, 10)]), 12);
    const blocks = { minBlockBytes: 1, maxBlockBytes: DEFAULT_MAX_BLOCK_BYTES };
    return { size, flags, structured, allocationContext, ...blocks };
  }

  #exportInfo(data: Buffer, bytes: number): [size: number, flags: number] {
    if (data.length !== bytes) throw this.#bad('export info', `has ${data.length} bytes, not ${bytes}`);
    const flags = data.readUInt16BE(10);
    if ((flags & TransmissionFlag.hasFlags) === 0) throw this.#bad('transmission flags', 'lack HAS_FLAGS');
    try {
      return [readU64BE(viewOf(data), 2), flags];
    } catch {
      throw this.#unsupported('export size', 'is larger than 2^53 - 1 bytes');
    }
  }

  #blockSizes(data: Buffer): { minBlockBytes: number; maxBlockBytes: number } {
    if (data.length !== 14) throw this.#bad('block size info', `has ${data.length} bytes, not 14`);
    const min = data.readUInt32BE(2);
    const max = data.readUInt32BE(10);
    if (min === 0 || (min & (min - 1)) !== 0 || min > 64 * 1024) {
      throw this.#bad('block size info', `minimum ${min} is not a power of two up to 65536`, min);
    }
    if (max < min) throw this.#bad('block size info', `maximum ${max} is less than the minimum`, max);
    return { minBlockBytes: min, maxBlockBytes: max - (max % min) };
  }

  #send(option: number, data: Uint8Array): void {
    const head = Buffer.alloc(16);
    head.writeBigUInt64BE(OPTION_MAGIC, 0);
    head.writeUInt32BE(option, 8);
    head.writeUInt32BE(data.length, 12);
    this.#wire.send(head, data);
  }

  /** Sends an option, gives `use` what comes before the last reply, and returns that one: ACK or an error. */
  async #exchange(option: number, data: Uint8Array, use: (reply: Reply) => void): Promise<Reply> {
    this.#send(option, data);
    for (let count = 0; count < MAX_REPLIES; count++) {
      const reply = await this.#reply(option);
      if (reply.type === OptionReply.ack || isError(reply.type)) return reply;
      use(reply);
    }
    throw this.#bad('option replies', `are more than ${MAX_REPLIES}`);
  }

  async #reply(option: number): Promise<Reply> {
    const head = await this.#inbox.read(20);
    if (head.readBigUInt64BE(0) !== OPTION_REPLY_MAGIC) throw this.#bad('option reply magic', 'is wrong');
    const about = head.readUInt32BE(8);
    if (about !== option) throw this.#bad('option reply', `is to option ${about}, not to ${option}`, about);
    const type = head.readUInt32BE(12);
    const length = head.readUInt32BE(16);
    if (length > MAX_REPLY_BYTES) throw this.#bad('option reply', `has ${length} bytes`, length);
    return { type, data: await this.#inbox.read(length) };
  }

  #refused(type: number, text: Buffer): CowlabError {
    const { file, export: name } = this.#wish;
    if (type === OptionReply.errTlsRequired) return this.#tlsRequired();
    const said = text.length > 0 ? `: ${text.toString('utf8')}` : '';
    const message = `${file}: export: the server refuses "${name}" with ${nameOf(type)}${said}`;
    const code = type === OptionReply.errUnknown ? 'ERR_NOT_FOUND' : 'ERR_UNSUPPORTED';
    return new CowlabError(code, message, { file, field: 'export', value: name });
  }

  #tlsRequired(): CowlabError {
    const { file } = this.#wish;
    const problem = 'the server demands it: use nbds:// or nbds+unix://';
    return new CowlabError('ERR_TLS', `${file}: TLS: ${problem}`, { file, field: 'TLS' });
  }

  #bad(field: string, problem: string, value?: number): CowlabError {
    return protocolError(this.#wish.file, field, problem, value);
  }

  #unsupported(field: string, problem: string): CowlabError {
    const { file } = this.#wish;
    return new CowlabError('ERR_UNSUPPORTED', `${file}: ${field}: ${problem}`, { file, field });
  }
}

/**
 * Agrees with the server on how to go on. Rejects with `ERR_PROTOCOL`, `ERR_UNSUPPORTED`, `ERR_TLS`, `ERR_NOT_FOUND` for
 * an export that is not there, and `ERR_CONNECTION_LOST`.
 */
export function negotiate(wire: Wire, wish: Wish): Promise<Negotiated> {
  return new Negotiation(wire, wish).run();
}
