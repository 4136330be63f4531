import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { FileStorage } from '../src/file-storage.ts';
import { FileFolder, type Storage } from '../src/index.ts';
import { native } from '../src/native.ts';
import { scratchFolder } from './scratch.ts';

const scratch = scratchFolder();
const folder = new FileFolder(scratch);
const MIB = 1024 * 1024;
const onLinux = process.platform === 'linux';

async function caught(call: () => unknown): Promise<unknown> {
  try {
    await call();
  } catch (error) {
    return error;
  }
  throw new Error('nothing was thrown');
}

/** Runs with files of this process limited to 64 KiB, as a quota would. */
async function limited(run: () => Promise<void>): Promise<void> {
  const ignore = (): void => undefined;
  const limit = (soft: string): unknown =>
    execFileSync('prlimit', ['--pid', String(process.pid), `--fsize=${soft}:`]);
  process.on('SIGXFSZ', ignore);
  limit('65536');
  try {
    await run();
  } finally {
    limit('unlimited');
    process.off('SIGXFSZ', ignore);
  }
}

describe.skipIf(!onLinux)('with native calls', () => {
  it('koffi is there, so that the fallback is not all that is tested', () => {
    expect(native).toBeDefined();
  });

  it.each(['zero', 'discard'] as const)('%s gives the blocks back and keeps the length', async (call) => {
    const storage = await folder.create(`punched-${call}`);
    await storage.write(0, new Uint8Array(4 * MIB).fill(1));
    await storage.flush();
    const before = fs.statSync(path.join(scratch, storage.name)).blocks;
    await storage[call](MIB, 2 * MIB);
    await storage.flush();
    const after = fs.statSync(path.join(scratch, storage.name));
    expect(before - after.blocks).toBeGreaterThanOrEqual((2 * MIB) / 512);
    expect(after.size).toBe(4 * MIB);
    expect(await storage.status(MIB, MIB)).toEqual({ data: false, length: MIB });
    expect(await storage.status(0, 4 * MIB)).toEqual({ data: true, length: MIB });
    await storage.close();
  });

  it.each([
    ['zero', (storage: Storage) => storage.zero(MIB, MIB)],
    ['discard', (storage: Storage) => storage.discard(MIB, MIB)],
    [
      'truncate',
      async (storage: Storage) => {
        await storage.truncate(MIB);
        await storage.truncate(4 * MIB);
      },
    ],
  ] as const)('what was told to be data is told to be a hole after %s', async (name, makeHole) => {
    const storage = await folder.create(`once-data-${name}`);
    await storage.write(0, new Uint8Array(4 * MIB).fill(1));
    expect(await storage.status(0, MIB)).toEqual({ data: true, length: MIB });
    expect(await storage.status(MIB, MIB)).toEqual({ data: true, length: MIB });
    await makeHole(storage);
    expect(await storage.status(MIB, MIB)).toEqual({ data: false, length: MIB });
    await storage.close();
  });

  it('allocate takes blocks, with nothing in them that was not there', async () => {
    const storage = await folder.create('allocated');
    const blocks = (): number => fs.statSync(path.join(scratch, storage.name)).blocks;
    await storage.write(0, new Uint8Array(MIB).fill(1));
    await storage.allocate(4096, 3 * MIB);
    expect(storage.size()).toBe(3 * MIB + 4096);
    expect(blocks() * 512).toBeGreaterThanOrEqual(storage.size());
    const found = new Uint8Array(storage.size());
    await storage.read(0, found);
    expect(found.every((byte, at) => byte === (at < MIB ? 1 : 0))).toBe(true);
    await storage.truncate(0);
    await storage.truncate(MIB);
    expect(blocks()).toBe(0);
    await storage.allocate(0, MIB);
    expect(blocks() * 512).toBe(MIB);
    expect(storage.size()).toBe(MIB);
    await storage.close();
  });

  it('a sparse file tells its holes apart from its data, up to any length', async () => {
    const storage = await folder.create('sparse');
    await storage.truncate(2 ** 40);
    expect(await storage.status(0, 2 ** 40)).toEqual({ data: false, length: 2 ** 40 });
    await storage.write(2 ** 39, Uint8Array.of(1));
    expect(await storage.status(0, 2 ** 40)).toEqual({ data: false, length: 2 ** 39 });
    await storage.close();
  });

  it('a file system that cannot tell holes from data has no holes', () => {
    const fd = fs.openSync('/proc/self/status', 'r');
    expect(native?.seekData(fd, 4096)).toBe(4096);
    fs.closeSync(fd);
  });
});

describe.skipIf(!onLinux)('no space', () => {
  it('on a full device is ERR_NO_SPACE, with the system error as its cause', async () => {
    const storage = new FileStorage('disk.img', fs.openSync('/dev/full', 'r+'), false, '/dev/full');
    expect(await caught(() => storage.write(0, Uint8Array.of(1)))).toMatchObject({
      name: 'CowlabError',
      code: 'ERR_NO_SPACE',
      data: { file: 'disk.img', call: 'write', systemCode: 'ENOSPC' },
      cause: { code: 'ENOSPC' },
    });
    storage.close();
  });

  it.each(['sync', 'threads'] as const)('in the middle of a write is ERR_NO_SPACE, %s', async (io) => {
    const storage: Storage = await new FileFolder(scratch, { io }).create(`limited-${io}`);
    await limited(async () => {
      await storage.write(0, new Uint8Array(65_000));
      const source = new Uint8Array(MIB).fill(1);
      expect(await caught(() => storage.write(0, source))).toMatchObject({ code: 'ERR_NO_SPACE' });
      expect(await caught(() => storage.truncate(MIB))).toMatchObject({ code: 'ERR_NO_SPACE' });
      expect(await caught(() => storage.zero(0, MIB))).toMatchObject({ code: 'ERR_NO_SPACE' });
      expect(await caught(() => storage.allocate(0, MIB))).toMatchObject({
        code: 'ERR_NO_SPACE',
        data: { call: 'fallocate', systemCode: 'EFBIG' },
      });
    });
    await storage.write(MIB, Uint8Array.of(1));
    expect(storage.size()).toBe(MIB + 1);
    await storage.close();
  });
});

describe.skipIf(!onLinux)('a write that fails half-way past the end', () => {
  it.each(['sync', 'threads'] as const)(
    'leaves nothing behind where zeros are wanted next, %s',
    async (io) => {
      const storage: Storage = await new FileFolder(scratch, { io }).create(`half-${io}`);
      await limited(async () => {
        const source = new Uint8Array(MIB).fill(1);
        expect(await caught(() => storage.write(4096, source))).toMatchObject({ code: 'ERR_NO_SPACE' });
      });
      expect(storage.size()).toBe(fs.statSync(path.join(scratch, storage.name)).size);
      await storage.zero(8192, 65_536);
      const target = new Uint8Array(65_536).fill(2);
      await storage.read(8192, target);
      expect(target.every((byte) => byte === 0)).toBe(true);
      await storage.close();
    },
  );
});

describe('what is not a regular file', () => {
  it('a directory is refused, for reading and for writing', async () => {
    fs.mkdirSync(path.join(scratch, 'directory'));
    for (const readOnly of [true, false]) {
      expect(await caught(() => folder.open('directory', { readOnly }))).toMatchObject({
        code: 'ERR_UNSUPPORTED',
      });
    }
  });

  it.skipIf(!onLinux)('a pipe is refused at once, not when somebody writes into it', async () => {
    execFileSync('mkfifo', [path.join(scratch, 'pipe')]);
    expect(await caught(() => folder.open('pipe', { readOnly: true }))).toMatchObject({
      code: 'ERR_UNSUPPORTED',
      data: { file: 'pipe', field: 'file type' },
    });
  });
});
