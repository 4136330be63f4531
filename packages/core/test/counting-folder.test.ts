import { describe, expect, it } from 'vitest';
import { CountingFolder, MemoryFolder, type Purpose, totalCounts } from '../src/index.ts';

const purposes: Purpose[] = ['data', 'header', 'mapping', 'journal', 'refcount', 'snapshot'];

describe('CountingFolder', () => {
  it.each(purposes)('counts calls and bytes for %s, and for nothing else', async (purpose) => {
    const folder = new CountingFolder(new MemoryFolder());
    const storage = await folder.create('a');
    folder.reset();
    await storage.write(0, new Uint8Array(10), purpose);
    await storage.read(0, new Uint8Array(4), purpose);
    await storage.read(0, new Uint8Array(3), purpose);
    await storage.zero(0, 5, purpose);
    await storage.discard(0, 5, purpose);
    const expected = { reads: 2, readBytes: 7, writes: 1, writtenBytes: 10, zeroes: 1, discards: 1 };
    expect(folder.counts.purposes[purpose]).toEqual(expected);
    expect(totalCounts(folder.counts)).toEqual(expected);
  });

  it('tells who listens of every read before it is made, and for what it is', async () => {
    const folder = new CountingFolder(new MemoryFolder());
    const storage = await folder.create('a');
    const heard: Purpose[] = [];
    folder.onRead = (purpose) => heard.push(purpose);
    await storage.write(0, new Uint8Array(8), 'header');
    await storage.read(0, new Uint8Array(4), 'refcount');
    await storage.read(0, new Uint8Array(4));
    expect(heard).toEqual(['refcount', 'data']);
  });

  it('takes a call without a purpose for data', async () => {
    const folder = new CountingFolder(new MemoryFolder());
    await (await folder.create('a')).write(0, new Uint8Array(1));
    expect(folder.counts.purposes.data.writes).toBe(1);
  });

  it('adds up all storages, counts flushes and names, and starts again after a reset', async () => {
    const folder = new CountingFolder(new MemoryFolder());
    const first = await folder.create('a');
    const second = await folder.create('b');
    await first.flush();
    await second.flush();
    await folder.rename('a', 'c');
    await folder.link('c', 'd');
    await folder.remove('b');
    await folder.flush();
    expect(folder.reset()).toMatchObject({ flushes: 2, folderCalls: 5, folderFlushes: 1 });
    expect(folder.counts).toMatchObject({ flushes: 0, folderCalls: 0, folderFlushes: 0 });
    await second.flush();
    expect(folder.counts.flushes).toBe(1);
  });

  it('is the folder inside in every other way', async () => {
    const inner = new MemoryFolder();
    const folder = new CountingFolder(inner);
    const storage = await folder.create('a');
    await storage.truncate(100);
    expect([storage.name, storage.size(), storage.readOnly]).toEqual(['a', 100, false]);
    expect(await storage.status(0, 100)).toEqual({ data: false, length: 100 });
    expect((await folder.open('a', { readOnly: true })).readOnly).toBe(true);
    expect(await folder.exists('a')).toBe(true);
    expect(await folder.list()).toEqual(await inner.list());
    expect(await folder.identify('a')).toBe(await inner.identify('a'));
    expect(folder.location).toBe(inner.location);
    await storage.close();
    expect(() => storage.read(0, new Uint8Array(1))).toThrow('closed');
  });
});
