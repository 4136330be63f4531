import path from 'node:path';
import * as fc from 'fast-check';
import { afterEach, describe, expect, it, vi } from 'vitest';
import {
  FileFolder,
  type FileIo,
  type LockMode,
  MemoryFolder,
  type Storage,
  type StorageFolder,
} from '../src/index.ts';
import { scratchFolder } from './scratch.ts';

/*
 * What every storage and folder promises in storage.ts. The native calls are looked up once, when the module
 * is loaded; the variants without them load a second copy of it.
 */

const scratch = scratchFolder();
let folders = 0;

async function withoutNative(io: FileIo): Promise<StorageFolder> {
  vi.resetModules();
  vi.stubEnv('COWLAB_NATIVE', 'off');
  const copy = await import('../src/file-folder.ts');
  vi.unstubAllEnvs();
  return new copy.FileFolder(await freshPath(), { io });
}

async function freshPath(): Promise<string> {
  const { mkdir } = await import('node:fs/promises');
  const folder = path.join(scratch, String(folders++));
  await mkdir(folder);
  return folder;
}

const kinds: { kind: string; make: () => Promise<StorageFolder> }[] = [
  { kind: 'memory', make: async () => new MemoryFolder() },
  { kind: 'files, sync', make: async () => new FileFolder(await freshPath()) },
  { kind: 'files, threads', make: async () => new FileFolder(await freshPath(), { io: 'threads' }) },
  { kind: 'files, streamed', make: async () => new FileFolder(await freshPath(), { io: 'streamed' }) },
  { kind: 'files, sync, without native calls', make: () => withoutNative('sync') },
  { kind: 'files, threads, without native calls', make: () => withoutNative('threads') },
  { kind: 'files, streamed, without native calls', make: () => withoutNative('streamed') },
];

const opened: Storage[] = [];
afterEach(async () => {
  for (const storage of opened.splice(0)) await storage.close();
});

async function created(folder: StorageFolder, name = 'image'): Promise<Storage> {
  const storage = await folder.create(name);
  opened.push(storage);
  return storage;
}

async function bytesOf(storage: Storage, offset = 0, length = storage.size() - offset): Promise<Uint8Array> {
  const target = new Uint8Array(length).fill(0xee);
  await storage.read(offset, target);
  return target;
}

/** The CowlabError code of a call that fails, at once or later. */
async function codeOf(call: () => unknown): Promise<unknown> {
  try {
    await call();
  } catch (error) {
    return (error as { code?: unknown }).code;
  }
  return 'no error';
}

const step = fc.record({
  kind: fc.constantFrom('write', 'zero', 'truncate', 'discard', 'allocate', 'flush'),
  offset: fc.nat(200_000),
  length: fc.integer({ min: 1, max: 100_000 }),
  byte: fc.integer({ min: 1, max: 255 }),
});
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

/** Does a step to a storage and to plain bytes; after a discard, whose bytes are anybody's, both get zeros. */
async function doStep(storage: Storage, model: Uint8Array, size: number, one: Step): Promise<number> {
  const { kind, offset, length, byte } = one;
  switch (kind) {
    case 'write':
      await storage.write(offset, new Uint8Array(length).fill(byte));
      model.fill(byte, offset, offset + length);
      return Math.max(size, offset + length);
    case 'zero':
      await storage.zero(offset, length);
      model.fill(0, offset, offset + length);
      return Math.max(size, offset + length);
    case 'discard': {
      await storage.discard(offset, length);
      const end = Math.min(size, offset + length);
      if (offset < end) await storage.zero(offset, end - offset);
      model.fill(0, offset, end);
      return size;
    }
    case 'allocate':
      await storage.allocate(offset, length);
      return Math.max(size, offset + length);
    case 'truncate':
      await storage.truncate(offset);
      model.fill(0, offset);
      return offset;
    default:
      await storage.flush();
      return size;
  }
}

describe.each(kinds)('a storage of $kind', ({ make }) => {
  it('reads zeros past the end, and grows when written past it', async () => {
    const storage = await created(await make());
    expect(storage.size()).toBe(0);
    await storage.write(3, Uint8Array.of(1, 2));
    expect(storage.size()).toBe(5);
    expect([...(await bytesOf(storage, 0, 8))]).toEqual([0, 0, 0, 1, 2, 0, 0, 0]);
  });

  it('holds what plain bytes would after any sequence of operations', async () => {
    const folder = await make();
    let number = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 12 }), async (steps) => {
        const storage = await created(folder, `run-${number++}`);
        const model = new Uint8Array(300_001);
        let size = 0;
        for (const one of steps) size = await doStep(storage, model, size, one);
        expect(storage.size()).toBe(size);
        expect(Buffer.compare(await bytesOf(storage), model.subarray(0, size))).toBe(0);
        await storage.close();
      }),
      { numRuns: 30 },
    );
  });

  it('never calls data a hole', async () => {
    const storage = await created(await make());
    const length = 1024 * 1024;
    await storage.truncate(length);
    for (const at of [0, 300_000, 700_000]) await storage.write(at, new Uint8Array(5000).fill(7));
    await storage.zero(301_000, 1000);
    const all = await bytesOf(storage);
    for (let at = 0; at < length; ) {
      const answer = await storage.status(at, length - at);
      expect(answer.length).toBeGreaterThanOrEqual(1);
      expect(answer.length).toBeLessThanOrEqual(length - at);
      if (!answer.data) expect(all.subarray(at, at + answer.length).every((byte) => byte === 0)).toBe(true);
      at += answer.length;
    }
    expect(await storage.status(length, 4096)).toEqual({ data: false, length: 4096 });
  });

  it('refuses every change when open read-only, and reads', async () => {
    const folder = await make();
    await (await created(folder)).write(0, Uint8Array.of(9));
    const storage = await folder.open('image', { readOnly: true });
    opened.push(storage);
    expect(storage.readOnly).toBe(true);
    expect([...(await bytesOf(storage))]).toEqual([9]);
    const changes = [
      () => storage.write(0, Uint8Array.of(1)),
      () => storage.zero(0, 1),
      () => storage.discard(0, 1),
      () => storage.truncate(0),
    ];
    for (const change of changes) expect(await codeOf(change)).toBe('ERR_READ_ONLY');
    expect([...(await bytesOf(storage))]).toEqual([9]);
  });

  it('refuses everything once closed, and closes twice', async () => {
    const folder = await make();
    const storage = await created(folder);
    await storage.close();
    await storage.close();
    // The next file gets the descriptor that the closed one had.
    const other = await created(folder, 'other');
    await other.write(0, Uint8Array.of(5));
    const calls = [
      () => storage.read(0, new Uint8Array(1)),
      () => storage.write(0, Uint8Array.of(1)),
      () => storage.zero(0, 1),
      () => storage.discard(0, 1),
      () => storage.flush(),
      () => storage.truncate(0),
      () => storage.status(0, 1),
    ];
    for (const call of calls) expect(await codeOf(call)).toBe('ERR_CLOSED');
    expect([...(await bytesOf(other))]).toEqual([5]);
  });

  it('keeps bytes whose write is under way when zeros before them make it longer', async () => {
    const storage = await created(await make());
    const written = storage.write(1_000_000, new Uint8Array(500_000).fill(3));
    await storage.zero(0, 1000);
    await written;
    expect(storage.size()).toBe(1_500_000);
    const tail = await bytesOf(storage, 1_000_000);
    expect(tail.every((byte) => byte === 3)).toBe(true);
  });
});

describe.each(kinds)('a folder of $kind', ({ make }) => {
  it('creates, opens, renames, links, lists and removes names', async () => {
    const folder = await make();
    await (await created(folder, 'b')).write(0, Uint8Array.of(1));
    await folder.link('b', 'a');
    expect(await folder.list()).toEqual(['a', 'b']);
    await folder.rename('a', 'c');
    await folder.remove('b');
    await folder.flush();
    expect(await folder.list()).toEqual(['c']);
    expect([await folder.exists('b'), await folder.exists('c')]).toEqual([false, true]);
    const storage = await folder.open('c', { readOnly: true });
    opened.push(storage);
    expect([...(await bytesOf(storage))]).toEqual([1]);
  });

  it('puts a renamed file in the place of one that has the name', async () => {
    const folder = await make();
    await (await created(folder, 'old')).write(0, Uint8Array.of(1));
    await (await created(folder, 'new')).write(0, Uint8Array.of(2));
    await folder.rename('new', 'old');
    expect(await folder.list()).toEqual(['old']);
    const storage = await folder.open('old', { readOnly: true });
    opened.push(storage);
    expect([...(await bytesOf(storage))]).toEqual([2]);
  });

  it('keeps a removed file for those who have it open', async () => {
    const folder = await make();
    const storage = await created(folder);
    await folder.remove('image');
    await storage.write(0, Uint8Array.of(4));
    expect([...(await bytesOf(storage))]).toEqual([4]);
    expect(await folder.list()).toEqual([]);
  });

  it('says which name is missing and which is taken', async () => {
    const folder = await make();
    await created(folder, 'here');
    await created(folder, 'there');
    const open = (): unknown => folder.open('gone', { readOnly: false });
    expect(await codeOf(open)).toBe('ERR_NOT_FOUND');
    expect(await codeOf(() => folder.remove('gone'))).toBe('ERR_NOT_FOUND');
    expect(await codeOf(() => folder.rename('gone', 'x'))).toBe('ERR_NOT_FOUND');
    expect(await codeOf(() => folder.create('here'))).toBe('ERR_EXISTS');
    expect(await codeOf(() => folder.link('here', 'there'))).toBe('ERR_EXISTS');
    await expect(open()).rejects.toThrow('gone');
  });

  it('gives one identity to the ways of writing one name', async () => {
    const folder = await make();
    await created(folder, 'one');
    expect(await folder.identify('one')).toBe(await folder.identify('./one'));
    expect(await folder.identify('one')).not.toBe(await folder.identify('two'));
  });
});

async function opening(folder: StorageFolder, name: string, lock: LockMode): Promise<Storage> {
  const storage = await folder.open(name, { readOnly: lock !== 'exclusive', lock });
  opened.push(storage);
  return storage;
}

describe.each(kinds)('locks of $kind', ({ make }) => {
  it.each([
    ['exclusive', 'exclusive', 'ERR_LOCKED'],
    ['exclusive', 'shared', 'ERR_LOCKED'],
    ['exclusive', 'none', 'no error'],
    ['shared', 'exclusive', 'ERR_LOCKED'],
    ['shared', 'shared', 'no error'],
    ['none', 'exclusive', 'no error'],
  ] as const)('beside %s, %s is: %s', async (held, wanted, result) => {
    const folder = await make();
    await created(folder);
    await opening(folder, 'image', held);
    expect(await codeOf(() => opening(folder, 'image', wanted))).toBe(result);
    for (const storage of opened.splice(0)) await storage.close();
    expect(await codeOf(() => opening(folder, 'image', wanted))).toBe('no error');
  });

  it('can be changed, and one that cannot be had leaves the old one', async () => {
    const folder = await make();
    await created(folder);
    const first = await opening(folder, 'image', 'exclusive');
    await first.lock('shared');
    const second = await opening(folder, 'image', 'shared');
    expect(await codeOf(() => first.lock('exclusive'))).toBe('ERR_LOCKED');
    await second.lock('none');
    expect(await codeOf(() => second.lock('exclusive'))).toBe('ERR_LOCKED');
    await first.lock('exclusive');
    expect(await codeOf(() => second.lock('shared'))).toBe('ERR_LOCKED');
    await first.lock('none');
    await second.lock('exclusive');
  });

  it('belong to the file, whatever names it has', async () => {
    const folder = await make();
    await created(folder, 'front');
    const front = await opening(folder, 'front', 'exclusive');
    await folder.link('front', 'kept');
    const next = await created(folder, 'next');
    await next.lock('exclusive');
    await folder.rename('next', 'front');
    await front.lock('shared');
    expect(await codeOf(() => opening(folder, 'front', 'shared'))).toBe('ERR_LOCKED');
    expect(await codeOf(() => opening(folder, 'kept', 'exclusive'))).toBe('ERR_LOCKED');
    expect(await codeOf(() => opening(folder, 'kept', 'shared'))).toBe('no error');
    expect(await folder.list()).toEqual(['front', 'kept']);
  });

  it('are refused on a storage that is closed', async () => {
    const storage = await created(await make());
    await storage.close();
    expect(await codeOf(() => storage.lock('shared'))).toBe('ERR_CLOSED');
  });
});
