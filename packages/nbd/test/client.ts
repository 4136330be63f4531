import { createConnection, type Socket } from 'node:net';
import {
  Chunk,
  CHUNK_DONE,
  Command,
  EXTENDED_REPLY_MAGIC,
  EXTENDED_REQUEST_MAGIC,
  Info,
  NBD_MAGIC,
  Option,
  OPTION_MAGIC,
  OPTION_REPLY_MAGIC,
  OptionReply,
  REQUEST_MAGIC,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_MAGIC,
} from '../src/protocol.ts';
import type { ReplyMode } from '../src/replies.ts';
import { u16, u32, u64 } from './bytes.ts';

/*
 * A client that does exactly what a test says, the wrong as well as the right, and believes nothing: each magic,
 * cookie and length that comes back is looked at.
 */

export interface OptionAnswer {
  readonly type: number;
  readonly data: Buffer;
}

export interface Ask {
  readonly type: number;
  readonly offset?: number;
  readonly length?: number;
  readonly flags?: number;
  readonly payload?: Uint8Array;
  /** Says another length than the payload's. */
  readonly cookie?: bigint;
}

export interface Answer {
  readonly cookie: bigint;
  readonly error: number;
  readonly message: string;
  /** Bytes of a read, with holes filled in; empty for everything else. */
  readonly data: Buffer;
  readonly chunks: readonly { readonly type: number; readonly payload: Buffer }[];
}

export interface ExportFacts {
  readonly size: number;
  readonly flags: number;
  readonly blockSizes?: readonly number[];
  readonly name?: string;
  readonly description?: string;
}

type Where = { readonly path: string } | { readonly port: number; readonly host?: string };

/** `nbd://…` and `nbd+unix://…` as what a socket connects to. */
function whereOf(uri: string): Where {
  const url = new URL(uri);
  const path = url.searchParams.get('socket');
  return path === null ? { host: url.hostname, port: Number(url.port) } : { path };
}

export function text(value: string): Buffer {
  const bytes = Buffer.from(value);
  return Buffer.concat([u32(bytes.length), bytes]);
}

export class TestClient {
  mode: ReplyMode = 'simple';
  /** The export that is open. */
  facts: ExportFacts = { size: 0, flags: 0 };
  #socket: Socket;
  #chunks: Buffer[] = [];
  #bytes = 0;
  #ended = false;
  #wake: () => void = () => undefined;
  #cookie = 1n;

  constructor(socket: Socket) {
    this.#socket = socket;
    this.use(socket);
  }

  /** Connects and waits for the greeting; flags are sent unless they are null. */
  static async connect(uri: string, flags: number | null = 3): Promise<TestClient> {
    const client = await TestClient.dial(uri);
    await client.greet(flags);
    return client;
  }

  static dial(uri: string): Promise<TestClient> {
    return new Promise((resolve, reject) => {
      const socket = createConnection({ ...whereOf(uri), allowHalfOpen: true });
      socket.once('error', reject);
      socket.once('connect', () => resolve(new TestClient(socket)));
    });
  }

  /** In transmission, in the given mode, with the given contexts selected. */
  static async open(
    uri: string,
    {
      name = '',
      mode = 'simple',
      contexts = [],
    }: { name?: string; mode?: ReplyMode; contexts?: string[] } = {},
  ): Promise<TestClient> {
    const client = await TestClient.connect(uri);
    if (mode === 'structured') await client.expectAck(Option.structuredReply);
    if (mode === 'extended') await client.expectAck(Option.extendedHeaders);
    client.mode = mode;
    if (contexts.length > 0) {
      await client.option(
        Option.setMetaContext,
        Buffer.concat([text(name), u32(contexts.length), ...contexts.map((each) => text(each))]),
      );
    }
    await client.go(name);
    return client;
  }

  get socket(): Socket {
    return this.#socket;
  }

  /** The connection goes on over another socket: TLS over the present one. */
  use(socket: Socket): void {
    this.#socket = socket;
    socket.on('data', (chunk: Buffer) => {
      this.#chunks.push(chunk);
      this.#bytes += chunk.length;
      this.#wake();
    });
    const over = (): void => {
      this.#ended = true;
      this.#wake();
    };
    socket.on('end', over);
    socket.on('close', over);
    socket.on('error', over);
  }

  async greet(flags: number | null): Promise<void> {
    const greeting = await this.read(18);
    if (greeting.readBigUInt64BE(0) !== NBD_MAGIC) throw new Error('no NBD server');
    if (greeting.readBigUInt64BE(8) !== OPTION_MAGIC) throw new Error('no newstyle server');
    if (flags !== null) this.send(u32(flags));
  }

  send(...parts: Uint8Array[]): void {
    this.#socket.write(Buffer.concat(parts));
  }

  /** Exactly so many bytes; rejects when the server closes before. */
  async read(bytes: number): Promise<Buffer> {
    while (this.#bytes < bytes) {
      if (this.#ended) throw new Error(`closed: ${this.#bytes} of ${bytes} bytes have come`);
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const whole = Buffer.concat(this.#chunks);
    this.#chunks = [whole.subarray(bytes)];
    this.#bytes -= bytes;
    return whole.subarray(0, bytes);
  }

  /** Resolves when the server has closed; the bytes that came until then. */
  async untilClosed(): Promise<Buffer> {
    while (!this.#ended) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    this.#socket.destroy();
    return Buffer.concat(this.#chunks);
  }

  close(): void {
    this.#socket.destroy();
  }

  sendOption(option: number, data: Uint8Array = Buffer.alloc(0)): void {
    this.send(u64(OPTION_MAGIC), u32(option), u32(data.length), data);
  }

  /** All replies to an option: the last one is an acknowledgement or an error. */
  async option(option: number, data: Uint8Array = Buffer.alloc(0)): Promise<OptionAnswer[]> {
    this.sendOption(option, data);
    return this.optionReplies(option);
  }

  async optionReplies(option: number): Promise<OptionAnswer[]> {
    const answers: OptionAnswer[] = [];
    for (;;) {
      const head = await this.read(20);
      if (head.readBigUInt64BE(0) !== OPTION_REPLY_MAGIC) throw new Error('no reply to an option');
      if (head.readUInt32BE(8) !== option) throw new Error(`a reply to option ${head.readUInt32BE(8)}`);
      const type = head.readUInt32BE(12);
      answers.push({ type, data: await this.read(head.readUInt32BE(16)) });
      if (type === OptionReply.ack || type >= 0x8000_0000) return answers;
    }
  }

  /** The type of the last reply. */
  async verdict(option: number, data: Uint8Array = Buffer.alloc(0)): Promise<number> {
    return (await this.option(option, data)).at(-1)!.type;
  }

  async expectAck(option: number, data: Uint8Array = Buffer.alloc(0)): Promise<void> {
    const type = await this.verdict(option, data);
    if (type !== OptionReply.ack) throw new Error(`option ${option}: ${type.toString(16)}`);
  }

  async info(option: number, name: string, wanted: readonly number[] = []): Promise<ExportFacts | number> {
    const data = Buffer.concat([text(name), u16(wanted.length), ...wanted.map(u16)]);
    const answers = await this.option(option, data);
    const { type } = answers.at(-1)!;
    if (type !== OptionReply.ack) return type;
    const of = (kind: number): Buffer | undefined =>
      answers
        .find((each) => each.type === OptionReply.info && each.data.readUInt16BE(0) === kind)
        ?.data.subarray(2);
    const about = of(Info.export);
    if (about === undefined) throw new Error('the server tells no size');
    const sizes = of(Info.blockSize);
    return {
      size: Number(about.readBigUInt64BE(0)),
      flags: about.readUInt16BE(8),
      ...(sizes === undefined ? {} : { blockSizes: [0, 4, 8].map((from) => sizes.readUInt32BE(from)) }),
      ...(of(Info.name) === undefined ? {} : { name: of(Info.name)!.toString() }),
      ...(of(Info.description) === undefined ? {} : { description: of(Info.description)!.toString() }),
    };
  }

  async go(name: string, wanted: readonly number[] = []): Promise<ExportFacts> {
    const facts = await this.info(Option.go, name, wanted);
    if (typeof facts === 'number') throw new Error(`GO was refused: ${facts.toString(16)}`);
    this.facts = facts;
    return facts;
  }

  /** Sends a request; its cookie. */
  ask({ type, offset = 0, length, flags = 0, payload, cookie = this.#cookie++ }: Ask): bigint {
    this.send(this.encode({ type, offset, flags, cookie, ...definedOnly({ length, payload }) }));
    return cookie;
  }

  encode({ type, offset = 0, length, flags = 0, payload = Buffer.alloc(0), cookie = 0n }: Ask): Buffer {
    const extended = this.mode === 'extended';
    const said = length ?? payload.length;
    const all = extended && type === Command.write ? flags | 32 : flags;
    const magic = extended ? EXTENDED_REQUEST_MAGIC : REQUEST_MAGIC;
    const size = extended ? u64(said) : u32(said);
    return Buffer.concat([u32(magic), u16(all), u16(type), u64(cookie), u64(offset), size, payload]);
  }

  /** The next reply whole, whosever it is. `dataLength`: how much a read asked for; `offset`: from where. */
  async answer(dataLength = 0, offset: number | ((cookie: bigint) => number) = 0): Promise<Answer> {
    const magic = (await this.read(4)).readUInt32BE(0);
    if (magic === SIMPLE_REPLY_MAGIC && this.mode !== 'extended') {
      const head = await this.read(12);
      const error = head.readUInt32BE(0);
      const data = error === 0 ? await this.read(dataLength) : Buffer.alloc(0);
      return { cookie: head.readBigUInt64BE(4), error, message: '', data, chunks: [] };
    }
    const expected = this.mode === 'extended' ? EXTENDED_REPLY_MAGIC : STRUCTURED_REPLY_MAGIC;
    if (this.mode === 'simple' || magic !== expected) throw new Error(`no reply: ${magic.toString(16)}`);
    return this.#structured(dataLength, typeof offset === 'number' ? () => offset : offset);
  }

  /** Sends a request and waits for its reply. */
  async request(ask: Ask): Promise<Answer> {
    const cookie = this.ask(ask);
    const isRead = ask.type === Command.read;
    const answer = await this.answer(isRead ? (ask.length ?? 0) : 0, ask.offset ?? 0);
    if (answer.cookie !== cookie) throw new Error(`reply to ${answer.cookie} instead of ${cookie}`);
    return answer;
  }

  async #structured(dataLength: number, offsetOf: (cookie: bigint) => number): Promise<Answer> {
    const data = Buffer.alloc(dataLength, 0xee);
    const chunks: { type: number; payload: Buffer }[] = [];
    let covered = 0;
    let failure = { error: 0, message: '' };
    for (let first = true; ; first = false) {
      if (!first) await this.read(4);
      const head = await this.read(this.mode === 'extended' ? 28 : 16);
      const flags = head.readUInt16BE(0);
      const cookie = head.readBigUInt64BE(4);
      const offset = offsetOf(cookie);
      const type = head.readUInt16BE(2);
      const length = this.mode === 'extended' ? Number(head.readBigUInt64BE(20)) : head.readUInt32BE(12);
      const payload = await this.read(length);
      chunks.push({ type, payload });
      if (type === Chunk.offsetData) covered += payload.copy(data, placeOf(payload, offset), 8);
      if (type === Chunk.offsetHole) {
        const end = placeOf(payload, offset) + payload.readUInt32BE(8);
        data.fill(0, placeOf(payload, offset), end);
        covered += payload.readUInt32BE(8);
      }
      if (type === Chunk.error) {
        failure = { error: payload.readUInt32BE(0), message: payload.subarray(6).toString() };
      }
      if ((flags & CHUNK_DONE) === 0) continue;
      if (failure.error === 0 && covered !== dataLength) throw new Error(`${covered} of ${dataLength} bytes`);
      return { cookie, ...failure, data, chunks };
    }
  }
}

function placeOf(payload: Buffer, offset: number): number {
  return Number(payload.readBigUInt64BE(0)) - offset;
}

function definedOnly<T extends object>(from: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(from).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>;
  };
}
