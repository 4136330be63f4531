import { viewOf } from '@cowlab/core';
import { expect, it } from 'vitest';
import {
  encodeCatalog,
  encodeDelta,
  encodeJournal,
  encodePage,
  encodeRoot,
  encodeSuperblock,
  newPointers,
} from '../src/layout.ts';
import {
  catalogFields,
  deltaFields,
  deltaRunFields,
  entryFields,
  journalFields,
  pageFields,
  rootFields,
  runFields,
  superblockFields,
} from '../src/layout-fields.ts';
import { KiB, MiB } from './lab.ts';

/* The tables of FORMAT.md are printed from the lists of fields: they must say what the encoders do. */

interface Field {
  readonly at: number;
  readonly bytes: number;
  readonly text?: boolean;
}

/** Checksums and the like, of which the test does not know better. */
const anything: unique symbol = Symbol('anything');

const TWO_32 = 2 ** 32;
const high = 3;
const low = 0x8000_0005;
const host = high * TWO_32 + low;

function valueOf(bytes: Uint8Array, { at, bytes: length, text }: Field): number | string {
  const part = bytes.subarray(at, at + length);
  if (text === true) return Buffer.from(part).toString().replaceAll('\0', '');
  const view = viewOf(part);
  if (length === 2) return view.getUint16(0, true);
  return length === 4 ? view.getUint32(0, true) : Buffer.from(part).readUIntLE(0, 6);
}

const magic = (word: string): number => Buffer.from(word).readUInt32LE();

const superblock = encodeSuperblock({
  generation: 77,
  chunkBytes: MiB,
  blockBytes: 4 * KiB,
  size: 5 * MiB,
  journal: { offset: 2 * MiB, bytes: 3 * MiB },
  root: { offset: 8192, bytes: 48 },
  catalog: { offset: 6 * MiB, bytes: 120 },
  logOffset: 8240,
  packNext: 7 * 256 + 3,
  tailFrom: 7 * 256 + 2,
  hostChunks: 9,
  base: 'base.raw',
  baseFormat: 'raw',
  baseSnapshot: '12',
  hasDeltas: true,
});

const root = { offset: 16 * KiB, bytes: 64 };
const snapshot = { id: 4, parent: 3, createdAt: 1_700_000_000_001, size: 5 * MiB, root, name: 'näme' };
const catalog = encodeCatalog({ nextId: 9, current: 4, snapshots: [snapshot] }, new Uint16Array(11));
const journal = encodeJournal([{ guest: host + 1, count: 6, host }], 55, 2, 99).bytes;
const delta = encodeDelta(5, { offset: host * 16, bytes: 4096 }, 640, [{ guest: 9, count: 8, host }]);
const page = encodePage(5, [7])!;

const structures: [string, Uint8Array, Readonly<Record<string, Field>>, Record<string, unknown>][] = [
  [
    'superblock',
    superblock,
    superblockFields,
    {
      magic: 0x5143_f5a9,
      version: 2,
      checksum: anything,
      incompatibleFeatures: 3,
      compatibleFeatures: 0,
      generation: 77,
      chunkBytes: MiB,
      blockBytes: 4 * KiB,
      size: 5 * MiB,
      journalOffset: 2 * MiB,
      journalBytes: 3 * MiB,
      rootOffset: 8192,
      rootBytes: 48,
      catalogOffset: 6 * MiB,
      catalogBytes: 120,
      logOffset: 8240,
      packNext: 7 * 256 + 3,
      tailFrom: 7 * 256 + 2,
      hostChunks: 9,
      baseNameBytes: 8,
      baseFormatBytes: 3,
      baseSnapshotBytes: 2,
      base: 'base.raw',
      baseFormat: 'raw',
      baseSnapshot: '12',
    },
  ],
  [
    'catalog',
    catalog,
    catalogFields,
    {
      magic: magic('FVDC'),
      checksum: anything,
      directoryBytes: 40 + 48 + 8,
      snapshots: 1,
      nextId: 9,
      current: 4,
      countChunks: 11,
      countsChecksum: anything,
    },
  ],
  [
    'entry of a snapshot',
    catalog.subarray(40),
    entryFields,
    {
      id: 4,
      parent: 3,
      createdAt: 1_700_000_000_001,
      size: 5 * MiB,
      rootOffset: 16 * KiB,
      rootBytes: 64,
      nameBytes: 5,
    },
  ],
  [
    'sector of the journal',
    journal,
    journalFields,
    { magic: magic('FVDJ'), checksum: anything, index: 2, count: 1, epoch: 55, link: 99 },
  ],
  [
    'run of the journal',
    journal.subarray(32),
    runFields,
    { guestLow: low + 1, guestHigh: high, hostHigh: high, hostLow: low, count: 6 },
  ],
  [
    'root',
    encodeRoot(5 * MiB, newPointers(1)),
    rootFields,
    { magic: magic('FVDR'), pageCount: 1, checksum: anything, size: 5 * MiB },
  ],
  ['page', page, pageFields, { magic: magic('FVDP'), index: 5, usedBytes: 24, checksum: anything }],
  [
    'delta',
    delta,
    deltaFields,
    {
      magic: magic('FVDD'),
      index: 5,
      usedBytes: 42,
      checksum: anything,
      fullOffset: host,
      fullBytes: 256,
      spent: 640 + delta.length,
    },
  ],
  [
    'run of a delta',
    delta.subarray(32),
    deltaRunFields,
    { first: 9, count: 8, hostHigh: high, hostLow: low },
  ],
];

it.each(structures)('the fields of a %s are where it is encoded', (_, bytes, fields, expected) => {
  expect(Object.keys(fields)).toEqual(Object.keys(expected));
  const known = Object.entries(fields).filter(([name]) => expected[name] !== anything);
  for (const [name, field] of known) expect(valueOf(bytes, field), name).toBe(expected[name]);
});
