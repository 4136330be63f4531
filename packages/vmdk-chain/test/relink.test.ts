// What the files of a disk with snapshots name as their parent: let go of, moved, and looked at.

import { FaultFolder, pattern } from '@cowlab/conformance';
import { createDisk, type Disk, MemoryFolder, openDisk, type StorageFolder } from '@cowlab/core';
import { vmdk } from '@cowlab/vmdk-chain';
import { describe, expect, it } from 'vitest';

const GRAIN = 4096;
const SIZE = 40 * GRAIN;
const options = { grain_size: GRAIN };

const open = (folder: StorageFolder, withoutBacking = false): Promise<Disk> =>
  openDisk({ folder, file: 'disk.vmdk' }, { drivers: [vmdk], format: 'vmdk', withoutBacking });

async function bytesOf(disk: Disk): Promise<Buffer> {
  const bytes = Buffer.alloc(disk.size);
  await disk.read(0, bytes);
  return bytes;
}

async function makeBase(folder: StorageFolder, file: string): Promise<void> {
  await createDisk({ folder, file }, { driver: vmdk, size: SIZE, options });
  const base = await openDisk({ folder, file }, { drivers: [vmdk], format: 'vmdk' });
  await base.write(0, pattern(1, SIZE));
  await base.close();
}

/** A disk over `base.vmdk`. */
async function overlay(folder: StorageFolder): Promise<Disk> {
  await makeBase(folder, 'base.vmdk');
  const backing = { file: 'base.vmdk', format: 'vmdk' };
  await createDisk({ folder, file: 'disk.vmdk' }, { driver: vmdk, options, backing });
  return open(folder);
}

/** Snapshots `a` and, on it, `b`; `c` on `a` too; the disk on `c`. */
async function branches(folder: StorageFolder): Promise<Map<string, Buffer>> {
  const disk = await overlay(folder);
  const states = new Map<string, Buffer>();
  const take = async (name: string, at: number): Promise<void> => {
    await disk.write(at * GRAIN + 5, pattern(at, 2 * GRAIN));
    states.set(name, await bytesOf(disk));
    await disk.snapshots.create(name);
  };
  await take('a', 3);
  await take('b', 9);
  await disk.snapshots.apply('a');
  await take('c', 15);
  await disk.write(20 * GRAIN, pattern(20, 10));
  states.set('', await bytesOf(disk));
  await disk.close();
  return states;
}

async function expectStates(disk: Disk, states: ReadonlyMap<string, Buffer>): Promise<void> {
  for (const [name, bytes] of states) {
    const one = name === '' ? disk : await disk.snapshots.open(name);
    expect(bytes.equals(await bytesOf(one)), name).toBe(true);
    if (name !== '') await one.close();
  }
}

describe('a release', () => {
  it('makes the disk and its snapshots independent of each other and of the base, also open ones', async () => {
    const folder = new MemoryFolder();
    const disk = await overlay(folder);
    await disk.populate();
    const states = new Map([['whole', await bytesOf(disk)]]);
    await disk.snapshots.create('whole');
    await disk.write(7, pattern(2, 3 * GRAIN));
    await expect(disk.releaseBacking()).rejects.toMatchObject({ code: 'ERR_BACKING_NEEDED' });
    await disk.populate();
    const opened = await disk.snapshots.open('whole');
    await disk.releaseBacking();
    states.set('', await bytesOf(disk));
    expect((await disk.info()).backing).toBeUndefined();
    await folder.remove('base.vmdk');
    expect(states.get('whole')!.equals(await bytesOf(opened))).toBe(true);
    await opened.close();
    await expectStates(disk, states);
    await disk.close();
    const again = await open(folder);
    expect((await again.check()).findings).toEqual([]);
    expect(again.stats()).toMatchObject({ links: 0 });
    await expectStates(again, states);
    await again.snapshots.apply('whole');
    expect(states.get('whole')!.equals(await bytesOf(again))).toBe(true);
    await again.snapshots.delete('whole');
    expect(states.get('whole')!.equals(await bytesOf(again))).toBe(true);
    await again.close();
  });

  it('is refused while a snapshot has bytes in what is below', async () => {
    const folder = new MemoryFolder();
    const states = await branches(folder);
    const disk = await open(folder);
    await disk.populate();
    await expect(disk.releaseBacking()).rejects.toMatchObject({
      code: 'ERR_BACKING_NEEDED',
      data: { field: 'snapshot a' },
    });
    await expectStates(disk, states);
    await disk.close();
  });
});

describe('a parent that has moved', () => {
  it.each([
    ['with its chain closed', true],
    ['from a copy that is open', false],
  ])('gets its new name where it is named, below all snapshots (%s)', async (_, closed) => {
    const folder = new MemoryFolder();
    const states = await branches(folder);
    if (closed) {
      await folder.rename('base.vmdk', 'moved.vmdk');
      await expect(open(folder)).rejects.toMatchObject({ code: 'ERR_BACKING_MISSING' });
    } else {
      await folder.link('base.vmdk', 'moved.vmdk');
    }
    const disk = await open(folder, closed);
    await disk.rebase({ file: 'moved.vmdk', format: 'vmdk' }, { unsafe: true });
    if (!closed) {
      await folder.remove('base.vmdk');
      await expectStates(disk, states);
    }
    await disk.close();
    const again = await open(folder);
    await expectStates(again, states);
    expect((await again.check()).findings).toEqual([]);
    await again.close();
  });

  it('is known by its CID: another file does not take its place under snapshots', async () => {
    const folder = new MemoryFolder();
    const states = await branches(folder);
    await makeBase(folder, 'other.vmdk');
    const disk = await open(folder);
    await expect(disk.rebase({ file: 'other.vmdk', format: 'vmdk' }, { unsafe: true })).rejects.toMatchObject(
      { code: 'ERR_UNSUPPORTED', data: { field: 'descriptor.parentCID' } },
    );
    await expect(disk.rebase(null, { unsafe: true })).rejects.toMatchObject({ code: 'ERR_UNSUPPORTED' });
    await expectStates(disk, states);
    await disk.close();
  });
});

describe('check of a chain', () => {
  it('names files that no snapshot lists', async () => {
    const memory = new MemoryFolder();
    const folder = new FaultFolder(memory);
    await branches(folder);
    const disk = await open(folder);
    folder.arm({ kind: 'EIO', methods: ['remove'], nth: 1, lasting: true });
    await disk.snapshots.delete('b').catch(() => undefined);
    folder.disarm();
    const { findings, corruptions } = await disk.check();
    expect(corruptions).toBe(0);
    expect(findings).toMatchObject([{ severity: 'leak', structure: 'file', file: 'disk-000002.vmdk' }]);
    await disk.close();
  });

  it('names a snapshot whose file is missing', async () => {
    const folder = new MemoryFolder();
    await branches(folder);
    const disk = await open(folder);
    await folder.rename('disk-000002.vmdk', 'elsewhere.vmdk');
    expect((await disk.check()).findings).toMatchObject([
      { severity: 'corruption', structure: 'snapshot directory', file: 'disk-000002.vmdk' },
    ]);
    await disk.close();
  });
});
