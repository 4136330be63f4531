import { Random } from '@cowlab/conformance';
import type { Storage } from '@cowlab/core';
import { afterEach, describe, expect, it } from 'vitest';
import { openNbd } from '../src/index.ts';
import { codeOf, hasServer, servers } from './servers.ts';
import { memoryDisk, serve } from './serving.ts';

/* The client before servers that we did not write, each in ways of its own. */

const MIB = 1024 * 1024;
const lab = await servers();

const opened: Storage[] = [];
afterEach(async () => {
  for (const storage of opened.splice(0)) await storage.close();
});

async function open(...args: Parameters<typeof openNbd>): Promise<Storage> {
  const storage = await openNbd(...args);
  opened.push(storage);
  return storage;
}

let sockets = 0;

async function nbdkit(...args: readonly string[]): Promise<string> {
  const socket = lab.path(`nbdkit-${sockets++}`);
  return (await lab.start('nbdkit', socket, ['-f', '-U', socket, ...args])).uri;
}

async function qemuNbd(...args: readonly string[]): Promise<string> {
  const socket = lab.path(`qemu-${sockets++}`);
  const file = await lab.file(`${sockets}.raw`, 16 * MIB);
  const usual = ['-t', '-f', 'raw', '--discard=unmap', '-k', socket, ...args, file];
  return (await lab.start('qemu-nbd', socket, usual)).uri;
}

interface Kind {
  readonly kind: string;
  /** Absent for a server of ours. */
  readonly program?: 'nbdkit' | 'qemu-nbd';
  readonly start: () => Promise<string>;
}

const kinds: readonly Kind[] = [
  {
    kind: 'ours',
    start: async () =>
      (await serve('', await memoryDisk(16 * MIB), { listen: { path: lab.path(`ours-${sockets++}`) } })).uri,
  },
  { kind: 'nbdkit memory', program: 'nbdkit', start: () => nbdkit('memory', '16M') },
  { kind: 'nbdkit, simple replies', program: 'nbdkit', start: () => nbdkit('--no-sr', 'memory', '16M') },
  {
    kind: 'nbdkit, without WRITE_ZEROES and without holes',
    program: 'nbdkit',
    start: () => nbdkit('--filter=nozero', '--filter=noextents', 'memory', '16M'),
  },
  {
    kind: 'nbdkit, blocks of 4 KiB, at most 64 KiB',
    program: 'nbdkit',
    start: () =>
      nbdkit(
        '--filter=blocksize-policy',
        'memory',
        '16M',
        'blocksize-error-policy=error',
        'blocksize-minimum=4k',
        'blocksize-preferred=4k',
        'blocksize-maximum=64k',
      ),
  },
  {
    kind: 'nbdkit, answers out of order',
    program: 'nbdkit',
    start: () => nbdkit('--filter=delay', 'memory', '16M', 'rdelay=1ms', 'wdelay=1ms'),
  },
  { kind: 'qemu-nbd', program: 'qemu-nbd', start: () => qemuNbd() },
  { kind: 'qemu-nbd, io_uring', program: 'qemu-nbd', start: () => qemuNbd('--aio=io_uring') },
];

/** One call of several that run at once, on a range of its own. */
async function change(storage: Storage, model: Uint8Array, random: Random, start: number, end: number) {
  const offset = start + random.below(end - start);
  const length = 1 + random.below(end - offset);
  switch (random.below(4)) {
    case 0:
      await storage.zero(offset, length);
      return void model.fill(0, offset, offset + length);
    case 1:
      // What is left of discarded bytes is anybody's: they are set at once.
      await storage.discard(offset, length);
      await storage.zero(offset, length);
      return void model.fill(0, offset, offset + length);
    case 2:
      return storage.allocate(offset, length);
    default: {
      const byte = 1 + random.below(255);
      await storage.write(offset, new Uint8Array(length).fill(byte));
      return void model.fill(byte, offset, offset + length);
    }
  }
}

/** Asks run by run what is data; what is not has to be zeros. */
async function assertHolesAreZeros(storage: Storage, model: Uint8Array): Promise<void> {
  for (let at = 0; at < storage.size(); ) {
    const { data, length } = await storage.status(at, storage.size() - at);
    expect(length).toBeGreaterThanOrEqual(1);
    if (!data) expect(model.subarray(at, at + length).every((byte) => byte === 0)).toBe(true);
    at += length;
  }
}

describe.each(kinds)('an export of $kind', ({ program, start }) => {
  const here = program === undefined || hasServer(program);

  it.skipIf(!here)('holds what plain bytes would, with many calls at once', async () => {
    const storage = await open(await start());
    expect([storage.size(), storage.fixedSize]).toEqual([16 * MIB, true]);
    const seed = Number(process.env['COWLAB_SEED'] ?? 1);
    const random = new Random(seed);
    const model = new Uint8Array(16 * MIB);
    const part = 4 * MIB + 1000;
    for (let round = 0; round < 12; round++) {
      const ends = [0, part, 2 * part, 3 * part, 16 * MIB];
      const running = ends.slice(1).map((end, i) => change(storage, model, random, ends[i]!, end));
      await Promise.all(running);
      const target = new Uint8Array(16 * MIB).fill(0xee);
      await storage.read(0, target);
      expect(Buffer.compare(target, model), `COWLAB_SEED=${seed} round ${round}`).toBe(0);
      const [offset, length] = [random.below(15 * MIB), 1 + random.below(MIB)];
      const piece = new Uint8Array(length).fill(0xee);
      await storage.read(offset, piece);
      expect(Buffer.compare(piece, model.subarray(offset, offset + length))).toBe(0);
    }
    await assertHolesAreZeros(storage, model);
    await storage.flush();
  });

  it.skipIf(!here)('is a device: it ends where it ends', async () => {
    const storage = await open(await start());
    const end = 16 * MIB;
    await storage.write(end - 4, Uint8Array.of(1, 2, 3, 4));
    const target = new Uint8Array(8).fill(0xee);
    await storage.read(end - 4, target);
    expect([...target]).toEqual([1, 2, 3, 4, 0, 0, 0, 0]);
    expect(await storage.status(end, 100)).toEqual({ data: false, length: 100 });
    await storage.truncate(10);
    await storage.discard(end - 10, 4096);
    expect(storage.size()).toBe(end);
    const past = [
      () => storage.write(end - 1, new Uint8Array(2)),
      () => storage.zero(end, 1),
      () => storage.allocate(end, 1),
      () => storage.truncate(end + 1),
    ];
    for (const call of past) expect(await codeOf(call)).toBe('ERR_NO_SPACE');
  });

  it.skipIf(!here)('refuses changes when open read-only, and everything once closed', async () => {
    const storage = await open(await start(), { readOnly: true });
    const changes = [
      () => storage.write(0, new Uint8Array(1)),
      () => storage.zero(0, 1),
      () => storage.discard(0, 1),
      () => storage.truncate(0),
    ];
    for (const call of changes) expect(await codeOf(call)).toBe('ERR_READ_ONLY');
    await storage.read(0, new Uint8Array(512));
    await storage.close();
    await storage.close();
    const calls = [...changes, () => storage.read(0, new Uint8Array(1)), () => storage.flush()];
    for (const call of calls) expect(await codeOf(call)).toBe('ERR_CLOSED');
  });
});

describe('an export', () => {
  it.skipIf(!hasServer('nbdkit'))('that can only be read is not opened for writing', async () => {
    const uri = await nbdkit('-r', 'memory', '1M');
    expect(await codeOf(() => open(uri))).toBe('ERR_READ_ONLY');
    expect((await open(uri, { readOnly: true })).size()).toBe(MIB);
  });

  it.skipIf(!hasServer('qemu-nbd'))('that is not there is not found', async () => {
    const uri = await qemuNbd('-x', 'disk');
    expect(await codeOf(() => open(uri))).toBe('ERR_NOT_FOUND');
    expect((await open(uri.replace('/?', '/disk?'))).size()).toBe(16 * MIB);
  });

  it('of no server is not found, and one that refuses says so', async () => {
    expect(await codeOf(() => open('nbd+unix:///?socket=/nonexistent/socket'))).toBe('ERR_NOT_FOUND');
    expect(await codeOf(() => open('nbd://127.0.0.1:1/'))).toBe('ERR_IO');
  });
});
