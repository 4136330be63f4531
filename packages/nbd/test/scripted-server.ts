import { mkdtemp, rm } from 'node:fs/promises';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  Chunk,
  CHUNK_DONE,
  Info,
  NBD_MAGIC,
  Option,
  OPTION_MAGIC,
  OPTION_REPLY_MAGIC,
  OptionReply,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_MAGIC,
  TransmissionFlag,
} from '../src/protocol.ts';
import { u16, u32, u64 } from './bytes.ts';

/* A server that does what a test tells it, and nothing that it should: for what no good server would answer. */

export interface AskedRequest {
  readonly flags: number;
  readonly command: number;
  readonly cookie: bigint;
  readonly offset: number;
  readonly length: number;
  readonly payload: Buffer;
}

/** What the server does with a request: it writes to the connection what it likes. */
export type Answer = (request: AskedRequest, connection: net.Socket) => void;

export interface Script {
  /** Bytes of the export; 1 MiB by default. */
  readonly size?: number;
  readonly flags?: number;
  /** Structured replies are agreed to, and `base:allocation` gets id 1, unless it is false. */
  readonly structured?: boolean;
  /** Takes the place of the first bytes of the server. */
  readonly greeting?: Buffer;
  /** What an option is answered with; the usual answer where it gives none. */
  readonly option?: (option: number, data: Buffer) => Buffer | undefined;
  readonly answer?: Answer;
}

const { hasFlags, sendFlush, sendTrim, sendWriteZeroes, sendDf } = TransmissionFlag;
const usualFlags: number = hasFlags | sendFlush | sendTrim | sendWriteZeroes | sendDf;

export function simple(cookie: bigint, error = 0, data: Uint8Array = Buffer.alloc(0)): Buffer {
  return Buffer.concat([u32(SIMPLE_REPLY_MAGIC), u32(error), u64(cookie), data]);
}

export function chunk(cookie: bigint, type: number, data: Uint8Array, flags: number = CHUNK_DONE): Buffer {
  const head = [u32(STRUCTURED_REPLY_MAGIC), u16(flags), u16(type), u64(cookie), u32(data.length)];
  return Buffer.concat([...head, data]);
}

/** A chunk of data, or of a hole, at an offset of the export. */
export function dataChunk(
  cookie: bigint,
  offset: number,
  data: Uint8Array,
  flags: number = CHUNK_DONE,
): Buffer {
  return chunk(cookie, Chunk.offsetData, Buffer.concat([u64(offset), data]), flags);
}

export function holeChunk(
  cookie: bigint,
  offset: number,
  length: number,
  flags: number = CHUNK_DONE,
): Buffer {
  return chunk(cookie, Chunk.offsetHole, Buffer.concat([u64(offset), u32(length)]), flags);
}

export function optionReply(option: number, type: number, data: Uint8Array = Buffer.alloc(0)): Buffer {
  return Buffer.concat([u64(OPTION_REPLY_MAGIC), u32(option), u32(type), u32(data.length), data]);
}

export const goodGreeting: Buffer = Buffer.concat([u64(NBD_MAGIC), u64(OPTION_MAGIC), u16(3)]);

function usualReply(
  option: number,
  { size = 1 << 20, flags = usualFlags, structured = true }: Script,
): Buffer {
  const ack = optionReply(option, OptionReply.ack);
  const info = Buffer.concat([u16(Info.export), u64(size), u16(flags)]);
  if (option === Option.go) return Buffer.concat([optionReply(option, OptionReply.info, info), ack]);
  if (!structured) return optionReply(option, OptionReply.errUnsupported);
  const context = Buffer.concat([u32(1), Buffer.from('base:allocation')]);
  if (option !== Option.setMetaContext) return ack;
  return Buffer.concat([optionReply(option, OptionReply.metaContext, context), ack]);
}

/** One connection: collects bytes, and answers whole options and requests. */
function converse(connection: net.Socket, script: Script): void {
  let bytes = Buffer.alloc(0);
  let phase: 'flags' | 'options' | 'requests' = 'flags';
  const step = (): number => {
    if (phase === 'flags') {
      if (bytes.length < 4) return 0;
      phase = 'options';
      return 4;
    }
    if (phase === 'options') {
      if (bytes.length < 16 || bytes.length < 16 + bytes.readUInt32BE(12)) return 0;
      const option = bytes.readUInt32BE(8);
      const end = 16 + bytes.readUInt32BE(12);
      const reply = script.option?.(option, bytes.subarray(16, end)) ?? usualReply(option, script);
      connection.write(reply);
      const isRefused = reply.length >= 16 && reply.readUInt32BE(12) >= 0x8000_0000;
      if (option === Option.exportName || (option === Option.go && !isRefused)) phase = 'requests';
      return end;
    }
    if (bytes.length < 28) return 0;
    const command = bytes.readUInt16BE(6);
    const length = bytes.readUInt32BE(24);
    const end = command === 1 ? 28 + length : 28;
    if (bytes.length < end) return 0;
    const cookie = bytes.readBigUInt64BE(8);
    const offset = Number(bytes.readBigUInt64BE(16));
    const flags = bytes.readUInt16BE(4);
    const payload = Buffer.from(bytes.subarray(28, end));
    script.answer?.({ flags, command, cookie, offset, length, payload }, connection);
    return end;
  };
  connection.on('error', () => undefined);
  connection.on('data', (more) => {
    bytes = Buffer.concat([bytes, more]);
    for (let used = step(); used > 0; used = step()) bytes = bytes.subarray(used);
  });
  connection.write(script.greeting ?? goodGreeting);
}

export interface ScriptedServer extends AsyncDisposable {
  readonly uri: string;
  /** Connections so far. */
  readonly connections: number;
  /** Cuts every connection off, without a word. */
  cut(): void;
  /** Cuts, and takes no new one until `listen`. */
  stop(): Promise<void>;
  listen(): Promise<void>;
  /** From the next connection on it follows another script. */
  follow(script: Script): void;
}

export async function scriptedServer(first: Script): Promise<ScriptedServer> {
  const folder = await mkdtemp(join(tmpdir(), 'cowlab-nbd-script-'));
  const path = join(folder, 'socket');
  const open = new Set<net.Socket>();
  let script = first;
  let connections = 0;
  const server = net.createServer((connection) => {
    connections++;
    open.add(connection);
    connection.once('close', () => open.delete(connection));
    converse(connection, script);
  });
  const listen = (): Promise<void> => new Promise((resolve) => server.listen(path, resolve));
  const cut = (): void => open.forEach((connection) => connection.destroy());
  const stop = (): Promise<void> =>
    new Promise((resolve) => {
      server.close(() => resolve());
      cut();
    });
  await listen();
  return {
    uri: `nbd+unix:///?socket=${encodeURIComponent(path)}`,
    get connections() {
      return connections;
    },
    cut,
    stop,
    listen,
    follow: (next) => {
      script = next;
    },
    async [Symbol.asyncDispose]() {
      await stop();
      await rm(folder, { recursive: true, force: true });
    },
  };
}
