/*
 * The fields of FVD's structures; FORMAT.md's tables are printed from here. Pages and lists of entries have a shape of
 * their own, which FORMAT.md describes beside the tables.
 */

export const superblockFields = {
  magic: { at: 0, bytes: 4, meaning: 'bytes `A9 F5 43 51`', valid: 'exactly' },
  version: { at: 4, bytes: 4, meaning: '', valid: '2' },
  checksum: { at: 8, bytes: 4, meaning: "of the slot's 4,096 bytes", valid: 'exactly' },
  incompatibleFeatures: {
    at: 12,
    bytes: 4,
    meaning:
      'bit 0: pages may be deltas (section 5), bit 1: a snapshot of the base is told. A reader that does not know a bit that is set must refuse the image',
    valid: '0 … 3',
  },
  compatibleFeatures: {
    at: 16,
    bytes: 4,
    meaning: 'none is defined: unknown ones are ignored',
    valid: 'any',
  },
  generation: { at: 24, bytes: 8, meaning: "also the journal's epoch", valid: '1 … 2^52' },
  chunkBytes: { at: 32, bytes: 4, meaning: '', valid: 'section 3' },
  blockBytes: { at: 36, bytes: 4, meaning: '', valid: 'section 3' },
  size: { at: 40, bytes: 8, meaning: 'guest bytes of the front', valid: 'section 3' },
  journalOffset: { at: 48, bytes: 8, meaning: '', valid: 'start of a chunk, not chunk 0' },
  journalBytes: { at: 56, bytes: 8, meaning: '', valid: 'whole chunks, ends within `hostChunks`' },
  rootOffset: { at: 64, bytes: 8, meaning: "of the front's root", valid: 'from 8192, a multiple of 16' },
  rootBytes: {
    at: 72,
    bytes: 8,
    meaning: '',
    valid: 'exactly what section 5 says for `size`; ends within `hostChunks`',
  },
  catalogOffset: {
    at: 80,
    bytes: 8,
    meaning: '0: there never was a snapshot',
    valid: 'start of a chunk, not chunk 0, apart from the journal',
  },
  catalogBytes: { at: 88, bytes: 8, meaning: '0 with offset 0', valid: 'ends within `hostChunks`' },
  logOffset: {
    at: 96,
    bytes: 8,
    meaning: 'where the next page, delta or root may go',
    valid:
      'from 8192, a multiple of 16, at most the end of the last host chunk. The byte before it is not in the journal or the catalog',
  },
  packNext: {
    at: 104,
    bytes: 8,
    meaning: 'host block where the next packed block may go; 0: a new chunk is to be taken',
    valid: 'not in chunk 0, journal, catalog; within `hostChunks`',
  },
  tailFrom: {
    at: 112,
    bytes: 8,
    meaning:
      'host block; from it to the end of its chunk no snapshot reaches anything, so the front may overwrite what it has there although the chunk is static; 0: none',
    valid: 'as `packNext`',
  },
  hostChunks: {
    at: 120,
    bytes: 8,
    meaning: 'host chunks that the file has; none from there on is in use. Falls in a compaction only',
    valid: "section 3; within the file's length",
  },
  baseNameBytes: {
    at: 128,
    bytes: 2,
    meaning: "length of the base's name; 0: no base",
    valid: 'up to 1,024',
  },
  baseFormatBytes: {
    at: 130,
    bytes: 2,
    meaning: 'length of the name of its format; 0: not told',
    valid: 'up to 1,024',
  },
  baseSnapshotBytes: {
    at: 132,
    bytes: 2,
    meaning: 'with bit 1 of the incompatible features: length of the base snapshot; else not looked at',
    valid: '1 … 1,024, and there is a base',
  },
  base: {
    at: 256,
    bytes: 1024,
    text: true,
    meaning: "a path, relative to the image's folder or absolute",
    valid: 'UTF-8',
  },
  baseFormat: {
    at: 1280,
    bytes: 1024,
    text: true,
    meaning: '`raw`, `fvd`, `qcow2`, `vmdk`',
    valid: 'UTF-8',
  },
  baseSnapshot: {
    at: 2304,
    bytes: 1024,
    text: true,
    meaning:
      "the id that the base's format gives the snapshot which answers for absent blocks, instead of the base's own disk",
    valid: 'UTF-8',
  },
} as const;

export const catalogFields = {
  magic: { at: 0, bytes: 4, meaning: '`FVDC`', valid: 'exactly' },
  checksum: { at: 4, bytes: 4, meaning: 'of the directory: this header and the entries', valid: 'exactly' },
  directoryBytes: {
    at: 8,
    bytes: 4,
    meaning: "with 2 × count chunks it is the catalog's length",
    valid: 'from 40, a multiple of 8',
  },
  snapshots: { at: 12, bytes: 4, meaning: 'entries', valid: 'together they fill the directory' },
  nextId: {
    at: 16,
    bytes: 4,
    meaning: 'ids are never given twice',
    valid: 'above every id given so far',
  },
  current: {
    at: 20,
    bytes: 4,
    meaning: 'the snapshot that the front grew from; 0: none',
    valid: 'id of an entry, or 0',
  },
  countChunks: {
    at: 24,
    bytes: 4,
    meaning: 'refcounts that follow the directory',
    valid: 'at most `hostChunks`',
  },
  countsChecksum: { at: 28, bytes: 4, meaning: 'of the refcounts', valid: 'exactly' },
} as const;

export const entryFields = {
  id: { at: 0, bytes: 4, meaning: '', valid: 'above that of the entry before, below next id' },
  parent: { at: 4, bytes: 4, meaning: '0: none', valid: 'id of an earlier entry, or 0' },
  createdAt: { at: 8, bytes: 8, meaning: 'milliseconds since 1970-01-01 UTC', valid: 'at most 8.64 × 10^15' },
  size: { at: 16, bytes: 8, meaning: 'guest bytes', valid: 'a multiple of 512, not 0' },
  rootOffset: { at: 24, bytes: 8, meaning: '', valid: 'as in the superblock' },
  rootBytes: { at: 32, bytes: 8, meaning: '', valid: 'as in the superblock, for this size' },
  nameBytes: { at: 40, bytes: 2, meaning: 'length of the name, which follows at 48', valid: 'from 1' },
} as const;

export const journalFields = {
  magic: { at: 0, bytes: 4, meaning: '`FVDJ`', valid: 'exactly' },
  checksum: { at: 4, bytes: 4, meaning: 'of the sector', valid: 'exactly' },
  index: { at: 8, bytes: 4, meaning: 'number of the sector', valid: 'exactly' },
  count: { at: 12, bytes: 4, meaning: 'runs', valid: '1 … 30' },
  epoch: { at: 16, bytes: 8, meaning: 'generation of the superblock it follows', valid: 'exactly' },
  link: {
    at: 24,
    bytes: 4,
    meaning: 'checksum of the sector before; 0 for the first',
    valid: 'exactly',
  },
} as const;

export const runFields = {
  guestLow: { at: 0, bytes: 4, meaning: 'guest block, bits 0–31', valid: "within the front's chunks" },
  guestHigh: { at: 4, bytes: 2, meaning: 'guest block, bits 32–47', valid: '' },
  hostHigh: { at: 6, bytes: 2, meaning: 'host block, bits 32–47', valid: '' },
  hostLow: {
    at: 8,
    bytes: 4,
    meaning: 'host block, bits 0–31',
    valid: "0, 1, or from B on, within the file's length",
  },
  count: { at: 12, bytes: 4, meaning: 'blocks', valid: 'from 1' },
} as const;

export const rootFields = {
  magic: { at: 0, bytes: 4, meaning: '`FVDR`', valid: 'exactly' },
  pageCount: { at: 4, bytes: 4, meaning: '', valid: 'as above' },
  checksum: { at: 12, bytes: 4, meaning: 'of the whole root', valid: 'exactly' },
  size: {
    at: 16,
    bytes: 8,
    meaning: 'that of the state',
    valid: "the superblock's, or the directory entry's",
  },
} as const;

export const pageFields = {
  magic: { at: 0, bytes: 4, meaning: '`FVDP`', valid: 'exactly' },
  index: { at: 4, bytes: 4, meaning: 'number of the page in its root', valid: 'exactly' },
  usedBytes: { at: 8, bytes: 4, meaning: 'end of the last item', valid: "at most the page's length" },
  checksum: { at: 12, bytes: 4, meaning: 'of the whole page', valid: 'exactly' },
} as const;

export const deltaFields = {
  magic: { at: 0, bytes: 4, meaning: '`FVDD`', valid: 'exactly' },
  index: { at: 4, bytes: 4, meaning: 'number of the page in its root', valid: 'exactly' },
  usedBytes: {
    at: 8,
    bytes: 4,
    meaning: 'end of the last run: 32 + 10 × runs',
    valid: "at most the delta's length",
  },
  checksum: { at: 12, bytes: 4, meaning: 'of the whole delta', valid: 'exactly' },
  fullOffset: {
    at: 16,
    bytes: 6,
    meaning: 'offset ÷ 16 of the full page: first the low 32 bits, then the high 16',
    valid: 'from 8192, ends within `hostChunks`',
  },
  fullBytes: { at: 22, bytes: 2, meaning: 'its bytes ÷ 16', valid: 'not 0' },
  spent: {
    at: 24,
    bytes: 4,
    meaning: 'bytes of all deltas over this full page so far, along one line of states, this one included',
    valid: "at least this one's length",
  },
} as const;

export const deltaRunFields = {
  first: { at: 0, bytes: 2, meaning: "first block, counted from the page's", valid: 'rising' },
  count: { at: 2, bytes: 2, meaning: 'blocks', valid: 'from 1; ends within the page and the disk' },
  hostHigh: { at: 4, bytes: 2, meaning: 'host block, bits 32–47', valid: '' },
  hostLow: {
    at: 6,
    bytes: 4,
    meaning: 'host block, bits 0–31',
    valid: '0, 1, or from B on, within `hostChunks`',
  },
} as const;
