import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createDisk, type Disk, MemoryFolder, openDisk, raw } from '@cowlab/core';
import { afterAll, afterEach } from 'vitest';
import { NbdServer, type NbdServerOptions } from '../src/index.ts';

/** A folder of its own for each test file, gone when its tests are over. */
export function scratchFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'cowlab-nbd-'));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

const opened: { close(): Promise<void> }[] = [];
afterEach(async () => {
  for (const each of opened.splice(0).toReversed()) await each.close();
});

/** Closed after the test. */
export function closedAfterwards<T extends { close(): Promise<void> }>(resource: T): T {
  opened.push(resource);
  return resource;
}

/** A raw disk in memory. */
export async function memoryDisk(size: number, readOnly = false): Promise<Disk> {
  const at = { folder: new MemoryFolder(), file: 'disk.raw' };
  await createDisk(at, { driver: raw, size });
  return closedAfterwards(await openDisk(at, { format: 'raw', readOnly }));
}

let sockets = 0;

export interface Served {
  readonly server: NbdServer;
  readonly uri: string;
  /** What the server said about clients it lost. */
  readonly troubles: string[];
}

/** One disk as the default export, at a Unix socket in the folder. */
export async function serve(
  folder: string,
  disk: Disk,
  options: Partial<NbdServerOptions> = {},
): Promise<Served> {
  const troubles: string[] = [];
  const server = await NbdServer.listen({
    exports: [{ name: '', disk, readOnly: disk.readOnly }],
    listen: { path: join(folder, `${++sockets}.sock`) },
    onError: (error) => troubles.push(error.message),
    ...options,
  });
  closedAfterwards(server);
  return { server, uri: server.uri, troubles };
}

/** Bytes that differ from place to place, the same for the same seed. */
export function pattern(length: number, seed = 1): Buffer {
  const bytes = Buffer.alloc(length);
  let state = seed >>> 0;
  for (let index = 0; index < length; index++) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    bytes[index] = state >>> 24;
  }
  return bytes;
}
