import type { Socket } from 'node:net';
import { Random } from '@cowlab/conformance';
import type { Storage } from '@cowlab/core';
import { describe, expect, it } from 'vitest';
import { type NbdClientOptions, openNbd } from '../src/index.ts';
import { Chunk, Command, Option, OptionReply, WireError } from '../src/protocol.ts';
import { u16, u32, u64 } from './bytes.ts';
import {
  type Answer,
  type AskedRequest,
  chunk,
  dataChunk,
  goodGreeting,
  holeChunk,
  optionReply,
  type Script,
  scriptedServer,
  simple,
} from './scripted-server.ts';
import { codeOf } from './servers.ts';

/* Servers that break the protocol. Each has to end in an error with a code: never a hang, never wrong bytes. */

const impatient: NbdClientOptions = { reconnectTimeoutMs: 0, replyTimeoutMs: 1500, connectTimeoutMs: 1500 };

/** The code and field of what a call rejects with. */
async function failureOf(call: () => unknown): Promise<string> {
  try {
    await call();
  } catch (error) {
    const { code, data } = error as { code?: string; data?: { field?: string } };
    return `${code} ${data?.field}`;
  }
  return 'no error';
}

async function withServer<T>(script: Script, use: (storage: Storage) => Promise<T>): Promise<T> {
  await using server = await scriptedServer(script);
  const storage = await openNbd(server.uri, impatient);
  try {
    return await use(storage);
  } finally {
    await storage.close();
  }
}

const nothing = Buffer.alloc(0);
const errorText = (number: number, text: string): Buffer =>
  Buffer.concat([u32(number), u16(text.length), Buffer.from(text)]);
const statusOf = (context: number, ...pairs: number[]): Buffer =>
  Buffer.concat([u32(context), ...pairs.map(u32)]);

/** What comes of reading 8 bytes at 512 from a server that answers in that way. */
const reads: [name: string, failure: string, answer: (cookie: bigint) => Buffer][] = [
  ['a wrong magic', 'ERR_PROTOCOL reply magic', () => Buffer.alloc(20, 7)],
  ['a cookie of no request', 'ERR_PROTOCOL reply cookie', (c) => dataChunk(c + 1n, 512, Buffer.alloc(8))],
  [
    'a cookie past 2^53',
    'ERR_PROTOCOL reply cookie',
    (c) => dataChunk(c + (1n << 60n), 512, Buffer.alloc(8)),
  ],
  ['a simple reply', 'ERR_PROTOCOL reply to a read', (c) => simple(c, 0, Buffer.alloc(8))],
  ['too few bytes', 'ERR_PROTOCOL reply to a read', (c) => dataChunk(c, 512, Buffer.alloc(7))],
  ['no bytes', 'ERR_PROTOCOL reply to a read', (c) => chunk(c, Chunk.none, nothing)],
  ['bytes before the request', 'ERR_PROTOCOL data chunk', (c) => dataChunk(c, 511, Buffer.alloc(8))],
  ['bytes behind the request', 'ERR_PROTOCOL data chunk', (c) => dataChunk(c, 513, Buffer.alloc(8))],
  ['too many bytes', 'ERR_PROTOCOL data chunk', (c) => dataChunk(c, 512, Buffer.alloc(9))],
  [
    'an offset past 2^53',
    'ERR_PROTOCOL data chunk',
    (c) => chunk(c, Chunk.offsetData, Buffer.alloc(16, 255)),
  ],
  ['an empty data chunk', 'ERR_PROTOCOL data chunk', (c) => dataChunk(c, 512, nothing)],
  ['a data chunk without an offset', 'ERR_PROTOCOL data chunk', (c) => chunk(c, Chunk.offsetData, u32(0))],
  [
    'bytes twice',
    'ERR_PROTOCOL data chunk',
    (c) => Buffer.concat([dataChunk(c, 512, Buffer.alloc(8), 0), dataChunk(c, 516, Buffer.alloc(4))]),
  ],
  ['a hole behind the request', 'ERR_PROTOCOL hole chunk', (c) => holeChunk(c, 516, 8)],
  ['an empty hole', 'ERR_PROTOCOL hole chunk', (c) => holeChunk(c, 512, 0)],
  [
    'a hole of another length',
    'ERR_PROTOCOL hole chunk',
    (c) => chunk(c, Chunk.offsetHole, Buffer.alloc(13)),
  ],
  ['a chunk of no known type', 'ERR_PROTOCOL chunk', (c) => chunk(c, 77, nothing)],
  ['NONE with bytes', 'ERR_PROTOCOL chunk of type NONE', (c) => chunk(c, Chunk.none, u32(1))],
  ['NONE that is not the last', 'ERR_PROTOCOL chunk of type NONE', (c) => chunk(c, Chunk.none, nothing, 0)],
  [
    'a status of a read',
    'ERR_PROTOCOL block status chunk',
    (c) => chunk(c, Chunk.blockStatus, statusOf(1, 8, 0)),
  ],
  ['an error that is none', 'ERR_PROTOCOL error chunk', (c) => chunk(c, Chunk.error, errorText(0, ''))],
  ['an error without a number', 'ERR_PROTOCOL error chunk', (c) => chunk(c, Chunk.error, u16(5))],
  [
    'an error with a text longer than itself',
    'ERR_PROTOCOL error chunk',
    (c) => chunk(c, Chunk.error, Buffer.concat([u32(5), u16(100)])),
  ],
  [
    'an error of a megabyte',
    'ERR_PROTOCOL error chunk',
    (c) => chunk(c, Chunk.error, Buffer.alloc(1 << 20, 1)),
  ],
  [
    'an answer after the last chunk',
    'ERR_PROTOCOL reply cookie',
    // The first answer is good: the second one meets the next request.
    (c) => Buffer.concat([dataChunk(c, 512, Buffer.alloc(8)), dataChunk(c, 512, Buffer.alloc(8))]),
  ],
  ['half a reply, and silence', 'ERR_CONNECTION_LOST connection', (c) => simple(c).subarray(0, 9)],
  ['silence', 'ERR_CONNECTION_LOST connection', () => nothing],
];

describe('a read is answered with', () => {
  it.each(reads)('%s: %s', async (_, failure, answer) => {
    const script: Script = { answer: ({ cookie }, connection) => connection.write(answer(cookie)) };
    await withServer(script, async (storage) => {
      const readAll = async (): Promise<void> => {
        for (let i = 0; i < 3; i++) await storage.read(512, new Uint8Array(8));
      };
      expect(await failureOf(readAll)).toBe(failure);
    });
  });

  it.each([
    ['an unknown error', Chunk.error, errorText(1234, 'a word'), 'ERR_IO', /a word/],
    ['EPERM', Chunk.error, errorText(WireError.perm, ''), 'ERR_READ_ONLY', /perm/],
    ['ENOSPC', Chunk.error, errorText(WireError.noSpace, ''), 'ERR_NO_SPACE', /noSpace/],
    ['an error at an offset', Chunk.errorOffset, Buffer.concat([errorText(5, 'x'), u64(512)]), 'ERR_IO', /x/],
    ['an error of a type to come', 0x8123, errorText(5, 'later'), 'ERR_IO', /later/],
  ])('%s, and the connection goes on', async (_, type, data, code, message) => {
    let isGood = false;
    const answer: Answer = ({ cookie, offset }, connection) =>
      connection.write(isGood ? dataChunk(cookie, offset, Buffer.alloc(8, 3)) : chunk(cookie, type, data));
    await withServer({ answer }, async (storage) => {
      await expect(storage.read(512, new Uint8Array(8))).rejects.toMatchObject({
        code,
        message: expect.stringMatching(message),
      });
      isGood = true;
      const target = new Uint8Array(8);
      await storage.read(512, target);
      expect(target[7]).toBe(3);
    });
  });

  it('pieces in any order, which are put together', async () => {
    const answer: Answer = ({ cookie }, connection) => {
      connection.write(dataChunk(cookie, 518, Buffer.from([6, 7]), 0));
      connection.write(holeChunk(cookie, 514, 2, 0));
      connection.write(dataChunk(cookie, 512, Buffer.from([1, 2]), 0));
      connection.write(dataChunk(cookie, 516, Buffer.from([4, 5]), 0));
      connection.write(chunk(cookie, Chunk.none, nothing));
    };
    await withServer({ answer }, async (storage) => {
      const target = new Uint8Array(8).fill(9);
      await storage.read(512, target);
      expect([...target]).toEqual([1, 2, 0, 0, 4, 5, 6, 7]);
    });
  });
});

describe('a question for status is answered with', () => {
  it.each([
    ['another context', 'ERR_PROTOCOL block status chunk', statusOf(2, 4096, 0)],
    ['an empty extent', 'ERR_PROTOCOL block status chunk', statusOf(1, 0, 0)],
    ['extents behind the request', 'ERR_PROTOCOL block status chunk', statusOf(1, 8192, 0, 1, 0)],
    ['half an extent', 'ERR_PROTOCOL block status chunk', Buffer.alloc(16)],
    ['no extent', 'ERR_PROTOCOL block status chunk', statusOf(1)],
  ])('%s: %s', async (_, failure, data) => {
    const answer: Answer = ({ cookie }, connection) =>
      connection.write(chunk(cookie, Chunk.blockStatus, data));
    await withServer({ answer }, async (storage) => {
      expect(await failureOf(() => storage.status(0, 4096))).toBe(failure);
    });
  });

  it.each([
    ['nothing', (c: bigint) => chunk(c, Chunk.none, nothing)],
    ['success alone', (c: bigint) => simple(c)],
  ])('%s: ERR_PROTOCOL', async (_, reply) => {
    await withServer({ answer: ({ cookie }, to) => to.write(reply(cookie)) }, async (storage) => {
      expect(await failureOf(() => storage.status(0, 4096))).toBe('ERR_PROTOCOL reply to a block status');
    });
  });

  it('an extent longer than the request, of which the rest is left', async () => {
    const answer: Answer = ({ cookie }, to) =>
      to.write(chunk(cookie, Chunk.blockStatus, statusOf(1, 1 << 30, 3)));
    await withServer({ answer }, async (storage) => {
      expect(await storage.status(0, 4096)).toEqual({ data: false, length: 4096 });
    });
  });

  it('an error: everything counts as data', async () => {
    const answer: Answer = ({ cookie }, to) => to.write(chunk(cookie, Chunk.error, errorText(22, '')));
    await withServer({ answer }, async (storage) => {
      expect(await storage.status(0, 4096)).toEqual({ data: true, length: 4096 });
    });
  });
});

const isTo =
  (wanted: number, reply: Buffer) =>
  (option: number): Buffer | undefined =>
    option === wanted ? reply : undefined;
const goInfo = (size: bigint, flags: number): Buffer => Buffer.concat([u16(0), u64(size), u16(flags)]);
const ackGo = optionReply(Option.go, OptionReply.ack);
const blockSizes = (...sizes: number[]): Buffer => Buffer.concat([u16(3), ...sizes.map(u32)]);

describe('a handshake with', () => {
  it.each<[string, string, Script]>([
    ['a wrong magic', 'ERR_PROTOCOL handshake magic', { greeting: Buffer.alloc(18, 1) }],
    [
      'the oldstyle negotiation',
      'ERR_UNSUPPORTED handshake',
      { greeting: Buffer.concat([goodGreeting.subarray(0, 8), u64(0x00420281861253n), u16(3)]) },
    ],
    [
      'the newstyle that is not fixed',
      'ERR_UNSUPPORTED handshake flags',
      { greeting: Buffer.concat([goodGreeting.subarray(0, 16), u16(0)]) },
    ],
    ['half a greeting', 'ERR_CONNECTION_LOST open', { greeting: goodGreeting.subarray(0, 5) }],
    [
      'an answer with a wrong magic',
      'ERR_PROTOCOL option reply magic',
      { option: () => Buffer.alloc(20, 9) },
    ],
    [
      'an answer to another option',
      'ERR_PROTOCOL option reply',
      { option: () => optionReply(Option.list, OptionReply.ack) },
    ],
    [
      'an answer of 4 GiB',
      'ERR_PROTOCOL option reply',
      { option: (option) => Buffer.concat([optionReply(option, 3).subarray(0, 16), u32(0xffff_ffff)]) },
    ],
    [
      'answers without end',
      'ERR_PROTOCOL option replies',
      { option: (option) => Buffer.concat(Array(2000).fill(optionReply(option, OptionReply.server))) },
    ],
    [
      'a flood of bytes',
      'ERR_PROTOCOL option reply magic',
      { greeting: Buffer.concat([goodGreeting, Buffer.alloc(4 << 20)]) },
    ],
    ['no size', 'ERR_PROTOCOL reply to GO', { option: isTo(Option.go, ackGo) }],
    [
      'a size past 2^53',
      'ERR_UNSUPPORTED export size',
      { option: isTo(Option.go, Buffer.concat([optionReply(Option.go, 3, goInfo(1n << 60n, 1)), ackGo])) },
    ],
    [
      'flags that are none',
      'ERR_PROTOCOL transmission flags',
      { option: isTo(Option.go, Buffer.concat([optionReply(Option.go, 3, goInfo(1n, 0)), ackGo])) },
    ],
    [
      'an info of another length',
      'ERR_PROTOCOL export info',
      { option: isTo(Option.go, Buffer.concat([optionReply(Option.go, 3, Buffer.alloc(5)), ackGo])) },
    ],
    [
      'a minimum block of 3',
      'ERR_PROTOCOL block size info',
      {
        option: isTo(
          Option.go,
          Buffer.concat([optionReply(Option.go, 3, blockSizes(3, 4096, 65536)), ackGo]),
        ),
      },
    ],
    [
      'a maximum block of less than the minimum',
      'ERR_PROTOCOL block size info',
      {
        option: isTo(
          Option.go,
          Buffer.concat([optionReply(Option.go, 3, blockSizes(4096, 4096, 512)), ackGo]),
        ),
      },
    ],
    [
      'an export that is not there',
      'ERR_NOT_FOUND export',
      { option: isTo(Option.go, optionReply(Option.go, OptionReply.errUnknown)) },
    ],
    [
      'a refusal by policy',
      'ERR_UNSUPPORTED export',
      { option: isTo(Option.go, optionReply(Option.go, OptionReply.errPolicy)) },
    ],
    [
      'a demand for TLS',
      'ERR_TLS TLS',
      { option: (option) => optionReply(option, OptionReply.errTlsRequired) },
    ],
    ['no FLUSH', 'ERR_UNSUPPORTED FLUSH', { flags: 1 }],
  ])('%s: %s', async (_, failure, script) => {
    await using server = await scriptedServer(script);
    expect(await failureOf(() => openNbd(server.uri, impatient))).toBe(failure);
  });

  it('no GO falls back to EXPORT_NAME', async () => {
    const exportName = Buffer.concat([u64(4096), u16(1)]);
    const option = (asked: number): Buffer | undefined => {
      if (asked === Option.exportName) return exportName;
      return asked === Option.go ? optionReply(asked, OptionReply.errUnsupported) : undefined;
    };
    await using server = await scriptedServer({ option });
    const storage = await openNbd(server.uri, { ...impatient, readOnly: true });
    expect(storage.size()).toBe(4096);
    await storage.close();
  });

  it('no FLUSH is fine for reading, and for writing where it was allowed', async () => {
    await using server = await scriptedServer({
      flags: 1,
      answer: ({ cookie }, to) => to.write(simple(cookie)),
    });
    await (await openNbd(server.uri, { readOnly: true })).close();
    const storage = await openNbd(server.uri, { withoutFlush: true });
    await storage.write(0, new Uint8Array(512));
    await storage.flush();
    await storage.close();
  });
});

describe('a server that broke the protocol', () => {
  it('is not asked again, and what else was under way is rejected, too', async () => {
    const answer: Answer = (_, connection) => connection.write(Buffer.alloc(20, 7));
    await using server = await scriptedServer({ answer });
    const storage = await openNbd(server.uri, { reconnectTimeoutMs: 5000 });
    const calls = [0, 1, 2].map((at) => codeOf(() => storage.read(at, new Uint8Array(1))));
    const change = codeOf(() => storage.write(0, new Uint8Array(512)));
    expect(await Promise.all([...calls, change])).toEqual(Array(4).fill('ERR_PROTOCOL'));
    expect(await codeOf(() => storage.flush())).toBe('ERR_PROTOCOL');
    await storage.close();
    expect(server.connections).toBe(1);
  });
});

const SIZE = 1 << 16;
const content = Buffer.from(Array.from({ length: SIZE }, (_, at) => (at * 31 + (at >> 8)) & 255));

/** A right answer, as a good server would give it: in one chunk or in several, also out of order. */
function rightAnswer(request: AskedRequest, random: Random): Buffer {
  const { command, cookie, offset, length } = request;
  if (command === Command.blockStatus) return chunk(cookie, Chunk.blockStatus, statusOf(1, length, 0));
  if (command !== Command.read) return simple(cookie);
  const bytes = content.subarray(offset, offset + length);
  if (length < 2 || random.below(2) === 0) return dataChunk(cookie, offset, bytes);
  const cut = 1 + random.below(length - 1);
  const pieces = [
    dataChunk(cookie, offset + cut, bytes.subarray(cut), 0),
    dataChunk(cookie, offset, bytes.subarray(0, cut), 1),
  ];
  return Buffer.concat(pieces);
}

/** A reply with damage that is not in the bytes that were asked for; nobody could know of that. */
interface Spoiled {
  readonly bytes: Buffer;
  /** Nothing comes behind it: else the next reply would be taken for the rest of this one. */
  readonly isEnd: boolean;
}

function damaged(reply: Buffer, random: Random): Spoiled {
  const bytes = Buffer.from(reply);
  switch (random.below(4)) {
    case 0:
      bytes[random.below(Math.min(bytes.length, 20))]! ^= 1 << random.below(8);
      return { bytes, isEnd: false };
    case 1:
      return { bytes: bytes.subarray(0, random.below(bytes.length)), isEnd: true };
    case 2: {
      const more = Buffer.from(Array.from({ length: 24 }, () => random.below(256)));
      return { bytes: Buffer.concat([bytes, more]), isEnd: false };
    }
    default:
      return { bytes: Buffer.concat([bytes, bytes]), isEnd: false };
  }
}

interface FuzzResult {
  readonly wrongBytes: number;
  readonly failures: Set<unknown>;
  readonly good: number;
}

/** Reads from a server whose every eighth answer or so is damaged; what came back has to be right, or an error. */
async function fuzz(seed: number, spoil: (bytes: Buffer, random: Random) => Spoiled): Promise<FuzzResult> {
  const random = new Random(seed);
  const failures = new Set<unknown>();
  let [wrongBytes, good] = [0, 0];
  const answer = (request: AskedRequest, connection: Socket): void => {
    const reply = rightAnswer(request, random);
    if (connection.writableEnded) return;
    if (random.below(8) > 0) return void connection.write(reply);
    const { bytes, isEnd } = spoil(reply, random);
    if (isEnd) connection.end(bytes);
    else connection.write(bytes);
  };
  await using server = await scriptedServer({ size: SIZE, answer });
  const storage = await openNbd(server.uri, { reconnectTimeoutMs: 0, replyTimeoutMs: 40 });
  const calls = Array.from({ length: 12 }, async () => {
    const offset = random.below(SIZE);
    const target = new Uint8Array(1 + random.below(SIZE - offset));
    try {
      await storage.read(offset, target);
    } catch (error) {
      failures.add((error as { code?: unknown }).code);
      return;
    }
    good++;
    if (Buffer.compare(target, content.subarray(offset, offset + target.length)) !== 0) wrongBytes++;
  });
  await Promise.all(calls);
  await storage.close();
  return { wrongBytes, failures, good };
}

describe('damaged replies', () => {
  const first = Number(process.env['COWLAB_SEED'] ?? 1);
  const rounds = process.env['COWLAB_SEED'] === undefined ? 120 : 1;

  it('end in right bytes or in an error with a code, never in a hang', async () => {
    let good = 0;
    const codes = new Set<unknown>();
    for (let seed = first; seed < first + rounds; seed++) {
      const result = await fuzz(seed, damaged);
      expect(result.wrongBytes, `COWLAB_SEED=${seed}`).toBe(0);
      for (const code of result.failures) codes.add(code);
      good += result.good;
    }
    expect(good).toBeGreaterThan(0);
    const known = [
      'ERR_PROTOCOL',
      'ERR_CONNECTION_LOST',
      'ERR_IO',
      'ERR_READ_ONLY',
      'ERR_NO_SPACE',
      'ERR_UNSUPPORTED',
    ];
    expect([...codes].filter((code) => !known.includes(String(code)))).toEqual([]);
    expect(codes.has('ERR_PROTOCOL')).toBe(true);
  });

  it('are noticed by this test when they are wrong bytes (the canary)', async () => {
    const wrong = (reply: Buffer): Spoiled => {
      const bytes = Buffer.from(reply);
      bytes[bytes.length - 1]! ^= 1;
      return { bytes, isEnd: false };
    };
    let wrongBytes = 0;
    for (let seed = first; seed < first + rounds; seed++) wrongBytes += (await fuzz(seed, wrong)).wrongBytes;
    expect(wrongBytes).toBeGreaterThan(0);
  });
});
