import { describe, expect, it } from 'vitest';
import { Chunk, Command, CommandFlag, TransmissionFlag, WireError } from '../src/protocol.ts';
import type { ReplyMode } from '../src/replies.ts';
import { TestClient } from './client.ts';
import { memoryDisk, pattern, scratchFolder, serve } from './serving.ts';

const folder = scratchFolder();
const MIB = 1024 * 1024;
const modes: ReplyMode[] = ['simple', 'structured', 'extended'];

describe.each(modes)('with %s replies', (mode) => {
  async function client(size = 4 * MIB): Promise<TestClient> {
    const { uri } = await serve(folder, await memoryDisk(size));
    return TestClient.open(uri, { mode });
  }

  it.each([1, 512, 4096, 100_000, MIB, MIB + 1])(
    'what is written is read again, %i bytes',
    async (length) => {
      const nbd = await client();
      const payload = pattern(length);
      expect((await nbd.request({ type: Command.write, offset: 4097, payload })).error).toBe(0);
      const { error, data } = await nbd.request({ type: Command.read, offset: 4097, length });
      expect(error).toBe(0);
      expect(data.equals(payload)).toBe(true);
      nbd.close();
    },
  );

  it('requests that arrive cut anywhere are answered all the same', async () => {
    const nbd = await client();
    const payload = pattern(300);
    const bytes = Buffer.concat([
      nbd.encode({ type: Command.write, offset: 7, payload, cookie: 1n }),
      nbd.encode({ type: Command.read, offset: 7, length: 300, cookie: 2n }),
    ]);
    for (let at = 0; at < bytes.length; at += 13) {
      nbd.socket.write(bytes.subarray(at, at + 13));
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect((await nbd.answer()).cookie).toBe(1n);
    const read = await nbd.answer(300, 7);
    expect(read.cookie).toBe(2n);
    expect(read.data.equals(payload)).toBe(true);
    nbd.close();
  });

  it('many requests in one piece are all answered', async () => {
    const nbd = await client();
    const asks = Array.from({ length: 2000 }, (_, index) => ({
      type: Command.read,
      offset: (index % 100) * 4096,
      length: 4096,
      cookie: BigInt(index),
    }));
    nbd.send(...asks.map((ask) => nbd.encode(ask)));
    const seen = new Set<bigint>();
    for (const _ of asks) {
      const answer = await nbd.answer(4096, asks[seen.size]!.offset);
      expect(answer.error).toBe(0);
      seen.add(answer.cookie);
    }
    expect(seen.size).toBe(asks.length);
    nbd.close();
  });

  it.each([
    ['read', { type: Command.read, offset: 4 * MIB - 1, length: 2 }, WireError.invalid],
    ['read far away', { type: Command.read, offset: Number.MAX_SAFE_INTEGER, length: 1 }, WireError.invalid],
    ['write', { type: Command.write, offset: 4 * MIB, payload: pattern(1) }, WireError.noSpace],
    ['trim', { type: Command.trim, offset: 4 * MIB, length: 1 }, WireError.invalid],
    ['write zeroes', { type: Command.writeZeroes, offset: 0, length: 4 * MIB + 1 }, WireError.noSpace],
    ['cache', { type: Command.cache, offset: 4 * MIB, length: 1 }, WireError.invalid],
    ['block status', { type: Command.blockStatus, offset: 4 * MIB, length: 1 }, WireError.invalid],
    ['unknown command', { type: 99, length: 1 }, WireError.invalid],
    ['unknown flag', { type: Command.read, length: 1, flags: 128 }, WireError.invalid],
    ['long read', { type: Command.read, length: 33 * MIB }, WireError.invalid],
  ])('%s that cannot be is refused, and the next request is answered', async (_, ask, error) => {
    const nbd = await client();
    expect((await nbd.request(ask)).error).toBe(error);
    expect((await nbd.request({ type: Command.flush })).error).toBe(0);
    nbd.close();
  });

  it('a write that is too long is passed over and refused', async () => {
    const nbd = await client(64 * MIB);
    const payload = Buffer.alloc(32 * MIB + 1);
    expect((await nbd.request({ type: Command.write, payload })).error).toBe(WireError.invalid);
    const longest = payload.subarray(1).fill(7);
    expect((await nbd.request({ type: Command.write, payload: longest })).error).toBe(0);
    const { data } = await nbd.request({ type: Command.read, length: longest.length });
    expect(data.equals(longest)).toBe(true);
    nbd.close();
  });

  it('zeroes, trims, caches, and flushes', async () => {
    const nbd = await client();
    await nbd.request({ type: Command.write, payload: pattern(MIB) });
    const zero = { type: Command.writeZeroes, offset: 1000, length: 200_000 };
    expect((await nbd.request(zero)).error).toBe(0);
    expect((await nbd.request({ ...zero, flags: CommandFlag.noHole | CommandFlag.fua })).error).toBe(0);
    expect((await nbd.request({ ...zero, flags: CommandFlag.fastZero })).error).toBe(WireError.notSupported);
    expect((await nbd.request({ type: Command.trim, offset: 512 * 1024, length: 4096 })).error).toBe(0);
    expect((await nbd.request({ type: Command.cache, length: 2 * MIB })).error).toBe(0);
    expect((await nbd.request({ type: Command.flush })).error).toBe(0);
    const { data } = await nbd.request({ type: Command.read, length: 300_000 });
    const expected = pattern(MIB).subarray(0, 300_000);
    expected.fill(0, 1000, 201_000);
    expect(data.equals(expected)).toBe(true);
    nbd.close();
  });

  it('a read-only disk refuses changes, and says that it is one', async () => {
    const { uri } = await serve(folder, await memoryDisk(MIB, true));
    const nbd = await TestClient.open(uri, { mode });
    expect(nbd.facts.flags & TransmissionFlag.readOnly).toBe(TransmissionFlag.readOnly);
    for (const ask of [
      { type: Command.write, payload: pattern(100_000) },
      { type: Command.trim, length: 512 },
      { type: Command.writeZeroes, length: 512 },
    ]) {
      expect((await nbd.request(ask)).error).toBe(WireError.perm);
    }
    expect((await nbd.request({ type: Command.read, length: 512 })).error).toBe(0);
    nbd.close();
  });

  it('a clean goodbye closes the connection when everything is answered', async () => {
    const nbd = await client();
    const asks = [0, 1, 2].map((index) =>
      nbd.encode({ type: Command.read, offset: index, length: 3, cookie: 5n }),
    );
    nbd.send(...asks, nbd.encode({ type: Command.disconnect }));
    for (const index of asks.keys()) expect((await nbd.answer(3, index)).error).toBe(0);
    expect((await nbd.untilClosed()).length).toBe(0);
  });
});

describe('extended headers', () => {
  it.each([Command.trim, Command.blockStatus, Command.flush, 4711])(
    'a payload that command %i has none of is passed over',
    async (type) => {
      const { uri } = await serve(folder, await memoryDisk(MIB));
      const nbd = await TestClient.open(uri, { mode: 'extended', contexts: ['base:allocation'] });
      const payload = pattern(100_000);
      const refused = await nbd.request({ type, flags: CommandFlag.payloadLength, payload });
      expect(refused.error).toBe(WireError.invalid);
      expect((await nbd.request({ type: Command.flush })).error).toBe(0);
      nbd.close();
    },
  );

  it('a block status may ask for more than 4 GiB', async () => {
    const { uri } = await serve(folder, await memoryDisk(2 ** 40));
    const nbd = await TestClient.open(uri, { mode: 'extended', contexts: ['base:allocation'] });
    const { chunks } = await nbd.request({ type: Command.blockStatus, length: 2 ** 40 });
    expect(chunks[0]?.payload.readBigUInt64BE(8)).toBe(BigInt(2 ** 40));
    nbd.close();
  });
});

describe.each<ReplyMode>(['structured', 'extended'])('block status with %s replies', (mode) => {
  const wide = mode === 'extended' ? 16 : 8;

  function runsOf({ payload }: { payload: Buffer }): [number, number][] {
    const from = mode === 'extended' ? 8 : 4;
    return Array.from({ length: (payload.length - from) / wide }, (_, index) => {
      const at = from + index * wide;
      return mode === 'extended'
        ? [Number(payload.readBigUInt64BE(at)), Number(payload.readBigUInt64BE(at + 8))]
        : [payload.readUInt32BE(at), payload.readUInt32BE(at + 4)];
    });
  }

  it('tells data and holes, one run where one is asked for', async () => {
    const disk = await memoryDisk(4 * MIB);
    await disk.write(MIB, pattern(MIB));
    const { uri } = await serve(folder, disk);
    const contexts = ['base:allocation', 'qemu:allocation-depth', 'nobody:knows'];
    const nbd = await TestClient.open(uri, { mode, contexts });
    const ask = { type: Command.blockStatus, offset: 4096, length: 3 * MIB };
    const all = await nbd.request(ask);
    expect(all.chunks.map(({ payload }) => payload.readUInt32BE(0))).toEqual([1, 2]);
    expect(all.chunks.map((chunk) => runsOf(chunk))).toEqual([
      [
        [MIB - 4096, 3],
        [MIB, 0],
        [MIB + 4096, 3],
      ],
      [[3 * MIB, 1]],
    ]);
    const one = await nbd.request({ ...ask, flags: CommandFlag.reqOne });
    expect(one.chunks.map((chunk) => runsOf(chunk))).toEqual([[[MIB - 4096, 3]], [[3 * MIB, 1]]]);
    nbd.close();
  });

  it('a long read tells holes instead of sending zeros, unless it must be one piece', async () => {
    const disk = await memoryDisk(4 * MIB);
    const content = pattern(MIB);
    await disk.write(MIB, content);
    const { uri } = await serve(folder, disk);
    const nbd = await TestClient.open(uri, { mode });
    const ask = { type: Command.read, offset: 0, length: 4 * MIB };
    const sparse = await nbd.request(ask);
    expect(sparse.chunks.map(({ type }) => type)).toEqual([
      Chunk.offsetHole,
      Chunk.offsetData,
      Chunk.offsetHole,
    ]);
    const whole = await nbd.request({ ...ask, flags: CommandFlag.df });
    expect(whole.chunks.map(({ type }) => type)).toEqual([Chunk.offsetData]);
    expect(sparse.data.equals(whole.data)).toBe(true);
    expect(whole.data.subarray(MIB, 2 * MIB).equals(content)).toBe(true);
    nbd.close();
  });

  it('an error comes with a sentence', async () => {
    const { uri } = await serve(folder, await memoryDisk(MIB));
    const nbd = await TestClient.open(uri, { mode });
    const { message } = await nbd.request({ type: Command.read, offset: MIB, length: 1 });
    expect(message).toContain('past the end');
    nbd.close();
  });
});
