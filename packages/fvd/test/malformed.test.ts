import { CountingFolder, MemoryFolder, totalCounts, viewOf } from '@cowlab/core';
import { beforeAll, describe, expect, it } from 'vitest';
import {
  encodeCatalog,
  encodeDelta,
  encodeJournal,
  encodePage,
  encodeSuperblock,
  type Region,
  SLOT_BYTES,
  type Superblock,
  seal,
} from '../src/layout.ts';
import {
  contents,
  fileBytes,
  filled,
  folderWith,
  KiB,
  makeImage,
  newestOf,
  openImage,
  refusal,
  snapshotImage,
} from './lab.ts';

/** An image with data, a snapshot, and data after it; closed. */
let good: Uint8Array;
let superblock: Superblock;

function putSuperblock(image: Uint8Array, changes: Partial<Superblock>): void {
  const bytes = encodeSuperblock({ ...superblock, ...changes });
  for (const slot of [0, 1]) image.set(bytes, slot * SLOT_BYTES);
}

/** Changes the slots without asking whether the result makes sense. */
function patchSlots(image: Uint8Array, patch: (view: DataView) => void): void {
  for (const slot of [0, 1]) {
    const bytes = image.subarray(slot * SLOT_BYTES, (slot + 1) * SLOT_BYTES);
    patch(viewOf(bytes));
    seal(bytes, 8);
  }
}

/** Puts a page of `entries` in the place of the front's first page. */
function putPage(image: Uint8Array, entries: Parameters<typeof encodePage>[1]): void {
  const { root } = superblock;
  const page = encodePage(0, entries)!;
  const offset = superblock.logOffset;
  image.set(page, offset);
  const rootPart = image.subarray(root.offset, root.offset + root.bytes);
  const view = viewOf(rootPart);
  view.setUint32(32, offset / 16, true);
  view.setUint16(36, 0, true);
  view.setUint16(38, page.length / 16, true);
  seal(rootPart, 12);
}

/** Where the pieces lie that `putDelta` writes. */
const fullAt = (): number => superblock.logOffset;
const deltaAt = (): number => superblock.logOffset + 4096;

/** Puts a delta over a page of `entries` in the place of the front's first page. */
function putDelta(
  image: Uint8Array,
  entries: Parameters<typeof encodePage>[1],
  runs: Parameters<typeof encodeDelta>[3],
  full: Partial<Region> = {},
): void {
  putPage(image, entries);
  const page = encodePage(0, entries)!;
  const delta = encodeDelta(0, { offset: fullAt(), bytes: page.length, ...full }, 0, runs);
  image.set(delta, deltaAt());
  const { root } = superblock;
  const rootPart = image.subarray(root.offset, root.offset + root.bytes);
  const view = viewOf(rootPart);
  view.setUint32(32, deltaAt() / 16, true);
  view.setUint16(38, delta.length / 16, true);
  seal(rootPart, 12);
}

/** A host chunk that nothing reaches; the disk is not damaged by what is mapped to it. */
const lastHostChunk = (): number => superblock.hostChunks - 1;

function putJournal(image: Uint8Array, run: { guest: number; count: number; host: number }): void {
  image.set(encodeJournal([run], superblock.generation, 0, 0).bytes, superblock.journal.offset);
}

/** size, journal, root, catalog, logOffset, packNext, tailFrom, hostChunks. */
const offsetsOf64Bits = [40, 48, 56, 64, 72, 80, 88, 96, 104, 112, 120];

beforeAll(async () => {
  good = await snapshotImage();
  superblock = newestOf(good);
});

type Damage = (image: Uint8Array) => Uint8Array | void;

const damages: [what: string, field: string, damage: Damage, code?: string][] = [
  ['a file that ends inside the superblock', 'superblock', (image) => image.slice(0, 8191)],
  ['a file that lacks its last byte', 'superblock.hostChunks', (image) => image.slice(0, image.length - 1)],
  ['a file that ends before the front', 'superblock.hostChunks', (image) => image.slice(0, 64 * KiB)],
  ['a wrong magic', 'superblock[0].magic', (image) => void image.fill(0x58, 0, 4)],
  ['a wrong magic in the second slot', 'superblock[1].magic', (image) => void image.fill(0x58, 4096, 4100)],
  [
    'a version of the future',
    'superblock.version',
    (image) => patchSlots(image, (view) => view.setUint32(4, 3, true)),
    'ERR_UNSUPPORTED',
  ],
  [
    'an unknown feature',
    'superblock.incompatibleFeatures',
    (image) => patchSlots(image, (view) => view.setUint32(12, 0x8000_0000, true)),
    'ERR_UNSUPPORTED',
  ],
  [
    'bad checksums in both slots',
    'superblock',
    (image) => {
      image[100]! ^= 1;
      image[4196]! ^= 1;
    },
  ],
  [
    'chunks of 0 bytes',
    'superblock.chunkBytes',
    (image) => patchSlots(image, (view) => view.setUint32(32, 0, true)),
  ],
  [
    'blocks of 0 bytes',
    'superblock.chunkBytes',
    (image) => patchSlots(image, (view) => view.setUint32(36, 0, true)),
  ],
  [
    'a size of 256 TiB',
    'superblock.size',
    (image) => patchSlots(image, (view) => view.setUint32(44, 0x1_0000, true)),
  ],
  [
    'a size that its root does not have',
    'superblock.root.bytes',
    (image) => patchSlots(image, (view) => view.setUint32(44, 1, true)),
  ],
  [
    'a root outside the file',
    'superblock.root.offset',
    (image) => patchSlots(image, (view) => view.setUint8(68, 1)),
  ],
  [
    'a root that is none',
    'root',
    (image) => putSuperblock(image, { root: { ...superblock.root, offset: 128 * KiB } }),
  ],
  [
    'a catalog outside the file',
    'superblock.catalog.offset',
    (image) => patchSlots(image, (view) => view.setUint8(84, 1)),
  ],
  [
    'a catalog in the journal',
    'superblock.catalog.offset',
    (image) => patchSlots(image, (view) => view.setUint32(80, superblock.journal.offset, true)),
  ],
  [
    'a catalog that is none',
    'catalog.magic',
    (image) => void image.fill(0, superblock.catalog.offset, superblock.catalog.offset + 4),
  ],
  ['a damaged directory', 'catalog.checksum', (image) => void (image[superblock.catalog.offset + 50]! ^= 1)],
  [
    'damaged counts',
    'catalog.countsChecksum',
    (image) => void (image[superblock.catalog.offset + superblock.catalog.bytes - 1]! ^= 1),
  ],
  [
    'more counts than chunks',
    'catalog.countChunks',
    (image) => {
      const snapshots: never[] = [];
      const bytes = encodeCatalog(
        { nextId: 1, current: 0, snapshots },
        new Uint16Array(superblock.hostChunks + 1),
      );
      image.set(bytes, superblock.catalog.offset);
      putSuperblock(image, { catalog: { offset: superblock.catalog.offset, bytes: bytes.length } });
    },
  ],
  [
    'a damaged page',
    'page[0]',
    (image) => {
      const { root } = superblock;
      const offset = viewOf(image).getUint32(root.offset + 32, true) * 16;
      image[offset + 20]! ^= 1;
    },
  ],
  ['a chunk outside the file', 'page[0]', (image) => putPage(image, [superblock.hostChunks])],
  [
    'a chunk past the end of the disk',
    'page[0]',
    (image) => putPage(image, [...new Array<number>(16).fill(0), -1]),
  ],
  ['two mappings to one chunk', 'table[1]', (image) => putPage(image, [3, 3])],
  [
    'two mappings to one block',
    'table[1]',
    (image) =>
      putPage(image, [
        { starts: [0, 1], hosts: [3 * 16 + 3, 0] },
        { starts: [0, 1], hosts: [3 * 16 + 3, 0] },
      ]),
  ],
  [
    'one home of two chunks',
    'table[1]',
    (image) =>
      putPage(image, [
        { starts: [0, 1], hosts: [3 * 16, 0] },
        { starts: [0, 1, 2], hosts: [0, 3 * 16 + 1, 0] },
      ]),
  ],
  ['data in the journal', 'table[0]', (image) => putPage(image, [1])],
  [
    'a delta with a bad checksum',
    'page[0]',
    (image) => {
      putDelta(image, [lastHostChunk()], []);
      image[deltaAt() + 28]! ^= 1;
    },
  ],
  [
    'a delta over a damaged page',
    'page[0]',
    (image) => {
      putDelta(image, [lastHostChunk()], []);
      image[fullAt() + 20]! ^= 1;
    },
  ],
  [
    'a delta over a page of another index',
    'page[0]',
    (image) => {
      putDelta(image, [lastHostChunk()], []);
      image.set(encodePage(1, [lastHostChunk()])!, fullAt());
    },
  ],
  [
    'a delta over a delta',
    'page[0]',
    (image) => {
      putDelta(image, [lastHostChunk()], []);
      image.set(encodeDelta(0, { offset: deltaAt(), bytes: 32 }, 0, []), fullAt());
    },
  ],
  ['a delta over itself', 'page[0]', (image) => putDelta(image, [5], [], { offset: deltaAt() })],
  ['a delta over a page far away', 'page[0]', (image) => putDelta(image, [5], [], { offset: image.length })],
  [
    'a delta over nothing',
    'page[0]',
    (image) => putDelta(image, [lastHostChunk()], [], { offset: image.length - 64 * KiB }),
  ],
  [
    'a delta over a page in the journal',
    'root.page',
    (image) => {
      putDelta(image, [lastHostChunk()], [], { offset: superblock.journal.offset + 4096 });
      image.set(encodePage(0, [lastHostChunk()])!, superblock.journal.offset + 4096);
    },
  ],
  [
    'a delta with a chunk past the end of the disk',
    'page[0]',
    (image) => putDelta(image, [lastHostChunk()], [{ guest: 16 * 16 - 1, count: 2, host: 0 }]),
  ],
  [
    'a delta over a page with a chunk past the end of the disk, which it takes away',
    'page[0]',
    (image) => putDelta(image, [...new Array<number>(16).fill(0), -1], [{ guest: 0, count: 1, host: 0 }]),
  ],
  [
    'a delta with a block outside the file',
    'page[0]',
    (image) =>
      putDelta(image, [lastHostChunk()], [{ guest: 0, count: 2, host: superblock.hostChunks * 16 - 1 }]),
  ],
  [
    'a delta with a block that the page has elsewhere',
    'table[1]',
    (image) => putDelta(image, [3], [{ guest: 16, count: 1, host: 3 * 16 }]),
  ],
  [
    'a delta with a block in the journal',
    'table[0]',
    (image) => putDelta(image, [3], [{ guest: 0, count: 1, host: 17 }]),
  ],
  [
    'data in the catalog',
    'table[0]',
    (image) => putPage(image, [Math.floor(superblock.catalog.offset / (64 * KiB))]),
  ],
  [
    'a journal record past the disk',
    'journal.guest',
    (image) => putJournal(image, { guest: 255, count: 2, host: 160 }),
  ],
  [
    'a journal record of nothing',
    'journal.guest',
    (image) => putJournal(image, { guest: 0, count: 0, host: 160 }),
  ],
  [
    'a journal record of the superblock',
    'journal.host',
    (image) => putJournal(image, { guest: 0, count: 1, host: 15 }),
  ],
  [
    'a journal record outside the file',
    'journal.host',
    (image) => putJournal(image, { guest: 0, count: 1, host: superblock.hostChunks * 16 }),
  ],
  [
    'a journal record of the journal',
    'table[0]',
    (image) => putJournal(image, { guest: 0, count: 1, host: 17 }),
  ],
  [
    'a journal record of a block in use',
    'table[15]',
    (image) => putJournal(image, { guest: 15 * 16 + 5, count: 1, host: 3 * 16 + 5 }),
  ],
  [
    'a base outside the folder',
    'superblock.base',
    (image) => putSuperblock(image, { base: '/etc/passwd' }),
    'ERR_BACKING_DENIED',
  ],
  [
    'a base above the folder',
    'superblock.base',
    (image) => putSuperblock(image, { base: '../base' }),
    'ERR_BACKING_DENIED',
  ],
  [
    'a command for a base',
    'superblock.base',
    (image) => putSuperblock(image, { base: 'exec:touch x' }),
    'ERR_UNSUPPORTED',
  ],
  [
    'a base that is missing',
    'superblock.base',
    (image) => putSuperblock(image, { base: 'none.raw' }),
    'ERR_BACKING_MISSING',
  ],
  [
    'a base that is the image itself',
    'superblock.base',
    (image) => putSuperblock(image, { base: 'disk.fvd' }),
    'ERR_BACKING_CYCLE',
  ],
];

describe.each([false, true])('P12: a malformed image (read-only: %s)', (readOnly) => {
  it.each(damages)(
    '%s is refused at %s, nothing is modified, no more is read than there is',
    async (_, field, damage, code) => {
      const copy = good.slice();
      const image = damage(copy) ?? copy;
      const folder = new CountingFolder(await folderWith(image));
      await expect(openImage(folder, readOnly)).rejects.toThrow(refusal(field, code));
      // A read is as long as what was allocated for it. The head is read to tell the format, too.
      expect(totalCounts(folder.counts).readBytes).toBeLessThanOrEqual(image.length + 2 * SLOT_BYTES);
      expect(Buffer.from(await fileBytes(folder)).equals(image)).toBe(true);
    },
  );

  it.each(offsetsOf64Bits)(
    'a superblock that says 2^52 at byte %i is refused before anything is read by it',
    async (at) => {
      const image = good.slice();
      patchSlots(image, (view) => view.setBigUint64(at, 1n << 52n, true));
      const folder = new CountingFolder(await folderWith(image));
      await expect(openImage(folder, readOnly)).rejects.toMatchObject({ code: 'ERR_CORRUPT' });
      expect(totalCounts(folder.counts).readBytes).toBeLessThanOrEqual(2 * SLOT_BYTES + KiB);
    },
  );
});

describe('damage that is survived', () => {
  it('a superblock slot that a crash has torn: the other one rules', async () => {
    const image = good.slice();
    const newest = superblock.generation % 2;
    image.fill(0, newest * SLOT_BYTES + 512, (newest + 1) * SLOT_BYTES - 512);
    image[newest * SLOT_BYTES + 200]! ^= 1;
    const disk = await openImage(await folderWith(image));
    expect((await disk.check()).findings).toEqual([]);
    await disk.close();
  });

  it('an older slot beside the newer one: the newer one rules, wherever it lies', async () => {
    const folder = new MemoryFolder();
    await makeImage(folder);
    for (let round = 1; round <= 4; round++) {
      const disk = await openImage(folder);
      await disk.write(0, filled(4 * KiB, round));
      await disk.discard(64 * KiB, 64 * KiB);
      await disk.write(64 * KiB * round, filled(4 * KiB, round));
      await disk.close();
      const again = await openImage(folder, true);
      expect((await contents(again))[64 * KiB * round]).toBe(round);
      await again.close();
    }
  });
});
