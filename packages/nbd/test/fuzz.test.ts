import { readdirSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import type { NbdServer } from '../src/index.ts';
import { Handshake } from '../src/handshake.ts';
import { MemoryAccount } from '../src/memory.ts';
import { Output } from '../src/output.ts';
import { Command } from '../src/protocol.ts';
import { RequestReader } from '../src/request-reader.ts';
import { TestClient } from './client.ts';
import { DISK_BYTES, judge, play, SessionMaker } from './fuzz.ts';
import { memoryDisk, pattern, scratchFolder, serve } from './serving.ts';

const folder = scratchFolder();

/** `COWLAB_SEED` repeats a run. */
const SEED = Number(process.env.COWLAB_SEED ?? Math.floor(Math.random() * 0x7fff_ffff));

/** What came up outside of every promise: in a process of its own the server would be gone. */
async function watched(
  run: (crashed: () => boolean) => Promise<string | undefined>,
): Promise<string | undefined> {
  const others = process.listeners('uncaughtException');
  let crash: string | undefined;
  const note = (error: Error): void => void (crash ??= `crash: ${error.stack}`);
  process.removeAllListeners('uncaughtException');
  process.on('uncaughtException', note);
  try {
    const problem = await run(() => crash !== undefined);
    return crash ?? problem;
  } finally {
    process.off('uncaughtException', note);
    for (const other of others) process.on('uncaughtException', other);
  }
}

/** Plays sessions until one is answered wrongly; what is wrong, with what is needed to see it again. */
function fuzz(seed: number, sessions: number): Promise<string | undefined> {
  return watched(async (crashed) => {
    const disk = await memoryDisk(DISK_BYTES);
    const witnessed = await memoryDisk(4096);
    await witnessed.write(0, pattern(4096));
    const { server, uri } = await serve(folder, disk, {
      exports: [
        { name: '', disk, readOnly: false },
        { name: 'witness', disk: witnessed, readOnly: false },
      ],
    });
    const witness = await TestClient.open(uri, { name: 'witness' });
    const maker = new SessionMaker(seed);
    const content = Buffer.alloc(DISK_BYTES);
    for (let index = 0; index < sessions && !crashed(); index++) {
      const where = `COWLAB_SEED=${seed}, session ${index}: `;
      await disk.read(0, content);
      const session = maker.make(content);
      const problem = judge(session, await withinReason(play(uri, session)));
      if (problem !== undefined) return where + problem;
      const read = await withinReason(witness.request({ type: Command.read, length: 4096 }));
      if (!read.data.equals(pattern(4096))) return `${where}the witness reads something else`;
      await withinReason(settled(server));
    }
    witness.close();
    return undefined;
  });
}

/** Waits until only the witness is left, and nobody owes anything. */
async function settled(server: NbdServer): Promise<void> {
  for (;;) {
    const { connections, heldBytes } = server.stats();
    if (connections === 1 && heldBytes === 0) return;
    await sleep(1);
  }
}

/** Half a minute for what takes milliseconds: who hangs is found out. */
function withinReason<T>(promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error('the server hangs')), HANG_MS);
  });
  return Promise.race([promise, limit]).finally(() => clearTimeout(timer));
}
let HANG_MS = 30_000;

describe('sessions that go wrong', () => {
  it(`are answered right as far as they are right (COWLAB_SEED=${SEED})`, async () => {
    const descriptors = (): number => readdirSync('/proc/self/fd').length;
    const before = descriptors();
    expect(await fuzz(SEED, 250)).toBeUndefined();
    // The server, the witness on both sides.
    expect(descriptors()).toBeLessThanOrEqual(before + 4);
  });
});

describe('the fuzz finds', () => {
  const restore: (() => void)[] = [];
  afterEach(() => {
    HANG_MS = 30_000;
    for (const each of restore.splice(0)) each();
  });

  function breaks<T extends object, K extends keyof T>(
    prototype: T,
    method: K,
    breakIt: (whole: T[K]) => T[K],
  ): void {
    const whole = prototype[method];
    prototype[method] = breakIt(whole);
    restore.push(() => (prototype[method] = whole));
  }

  it.each<[string, () => void]>([
    [
      'a server that does not pass over the payload of a refused write',
      () => breaks(RequestReader.prototype, 'skip', () => () => 0),
    ],
    [
      'a server that takes a payload for whole when a part of it has come',
      () => breaks(RequestReader.prototype, 'gathered', () => () => true),
    ],
    [
      'a server that falls over an offset',
      () => {
        breaks(
          RequestReader.prototype,
          'readHeader',
          (whole) =>
            function read(this: RequestReader) {
              const found = whole.call(this);
              if (this.offset > Number.MAX_SAFE_INTEGER) throw new RangeError('offset');
              return found;
            },
        );
      },
    ],
    [
      'a server that keeps the memory of clients that are gone',
      () => breaks(MemoryAccount.prototype, 'close', () => () => undefined),
    ],
    [
      'a server that forgets an option that comes in two pieces',
      () => {
        breaks(
          Handshake.prototype,
          'push',
          (whole) =>
            function forget(this: Handshake, chunk: Buffer) {
              if (this.rest.length === 0) whole.call(this, chunk);
            },
        );
      },
    ],
    [
      'a server whose replies lie over each other',
      () => breaks(Output.prototype, 'commit', () => () => undefined),
    ],
  ])('%s', async (_, breakIt) => {
    HANG_MS = 1000;
    breakIt();
    const found = await fuzz(1, 400).catch((error: Error) => error.message);
    expect(found).toBeDefined();
  });
});
