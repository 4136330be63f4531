// Power fails before each call that an operation makes, and what was not flushed is kept, lost, or both by chance.

import { pattern, Random } from '@cowlab/conformance';
import { createDisk, type Disk, MemoryFolder, openDisk, type StorageFolder } from '@cowlab/core';
import { vmdk } from '@cowlab/vmdk-chain';
import { describe, expect, it } from 'vitest';
import { CrashFolder, type Fate } from './crash-folder.ts';

const GRAIN = 4096;
const SIZE = 24 * GRAIN;
const SECTOR = 512;
const MOST_CALLS = 200;

const open = (folder: StorageFolder): Promise<Disk> =>
  openDisk({ folder, file: 'disk.vmdk' }, { drivers: [vmdk], format: 'vmdk' });

async function bytesOf(disk: Disk): Promise<Uint8Array> {
  const bytes = new Uint8Array(disk.size);
  await disk.read(0, bytes);
  return bytes;
}

/** The disk on snapshots `a` and `b`, a branch `c` on `a`; all with grains of their own, all durable. */
async function build(folder: StorageFolder): Promise<Disk> {
  await createDisk(
    { folder, file: 'disk.vmdk' },
    { driver: vmdk, size: SIZE, options: { grain_size: GRAIN } },
  );
  const disk = await open(folder);
  await disk.write(0, pattern(1, 10 * GRAIN));
  await disk.snapshots.create('a');
  await disk.write(8 * GRAIN + 100, pattern(2, 4 * GRAIN));
  await disk.snapshots.create('c');
  await disk.snapshots.apply('a');
  await disk.write(3 * GRAIN, pattern(3, 2 * GRAIN));
  await disk.writeZeroes(6 * GRAIN, GRAIN);
  await disk.snapshots.create('b');
  await disk.write(4 * GRAIN, pattern(4, GRAIN + 700));
  await disk.flush();
  return disk;
}

/** A full disk with snapshots `a` and `b` in a line, and little that was written since either. */
async function buildLine(folder: StorageFolder): Promise<Disk> {
  await createDisk(
    { folder, file: 'disk.vmdk' },
    { driver: vmdk, size: SIZE, options: { grain_size: GRAIN } },
  );
  const disk = await open(folder);
  await disk.write(0, pattern(1, SIZE - 4 * GRAIN));
  await disk.snapshots.create('a');
  await disk.write(8 * GRAIN + 100, pattern(2, 3 * GRAIN));
  await disk.writeZeroes(6 * GRAIN, GRAIN);
  await disk.write(SIZE - 2 * GRAIN, pattern(3, GRAIN));
  await disk.snapshots.create('b');
  await disk.write(4 * GRAIN, pattern(4, GRAIN + 700));
  await disk.flush();
  return disk;
}

/** What the disk and every snapshot read as. */
async function statesOf(disk: Disk): Promise<Map<string, Uint8Array>> {
  const states = new Map([['', await bytesOf(disk)]]);
  for (const { id, name } of await disk.snapshots.list()) {
    const snapshot = await disk.snapshots.open(id);
    states.set(name, await bytesOf(snapshot));
    await snapshot.close();
  }
  return states;
}

/** Every piece is as before or as after. */
function expectEither(pieceBytes: number, found: Uint8Array, before: Uint8Array, after: Uint8Array): void {
  for (let at = 0; at < SIZE; at += pieceBytes) {
    const piece = found.subarray(at, at + pieceBytes);
    const known = [before, after].some((state) => same(piece, state.subarray(at, at + pieceBytes)));
    expect(known, `bytes from ${at} are neither old nor new`).toBe(true);
  }
}

/** Compares as a whole; the bytes themselves are of no use in a message. */
function same(a: Uint8Array | undefined, b: Uint8Array | undefined): boolean {
  return a !== undefined && b !== undefined && Buffer.from(a).equals(b);
}

interface Work {
  readonly build: (folder: StorageFolder) => Promise<Disk>;
  readonly run: (disk: Disk) => Promise<void>;
}

/** Runs the operation up to its nth call; tells what is there after the power is back, and whether it got to its end. */
async function cutAt(
  nth: number,
  fate: Fate,
  { build: start, run }: Work,
): Promise<{ folder: MemoryFolder; done: boolean }> {
  const folder = new MemoryFolder();
  const crash = new CrashFolder(folder);
  const disk = await start(crash);
  crash.cutAt(nth);
  await run(disk).catch(() => undefined);
  if (!crash.isOff) {
    crash.cutAt(Number.POSITIVE_INFINITY);
    await disk.close();
    return { folder, done: true };
  }
  await crash.settle(fate, new Random(nth));
  return { folder, done: false };
}

async function expectUsable(folder: MemoryFolder): Promise<void> {
  const disk = await open(folder);
  const before = await bytesOf(disk);
  expect(await disk.check()).toMatchObject({ corruptions: 0 });
  await disk.snapshots.create('later');
  for (const { id } of await disk.snapshots.list()) await disk.snapshots.delete(id);
  expect(same(await bytesOf(disk), before)).toBe(true);
  expect(await disk.check()).toMatchObject({ corruptions: 0 });
  await disk.close();
}

/** In what pieces the disk's own bytes may change: an unflushed write by sectors, an operation as a whole. */
type Piece = 'sector' | 'whole';

const operations: [string, Piece, Work['run'], Work['build']?][] = [
  [
    'a flush of new grains, of overwrites and of zeros',
    'sector',
    async (disk) => {
      await disk.write(12 * GRAIN, pattern(5, 3 * GRAIN));
      await disk.write(4 * GRAIN + 1, pattern(6, 200));
      await disk.writeZeroes(0, 2 * GRAIN);
      await disk.flush();
    },
  ],
  [
    'a snapshot that is created over writes without a flush',
    'sector',
    async (disk) => {
      await disk.write(14 * GRAIN + 5, pattern(7, 2 * GRAIN));
      await disk.snapshots.create('new');
    },
  ],
  ['a snapshot that is deleted between others', 'whole', (disk) => disk.snapshots.delete('a')],
  ['a snapshot that is deleted under the disk', 'whole', (disk) => disk.snapshots.delete('b')],
  ['a snapshot that is deleted on a branch', 'whole', (disk) => disk.snapshots.delete('c')],
  ['a snapshot that is applied', 'whole', (disk) => disk.snapshots.apply('c')],
  [
    'a snapshot that holds nearly all, between others',
    'whole',
    (disk) => disk.snapshots.delete('a'),
    buildLine,
  ],
  [
    'a snapshot that holds nearly all, under the disk',
    'whole',
    (disk) => disk.snapshots.delete('a'),
    async (folder) => {
      const disk = await buildLine(folder);
      await disk.snapshots.delete('b');
      return disk;
    },
  ],
];

describe.each(operations)('a power cut in %s', (_, piece, run, start = build) => {
  it.each<Fate>(['kept', 'lost', 'by chance'])(
    'leaves it done or not done, with what was not flushed %s',
    async (fate) => {
      const undisturbed = await start(new MemoryFolder());
      const before = await statesOf(undisturbed);
      await run(undisturbed);
      const after = await statesOf(undisturbed);
      await undisturbed.close();
      let nth = 1;
      for (; nth < MOST_CALLS; nth++) {
        const { folder, done } = await cutAt(nth, fate, { build: start, run });
        const disk = await open(folder);
        const states = await statesOf(disk);
        await disk.close();
        const names = [...states.keys()];
        const happened = names.join() === [...after.keys()].join();
        if (!happened) expect(names).toEqual([...before.keys()]);
        for (const name of names.slice(1)) {
          expect(same(states.get(name), (happened ? after : before).get(name)), `${name}, call ${nth}`).toBe(
            true,
          );
        }
        expectEither(piece === 'whole' ? SIZE : SECTOR, states.get('')!, before.get('')!, after.get('')!);
        if (names.includes('new') || done)
          expect(same(states.get(''), after.get('')), `call ${nth}`).toBe(true);
        await expectUsable(folder);
        if (done) break;
      }
      expect(nth).toBeGreaterThan(3);
      expect(nth).toBeLessThan(MOST_CALLS);
    },
  );
});
