import { Random } from '@cowlab/conformance';
import { viewOf, writeU64LE } from '@cowlab/core';
import { describe, expect, it } from 'vitest';
import {
  ABSENT,
  type ChunkEntry,
  decodeCounts,
  decodeDelta,
  decodeDirectory,
  decodeJournalSector,
  decodePage,
  decodeRoot,
  decodeSuperblock,
  type Delta,
  type Directory,
  directoryBytesOf,
  ENTRY_ZERO,
  encodeCatalog,
  encodeDelta,
  encodeJournal,
  encodePage,
  encodeRoot,
  encodeSuperblock,
  geometryOf,
  isDelta,
  isGeometry,
  MAX_CHUNKS,
  MAX_JOURNAL_BYTES,
  newPointers,
  NO_REGION,
  rootBytes,
  RUNS_PER_SECTOR,
  type Runs,
  SECTOR_BYTES,
  type Superblock,
  seal,
  SUPERBLOCKS_BYTES,
  ZERO,
} from '../src/layout.ts';
import { file, KiB, MiB, refusal } from './lab.ts';

const geometry = geometryOf(MiB, 4 * KiB);

function superblockOf(changes: Partial<Superblock> = {}): Superblock {
  const { chunkBytes = MiB, blockBytes = 4 * KiB, size = MiB } = changes;
  const bytes = rootBytes(geometryOf(chunkBytes, blockBytes), size);
  return {
    generation: 1,
    chunkBytes,
    blockBytes,
    size,
    journal: { offset: chunkBytes, bytes: chunkBytes },
    root: { offset: SUPERBLOCKS_BYTES, bytes },
    catalog: NO_REGION,
    logOffset: SUPERBLOCKS_BYTES + bytes,
    packNext: 0,
    tailFrom: 0,
    hostChunks: 16,
    base: '',
    baseFormat: '',
    baseSnapshot: '',
    hasDeltas: false,
    ...changes,
  };
}

describe('superblock', () => {
  it.each<[string, Partial<Superblock>]>([
    ['the smallest of everything', { chunkBytes: 64 * KiB, blockBytes: 512, size: 512, hostChunks: 2 }],
    ['the largest chunk, the largest block', { chunkBytes: 4 * MiB, blockBytes: 64 * KiB }],
    [
      'the largest size',
      { size: MiB * MAX_CHUNKS, root: { offset: 8 * MiB, bytes: 32 + (MAX_CHUNKS / 256) * 8 } },
    ],
    ['the largest journal', { journal: { offset: MiB, bytes: MAX_JOURNAL_BYTES }, hostChunks: 65 }],
    ['the most host chunks', { hostChunks: 2 ** 31 - 1 }],
    ['the largest generation', { generation: 2 ** 52 }],
    ['packed blocks at the very end', { packNext: 16 * 256 - 1, tailFrom: 16 * 256 - 1 }],
    ['a catalog of the last chunk', { catalog: { offset: 15 * MiB, bytes: MiB } }],
    ['the longest names', { base: 'b'.repeat(1024), baseFormat: 'f'.repeat(1024) }],
    ['a snapshot of the base', { base: 'b', baseSnapshot: '4294967294' }],
    ['the longest names, of a clone', { base: 'b'.repeat(1024), baseSnapshot: 's'.repeat(1024) }],
    ['a table that may have deltas', { hasDeltas: true }],
    ['a name in UTF-8', { base: 'Grundlage-ä-磁盘.raw', baseFormat: 'raw' }],
  ])('keeps %s', (_, changes) => {
    const block = superblockOf(changes);
    expect(decodeSuperblock(encodeSuperblock(block), file)).toEqual(block);
  });

  it.each<[string, number, number]>([
    ['generation', 24, 0],
    ['generation', 24, 2 ** 52 + 1],
    ['chunkBytes', 32, 32 * KiB],
    ['chunkBytes', 32, 8 * MiB],
    ['chunkBytes', 36, 256],
    ['chunkBytes', 32, 0],
    ['chunkBytes', 36, 0],
    ['size', 40, 0],
    ['size', 40, 511],
    ['size', 40, MiB * MAX_CHUNKS + 512],
    ['journal.offset', 48, 0],
    ['journal.offset', 48, MiB + 512],
    ['journal.offset', 48, 16 * MiB],
    ['journal.offset', 56, 0],
    ['journal.bytes', 56, MiB + 512],
    ['root.offset', 64, SUPERBLOCKS_BYTES - 16],
    ['root.offset', 64, SUPERBLOCKS_BYTES + 8],
    ['root.offset', 64, 16 * MiB],
    ['root.bytes', 72, 64],
    ['catalog.offset', 80, 2 * MiB],
    ['logOffset', 96, 16 * MiB + 16],
    ['logOffset', 96, SUPERBLOCKS_BYTES + 8],
    ['logOffset', 96, MiB + 16],
    ['packNext', 104, 16 * 256],
    ['packNext', 104, 255],
    ['packNext', 104, 256],
    ['tailFrom', 112, 16 * 256],
    ['hostChunks', 120, 1],
    ['hostChunks', 120, 2 ** 31],
  ])('refuses a %s that is out of range (offset %i: %i)', (field, at, value) => {
    const bytes = encodeSuperblock(superblockOf());
    const view = viewOf(bytes);
    if (at === 32 || at === 36) view.setUint32(at, value, true);
    else writeU64LE(view, at, value);
    expect(() => decodeSuperblock(seal(bytes, 8), file)).toThrow(refusal(`superblock.${field}`));
  });

  it('refuses a number that no file can reach', () => {
    const bytes = encodeSuperblock(superblockOf());
    bytes.fill(0xff, 40, 48);
    expect(() => decodeSuperblock(seal(bytes, 8), file)).toThrow(refusal('superblock'));
  });

  it('has an incompatible feature for a snapshot of the base and one for deltas, and only with them', () => {
    const features = (changes: Partial<Superblock>): number =>
      viewOf(encodeSuperblock(superblockOf(changes))).getUint32(12, true);
    expect(features({ base: 'b' })).toBe(0);
    expect(features({ base: 'b', baseSnapshot: '1' })).toBe(2);
    expect(features({ base: 'b', hasDeltas: true })).toBe(1);
    expect(features({ base: 'b', baseSnapshot: '1', hasDeltas: true })).toBe(3);
  });

  it.each<[string, number, number]>([
    ['is empty', 132, 0],
    ['is longer than its field', 132, 1025],
    ['has no base', 128, 0],
  ])('refuses a snapshot of the base that %s', (_, at, value) => {
    const bytes = encodeSuperblock(superblockOf({ base: 'b', baseSnapshot: '1' }));
    viewOf(bytes).setUint16(at, value, true);
    expect(() => decodeSuperblock(seal(bytes, 8), file)).toThrow(refusal('superblock.baseSnapshot'));
  });

  it('refuses incompatible features that it does not know, and lets compatible ones be', () => {
    const bytes = encodeSuperblock(superblockOf());
    viewOf(bytes).setUint32(16, 0x8000_0001, true);
    expect(decodeSuperblock(seal(bytes, 8), file)).toEqual(superblockOf());
    viewOf(bytes).setUint32(12, 4, true);
    const refused = refusal('superblock.incompatibleFeatures', 'ERR_UNSUPPORTED');
    expect(() => decodeSuperblock(seal(bytes, 8), file)).toThrow(refused);
  });

  it.each([0, 4, 8, 40, 4095])('is no superblock when byte %i is another', (at) => {
    const bytes = encodeSuperblock(superblockOf());
    bytes[at]! ^= 1;
    expect(decodeSuperblock(bytes, file)).toBeUndefined();
  });

  it('is not written out of range', () => {
    expect(() => encodeSuperblock(superblockOf({ hostChunks: 2 ** 31 }))).toThrow('superblock.hostChunks');
  });
});

describe('geometry', () => {
  it.each([
    [64 * KiB, 512, true],
    [64 * KiB, 8 * KiB, true],
    [64 * KiB, 16 * KiB, false],
    [4 * MiB, KiB, true],
    [4 * MiB, 512, false],
    [3 * MiB, 4 * KiB, false],
    [MiB, 3 * KiB, false],
  ])('chunks of %i with blocks of %i: %s', (chunkBytes, blockBytes, right) => {
    expect(isGeometry(chunkBytes, blockBytes)).toBe(right);
  });

  it.each([
    [MiB, 4 * KiB],
    [4 * MiB, KiB],
    [64 * KiB, 8 * KiB],
  ])('a page in which every block is a run of its own has a pointer (%i, %i)', (chunkBytes, blockBytes) => {
    const scattered = geometryOf(chunkBytes, blockBytes);
    const runs: Runs = { starts: [], hosts: [] };
    for (let block = 0; block < scattered.blocksPerChunk; block++) {
      runs.starts.push(block);
      runs.hosts.push(block % 2 === 0 ? ZERO : 5 * scattered.blocksPerChunk);
    }
    const page = encodePage(
      0,
      Array.from<unknown, ChunkEntry>({ length: scattered.pageChunks }, () => runs),
    )!;
    const pages = newPointers(1);
    pages.offsets[0] = SUPERBLOCKS_BYTES;
    pages.bytes[0] = page.length;
    const size = chunkBytes;
    expect(decodeRoot(encodeRoot(size, pages), size, scattered, 64, file)).toEqual(pages);
  });
});

describe('page', () => {
  function decoded(page: Uint8Array, hostChunks: number): [number, number, ChunkEntry][] {
    const found: [number, number, ChunkEntry][] = [];
    decodePage(page, 7, geometry, hostChunks, file, (...entry) => found.push(entry));
    return found;
  }

  it('is none when all is absent', () => {
    expect(encodePage(7, [0, 0, 0])).toBeUndefined();
  });

  it('keeps runs of chunks, zeros, gaps and splits', () => {
    const split: Runs = { starts: [0, 3, 100], hosts: [0, 9 * 256 + 100, ZERO] };
    const page = encodePage(7, [5, 6, 7, 0, ENTRY_ZERO, ENTRY_ZERO, split, 3])!;
    expect(decoded(page, 10)).toEqual([
      [0, 3, 5],
      [4, 2, ENTRY_ZERO],
      [6, 1, split],
      [7, 1, 3],
    ]);
  });

  it('keeps the largest host chunk, and refuses one more', () => {
    const page = encodePage(7, [2 ** 31 - 2])!;
    expect(decoded(page, 2 ** 31 - 1)).toEqual([[0, 1, 2 ** 31 - 2]]);
    expect(() => decoded(page, 2 ** 31 - 2)).toThrow('page[7]: host chunk 2147483646 is outside the file');
  });

  it.each<[string, (view: DataView) => void, string]>([
    ['another index', (view) => view.setUint32(4, 8, true), 'is of another place'],
    ['a length past its end', (view) => view.setUint32(8, 4096, true), 'is of another place'],
    ['a slot past its end', (view) => view.setUint16(16, 256, true), 'out of order'],
    ['a run past its end', (view) => view.setUint16(18, 257, true), 'out of order'],
    ['a run of nothing', (view) => view.setUint16(18, 0, true), 'out of order'],
    ['an item before the last', (view) => view.setUint16(24, 0x8000, true), 'out of order'],
    ['a split without runs', (view) => view.setUint16(26, 0, true), 'no runs'],
    ['a split longer than the page', (view) => view.setUint16(26, 9, true), 'runs past the end'],
    ['a split that begins late', (view) => view.setUint16(32, 1, true), 'out of order'],
    ['a split that does not rise', (view) => view.setUint16(40, 0, true), 'longer than its chunk'],
    ['a split run past its chunk', (view) => view.setUint16(40, 257, true), 'longer than its chunk'],
    ['a block in chunk 0', (view) => view.setUint32(44, 255, true), 'outside the file'],
    ['a block past the file', (view) => view.setUint32(44, 10 * 256, true), 'outside the file'],
    ['a run over two chunks', (view) => view.setUint32(44, 8 * 256 - 1, true), 'crosses a chunk'],
  ])('refuses %s', (_, damage, problem) => {
    const page = encodePage(7, [5, { starts: [0, 3], hosts: [0, 9 * 256] }])!;
    damage(viewOf(page));
    expect(() => decoded(seal(page, 12), 10)).toThrow(problem);
  });

  it('refuses a checksum that does not match', () => {
    const page = encodePage(7, [5])!;
    page[20]! ^= 1;
    expect(() => decoded(page, 10)).toThrow('page[7]: checksum does not match');
  });
});

describe('delta', () => {
  const full = { offset: 2 ** 52 - 65_535 * 16, bytes: 65_535 * 16 };

  function decoded(delta: Uint8Array, hostChunks = 10): Delta {
    return decodeDelta(delta, 7, geometry, hostChunks, file);
  }

  it('keeps the first and the last block, marks, the farthest page and the largest host block', () => {
    const runs = [
      { guest: 0, count: 1, host: ABSENT },
      { guest: 1, count: 300, host: ZERO },
      { guest: 301, count: 700, host: 256 },
      { guest: 65_535, count: 1, host: 2 ** 44 - 1 },
    ];
    const delta = encodeDelta(7, full, 4000, runs);
    expect(delta).toHaveLength(80);
    expect(isDelta(delta)).toBe(true);
    expect(decoded(delta, 2 ** 36)).toEqual({ full, runs, spent: 4080 });
  });

  it.each([ABSENT, ZERO, 5 * 256])('keeps one run of all blocks, at host block %i', (host) => {
    const delta = encodeDelta(7, { offset: MiB, bytes: 64 }, 0, [{ guest: 0, count: 65_536, host }]);
    const { runs } = decoded(delta, 300);
    expect(runs.reduce((sum, { count }) => sum + count, 0)).toBe(65_536);
    expect(runs[1]).toEqual({ guest: 65_535, count: 1, host: host > ZERO ? host + 65_535 : host });
  });

  it('is told from a page', () => {
    expect(isDelta(encodePage(7, [5])!)).toBe(false);
    expect(isDelta(new Uint8Array(4))).toBe(false);
  });

  it.each<[string, (view: DataView) => void, string]>([
    ['another index', (view) => view.setUint32(4, 8, true), 'is of another place'],
    ['a length past its end', (view) => view.setUint32(8, 4096, true), 'is of another place'],
    ['a length without a header', (view) => view.setUint32(8, 22, true), 'ends inside a run'],
    ['a length that cuts a run', (view) => view.setUint32(8, 47, true), 'ends inside a run'],
    ['a page in the superblock', (view) => view.setUint32(16, 511, true), 'outside the file'],
    ['a page past the file', (view) => view.setUint16(20, 0xffff, true), 'outside the file'],
    ['a page of no bytes', (view) => view.setUint16(22, 0, true), 'outside the file'],
    ['fewer bytes of deltas than its own', (view) => view.setUint32(24, 63, true), 'fewer than its own'],
    ['a run of nothing', (view) => view.setUint16(34, 0, true), 'out of order'],
    ['a run past the page', (view) => view.setUint16(44, 65_535, true), 'out of order'],
    ['a run before the last', (view) => view.setUint16(42, 3, true), 'out of order'],
    ['a run over the last', (view) => view.setUint16(42, 5, true), 'out of order'],
    ['a block in chunk 0', (view) => view.setUint32(38, 255, true), 'outside the file'],
    ['a block past the file', (view) => view.setUint32(38, 10 * 256 - 1, true), 'outside the file'],
    ['a block far past the file', (view) => view.setUint16(36, 1, true), 'outside the file'],
  ])('refuses %s', (_, damage, problem) => {
    const runs = [
      { guest: 4, count: 2, host: 9 * 256 },
      { guest: 90, count: 2, host: ZERO },
    ];
    const delta = encodeDelta(7, { offset: MiB, bytes: 64 }, 0, runs);
    damage(viewOf(delta));
    expect(() => decoded(seal(delta, 12))).toThrow(problem);
  });

  it('refuses a checksum that does not match', () => {
    const delta = encodeDelta(7, { offset: MiB, bytes: 64 }, 0, []);
    delta[20]! ^= 1;
    expect(() => decoded(delta)).toThrow('page[7]: delta: checksum does not match');
  });

  it('of any bytes with a right checksum is decoded or refused as corrupt', () => {
    const random = new Random(20_261_124);
    let refused = 0;
    for (let round = 0; round < 3000; round++) {
      const runs = Array.from({ length: 1 + random.below(6) }, (_, i) => ({
        guest: i * 100 + random.below(50),
        count: 1 + random.below(50),
        host: random.below(2) * (256 + random.below(2000)),
      }));
      const delta = encodeDelta(7, { offset: MiB, bytes: 64 }, 0, runs);
      for (let i = 0; i < 2; i++) delta[16 + random.below(delta.length - 16)] = random.below(256);
      viewOf(delta).setUint32(8, 32 + random.below(80), true);
      try {
        const { runs: found } = decoded(seal(delta, 12));
        for (const { guest, count } of found) expect(guest + count).toBeLessThanOrEqual(65_536);
      } catch (error) {
        expect(error).toEqual(refusal('page[7]'));
        refused++;
      }
    }
    expect(refused).toBeGreaterThan(100);
    expect(refused).toBeLessThan(3000);
  });
});

describe('root', () => {
  const size = 300 * MiB;
  const pages = newPointers(2);
  pages.offsets[1] = 2 ** 52 - 65_535 * 16;
  pages.bytes[1] = 65_535 * 16;

  it('keeps the farthest and the longest page', () => {
    const root = encodeRoot(size, pages);
    expect(root).toHaveLength(rootBytes(geometry, size));
    expect(decodeRoot(root, size, geometry, 2 ** 32, file)).toEqual(pages);
  });

  it.each<[string, (view: DataView) => void, string]>([
    ['another size', (view) => view.setUint32(16, 512, true), 'root.size'],
    ['another number of pages', (view) => view.setUint32(4, 3, true), 'root.pageCount'],
    ['a page in the superblock', (view) => view.setUint32(40, 511, true), 'root.page[1]'],
    ['a page past the file', (view) => view.setUint16(44, 0xffff, true), 'root.page[1]'],
    ['another magic', (view) => view.setUint32(0, 1, true), 'root'],
  ])('refuses %s', (_, damage, field) => {
    const near = newPointers(2);
    near.offsets[1] = MiB;
    near.bytes[1] = 16;
    const root = encodeRoot(size, near);
    damage(viewOf(root));
    expect(() => decodeRoot(seal(root, 12), size, geometry, 4, file)).toThrow(refusal(field));
  });
});

describe('journal sector', () => {
  const largest = { guest: 2 ** 48 - 1, count: 2 ** 32 - 1, host: 2 ** 48 - 1 };

  it('keeps the smallest and the largest run, of the largest epoch', () => {
    const runs = [{ guest: 0, count: 1, host: 0 }, largest];
    const { bytes, link } = encodeJournal(runs, Number.MAX_SAFE_INTEGER, 5, 99);
    expect(bytes).toHaveLength(SECTOR_BYTES);
    expect(decodeJournalSector(bytes, Number.MAX_SAFE_INTEGER, 5, 99, file)).toEqual({ runs, link });
  });

  it('takes as many sectors as the runs need', () => {
    const some = Array.from({ length: RUNS_PER_SECTOR }, () => largest);
    expect(encodeJournal(some, 1, 0, 0).bytes).toHaveLength(SECTOR_BYTES);
    expect(encodeJournal([...some, largest], 1, 0, 0).bytes).toHaveLength(2 * SECTOR_BYTES);
  });

  it.each<[string, number, number, number]>([
    ['of another epoch', 4, 0, 0],
    ['of an epoch that differs only in its high half', 3 + 2 ** 32, 0, 0],
    ['of another number', 3, 1, 0],
    ['that follows another sector', 3, 0, 1],
  ])('does not count a sector %s', (_, epoch, index, link) => {
    const { bytes } = encodeJournal([largest], 3, 0, 0);
    expect(decodeJournalSector(bytes, epoch, index, link, file)).toBeUndefined();
  });

  it.each([0, RUNS_PER_SECTOR + 1])('refuses a whole sector with %i runs', (count) => {
    const { bytes } = encodeJournal([largest], 3, 0, 0);
    viewOf(bytes).setUint32(12, count, true);
    const refused = refusal('journal.count');
    expect(() => decodeJournalSector(seal(bytes, 4), 3, 0, 0, file)).toThrow(refused);
  });
});

describe('catalog', () => {
  const root = { offset: SUPERBLOCKS_BYTES, bytes: 48 };
  const first = { id: 1, parent: 0, name: 'one', createdAt: 0, size: 512, root };
  const last = { id: 0xffff_fffe, parent: 1, name: 'ä'.repeat(127), createdAt: 8.64e15, size: 2 ** 44, root };
  const directory: Directory = { nextId: 0xffff_ffff, current: last.id, snapshots: [first, last] };

  function decodedDirectory(bytes: Uint8Array): Directory {
    const end = directoryBytesOf(bytes, bytes.length, file);
    return decodeDirectory(bytes.subarray(0, end), geometry, 16, file);
  }

  it('keeps the smallest and the largest entry, and counts to the last', () => {
    const counts = Uint16Array.of(0, 1, 65_535);
    const bytes = encodeCatalog(directory, counts);
    expect(decodedDirectory(bytes)).toEqual(directory);
    expect(decodeCounts(bytes, directoryBytesOf(bytes, bytes.length, file), 3, file)).toEqual(counts);
  });

  it.each<[string, (view: DataView) => void, string]>([
    ['more snapshots than there are', (view) => view.setUint32(12, 3, true), 'catalog.snapshot[2]'],
    ['fewer snapshots than there are', (view) => view.setUint32(12, 1, true), 'catalog.count'],
    ['a current one that is not there', (view) => view.setUint32(20, 2, true), 'catalog.current'],
    ['an id of 0', (view) => view.setUint32(40, 0, true), 'catalog.snapshot[0].id'],
    ['an id not given out yet', (view) => view.setUint32(16, 7, true), 'catalog.snapshot[1].id'],
    ['a parent that is itself', (view) => view.setUint32(44, 1, true), 'catalog.snapshot[0].parent'],
    ['a date past all dates', (view) => view.setUint32(52, 0x1f_ffff, true), 'catalog.snapshot[0].createdAt'],
    ['a size of 0', (view) => view.setUint32(56, 0, true), 'catalog.snapshot[0].size'],
    ['a root past the file', (view) => view.setUint32(68, 1, true), 'catalog.snapshot[0].root'],
    ['a root in the superblock', (view) => view.setUint32(64, 16, true), 'catalog.snapshot[0].root'],
    ['a name past the directory', (view) => view.setUint16(80, 0xffff, true), 'catalog.snapshot[0].name'],
  ])('refuses %s', (_, damage, field) => {
    const bytes = encodeCatalog(directory, new Uint16Array(1));
    damage(viewOf(bytes));
    seal(bytes.subarray(0, directoryBytesOf(bytes, bytes.length, file)), 4);
    expect(() => decodedDirectory(bytes)).toThrow(refusal(field));
  });

  it.each<[string, readonly [string, string], number]>([
    ['is empty', ['', 'two'], 0],
    ['another one has', ['one', 'one'], 1],
  ])('refuses a name that %s', (_, names, wrong) => {
    const snapshots = [
      { ...first, name: names[0] },
      { ...last, name: names[1] },
    ];
    const bytes = encodeCatalog({ ...directory, snapshots }, new Uint16Array(1));
    expect(() => decodedDirectory(bytes)).toThrow(refusal(`catalog.snapshot[${wrong}].name`));
  });

  it('refuses counts that do not match their checksum, or outnumber the host chunks', () => {
    const bytes = encodeCatalog(directory, Uint16Array.of(1, 2, 3));
    const end = directoryBytesOf(bytes, bytes.length, file);
    expect(() => decodeCounts(bytes, end, 2, file)).toThrow('catalog.countChunks');
    bytes[end]! ^= 1;
    expect(() => decodeCounts(bytes, end, 3, file)).toThrow('catalog.countsChecksum');
  });
});
