import { InterceptedFolder, pattern, Random, type StorageCall } from '@cowlab/conformance';
import {
  type Awaitable,
  CountingFolder,
  type Disk,
  MemoryFolder,
  openDisk,
  type StorageFolder,
  totalCounts,
} from '@cowlab/core';
import { describe, expect, it } from 'vitest';
import type { FvdImage } from '../src/image.ts';
import {
  copyingChunks,
  copyOf,
  countingLive,
  file,
  fileBytes,
  filled,
  KiB,
  makeImage,
  MiB,
  openImage,
} from './lab.ts';

/* What can be switched to measure what a part of the design is worth must do what it stands for, and be safe. */

const block = 4 * KiB;
const chunk = 64 * KiB;

async function openWith(driver: typeof copyingChunks, folder: StorageFolder): Promise<Disk> {
  return openDisk({ folder, file }, { drivers: [driver], format: 'fvd' });
}

describe('copy_chunks', () => {
  it.each([
    ['after a snapshot copies its chunk', 0, { readBytes: chunk - block, writtenBytes: chunk }],
    ['elsewhere is one write', 8 * chunk, { readBytes: 0, writtenBytes: block }],
  ])('a first write of a block %s, and the next one nothing', async (_, offset, first) => {
    const folder = new CountingFolder(new MemoryFolder());
    await makeImage(folder);
    const disk = await openWith(copyingChunks, folder);
    await disk.write(0, pattern(1, 4 * chunk));
    await disk.snapshots.create('s');
    folder.reset();
    await disk.write(offset + 3 * block, filled(block, 7));
    expect(totalCounts(folder.reset())).toMatchObject({ ...first, writes: 1 });
    await disk.write(offset + 9 * block, filled(block, 8));
    expect(totalCounts(folder.reset())).toMatchObject({ readBytes: 0, writtenBytes: block, writes: 1 });
    await disk.close();
  });
});

/** A folder that shows what a power loss would leave after each storage flush, and where refcounts are written. */
class WatchedFolder extends InterceptedFolder {
  readonly states: MemoryFolder[] = [];
  readonly counts: number[] = [];
  readonly #files: MemoryFolder;

  constructor(files: MemoryFolder) {
    super(files);
    this.#files = files;
  }

  override intercept<T>(call: StorageCall, run: () => Awaitable<T>): Awaitable<T> {
    if (call.method === 'write' && call.purpose === 'refcount') this.counts.push(call.offset ?? 0);
    if (call.method !== 'flush') return run();
    return (async () => {
      const done = await run();
      this.states.push(await copyOf(this.#files));
      return done;
    })();
  }
}

describe('live_refcounts', () => {
  it('have on the disk, at every moment, no count below what reaches the chunk', async () => {
    const folder = new WatchedFolder(new MemoryFolder());
    await makeImage(folder, { size: 4 * MiB });
    const disk = await openWith(countingLive, folder);
    const random = new Random(5);
    await disk.write(0, filled(block, 1));
    await disk.flush();
    // Behind the first flush there is one table, and no catalog.
    const table = Math.floor(folder.counts[0]! / chunk) * chunk;
    folder.states.length = 0;
    for (let round = 0; round < 12; round++) {
      for (let write = 0; write < 6; write++) {
        const length = block * (1 + random.below(24));
        await disk.write(random.below((disk.size - length) / block) * block, pattern(round, length));
      }
      await disk.discard(random.below(60) * chunk, 3 * chunk);
      if (round % 3 === 0) await disk.snapshots.create(`s${round}`);
      else await disk.flush();
      if (round % 4 === 3) await disk.snapshots.apply(`s${round - (round % 3)}`);
      if (round === 7) await disk.snapshots.delete('s0');
    }
    expect(folder.states.length).toBeGreaterThan(30);
    for (const state of folder.states) await expectCounted(state, table);
    await disk.close();
  });
});

/** By an ordinary opening, which knows nothing of the table. */
async function expectCounted(state: MemoryFolder, table: number): Promise<void> {
  const bytes = await fileBytes(state);
  const disk = await openImage(state, true);
  const { space, snapshots } = disk.image as FvdImage;
  const { counts } = await snapshots.readCatalog();
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const tooLow: number[] = [];
  let counted = 0;
  for (let host = 0; host < space.hostChunks; host++) {
    const reached = (counts[host] ?? 0) + (space.isFront(host) ? 1 : 0);
    if (view.getUint16(table + 2 * host, true) < reached) tooLow.push(host);
    counted += reached;
  }
  expect(counted).toBeGreaterThan(0);
  expect(tooLow).toEqual([]);
  expect((await disk.check()).findings).toEqual([]);
  await disk.close();
}
