import { mkdir } from 'node:fs/promises';
import { FileFolder, type Storage } from '@cowlab/core';
import type { Lab } from '../lab.ts';
import { interleaved, type Party } from '../measure.ts';
import type { Profile } from '../profiles.ts';
import type { GrowthRow } from '../schema.ts';
import { distinctOffsets, patternBytes } from '../workload.ts';

/*
 * G2, G3: what of the time of a first pass is the file system's? Whatever the format, the first write to a block that
 * a snapshot holds goes to a new place, and a file that grows costs more at a flush, or less, than one that is
 * overwritten all over. Three files without any format are written as the images of a first pass are:
 *
 *   in place   64 blocks at random offsets, flush                       an image without snapshots
 *   appended   64 blocks at the end of the file, flush                  the least that copy-on-write can do
 *   recorded   the same, then one block in a row of its own, flush      and note where they went
 */
export async function measureGrowth(lab: Lab, profile: Profile, seed: number): Promise<GrowthRow[]> {
  const directory = lab.path('growth');
  await mkdir(directory);
  const folder = new FileFolder(directory);
  const patterns: readonly GrowthRow['pattern'][] = ['in place', 'appended', 'recorded'];
  const storages: Storage[] = [];
  for (const pattern of patterns) storages.push(await filledFile(folder, pattern, profile));
  const parties = patterns.map((pattern, index) => writer(pattern, storages[index]!, profile, seed));
  const times = await interleaved(parties, profile.cellBudgetMs);
  for (const storage of storages) await storage.close();
  await lab.discard(directory);
  return patterns.map((pattern, index) => {
    const { operations = 0, roundMicros = [] } = times[index] ?? {};
    return {
      pattern,
      operations,
      roundMicros,
      flushes: roundMicros.length * (pattern === 'recorded' ? 2 : 1),
    };
  });
}

const PIECE_BYTES = 1024 * 1024;

/** As long as the images are; in front of it room for the records, which is written, too. */
async function filledFile(folder: FileFolder, name: string, profile: Profile): Promise<Storage> {
  const storage = await folder.create(name);
  const piece = patternBytes(1, PIECE_BYTES);
  const end = recordBytes(profile) + profile.imageBytes;
  for (let at = 0; at < end; at += PIECE_BYTES) {
    await storage.write(at, piece.subarray(0, Math.min(PIECE_BYTES, end - at)));
  }
  await storage.flush();
  return storage;
}

function recordBytes({ overwriteRounds, requestBytes }: Profile): number {
  return overwriteRounds * requestBytes;
}

function writer(pattern: GrowthRow['pattern'], storage: Storage, profile: Profile, seed: number): Party {
  const { overwriteRounds, flushEvery, imageBytes, requestBytes } = profile;
  const source = patternBytes(seed, requestBytes);
  const start = recordBytes(profile);
  const offsets = distinctOffsets(seed, overwriteRounds * flushEvery, imageBytes, requestBytes);
  return {
    rounds: overwriteRounds,
    async batch(round) {
      for (let nth = 0; nth < flushEvery; nth++) {
        const random = start + (offsets[(round * flushEvery + nth) % offsets.length] ?? 0);
        await storage.write(pattern === 'in place' ? random : storage.size(), source);
      }
      await storage.flush();
      if (pattern === 'recorded') {
        await storage.write(round * requestBytes, source);
        await storage.flush();
      }
      return flushEvery;
    },
  };
}
