import { blockSizes, type NbdExport, transmissionFlags } from './exports.ts';
import { listContexts, type MetaContext, selectContexts } from './meta-contexts.ts';
import { decodeContextRequest, decodeInfoRequest, decodeText } from './option-data.ts';
import {
  HandshakeFlag,
  Info,
  NBD_MAGIC,
  Option,
  OPTION_MAGIC,
  OPTION_REPLY_MAGIC,
  OptionReply,
} from './protocol.ts';
import type { ReplyMode } from './replies.ts';

/*
 * The first phase of a connection, fixed newstyle: the server greets, the client answers with its flags, and then asks
 * for options one after the other until one of them begins transmission. No I/O here: bytes go in, replies go to a
 * function, and `next` says what the connection has to do.
 *
 *   flags → option ⇄ reply → … → EXPORT_NAME or GO → transmission
 *                                STARTTLS → everything before is forgotten, and options begin again, encrypted
 *                                ABORT, or what breaks the rules → the end
 *
 * An option that is too long to be any of ours is passed over and refused; so is one that nobody knows.
 */

/** Longer than any option of ours. */
const MOST_OPTION_BYTES: number = 64 * 1024;
/** What is passed over of a longer one, before the client is taken for no client. */
const MOST_SKIPPED_BYTES: number = 16 * 1024 * 1024;
/** Nobody has so many questions. */
const MOST_OPTIONS = 1000;
const OPTION_HEADER_BYTES = 16;
const RESERVED_BYTES = 124;

export interface Agreement {
  readonly target: NbdExport;
  readonly mode: ReplyMode;
  readonly contexts: readonly MetaContext[];
}

/** What comes next. `more`: wait for bytes. `reply`: an option was answered, and there may be another. */
export type Step =
  | { readonly kind: 'more' | 'reply' | 'tls' }
  | { readonly kind: 'transmission'; readonly agreement: Agreement }
  | { readonly kind: 'end'; readonly problem?: string };

const MORE: Step = { kind: 'more' };
const REPLY: Step = { kind: 'reply' };
const TLS: Step = { kind: 'tls' };

export interface HandshakeOptions {
  readonly exports: ReadonlyMap<string, NbdExport>;
  /** `none`: not offered. `required`: nothing else is answered before. `active`: this connection has it. */
  readonly tls: 'none' | 'offered' | 'required' | 'active';
  readonly send: (bytes: Buffer) => void;
}

/** The server's first words. */
export function greeting(): Buffer {
  const bytes = Buffer.alloc(18);
  bytes.writeBigUInt64BE(NBD_MAGIC, 0);
  bytes.writeBigUInt64BE(OPTION_MAGIC, 8);
  bytes.writeUInt16BE(HandshakeFlag.fixedNewstyle | HandshakeFlag.noZeroes, 16);
  return bytes;
}

export class Handshake {
  readonly #options: HandshakeOptions;
  #bytes: Buffer = Buffer.alloc(0);
  #skipping = 0;
  #clientFlags: number | undefined;
  #count = 0;
  #mode: ReplyMode = 'simple';
  #contexts: { readonly name: string; readonly selected: readonly MetaContext[] } | undefined;

  /** `clientFlags` are known already where TLS has begun. */
  constructor(options: HandshakeOptions, clientFlags?: number) {
    this.#options = options;
    this.#clientFlags = clientFlags;
  }

  get clientFlags(): number | undefined {
    return this.#clientFlags;
  }

  /** What the client has sent beyond what was taken. */
  get rest(): Buffer {
    return this.#bytes;
  }

  push(chunk: Buffer): void {
    this.#bytes = this.#bytes.length === 0 ? chunk : Buffer.concat([this.#bytes, chunk]);
  }

  /** Does the next thing that the bytes pushed so far allow. */
  next(): Step {
    if (this.#clientFlags === undefined) return this.#readFlags();
    if (this.#skipping > 0) return this.#skip();
    if (this.#bytes.length < OPTION_HEADER_BYTES) return this.#waitForHeader();
    if (this.#bytes.readBigUInt64BE(0) !== OPTION_MAGIC) return end('not an option');
    const option = this.#bytes.readUInt32BE(8);
    const length = this.#bytes.readUInt32BE(12);
    if (length <= MOST_OPTION_BYTES && this.#bytes.length < OPTION_HEADER_BYTES + length) return MORE;
    if (++this.#count > MOST_OPTIONS) return end('too many options');
    if (length > MOST_OPTION_BYTES) return this.#refuseLong(option, length);
    const data = this.#take(OPTION_HEADER_BYTES + length).subarray(OPTION_HEADER_BYTES);
    return this.#answer(option, data);
  }

  #readFlags(): Step {
    if (this.#bytes.length < 4) return MORE;
    const flags = this.#take(4).readUInt32BE(0);
    const known = HandshakeFlag.fixedNewstyle | HandshakeFlag.noZeroes;
    if ((flags & ~known) !== 0) return end(`unknown client flags ${flags}`);
    this.#clientFlags = flags;
    return REPLY;
  }

  /** A stranger shows in the first bytes. */
  #waitForHeader(): Step {
    if (this.#bytes.length < 8 || this.#bytes.readBigUInt64BE(0) === OPTION_MAGIC) return MORE;
    return end('not an option');
  }

  #refuseLong(option: number, length: number): Step {
    if (option === Option.exportName || length > MOST_SKIPPED_BYTES) return end(`option of ${length} bytes`);
    this.#take(OPTION_HEADER_BYTES);
    this.#skipping = length;
    this.#reply(option, OptionReply.errTooBig, `option of ${length} bytes`);
    return REPLY;
  }

  #skip(): Step {
    const part = Math.min(this.#skipping, this.#bytes.length);
    this.#take(part);
    this.#skipping -= part;
    return this.#skipping > 0 ? MORE : REPLY;
  }

  #take(bytes: number): Buffer {
    const taken = this.#bytes.subarray(0, bytes);
    this.#bytes = this.#bytes.subarray(bytes);
    return taken;
  }

  #answer(option: number, data: Buffer): Step {
    if (option === Option.exportName) return this.#exportName(data);
    if (((this.#clientFlags ?? 0) & HandshakeFlag.fixedNewstyle) === 0)
      return end('option without fixed newstyle');
    if (option === Option.abort) {
      this.#reply(option, OptionReply.ack);
      return end();
    }
    if (option === Option.starttls) return this.#startTls(data);
    if (this.#options.tls === 'required') {
      return this.#refuse(option, OptionReply.errTlsRequired, 'this server requires TLS');
    }
    switch (option) {
      case Option.list:
        return this.#list(data);
      case Option.info:
      case Option.go:
        return this.#info(option, data);
      case Option.structuredReply:
        return this.#agreeOnReplies(option, data, 'structured');
      case Option.extendedHeaders:
        return this.#agreeOnReplies(option, data, 'extended');
      case Option.listMetaContext:
      case Option.setMetaContext:
        return this.#metaContext(option, data);
      default:
        return this.#refuse(option, OptionReply.errUnsupported, `unknown option ${option}`);
    }
  }

  #exportName(data: Buffer): Step {
    if (this.#options.tls === 'required') return end('an export was asked for without TLS');
    const name = decodeText(data);
    const target = name === undefined ? undefined : this.#options.exports.get(name);
    // This option knows no error reply.
    if (target === undefined) return end('unknown export');
    const short = ((this.#clientFlags ?? 0) & HandshakeFlag.noZeroes) !== 0;
    const bytes = Buffer.alloc(10 + (short ? 0 : RESERVED_BYTES));
    bytes.writeBigUInt64BE(BigInt(target.disk.size), 0);
    bytes.writeUInt16BE(transmissionFlags(target, this.#mode), 8);
    this.#options.send(bytes);
    return this.#begin(target);
  }

  #begin(target: NbdExport): Step {
    const contexts = this.#contexts?.name === target.name ? this.#contexts.selected : [];
    return { kind: 'transmission', agreement: { target, mode: this.#mode, contexts } };
  }

  #startTls(data: Buffer): Step {
    const { tls } = this.#options;
    if (tls === 'none') return this.#refuse(Option.starttls, OptionReply.errPolicy, 'this server has no TLS');
    if (tls === 'active')
      return this.#refuse(Option.starttls, OptionReply.errInvalid, 'TLS is active already');
    if (data.length > 0) return this.#refuse(Option.starttls, OptionReply.errInvalid, 'STARTTLS has no data');
    // Nobody may speak before TLS does: what came with the option was put in by somebody else.
    if (this.#bytes.length > 0) return end('data behind STARTTLS');
    this.#reply(Option.starttls, OptionReply.ack);
    return TLS;
  }

  #list(data: Buffer): Step {
    if (data.length > 0) return this.#refuse(Option.list, OptionReply.errInvalid, 'LIST has no data');
    for (const { name, description = '' } of this.#options.exports.values()) {
      const bytes = Buffer.from(name);
      this.#reply(
        Option.list,
        OptionReply.server,
        Buffer.concat([uint32(bytes.length), bytes, Buffer.from(description)]),
      );
    }
    this.#reply(Option.list, OptionReply.ack);
    return REPLY;
  }

  #info(option: number, data: Buffer): Step {
    const request = decodeInfoRequest(data);
    if (request === undefined) return this.#refuse(option, OptionReply.errInvalid, 'malformed request');
    const target = this.#options.exports.get(request.name);
    if (target === undefined) return this.#refuse(option, OptionReply.errUnknown, 'unknown export');
    const about = Buffer.alloc(12);
    about.writeUInt16BE(Info.export, 0);
    about.writeBigUInt64BE(BigInt(target.disk.size), 2);
    about.writeUInt16BE(transmissionFlags(target, this.#mode), 10);
    this.#reply(option, OptionReply.info, about);
    if (request.wanted.includes(Info.name)) this.#infoText(option, Info.name, target.name);
    if (request.wanted.includes(Info.description) && target.description !== undefined) {
      this.#infoText(option, Info.description, target.description);
    }
    const { minimum, preferred, maximum } = blockSizes(target);
    const sizes = Buffer.concat([
      uint16(Info.blockSize),
      uint32(minimum),
      uint32(preferred),
      uint32(maximum),
    ]);
    this.#reply(option, OptionReply.info, sizes);
    this.#reply(option, OptionReply.ack);
    return option === Option.go ? this.#begin(target) : REPLY;
  }

  #infoText(option: number, kind: number, text: string): void {
    this.#reply(option, OptionReply.info, Buffer.concat([uint16(kind), Buffer.from(text)]));
  }

  #agreeOnReplies(option: number, data: Buffer, mode: 'structured' | 'extended'): Step {
    if (data.length > 0) return this.#refuse(option, OptionReply.errInvalid, 'this option has no data');
    if (this.#mode === mode)
      return this.#refuse(option, OptionReply.errInvalid, 'this is agreed upon already');
    if (this.#mode === 'extended') {
      return this.#refuse(option, OptionReply.errExtendedHeadersRequired, 'extended headers are agreed upon');
    }
    this.#mode = mode;
    this.#reply(option, OptionReply.ack);
    return REPLY;
  }

  #metaContext(option: number, data: Buffer): Step {
    const selects = option === Option.setMetaContext;
    // Whatever becomes of it, it takes the place of an earlier selection.
    if (selects) this.#contexts = undefined;
    if (this.#mode === 'simple')
      return this.#refuse(option, OptionReply.errInvalid, 'needs structured replies');
    const request = decodeContextRequest(data);
    if (request === undefined) return this.#refuse(option, OptionReply.errInvalid, 'malformed request');
    const { name, queries } = request;
    if (!this.#options.exports.has(name))
      return this.#refuse(option, OptionReply.errUnknown, 'unknown export');
    const selected = selects ? selectContexts(queries) : listContexts(queries);
    if (selects) this.#contexts = { name, selected };
    for (const context of selected) {
      const id = uint32(selects ? context.id : 0);
      this.#reply(option, OptionReply.metaContext, Buffer.concat([id, Buffer.from(context.name)]));
    }
    this.#reply(option, OptionReply.ack);
    return REPLY;
  }

  #refuse(option: number, type: number, message: string): Step {
    this.#reply(option, type, message);
    return REPLY;
  }

  #reply(option: number, type: number, content: Buffer | string = ''): void {
    const data = typeof content === 'string' ? Buffer.from(content) : content;
    const head = Buffer.alloc(20);
    head.writeBigUInt64BE(OPTION_REPLY_MAGIC, 0);
    head.writeUInt32BE(option, 8);
    head.writeUInt32BE(type, 12);
    head.writeUInt32BE(data.length, 16);
    this.#options.send(Buffer.concat([head, data]));
  }
}

function end(problem?: string): Step {
  return problem === undefined ? { kind: 'end' } : { kind: 'end', problem };
}

function uint16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}
