import type { Socket } from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Storage } from '@cowlab/core';
import { afterEach, describe, expect, it } from 'vitest';
import { type NbdClientOptions, openNbd } from '../src/index.ts';
import { Chunk, Command, Option, OptionReply } from '../src/protocol.ts';
import { u16, u32, u64 } from './bytes.ts';
import {
  type AskedRequest,
  chunk,
  dataChunk,
  optionReply,
  type Script,
  scriptedServer,
  simple,
} from './scripted-server.ts';

/* What becomes of a call: which requests, how many at once, and which not at all. */

const KIB = 1024;
const MIB = 1024 * KIB;

const left: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of left.splice(0).toReversed()) await end();
});

/** Keeps requests until they are let go, in an order that the test likes. */
class Desk {
  readonly waiting: { readonly request: AskedRequest; readonly connection: Socket }[] = [];
  readonly log: string[] = [];
  most = 0;
  isOpen = true;

  readonly answer = (request: AskedRequest, connection: Socket): void => {
    const name = Object.entries(Command).find(([, value]) => value === request.command)?.[0];
    this.log.push(`${name} ${request.offset}+${request.length}`);
    this.waiting.push({ request, connection });
    this.most = Math.max(this.most, this.waiting.length);
    if (this.isOpen) this.goAll();
  };

  /** Waits until so many wait. */
  async arrived(count: number): Promise<void> {
    while (this.waiting.length < count) await nextTurn();
  }

  goAll(): void {
    for (const { request, connection } of this.waiting.splice(0).toReversed())
      connection.write(replyTo(request));
  }
}

/** Every byte of the export is the number of its KiB; its status: a MiB of data, and holes. */
function replyTo({ command, cookie, offset, length }: AskedRequest): Buffer {
  if (command === Command.blockStatus) {
    const runs = [u32(1), u32(MIB), u32(0), u32(MIB), u32(3), u32(MIB), u32(2), u32(MIB), u32(0)];
    return chunk(cookie, Chunk.blockStatus, Buffer.concat(runs));
  }
  if (command !== Command.read) return simple(cookie);
  return dataChunk(
    cookie,
    offset,
    Buffer.from(Array.from({ length }, (_, at) => ((offset + at) / KIB) & 255)),
  );
}

async function opened(
  options: NbdClientOptions = {},
  script: Script = {},
): Promise<{ desk: Desk; storage: Storage }> {
  const desk = new Desk();
  const server = await scriptedServer({ size: 64 * MIB, answer: desk.answer, ...script });
  left.push(() => server[Symbol.asyncDispose]());
  const storage = await openNbd(server.uri, { reconnectTimeoutMs: 0, ...options });
  left.push(() => storage.close());
  return { desk, storage };
}

/** Tells what blocks the export has. */
function blocks(min: number, max: number): Script {
  const info = (data: Buffer): Buffer => optionReply(Option.go, OptionReply.info, data);
  const size = Buffer.concat([u16(0), u64(64 * MIB), u16(1 | 4 | 32 | 64)]);
  const sizes = Buffer.concat([u16(3), u32(min), u32(min), u32(max)]);
  const reply = Buffer.concat([info(size), info(sizes), optionReply(Option.go, OptionReply.ack)]);
  return { option: (option) => (option === Option.go ? reply : undefined) };
}

describe('a large call', () => {
  it('is cut into requests that the server takes, which are all under way', async () => {
    const { desk, storage } = await opened({}, blocks(1, 64 * KIB));
    desk.isOpen = false;
    const target = new Uint8Array(300 * KIB);
    const reading = storage.read(100, target);
    await desk.arrived(5);
    expect(desk.log[0]).toBe(`read 100+${64 * KIB}`);
    expect(desk.log[4]).toBe(`read ${256 * KIB + 100}+${44 * KIB}`);
    desk.goAll();
    await reading;
    expect([target[0], target[300 * KIB - 1], target[KIB]]).toEqual([0, 300 & 255, 1]);
  });

  it('has no more bytes under way than it may', async () => {
    const { desk, storage } = await opened({ maxInFlightBytes: 128 * KIB }, blocks(1, 64 * KIB));
    desk.isOpen = false;
    const writing = storage.write(0, new Uint8Array(640 * KIB));
    await desk.arrived(2);
    while (desk.log.length < 10) {
      desk.goAll();
      await nextTurn();
    }
    desk.goAll();
    await writing;
    expect([desk.log.length, desk.most]).toEqual([10, 2]);
  });

  it('has no more requests under way than it may', async () => {
    const { desk, storage } = await opened({ maxInFlightRequests: 3 });
    desk.isOpen = false;
    const reading = Array.from({ length: 12 }, (_, at) => storage.read(at * KIB, new Uint8Array(KIB)));
    await desk.arrived(3);
    desk.isOpen = true;
    desk.goAll();
    for (const each of reading) await each;
    expect([desk.log.length, desk.most]).toEqual([12, 3]);
  });
});

describe('a server with blocks of 4 KiB', () => {
  it('is asked for whole blocks, and what is around a write is read first', async () => {
    const { desk, storage } = await opened({}, blocks(4 * KIB, MIB));
    const target = new Uint8Array(10);
    await storage.read(5000, target);
    await storage.write(5000, new Uint8Array(8000));
    await storage.zero(4000, 5000);
    await storage.discard(1, 20_000);
    expect(desk.log).toEqual([
      'read 4096+4096',
      'read 4096+4096',
      'read 12288+4096',
      'write 4096+12288',
      // Two ends that are no whole blocks, and the one between them.
      'read 0+4096',
      'writeZeroes 4096+4096',
      'read 8192+4096',
      'write 0+4096',
      'write 8192+4096',
      'trim 4096+12288',
    ]);
  });

  it('keeps both of two writes to one block', async () => {
    const { desk, storage } = await opened({}, blocks(4 * KIB, MIB));
    await Promise.all([storage.write(0, Uint8Array.of(1)), storage.write(100, Uint8Array.of(2))]);
    // The second one reads what the first one has written.
    expect(desk.log).toEqual(['read 0+4096', 'write 0+4096', 'read 0+4096', 'write 0+4096']);
  });
});

describe('status', () => {
  it('is asked once for many runs; what reads as zeros counts as a hole', async () => {
    const { desk, storage } = await opened();
    const asked = [0, MIB - 1, MIB, 3 * MIB - 1, 3 * MIB];
    const answers = [];
    for (const at of asked) answers.push(await storage.status(at, 64 * MIB));
    expect(answers).toEqual([
      { data: true, length: MIB },
      { data: true, length: 1 },
      { data: false, length: 2 * MIB },
      { data: false, length: 1 },
      { data: true, length: MIB },
    ]);
    expect(desk.log).toEqual([`blockStatus 0+${64 * MIB}`]);
  });

  it.each<[string, (storage: Storage) => unknown]>([
    ['write', (storage) => storage.write(0, new Uint8Array(1))],
    ['zero', (storage) => storage.zero(0, 1)],
    ['discard', (storage) => storage.discard(0, 1)],
  ])('is asked again after a %s, and after one that was under way', async (_, change) => {
    const { desk, storage } = await opened();
    await storage.status(0, 64 * MIB);
    await change(storage);
    await storage.status(0, 64 * MIB);
    desk.isOpen = false;
    const changing = change(storage);
    const asking = storage.status(0, 64 * MIB);
    await desk.arrived(2);
    desk.isOpen = true;
    desk.goAll();
    await asking;
    await changing;
    await storage.status(0, 64 * MIB);
    expect(desk.log.filter((entry) => entry.startsWith('blockStatus'))).toHaveLength(4);
  });
});

describe('what a server does not offer', () => {
  it('is made from what it does, or left out', async () => {
    const { desk, storage } = await opened({ withoutFlush: true }, { flags: 1, structured: false });
    await storage.zero(512, 1024);
    await storage.discard(0, 4096);
    await storage.allocate(0, 4096);
    await storage.flush();
    expect(await storage.status(0, 4096)).toEqual({ data: true, length: 4096 });
    expect(desk.log).toEqual(['write 512+1024']);
  });
});
