import { CountingFolder, MemoryFolder, type StorageFolder } from '@cowlab/core';
import { expect, it } from 'vitest';
import { type CatalogPlace, readCatalog } from '../src/catalog.ts';
import {
  decodeSuperblock,
  encodeCatalog,
  encodeSuperblock,
  geometryOf,
  MAX_SNAPSHOTS,
  SLOT_BYTES,
  type Superblock,
} from '../src/layout.ts';
import { contents, file, KiB, makeImage, MiB, openImage } from './lab.ts';

/*
 * An image with as many snapshots as there can be, each with the longest name. They are written as a catalog, not
 * taken one by one: what is tested is what the directory can hold and what that costs, not how long it takes to fill.
 */

const nameOf = (id: number): string => `${id} `.padEnd(255, 'n');

/** Three lines of descent from the first snapshot, a third of all in each. */
const parentOf = (id: number): number => Math.max(id <= 4 ? 1 : id - 3, 1);

/** Puts copies of the only snapshot into the directory until it is full. */
async function fillDirectory(folder: StorageFolder): Promise<void> {
  const storage = await folder.open(file, { readOnly: false });
  const slots: Superblock[] = [];
  for (const slot of [0, 1]) {
    const bytes = new Uint8Array(SLOT_BYTES);
    await storage.read(slot * SLOT_BYTES, bytes);
    slots.push(decodeSuperblock(bytes, file)!);
  }
  const [newest] = slots.toSorted((a, b) => b.generation - a.generation) as [Superblock];
  const { chunkBytes, blockBytes, hostChunks, catalog: region } = newest;
  const place: CatalogPlace = { storage, region, geometry: geometryOf(chunkBytes, blockBytes), hostChunks };
  const { directory, counts } = await readCatalog(place);
  const [only] = directory.snapshots;
  const snapshots = Array.from({ length: MAX_SNAPSHOTS }, (_, index) => {
    const id = index + 1;
    return { ...only!, id, name: nameOf(id), parent: id === 1 ? 0 : parentOf(id) };
  });
  const bytes = encodeCatalog(
    { nextId: MAX_SNAPSHOTS + 1, current: MAX_SNAPSHOTS, snapshots },
    counts.map((count) => count * MAX_SNAPSHOTS),
  );
  const superblock = {
    ...newest,
    generation: newest.generation + 1,
    catalog: { offset: hostChunks * chunkBytes, bytes: bytes.length },
    hostChunks: hostChunks + Math.ceil(bytes.length / chunkBytes),
  };
  await storage.truncate(superblock.hostChunks * chunkBytes);
  await storage.write(superblock.catalog.offset, bytes);
  await storage.write((superblock.generation % 2) * SLOT_BYTES, encodeSuperblock(superblock));
  await storage.close();
}

it('an image has up to 65,535 snapshots: named, in a tree, renamed, compared and deleted one by one', async () => {
  const folder = new CountingFolder(new MemoryFolder());
  await makeImage(folder);
  const first = await openImage(folder);
  await first.write(0, new Uint8Array(512 * KiB).fill(1));
  await first.snapshots.create('only');
  await first.close();
  await fillDirectory(folder);

  const disk = await openImage(folder);
  const list = await disk.snapshots.list();
  expect(list).toHaveLength(65_535);
  expect(list.every(({ id, name }, index) => id === String(index + 1) && name === nameOf(index + 1))).toBe(
    true,
  );
  expect(list.slice(0, 6).map(({ parent }) => parent)).toEqual([null, '1', '1', '1', '2', '3']);
  await expect(disk.snapshots.create('one more')).rejects.toMatchObject({ code: 'ERR_SNAPSHOT_LIMIT' });

  folder.reset();
  await disk.snapshots.rename(nameOf(40_000), 'another');
  const { flushes, purposes } = folder.reset();
  expect(flushes).toBe(2);
  expect(purposes.refcount.writes).toBe(1);
  expect([purposes.data.reads, purposes.data.writes]).toEqual([0, 0]);
  await expect(disk.snapshots.rename('another', nameOf(7))).rejects.toMatchObject({
    code: 'ERR_SNAPSHOT_EXISTS',
  });

  await disk.snapshots.delete(nameOf(7));
  const { parent } = (await disk.snapshots.list()).find(({ id }) => id === '10')!;
  expect(parent).toBe('4');
  await disk.write(64 * KiB, new Uint8Array(4 * KiB).fill(2));
  await disk.snapshots.create('in its place');
  folder.reset();
  const extents = [];
  for await (const extent of disk.snapshots.diff('another', 'in its place')) extents.push(extent);
  expect(extents).toEqual([{ offset: 64 * KiB, length: 4 * KiB }]);
  const cost = folder.reset().purposes;
  expect(cost.mapping.readBytes).toBeLessThan(2 * KiB);
  expect(cost.data.reads).toBe(0);

  const snapshot = await disk.snapshots.open('another');
  const wanted = new Uint8Array(MiB);
  wanted.fill(1, 0, 512 * KiB);
  expect(await contents(snapshot)).toEqual(wanted);
  await disk.close();
});
