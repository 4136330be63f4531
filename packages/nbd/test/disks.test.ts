import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { DelayedFolder, FaultFolder, InterceptedFolder, type StorageCall } from '@cowlab/conformance';
import {
  type Awaitable,
  createDisk,
  type Disk,
  MemoryFolder,
  openDisk,
  raw,
  type StorageFolder,
} from '@cowlab/core';
import { describe, expect, it } from 'vitest';
import { NbdServer } from '../src/index.ts';
import { Command, CommandFlag, WireError } from '../src/protocol.ts';
import type { ReplyMode } from '../src/replies.ts';
import { TestClient } from './client.ts';
import { closedAfterwards, memoryDisk, pattern, scratchFolder, serve } from './serving.ts';

const folder = scratchFolder();
const MIB = 1024 * 1024;

/** Notes what reaches the storage, and holds it up for as long as it is told to. */
class HeldFolder extends InterceptedFolder {
  readonly calls: string[] = [];
  #gate: Promise<void> | undefined;
  #open: () => void = () => undefined;

  hold(): void {
    this.#gate = new Promise((resolve) => (this.#open = resolve));
  }

  letGo(): void {
    this.#gate = undefined;
    this.#open();
  }

  override intercept<T>(call: StorageCall, run: () => Awaitable<T>): Awaitable<T> {
    this.calls.push(call.method);
    return this.#gate === undefined ? run() : this.#gate.then(run);
  }
}

/** Counts bytes, and keeps none that are written. */
class CountedFolder extends InterceptedFolder {
  moved = 0;

  override intercept<T>(call: StorageCall, run: () => Awaitable<T>): Awaitable<T> {
    if (call.method === 'read' || call.method === 'write') this.moved += call.length;
    return call.method === 'write' ? (undefined as T) : run();
  }
}

/** A raw disk over what `wrap` makes of a folder in memory. */
async function diskOver<T extends StorageFolder>(
  wrap: (inner: MemoryFolder) => T,
): Promise<{ disk: Disk; folder: T }> {
  const inner = new MemoryFolder();
  await createDisk({ folder: inner, file: 'disk.raw' }, { driver: raw, size: 4 * MIB });
  const wrapped = wrap(inner);
  const disk = await openDisk({ folder: wrapped, file: 'disk.raw' }, { format: 'raw' });
  return { disk: closedAfterwards(disk), folder: wrapped };
}

describe.each<ReplyMode>(['simple', 'structured', 'extended'])('a disk that waits, %s replies', (mode) => {
  it('is asked for many things at once, and every reply is to its request', async () => {
    const { disk } = await diskOver((inner) => new DelayedFolder(inner, 7));
    const { uri } = await serve(folder, disk);
    const nbd = await TestClient.open(uri, { mode });
    const places = Array.from({ length: 200 }, (_, index) => index * 8192);
    const payloadOf = (place: number): Buffer => pattern(place % 3 === 0 ? 8192 : 512, place + 1);
    nbd.send(
      ...places.map((offset) =>
        nbd.encode({ type: Command.write, offset, payload: payloadOf(offset), cookie: BigInt(offset) }),
      ),
    );
    for (const _ of places) expect((await nbd.answer()).error).toBe(0);
    nbd.send(
      ...places.map((offset) =>
        nbd.encode({ type: Command.read, offset, length: 512, cookie: BigInt(offset) }),
      ),
    );
    const seen = new Set<number>();
    while (seen.size < places.length) {
      const answer = await nbd.answer(512, Number);
      const offset = Number(answer.cookie);
      expect(answer.data.equals(payloadOf(offset).subarray(0, 512))).toBe(true);
      seen.add(offset);
    }
    nbd.close();
  });
});

describe('a disk that fails', () => {
  it.each([
    ['EIO', 'read', { type: Command.read, length: 4096 }, WireError.io],
    ['EIO', 'write', { type: Command.write, payload: pattern(4096) }, WireError.io],
    ['ENOSPC', 'write', { type: Command.write, payload: pattern(4096) }, WireError.noSpace],
    ['ENOSPC', 'zero', { type: Command.writeZeroes, length: MIB }, WireError.noSpace],
    ['EIO', 'flush', { type: Command.flush }, WireError.io],
    ['EIO', 'flush', { type: Command.write, payload: pattern(4096), flags: CommandFlag.fua }, WireError.io],
    ['EIO', 'status', { type: Command.blockStatus, length: MIB }, WireError.io],
  ] as const)('with %s on %s has that told to the client', async (kind, method, ask, error) => {
    const { disk, folder: faults } = await diskOver((inner) => new FaultFolder(inner));
    const { uri, server } = await serve(folder, disk);
    const nbd = await TestClient.open(uri, { mode: 'structured', contexts: ['base:allocation'] });
    faults.arm({ kind, methods: [method], nth: 1 });
    const answer = await nbd.request(ask);
    expect(answer.error).toBe(error);
    expect(answer.message).not.toBe('');
    expect((await nbd.request(ask)).error).toBe(0);
    expect(server.stats().errors).toBe(1);
    nbd.close();
  });

  it('by being closed refuses everything from then on', async () => {
    const disk = await memoryDisk(MIB);
    const { uri } = await serve(folder, disk);
    const nbd = await TestClient.open(uri);
    await disk.close();
    // A closed disk is nothing to fail over at the end, either.
    expect((await nbd.request({ type: Command.read, length: 1 })).error).toBe(WireError.shutdown);
    nbd.close();
  });
});

describe('durability', () => {
  it('FUA is answered after the flush, a flush on one connection covers writes on another', async () => {
    const { disk, folder: held } = await diskOver((inner) => new HeldFolder(inner));
    const { uri } = await serve(folder, disk);
    const [one, other] = [await TestClient.open(uri), await TestClient.open(uri)];
    held.calls.length = 0;
    await one.request({ type: Command.write, payload: pattern(512) });
    await other.request({ type: Command.flush });
    expect(held.calls).toEqual(['write', 'flush']);
    await one.request({ type: Command.write, payload: pattern(512), flags: CommandFlag.fua });
    expect(held.calls).toEqual(['write', 'flush', 'write', 'flush']);
    for (const type of [Command.trim, Command.writeZeroes]) {
      held.calls.length = 0;
      await one.request({ type, length: MIB, flags: CommandFlag.fua });
      expect(held.calls.at(-1)).toBe('flush');
    }
    one.close();
    other.close();
  });
});

describe('the end of a server', () => {
  it('waits for what runs, answers it, flushes, and leaves the disk open', async () => {
    const { disk, folder: held } = await diskOver((inner) => new HeldFolder(inner));
    const { uri, server } = await serve(folder, disk);
    const nbd = await TestClient.open(uri);
    held.hold();
    const cookie = nbd.ask({ type: Command.write, payload: pattern(512) });
    while (!held.calls.includes('write')) await sleep(1);
    let isClosed = false;
    const closing = server.close().then(() => (isClosed = true));
    nbd.ask({ type: Command.read, length: 1 });
    await sleep(50);
    expect(isClosed).toBe(false);
    await expect(TestClient.open(uri)).rejects.toThrow();
    held.letGo();
    const answers = [await nbd.answer(), await nbd.answer()];
    expect(answers.find((answer) => answer.cookie === cookie)?.error).toBe(0);
    expect(answers.find((answer) => answer.cookie !== cookie)?.error).toBe(WireError.shutdown);
    expect((await nbd.untilClosed()).length).toBe(0);
    await closing;
    expect(held.calls.at(-1)).toBe('flush');
    const bytes = Buffer.alloc(512);
    await disk.read(0, bytes);
    expect(bytes.equals(pattern(512))).toBe(true);
  });

  it.each([
    ['cache', { type: Command.cache, length: 2 ** 31 }],
    ['zeros that are to be data', { type: Command.writeZeroes, length: 2 ** 31, flags: CommandFlag.noHole }],
  ])('does not wait for a request that goes over a long range: %s', async (_, ask) => {
    const folderOfIt = new CountedFolder(new MemoryFolder());
    await createDisk({ folder: folderOfIt, file: 'disk.raw' }, { driver: raw, size: 2 ** 31 });
    const disk = closedAfterwards(
      await openDisk({ folder: folderOfIt, file: 'disk.raw' }, { format: 'raw' }),
    );
    const { uri, server } = await serve(folder, disk);
    const nbd = await TestClient.open(uri);
    nbd.ask(ask);
    while (folderOfIt.moved === 0) await sleep(1);
    const closing = server.close();
    expect((await nbd.answer()).error).toBe(WireError.shutdown);
    nbd.close();
    await closing;
    expect(folderOfIt.moved).toBeLessThan(2 ** 31);
  });

  it('does not wait for clients that say nothing, or take nothing', async () => {
    const { uri, server } = await serve(folder, await memoryDisk(64 * MIB));
    await TestClient.dial(uri);
    const nbd = await TestClient.open(uri);
    nbd.socket.pause();
    for (let index = 0; index < 10; index++) nbd.ask({ type: Command.read, length: 32 * MIB });
    await TestClient.open(uri);
    await sleep(50);
    await server.close();
    expect(server.stats().connections).toBe(0);
    nbd.close();
  });

  it('is told when the last client that was served has gone', async () => {
    const idle: number[] = [];
    const { uri } = await serve(folder, await memoryDisk(MIB), { onIdle: () => idle.push(1) });
    (await TestClient.connect(uri)).close();
    await sleep(20);
    const clients = [await TestClient.open(uri), await TestClient.open(uri)];
    clients[0]!.close();
    await sleep(20);
    expect(idle.length).toBe(0);
    clients[1]!.close();
    while (idle.length === 0) await sleep(1);
    expect(idle.length).toBe(1);
  });
});

describe('the place to listen at', () => {
  it('is taken over from a server that is gone, never from one that lives, or from what is no socket', async () => {
    const disk = await memoryDisk(MIB);
    const options = (path: string) => ({ exports: [{ name: '', disk, readOnly: false }], listen: { path } });
    const path = join(folder, 'left behind.sock');
    await using first = await NbdServer.listen(options(path));
    await expect(NbdServer.listen(options(path))).rejects.toMatchObject({ code: 'ERR_BUSY' });
    expect((await TestClient.open(first.uri)).facts.size).toBe(MIB);
    const file = join(folder, 'a file');
    writeFileSync(file, 'precious');
    await expect(NbdServer.listen(options(file))).rejects.toMatchObject({ code: 'ERR_BUSY' });
    expect(existsSync(file)).toBe(true);
    mkdirSync(join(folder, 'folder'));
    await expect(NbdServer.listen(options(join(folder, 'nowhere', 'x')))).rejects.toMatchObject({
      code: 'ERR_IO',
    });
  });

  it('on TCP is a free port, and its name is where clients find it', async () => {
    const disk = await memoryDisk(MIB);
    const exports = [{ name: 'one two', disk, readOnly: false }];
    await using server = await NbdServer.listen({ exports, listen: { port: 0 } });
    expect(server.uri).toMatch(/^nbd:\/\/127\.0\.0\.1:\d+\/one%20two$/);
    const nbd = await TestClient.open(server.uri, { name: 'one two' });
    expect(nbd.facts.size).toBe(MIB);
    nbd.close();
    const taken = createServer().listen(0, '127.0.0.1');
    await new Promise((resolve) => taken.once('listening', resolve));
    const { port } = taken.address() as { port: number };
    await expect(NbdServer.listen({ exports, listen: { port } })).rejects.toMatchObject({ code: 'ERR_BUSY' });
    taken.close();
  });
});
