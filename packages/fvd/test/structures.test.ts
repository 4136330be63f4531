// Planted damage of every structure: each is refused, or found by check, or is what a crash may leave.

import { type FoundStructure, isCowlabError, MemoryFolder, openDisk, viewOf } from '@cowlab/core';
import { describe, expect, it } from 'vitest';
import { fvdStructures } from '../src/index.ts';
import { eager, file, fileBytes, folderWith, KiB, makeImage, openImage } from './lab.ts';

/** Pages, a delta, snapshots, and a journal with something in it. */
async function image(): Promise<Uint8Array> {
  const folder = new MemoryFolder();
  await makeImage(folder);
  const disk = await openDisk({ folder, file }, { drivers: [eager()], format: 'fvd' });
  for (let round = 0; round < 4; round += 1) {
    for (let at = round; at < 200; at += 7)
      await disk.write(at * 4 * KiB, new Uint8Array(4 * KiB).fill(at + 1));
    await disk.snapshots.create(`s${round}`);
  }
  await disk.write(0, new Uint8Array(4 * KiB).fill(9));
  await disk.snapshots.create('last');
  await disk.write(8 * KiB, new Uint8Array(4 * KiB).fill(7));
  await disk.flush();
  const bytes = await fileBytes(folder);
  await disk.close();
  return bytes;
}

function find(bytes: Uint8Array, kind: string): FoundStructure[] {
  return fvdStructures(file, bytes).filter((each) => each.kind === kind);
}

/** The superblock that rules. */
function newestOf(bytes: Uint8Array): FoundStructure {
  const generation = ({ offset }: FoundStructure): number => viewOf(bytes).getUint32(offset + 24, true);
  return find(bytes, 'superblock').toSorted((a, b) => generation(b) - generation(a))[0]!;
}

/** The code that opening ends with, or what check finds. */
async function outcome(bytes: Uint8Array): Promise<string> {
  try {
    const disk = await openImage(await folderWith(bytes), true);
    const { corruptions } = await disk.check();
    await disk.close();
    return corruptions > 0 ? 'found by check' : 'nothing';
  } catch (error) {
    if (!isCowlabError(error)) throw error;
    return error.code;
  }
}

const good = await image();

describe('a byte that changed', () => {
  it.each(['root', 'page', 'delta', 'catalog', 'refcounts'])('in each %s is noticed', async (kind) => {
    const found = find(good, kind);
    expect(found.length).toBeGreaterThan(0);
    for (const { offset, bytes } of found) {
      for (const at of [0, 5, bytes - 1]) {
        const damaged = good.slice();
        damaged[offset + at]! ^= 0x20;
        expect(['ERR_CORRUPT', 'found by check'], `byte ${at} of ${offset}`).toContain(
          await outcome(damaged),
        );
      }
    }
  });

  it('in the superblock that the journal follows is noticed, and nothing goes on from the older one', async () => {
    const newest = newestOf(good);
    const damaged = good.slice();
    damaged[newest.offset + 41]! ^= 1;
    const opening = openImage(await folderWith(damaged));
    await expect(opening).rejects.toMatchObject({ code: 'ERR_CORRUPT', data: { field: 'journal.epoch' } });
  });

  it('in the last sector of the journal ends it there, and a writer goes on from what is left', async () => {
    const last = find(good, 'journal').at(-1)!;
    const damaged = good.slice();
    damaged[last.offset + 40]! ^= 1;
    const disk = await openImage(await folderWith(damaged));
    expect((await disk.check()).findings).toEqual([]);
    await disk.close();
  });
});

describe('a superblock that sends the writer where something lies', () => {
  it.each(['logOffset', 'packNext', 'tailFrom'])('by %s is found by check', async (name) => {
    const folder = new MemoryFolder();
    await makeImage(folder);
    const disk = await openImage(folder);
    await disk.write(0, new Uint8Array(64 * KiB).fill(1));
    await disk.snapshots.create('s');
    for (let at = 1; at < 6; at += 2) await disk.write(at * 4 * KiB, new Uint8Array(4 * KiB).fill(2));
    await disk.snapshots.create('t');
    await disk.close();
    const bytes = await fileBytes(folder);
    const { offset, bytes: length, fields, seal } = newestOf(bytes);
    const [root] = find(bytes, 'root');
    const extent = await openImage(folder, true).then(async (reader) => {
      const found = await reader.image.map(4 * KiB, 4 * KiB);
      await reader.close();
      return found;
    });
    const place = extent.kind === 'data' ? extent.hostOffset : 0;
    const value = name === 'logOffset' ? root!.offset : place / (4 * KiB);
    const slot = bytes.subarray(offset, offset + length);
    viewOf(slot).setUint32(fields[name]!.at, value, true);
    seal?.(slot);
    expect(await outcome(bytes)).toBe('found by check');
  });
});
