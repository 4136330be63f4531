// Damaged images: those that were once misread (fixtures/mutants.json), and new ones.

import { malformed, type Mutant, type Sample } from '@cowlab/conformance';
import { createDisk, MemoryFolder, openDisk } from '@cowlab/core';
import { readFileSync } from 'node:fs';
import { vmdk, vmdkFlat, vmdkStructures } from '../src/index.ts';

const corpus = JSON.parse(
  readFileSync(new URL('fixtures/mutants.json', import.meta.url), 'utf8'),
) as Mutant[];

/** A complete stream-optimized disk: no guest works on one. */
async function stream(): Promise<Sample> {
  const place = { folder: new MemoryFolder(), file: 'disk.img' };
  const options = { subformat: 'streamOptimized', grain_size: 4096 };
  await createDisk(place, { driver: vmdk, size: 200_704, options });
  const disk = await openDisk(place, { drivers: [vmdk] });
  await disk.writeCompressed(0, Buffer.alloc(5 * 4096, 'the first grains '));
  await disk.writeCompressed(12 * 4096, Buffer.alloc(8 * 4096, 'others behind a hole '));
  await disk.close();
  const storage = await place.folder.open(place.file, { readOnly: true });
  const bytes = new Uint8Array(storage.size());
  await storage.read(0, bytes);
  return { name: 'a stream', files: () => new Map([[place.file, bytes]]) };
}

const samples = [await stream()];

malformed(
  [
    { driver: vmdk, options: { grain_size: 4096 }, samples },
    { driver: vmdk, options: { grain_size: 4096, zeroed_grain: true } },
    { driver: vmdk, options: { grain_size: 65_536 } },
    { driver: vmdk, options: { grain_size: 4096, subformat: 'twoGbMaxExtentSparse', extent_size: 32_768 } },
    { driver: vmdkFlat, options: { grain_size: 4096, subformat: 'twoGbMaxExtentFlat', extent_size: 32_768 } },
  ].map((subject) => ({ ...subject, structures: vmdkStructures })),
  corpus,
  800,
);
