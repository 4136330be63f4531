import { pattern } from '@cowlab/conformance';
import { type CountingFolder, type Disk, MemoryFolder, MemoryStorage, openDisk } from '@cowlab/core';
import { describe, expect, it } from 'vitest';
import { fvd } from '../src/index.ts';
import { Journal } from '../src/journal.ts';
import { type JournalRun, RUNS_PER_SECTOR, SECTOR_BYTES } from '../src/layout.ts';
import { contents, copyOf, countedDisk, file, fileBytes, filled, folderWith, KiB, openImage } from './lab.ts';

const region = { offset: 4096, bytes: 8 * SECTOR_BYTES };

function runsOf(tag: number, count: number): JournalRun[] {
  return Array.from({ length: count }, (_, i) => ({ guest: tag * 1000 + i, count: 1, host: tag * 5000 + i }));
}

async function replayed(storage: MemoryStorage, epoch: number): Promise<JournalRun[]> {
  const runs: JournalRun[] = [];
  await new Journal(storage, region, epoch).replay((run) => runs.push(run));
  return runs;
}

describe('the journal', () => {
  it('gives back what was appended, in order, over sector ends', async () => {
    const storage = new MemoryStorage();
    const journal = new Journal(storage, region, 1);
    await journal.append(runsOf(1, 2));
    await journal.append(runsOf(2, RUNS_PER_SECTOR + 1));
    expect(await replayed(storage, 1)).toEqual([...runsOf(1, 2), ...runsOf(2, RUNS_PER_SECTOR + 1)]);
  });

  it('is full when the last sector is', async () => {
    const journal = new Journal(new MemoryStorage(), region, 1);
    await journal.append(runsOf(1, 7 * RUNS_PER_SECTOR));
    expect(journal.hasRoomFor(RUNS_PER_SECTOR)).toBe(true);
    expect(journal.hasRoomFor(RUNS_PER_SECTOR + 1)).toBe(false);
    journal.restart(2);
    expect(journal.hasRoomFor(8 * RUNS_PER_SECTOR)).toBe(true);
  });

  it('knows nothing of an earlier epoch, in a new one that is shorter', async () => {
    const storage = new MemoryStorage();
    const journal = new Journal(storage, region, 1);
    for (let i = 1; i <= 3; i++) await journal.append(runsOf(i, 1));
    journal.restart(2);
    expect(await replayed(storage, 2)).toEqual([]);
    await journal.append(runsOf(4, 1));
    expect(await replayed(storage, 2)).toEqual(runsOf(4, 1));
  });

  it.each([0, 1, 2])('ends before a sector that is torn: sector %i', async (torn) => {
    const storage = new MemoryStorage();
    const journal = new Journal(storage, region, 1);
    for (let i = 0; i < 3; i++) await journal.append(runsOf(i + 1, 1));
    storage.write(region.offset + torn * SECTOR_BYTES + 40, filled(8, 0xee));
    expect(await replayed(storage, 1)).toHaveLength(torn);
  });

  it('does not join what a failed append has left to a later append', async () => {
    const storage = new MemoryStorage();
    const journal = new Journal(storage, region, 1);
    let failing = true;
    storage.flush = () => {
      if (failing) throw new Error('no flush');
    };
    await expect(journal.append(runsOf(1, 2 * RUNS_PER_SECTOR))).rejects.toThrow('no flush');
    failing = false;
    await journal.append(runsOf(2, 1));
    // The second sector of the failed append is still there, whole, and of this epoch.
    expect(await replayed(storage, 1)).toEqual(runsOf(2, 1));
  });
});

async function dirtyDisk(): Promise<{ disk: Disk; folder: CountingFolder; kept: Uint8Array }> {
  const { disk, folder } = await countedDisk();
  const kept = pattern(1, 100 * KiB);
  await disk.write(0, kept);
  await disk.flush();
  return { disk, folder, kept };
}

describe('an image with a journal', () => {
  it('goes over to a new table when the journal is full, and loses nothing', async () => {
    const { disk, folder } = await countedDisk();
    const block = 4 * KiB;
    folder.reset();
    let flushes = 0;
    while (folder.counts.purposes.header.writes < 3) {
      const at = (flushes % 256) * block;
      if (flushes % 2 === 0) await disk.write(at, filled(block, (flushes % 250) + 1));
      else await disk.discard(at - block, block);
      await disk.flush();
      flushes++;
    }
    await disk.write(0, pattern(9, disk.size));
    await disk.flush();
    const expected = await contents(disk);
    const after = await openImage(await copyOf(folder));
    expect(Buffer.from(await contents(after)).equals(expected)).toBe(true);
    expect((await after.check()).findings).toEqual([]);
    await after.close();
    await disk.close();
  });

  it('has none to replay after a close', async () => {
    const { disk, folder, kept } = await dirtyDisk();
    await disk.close();
    folder.reset();
    const again = await openImage(folder);
    expect(folder.counts.purposes.journal.readBytes).toBe(SECTOR_BYTES);
    expect(
      Buffer.from(await contents(again))
        .subarray(0, kept.length)
        .equals(kept),
    ).toBe(true);
    await again.close();
  });

  it('is not written where it is switched off: a flush publishes, and loses nothing', async () => {
    const { disk: made, folder } = await countedDisk();
    await made.close();
    const disk = await openDisk({ folder, file }, { drivers: [fvd], options: { journal: false } });
    folder.reset();
    await disk.write(8192, filled(4096, 7));
    await disk.flush();
    expect(folder.counts.purposes.journal).toMatchObject({ writes: 0, reads: 0 });
    expect(folder.counts.purposes.mapping.writes).toBeGreaterThan(0);
    const afterwards = await openImage(await copyOf(folder));
    expect((await contents(afterwards)).subarray(8192, 8192 + 4096)).toEqual(filled(4096, 7));
    expect((await afterwards.check()).findings).toEqual([]);
    await afterwards.close();
    await disk.close();
  });

  it('replays after an interrupted replay', async () => {
    const { disk, folder, kept } = await dirtyDisk();
    const dirty = await fileBytes(folder);
    await disk.close();
    // A replay that got as far as the table's pages, which lie in free space, and no further.
    const recovered = new MemoryFolder();
    const storage = await recovered.create('disk.fvd');
    await storage.write(0, dirty);
    await (await openImage(recovered)).close();
    const halfway = await fileBytes(recovered);
    halfway.set(dirty.subarray(0, 8192), 0);
    const again = await openImage(await folderWith(halfway));
    expect(
      Buffer.from(await contents(again))
        .subarray(0, kept.length)
        .equals(kept),
    ).toBe(true);
    expect((await again.check()).findings).toEqual([]);
    await again.close();
  });
});
