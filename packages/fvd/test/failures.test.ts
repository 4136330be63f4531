import { type Fault, FaultFolder, pattern } from '@cowlab/conformance';
import { type Disk, MemoryFolder, type Purpose } from '@cowlab/core';
import { describe, expect, it } from 'vitest';
import { contents, copyOf, filled, KiB, makeImage, openImage } from './lab.ts';

const block = 4 * KiB;

async function prepared(): Promise<{ disk: Disk; folder: FaultFolder; before: Uint8Array }> {
  const folder = new FaultFolder(new MemoryFolder());
  await makeImage(folder);
  const disk = await openImage(folder);
  await disk.write(0, pattern(1, disk.size / 2));
  await disk.snapshots.create('first');
  await disk.write(block, pattern(2, 9 * block));
  await disk.flush();
  return { disk, folder, before: await contents(disk) };
}

const operations: [string, (disk: Disk) => Promise<unknown>][] = [
  ['create', (disk) => disk.snapshots.create('second')],
  ['delete', (disk) => disk.snapshots.delete('first')],
  ['apply', (disk) => disk.snapshots.apply('first')],
  ['shrink', (disk) => disk.resize(disk.size - 3 * block - 512)],
  ['grow', (disk) => disk.resize(disk.size * 3)],
];

const faults: [string, Omit<Fault, 'nth'>, number][] = [
  ['no space for pages', { kind: 'short', methods: ['write'], purpose: 'mapping' }, 1],
  ['no space for the catalog', { kind: 'short', methods: ['write'], purpose: 'refcount' }, 1],
  ['no superblock', { kind: 'EIO', methods: ['write'], purpose: 'header' }, 1],
  ['half a superblock', { kind: 'short', methods: ['write'], purpose: 'header' }, 1],
  ['no flush of what the superblock will name', { kind: 'EIO', methods: ['flush'] }, 1],
  ['no flush of the superblock', { kind: 'EIO', methods: ['flush'] }, 2],
];

describe.each(operations)('%s', (_, operate) => {
  it.each(faults)(
    'that fails for %s has not happened; afterwards all goes on, and survives power loss',
    async (_fault, fault, nth) => {
      const { disk, folder, before } = await prepared();
      folder.arm({ ...fault, nth });
      const failure = await operate(disk).then(
        () => undefined,
        (error: unknown) => error,
      );
      folder.disarm();
      // Not every operation makes every call; the ones that were made and failed were reported.
      expect(failure !== undefined).toBe(folder.fired > 0);
      if (failure === undefined) return disk.close();
      expect(failure).toMatchObject({ code: fault.kind === 'EIO' ? 'ERR_IO' : 'ERR_NO_SPACE' });
      expect(Buffer.from(await contents(disk)).equals(before)).toBe(true);
      expect((await disk.snapshots.list()).map(({ name }) => name)).toEqual(['first']);
      const rest = pattern(3, 7 * block);
      await disk.write(20 * block, rest);
      await disk.flush();
      before.set(rest, 20 * block);
      const after = await openImage(await copyOf(folder));
      expect(Buffer.from(await contents(after)).equals(before)).toBe(true);
      expect((await after.check()).findings).toEqual([]);
      await after.close();
      await operate(disk);
      expect((await disk.check()).findings).toEqual([]);
      await disk.close();
    },
  );
});

describe('a superblock of which nobody knows whether it arrived', () => {
  it('is taken back before anything else counts', async () => {
    const { disk, folder, before } = await prepared();
    folder.arm({ kind: 'EIO', methods: ['flush'], nth: 2, lasting: true });
    await expect(disk.snapshots.create('second')).rejects.toMatchObject({ code: 'ERR_IO' });
    // The new superblock is in the file: what it reaches must stay as it was.
    await disk.write(0, filled(40 * block, 5));
    const doubtful = await openImage(await copyOf(folder));
    const snapshot = await doubtful.snapshots.open('second');
    expect(Buffer.from(await contents(snapshot)).equals(before)).toBe(true);
    expect((await doubtful.check()).findings).toEqual([]);
    await doubtful.close();
    await expect(Promise.resolve(disk.flush())).rejects.toMatchObject({ code: 'ERR_IO' });
    folder.disarm();
    await disk.flush();
    const settled = await openImage(await copyOf(folder));
    expect((await settled.snapshots.list()).map(({ name }) => name)).toEqual(['first']);
    expect((await contents(settled))[0]).toBe(5);
    await settled.close();
    await disk.close();
  });
});

describe('an apply that is in doubt', () => {
  it('lets no flush succeed, not even one with nothing but overwrites behind it', async () => {
    const { disk, folder } = await prepared();
    folder.arm({ kind: 'EIO', methods: ['flush'], purpose: 'data', nth: 2 });
    const failing = disk.snapshots.apply('first');
    await expect(failing).rejects.toMatchObject({ code: 'ERR_IO' });
    folder.arm({ kind: 'EIO', methods: ['write'], purpose: 'header', nth: 1, lasting: true });
    await disk.write(block, filled(block, 6));
    await expect(Promise.resolve().then(() => disk.flush())).rejects.toMatchObject({ code: 'ERR_IO' });
    folder.disarm();
    await disk.flush();
    const after = await openImage(await copyOf(folder));
    expect((await contents(after))[block]).toBe(6);
    await after.close();
    await disk.close();
  });
});

describe('a write', () => {
  it.each<[Fault['kind'], Purpose, string]>([
    ['short', 'data', 'ERR_NO_SPACE'],
    ['EIO', 'data', 'ERR_IO'],
  ])(
    'that fails (%s) is reported and leaves an image that reopens and checks clean',
    async (kind, purpose, code) => {
      const { disk, folder, before } = await prepared();
      folder.arm({ kind, methods: ['write'], purpose, nth: 1 });
      const where = disk.size - 100 * KiB;
      await expect(
        Promise.resolve().then(() => disk.write(where, filled(50 * KiB, 7))),
      ).rejects.toMatchObject({ code });
      folder.disarm();
      expect(Buffer.from(await contents(disk)).equals(before)).toBe(true);
      await disk.close();
      const again = await openImage(folder);
      expect((await again.check()).findings).toEqual([]);
      expect(Buffer.from(await contents(again)).equals(before)).toBe(true);
      await again.close();
    },
  );

  it.each(['write', 'flush'] as const)(
    'whose journal append fails (%s) is made durable by the next flush',
    async (method) => {
      const { disk, folder } = await prepared();
      const written = filled(30 * block, 8);
      await disk.write(100 * block, written);
      folder.arm({ kind: 'EIO', methods: [method], nth: method === 'flush' ? 2 : 1 });
      await expect(Promise.resolve(disk.flush())).rejects.toMatchObject({ code: 'ERR_IO' });
      folder.disarm();
      await disk.write(0, filled(block, 9));
      await disk.flush();
      const after = await openImage(await copyOf(folder));
      const found = Buffer.from(await contents(after));
      expect(found.subarray(100 * block, 130 * block).equals(written)).toBe(true);
      expect(found[0]).toBe(9);
      await after.close();
      await disk.close();
    },
  );
});

describe('space that is given back', () => {
  it('does not fail what freed it when the hole cannot be punched', async () => {
    const { disk, folder } = await prepared();
    folder.arm({ kind: 'EIO', methods: ['discard'], nth: 1, lasting: true });
    await disk.discard(0, disk.size);
    await disk.flush();
    await disk.snapshots.delete('first');
    expect(folder.fired).toBeGreaterThan(0);
    folder.disarm();
    expect((await disk.check()).findings).toEqual([]);
    await disk.close();
  });
});
