// The header and the tables as bytes: a round trip, the smallest and largest values, one step beyond.

import { describe, expect, it } from 'vitest';
import {
  compressedPlace,
  hostOffsetOf,
  maxCompressedOffset,
  setCompressedEntry,
  setEntry,
} from '../src/entries.ts';
import { decodeHeader, type Header, maxBackingNameBytes } from '../src/layout.ts';
import { encodeHeader } from '../src/new-header.ts';
import { refcountWidth } from '../src/refcount-width.ts';
import {
  decodeSnapshotTable,
  encodeSnapshotTable,
  newSnapshot,
  type Snapshot,
} from '../src/snapshot-table.ts';

const plain: Header = {
  version: 3,
  clusterBits: 16,
  size: 2 ** 30,
  l1EntryCount: 2,
  l1Offset: 0x30000,
  refcountTableOffset: 0x10000,
  refcountTableClusters: 1,
  snapshotCount: 0,
  snapshotTableOffset: 0,
  dirty: false,
  damaged: false,
  lazyRefcounts: false,
  extendedL2: false,
  autoclear: 0n,
  refcountBits: 16,
  compressionType: 'zlib',
  nextSnapshotId: 1,
};
const FILE_BYTES = 2 ** 40;

function roundTrip(header: Header): Header {
  const bytes = encodeHeader(header);
  if (bytes === undefined) throw new Error('the header does not fit');
  const area = new Uint8Array(2 ** header.clusterBits);
  area.set(bytes);
  const { nextSnapshotIdAt: _, ...decoded } = decodeHeader(area, FILE_BYTES, 'f');
  return decoded;
}

describe('the header', () => {
  it.each<[string, Partial<Header>]>([
    ['as it usually is', {}],
    ['version 2', { version: 2 }],
    ['the smallest clusters', { clusterBits: 9, size: 512, l1EntryCount: 1 }],
    ['the largest clusters', { clusterBits: 21, l1Offset: 2 ** 21, refcountTableOffset: 2 ** 22 }],
    ['counts of one bit', { refcountBits: 1 }],
    ['counts of 64 bits', { refcountBits: 64 }],
    ['lazy refcounts', { lazyRefcounts: true }],
    ['zstd', { compressionType: 'zstd' }],
    ['extended L2 entries', { extendedL2: true, clusterBits: 14, size: 2 ** 24 }],
    ['snapshots', { snapshotCount: 65536, snapshotTableOffset: 0x50000, nextSnapshotId: 2 ** 53 - 1 }],
    ['a backing file', { backing: { file: 'base.raw' } }],
    ['a backing file with its format', { backing: { file: 'ü/base.qcow2', format: 'qcow2' } }],
    ['the longest backing name', { backing: { file: 'b'.repeat(maxBackingNameBytes), format: 'raw' } }],
  ])('is decoded as it was encoded: %s', (_, change) => {
    expect(roundTrip({ ...plain, ...change })).toEqual({ ...plain, ...change });
  });

  it('is not encoded when the backing name does not fit the cluster', () => {
    const backing = { file: 'b'.repeat(500), format: 'raw' };
    expect(encodeHeader({ ...plain, clusterBits: 9, backing })).toBeUndefined();
  });

  it.each<[string, Partial<Header>, string]>([
    ['an L1 table one entry short', { l1EntryCount: 1 }, 'header.l1_size'],
    [
      'one snapshot more than there may be',
      { snapshotCount: 65537, snapshotTableOffset: 0x50000 },
      'header.nb_snapshots',
    ],
    ['a table one cluster past the end', { l1Offset: FILE_BYTES }, 'header.l1_table_offset'],
  ])('is refused with %s', (_, change, field) => {
    expect(() => roundTrip({ ...plain, ...change })).toThrow(
      expect.objectContaining({ data: expect.objectContaining({ field }) }),
    );
  });
});

describe('a table entry', () => {
  it.each([512, 2 ** 32 - 512, 2 ** 32, 2 ** 53 - 512, 2 ** 56 - 512])(
    'carries the host offset %d beside its flags',
    (offset) => {
      const view = new DataView(new ArrayBuffer(8));
      setEntry(view, 0, offset, 0x8000_0000, 1);
      expect(hostOffsetOf(view.getUint32(0), view.getUint32(4))).toBe(offset);
      expect(view.getUint32(0) >>> 31).toBe(1);
      expect(view.getUint32(4) & 1).toBe(1);
    },
  );

  it.each([
    [16, 0x4000_0000, 0x50123, 0x50123, 0x50200],
    [16, 0x4040_0000, 0x50123, 0x50123, 0x50400],
    [9, 0x6000_0001, 0, 2 ** 32, 2 ** 32 + 1024],
    [21, 0x4002_0000, 512, 512, 2048 - 512],
  ])('of compressed data in clusters of 2^%d bytes says where they are', (bits, hi, lo, offset, end) => {
    expect(compressedPlace(hi, lo, bits)).toEqual({ offset, end });
  });

  it.each([
    [16, 0, 1],
    [16, 513, 65_535],
    [16, maxCompressedOffset(18) - 600, 600],
    [9, 2 ** 50 + 511, 511],
    [21, maxCompressedOffset(21) - 2 ** 21, 2 ** 21 - 1],
  ])('of compressed data in clusters of 2^%d bytes at %d keep %d bytes', (bits, offset, bytes) => {
    const view = new DataView(new ArrayBuffer(16));
    setCompressedEntry(view, 8, { offset, bytes }, bits);
    const place = compressedPlace(view.getUint32(8), view.getUint32(12), bits);
    expect(place).toEqual({ offset, end: Math.ceil((offset + bytes) / 512) * 512 });
    expect(view.getBigUint64(8) >> 62n).toBe(1n);
  });
});

describe('refcounts', () => {
  it.each([1, 2, 4, 8, 16, 32, 64])('of %d bits keep to their own bits', (bits) => {
    const width = refcountWidth(bits);
    const view = new DataView(new ArrayBuffer(64));
    const most = bits > 52 ? Number.MAX_SAFE_INTEGER : 2 ** bits - 1;
    width.set(view, 3, most);
    expect([2, 3, 4].map((index) => width.get(view, index))).toEqual([0, most, 0]);
    width.set(view, 2, 1);
    width.set(view, 3, 0);
    expect([2, 3, 4].map((index) => width.get(view, index))).toEqual([1, 0, 0]);
  });
});

describe('the snapshot table', () => {
  const place = { l1Offset: 0x80000, l1EntryCount: 2, size: 2 ** 30 };
  const made = newSnapshot('7', 'über', new Date(1_700_000_000_123), place);
  const foreign: Snapshot = {
    ...made,
    id: '',
    name: 'n'.repeat(255),
    runTime: 2n ** 64n - 1n,
    vmStateBytes: 2 ** 32 - 1,
    extra: new Uint8Array(24).fill(0).fill(9, 16),
    size: 0,
  };

  async function decode(bytes: Uint8Array, count: number): Promise<readonly Snapshot[]> {
    const read = async (at: number, length: number): Promise<Uint8Array> => bytes.slice(at, at + length);
    return (await decodeSnapshotTable({ file: 'f', read }, count, 4096)).snapshots;
  }

  it('is decoded as it was encoded, with what others put there', async () => {
    const all = [made, foreign, { ...made, id: '8' }];
    expect(await decode(encodeSnapshotTable(all), 3)).toEqual(all);
  });

  it('takes the size of the disk for a snapshot that does not tell its own', async () => {
    const old: Snapshot = { ...made, extra: new Uint8Array(0) };
    expect((await decode(encodeSnapshotTable([old]), 1))[0]?.size).toBe(4096);
  });
});
