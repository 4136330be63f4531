import { readdirSync } from 'node:fs';
import { createConnection } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { Command, Option, WireError } from '../src/protocol.ts';
import { TestClient } from './client.ts';
import { memoryDisk, pattern, scratchFolder, serve, type Served } from './serving.ts';

const folder = scratchFolder();
const MIB = 1024 * 1024;

/** Waits for something that comes about by itself; the test's own time limit is the limit. */
async function until(isSo: () => boolean): Promise<void> {
  while (!isSo()) await sleep(5);
}

async function expectServed({ uri }: Served): Promise<void> {
  const nbd = await TestClient.open(uri);
  expect((await nbd.request({ type: Command.read, length: 4096 })).error).toBe(0);
  nbd.close();
}

describe('a client that goes', () => {
  it('half-closed has every answer, then the end', async () => {
    const { uri } = await serve(folder, await memoryDisk(MIB));
    const nbd = await TestClient.open(uri);
    const ask = { type: Command.read, length: 4096 };
    nbd.send(
      ...Array.from({ length: 100 }, () => nbd.encode(ask)),
      Buffer.from('half a request').subarray(0, 3),
    );
    nbd.socket.end();
    const all = await nbd.untilClosed();
    expect(all.length).toBe(100 * (16 + 4096));
  });

  it.each([
    ['before its flags', 0],
    ['within an option', 10],
    ['within a request', 50],
    ['within a payload', 70],
    ['with requests open', 4000],
  ])('%s leaves nothing behind', async (_, bytes) => {
    const served = await serve(folder, await memoryDisk(MIB), { listen: { port: 0 } });
    const nbd = await TestClient.connect(served.uri, null);
    const request = nbd.encode({ type: Command.write, payload: pattern(4096) });
    const option = Buffer.from([73, 72, 65, 86, 69, 79, 80, 84, 0, 0, 0, 1, 0, 0, 0, 0]);
    const session = Buffer.concat([Buffer.from([0, 0, 0, 3]), option, request, request]);
    nbd.send(session.subarray(0, bytes));
    await until(() => served.server.stats().connections === 1);
    await sleep(20);
    nbd.socket.resetAndDestroy();
    await until(() => served.server.stats().connections === 0);
    await expectServed(served);
  });

  it('abruptly, a hundred times over, costs no descriptor', async () => {
    const served = await serve(folder, await memoryDisk(MIB));
    const descriptors = (): number => readdirSync('/proc/self/fd').length;
    await expectServed(served);
    await until(() => served.server.stats().connections === 0);
    const before = descriptors();
    for (let index = 0; index < 100; index++) {
      const nbd = await TestClient.open(served.uri);
      nbd.ask({ type: Command.read, length: MIB });
      nbd.socket.destroy();
    }
    await until(() => served.server.stats().connections === 0);
    expect(descriptors()).toBeLessThanOrEqual(before);
    expect(served.server.stats().heldBytes).toBe(0);
  });
});

describe('a client that takes nothing', () => {
  it('is not read from, and the others go on', async () => {
    const served = await serve(folder, await memoryDisk(64 * MIB), { stallMs: 100 });
    const stuck = await TestClient.open(served.uri);
    stuck.socket.pause();
    const ask = stuck.encode({ type: Command.read, length: 32 * MIB });
    for (let index = 0; index < 1000; index++) stuck.socket.write(ask);
    await until(() => served.server.stats().heldBytes > 0);
    await sleep(100);
    expect(served.server.stats().heldBytes).toBeLessThanOrEqual(49 * MIB);
    const other = await TestClient.open(served.uri);
    expect((await other.request({ type: Command.read, length: 32 * MIB })).error).toBe(0);
    // Nobody waits for what the stuck one holds: it may take its time.
    await sleep(300);
    expect(served.server.stats().connections).toBe(2);
    other.close();
    stuck.close();
    await until(() => served.server.stats().connections === 0);
    expect(served.server.stats().heldBytes).toBe(0);
  });

  it('of small replies has no more of them than it may owe', async () => {
    const served = await serve(folder, await memoryDisk(MIB));
    const stuck = await TestClient.open(served.uri);
    stuck.socket.pause();
    const ask = stuck.encode({ type: Command.read, length: 4096 });
    stuck.socket.write(Buffer.concat(Array.from({ length: 40_000 }, () => ask)));
    let before = -1;
    await until(() => {
      const now = served.server.stats().requests.read;
      const isStill = now === before && now > 0;
      before = now;
      return isStill;
    });
    expect(before).toBeLessThan(40_000);
    expect(served.server.stats().heldBytes).toBeLessThanOrEqual(4 * MIB);
    await expectServed(served);
    stuck.close();
  });

  it('is ended when others wait for what it holds', async () => {
    const disk = await memoryDisk(64 * MIB);
    const served = await serve(folder, disk, { memoryBytes: 64 * MIB, stallMs: 200 });
    const stuck = await Promise.all([1, 2].map(() => TestClient.open(served.uri)));
    for (const each of stuck) {
      each.socket.pause();
      each.ask({ type: Command.read, length: 32 * MIB });
    }
    await until(() => served.server.stats().heldBytes > 60 * MIB);
    const other = await TestClient.open(served.uri);
    const { error } = await other.request({ type: Command.read, length: 32 * MIB });
    expect(error).toBe(0);
    expect(served.troubles.join()).toContain('stands still');
    other.close();
  });

  it('of options is asked for no more of them', async () => {
    const disk = await memoryDisk(MIB);
    const exports = Array.from({ length: 500 }, (_, index) => ({
      name: `${index}`,
      description: 'x'.repeat(4000),
      disk,
      readOnly: true,
    }));
    const served = await serve(folder, disk, { exports, handshakeTimeoutMs: 1000 });
    const nbd = await TestClient.connect(served.uri);
    nbd.socket.pause();
    for (let index = 0; index < 900; index++) nbd.sendOption(Option.list);
    const before = process.memoryUsage().rss;
    await until(() => served.server.stats().connections === 0);
    // All of the answers would be 1.8 GB.
    expect(process.memoryUsage().rss - before).toBeLessThan(200 * MIB);
    expect(served.troubles.join()).toContain('takes too long');
    nbd.close();
  });
});

describe('a client that does not come to the point', () => {
  it('is ended when its time is over', async () => {
    const served = await serve(folder, await memoryDisk(MIB), { handshakeTimeoutMs: 100 });
    const nbd = await TestClient.connect(served.uri, null);
    await nbd.untilClosed();
    expect(served.troubles.join()).toContain('takes too long');
    await expectServed(served);
  });

  it('with half a write is ended when others wait for the memory', async () => {
    const disk = await memoryDisk(64 * MIB);
    const served = await serve(folder, disk, { memoryBytes: 64 * MIB, stallMs: 200 });
    const stuck = await Promise.all([1, 2].map(() => TestClient.open(served.uri)));
    for (const each of stuck) {
      each.send(each.encode({ type: Command.write, length: 32 * MIB }), pattern(1000));
    }
    await until(() => served.server.stats().heldBytes > 60 * MIB);
    const other = await TestClient.open(served.uri);
    const payload = Buffer.alloc(32 * MIB, 5);
    expect((await other.request({ type: Command.write, payload })).error).toBe(0);
    other.close();
  });

  it('is turned away when there are too many', async () => {
    const served = await serve(folder, await memoryDisk(MIB), { maxConnections: 3 });
    const clients = await Promise.all([1, 2, 3].map(() => TestClient.open(served.uri)));
    await expect(TestClient.open(served.uri)).rejects.toThrow('closed');
    clients[0]!.close();
    await until(() => served.server.stats().connections === 2);
    await expectServed(served);
    for (const each of clients) each.close();
  });
});

describe('the rest of the clients', () => {
  it('have their turn beside one that asks for everything at once', async () => {
    const served = await serve(folder, await memoryDisk(MIB));
    const greedy = await TestClient.open(served.uri);
    const other = await TestClient.open(served.uri);
    const flood = Buffer.concat(
      Array.from({ length: 20_000 }, () => greedy.encode({ type: Command.read, length: 65_536 })),
    );
    let greedyBytes = 0;
    greedy.socket.removeAllListeners('data');
    greedy.socket.on('data', (chunk) => (greedyBytes += chunk.length));
    greedy.socket.write(flood);
    await until(() => greedyBytes > 0);
    for (let index = 0; index < 50; index++) {
      expect((await other.request({ type: Command.read, length: 512 })).error).toBe(0);
    }
    expect(greedyBytes).toBeLessThan(20_000 * 65_536);
    greedy.close();
    other.close();
  });

  it('do not notice requests that no disk could answer', async () => {
    const served = await serve(folder, await memoryDisk(MIB));
    const nbd = await TestClient.open(served.uri, { mode: 'extended' });
    for (const type of [Command.read, Command.trim, Command.cache, Command.blockStatus, 60_000]) {
      nbd.ask({ type, offset: 2 ** 52, length: 2 ** 52 });
      expect((await nbd.answer()).error).toBe(WireError.invalid);
    }
    nbd.send(nbd.encode({ type: Command.write, length: 2 ** 52 }));
    await nbd.untilClosed();
    await expectServed(served);
  });

  it('are served while somebody holds a connection open and says nothing', async () => {
    const served = await serve(folder, await memoryDisk(MIB));
    const url = new URL(served.uri);
    const silent = Array.from({ length: 50 }, () =>
      createConnection({ path: url.searchParams.get('socket')! }),
    );
    await until(() => served.server.stats().connections === 50);
    await expectServed(served);
    for (const each of silent) each.destroy();
  });
});
