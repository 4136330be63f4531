import { createConnection, createServer, type ListenOptions, type Socket } from 'node:net';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { withOwnBuffer } from '../src/own-buffer.ts';
import { pattern, scratchFolder } from './serving.ts';

const folder = scratchFolder();

/** Both ends of a connection. */
async function connected(
  where: ListenOptions,
): Promise<{ near: Socket; far: Socket; stopped: Promise<void> }> {
  const server = createServer({ allowHalfOpen: true });
  await new Promise<void>((resolve) => server.listen(where, resolve));
  const accepted = new Promise<Socket>((resolve) => server.once('connection', resolve));
  const address = server.address();
  const path = typeof address === 'string' ? { path: address } : { port: address!.port, host: '127.0.0.1' };
  const far = createConnection(path);
  const near = await accepted;
  return { near, far, stopped: new Promise((resolve) => server.close(() => resolve())) };
}

// When a new version of Node fails here, the server still works: see what own-buffer.ts falls back to.
describe.each<[string, () => ListenOptions]>([
  ['a Unix socket', () => ({ path: join(folder, 'echo.sock') })],
  ['TCP', () => ({ port: 0, host: '127.0.0.1' })],
])('an accepted connection over %s', (_, where) => {
  it('is read into the buffers that it is given, to its end', async () => {
    const { near, far, stopped } = await connected(where());
    const room = Buffer.alloc(1000);
    const got: Buffer[] = [];
    const filled = (bytes: number): void => void got.push(Buffer.from(room.subarray(0, bytes)));
    const own = withOwnBuffer(near, { room: () => room, filled });
    expect(own).toBeDefined();
    const ended = new Promise((resolve) => own!.once('end', resolve));
    far.end(pattern(50_000));
    await ended;
    expect(Buffer.concat(got).equals(pattern(50_000))).toBe(true);
    expect(Math.max(...got.map(({ length }) => length))).toBeLessThanOrEqual(1000);
    own!.end('done');
    const chunks: Buffer[] = [];
    for await (const chunk of far) chunks.push(chunk as Buffer);
    expect(Buffer.concat(chunks).toString()).toBe('done');
    await stopped;
  });

  it('rests while it is paused', async () => {
    const { near, far, stopped } = await connected(where());
    const room = Buffer.alloc(100_000);
    const pieces: number[] = [];
    const sum = (): number => pieces.reduce((whole, piece) => whole + piece, 0);
    const own = withOwnBuffer(near, {
      room: () => room,
      filled: (more) => {
        pieces.push(more);
        own?.pause();
      },
    });
    far.write(pattern(1000));
    while (sum() < 1000) await new Promise((resolve) => setImmediate(resolve));
    far.end(pattern(1000));
    for (let turn = 0; turn < 100; turn++) await new Promise((resolve) => setImmediate(resolve));
    expect(sum()).toBe(1000);
    own!.resume();
    while (sum() < 2000) await new Promise((resolve) => setImmediate(resolve));
    own!.destroy();
    far.destroy();
    await stopped;
  });
});

it('a connection that has bytes on their way stays as it is', async () => {
  const { near, far, stopped } = await connected({ path: join(folder, 'busy.sock') });
  far.pause();
  near.write(Buffer.alloc(10_000_000));
  expect(withOwnBuffer(near, { room: () => Buffer.alloc(1), filled: () => undefined })).toBeUndefined();
  near.destroy();
  far.destroy();
  await stopped;
});
