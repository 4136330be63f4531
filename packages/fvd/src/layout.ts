import {
  type BackingReference,
  CowlabError,
  corrupt,
  readU64LE,
  unsupported,
  viewOf,
  writeU64LE,
} from '@cowlab/core';
import { rootBytes } from './layout-table.ts';
import {
  geometryOf,
  isWithin,
  LOG_ALIGN,
  type Region,
  SECTOR_BYTES,
  SLOT_BYTES,
  SUPERBLOCKS_BYTES,
  seal,
  sealed,
} from './structure.ts';

export * from './layout-catalog.ts';
export * from './layout-delta.ts';
export * from './layout-journal.ts';
export * from './layout-table.ts';
export * from './structure.ts';

/*
 * On-disk structures of FVD version 2, all little-endian: encode, decode, validate; no I/O. FORMAT.md is the
 * specification. Every structure starts with a magic number and carries a CRC-32C that is computed with its
 * own field taken as zero.
 *
 *   chunk 0      superblock slot 0 | slot 1 | log …
 *   chunk 1 …    journal
 *   any other    data chunk | packed data chunk | log chunk (pages and roots) | catalog
 *
 *   superblock ─→ root of the front ─→ pages          superblock ─→ catalog: directory + refcounts
 *                                                     directory entry ─→ root of a snapshot ─→ pages
 */

export const MAGIC = 0x5143f5a9;
export const VERSION = 2;
export const MAX_SNAPSHOTS = 65_535;

export interface Superblock {
  readonly generation: number;
  readonly chunkBytes: number;
  readonly blockBytes: number;
  /** Guest bytes. */
  readonly size: number;
  readonly journal: Region;
  /** Root of the front's table. */
  readonly root: Region;
  /** Directory and refcounts; none while there never was a snapshot. */
  readonly catalog: Region;
  /** Where the next page or root goes. */
  readonly logOffset: number;
  /** Where the next packed block goes, as a host block; 0 when no packed chunk is open. */
  readonly packNext: number;
  /** From this host block to the end of its chunk, a static chunk is the front's; 0 when there is none. */
  readonly tailFrom: number;
  /** Host chunks that the file has, up to the last one in use or more. */
  readonly hostChunks: number;
  readonly base: string;
  readonly baseFormat: string;
  /** The snapshot of the base that answers, by its id; empty: the base's own disk. */
  readonly baseSnapshot: string;
  /** Pages of a table may be deltas. */
  readonly hasDeltas: boolean;
}

/** The chunk that the log goes on in; `logOffset` may stand at its very end. */
export function logChunkOf({ logOffset, chunkBytes }: Superblock): number {
  return Math.floor((logOffset - 1) / chunkBytes);
}

/** Longest name of a base, and of its format, in bytes of UTF-8. */
const MAX_TEXT_BYTES = 1024;
const TEXT_AT = 256;
/** Incompatible feature: `baseSnapshot` is told. A reader that did not know it would show other bytes. */
const BASE_SNAPSHOT_FEATURE = 2;
/** Incompatible feature: `hasDeltas`. */
const DELTAS_FEATURE = 1;

function featuresOf({ baseSnapshot, hasDeltas }: Superblock): number {
  return (baseSnapshot === '' ? 0 : BASE_SNAPSHOT_FEATURE) | (hasDeltas ? DELTAS_FEATURE : 0);
}

/** How the image names its base; undefined without one. */
export function baseOf({ base, baseFormat, baseSnapshot }: Superblock): BackingReference | undefined {
  if (base === '') return undefined;
  return {
    file: base,
    ...(baseFormat !== '' && { format: baseFormat }),
    ...(baseSnapshot !== '' && { snapshot: baseSnapshot }),
  };
}

/** Throws `ERR_INVALID_OPTION` when a superblock has no room for how the base is named. */
export function assertBaseFits(file: string, base: BackingReference): void {
  for (const text of [base.file, base.format, base.snapshot]) {
    if (Buffer.byteLength(text ?? '') <= MAX_TEXT_BYTES) continue;
    const problem = `is longer than ${MAX_TEXT_BYTES} bytes of UTF-8`;
    throw new CowlabError('ERR_INVALID_OPTION', `${file}: backing file: ${problem}`, {
      file,
      field: 'backing file',
    });
  }
}

export function encodeSuperblock(block: Superblock): Uint8Array {
  const bytes = new Uint8Array(SLOT_BYTES);
  const view = viewOf(bytes);
  view.setUint32(0, MAGIC, true);
  view.setUint32(4, VERSION, true);
  // 8: CRC; 16: compatible features
  view.setUint32(12, featuresOf(block), true);
  writeU64LE(view, 24, block.generation);
  view.setUint32(32, block.chunkBytes, true);
  view.setUint32(36, block.blockBytes, true);
  writeU64LE(view, 40, block.size);
  writeU64LE(view, 48, block.journal.offset);
  writeU64LE(view, 56, block.journal.bytes);
  writeU64LE(view, 64, block.root.offset);
  writeU64LE(view, 72, block.root.bytes);
  writeU64LE(view, 80, block.catalog.offset);
  writeU64LE(view, 88, block.catalog.bytes);
  writeU64LE(view, 96, block.logOffset);
  writeU64LE(view, 104, block.packNext);
  writeU64LE(view, 112, block.tailFrom);
  writeU64LE(view, 120, block.hostChunks);
  assertSuperblock(block, 'superblock');
  for (const [i, text] of [block.base, block.baseFormat, block.baseSnapshot].entries()) {
    const encoded = new TextEncoder().encode(text);
    view.setUint16(128 + 2 * i, encoded.length, true);
    bytes.set(encoded, TEXT_AT + i * MAX_TEXT_BYTES);
  }
  return seal(bytes, 8);
}

/** The slot's contents, or undefined when it is torn, empty or not FVD. Throws for what is valid but unknown. */
export function decodeSuperblock(bytes: Uint8Array, file: string): Superblock | undefined {
  const view = viewOf(bytes);
  if (view.getUint32(0, true) !== MAGIC || view.getUint32(4, true) !== VERSION || !sealed(bytes, 8))
    return undefined;
  const field = (at: number): number => readU64LE(view, at);
  const text = (name: string, at: number, length: number): string => {
    if (length > MAX_TEXT_BYTES) {
      throw corrupt(file, `superblock.${name}`, `is ${length} bytes long`, { value: length });
    }
    return new TextDecoder().decode(bytes.subarray(at, at + length));
  };
  const features = view.getUint32(12, true);
  const unknown = (features & ~(BASE_SNAPSHOT_FEATURE | DELTAS_FEATURE)) >>> 0;
  if (unknown !== 0) {
    throw unsupported(file, 'superblock.incompatibleFeatures', `unknown bits 0x${unknown.toString(16)}`);
  }
  const isClone = (features & BASE_SNAPSHOT_FEATURE) !== 0;
  try {
    const block: Superblock = {
      generation: field(24),
      chunkBytes: view.getUint32(32, true),
      blockBytes: view.getUint32(36, true),
      size: field(40),
      journal: { offset: field(48), bytes: field(56) },
      root: { offset: field(64), bytes: field(72) },
      catalog: { offset: field(80), bytes: field(88) },
      logOffset: field(96),
      packNext: field(104),
      tailFrom: field(112),
      hostChunks: field(120),
      base: text('base', TEXT_AT, view.getUint16(128, true)),
      baseFormat: text('baseFormat', TEXT_AT + MAX_TEXT_BYTES, view.getUint16(130, true)),
      baseSnapshot: isClone
        ? text('baseSnapshot', TEXT_AT + 2 * MAX_TEXT_BYTES, view.getUint16(132, true))
        : '',
      hasDeltas: (features & DELTAS_FEATURE) !== 0,
    };
    assertSuperblock(block, file);
    if (isClone && (block.baseSnapshot === '' || block.base === '')) {
      throw corrupt(file, 'superblock.baseSnapshot', 'there is none, or no base to have it');
    }
    return block;
  } catch (error) {
    if (error instanceof RangeError) throw corrupt(file, 'superblock', error.message);
    throw error;
  }
}

const CHUNK_BYTES_RANGE: readonly [number, number] = [65_536, 4_194_304];
const BLOCK_BYTES_RANGE: readonly [number, number] = [512, 65_536];

export function isGeometry(chunkBytes: number, blockBytes: number): boolean {
  const power = (value: number): boolean => value > 0 && (value & (value - 1)) === 0;
  const within = (value: number, [low, high]: readonly [number, number]): boolean =>
    value >= low && value <= high;
  const perChunk = chunkBytes / blockBytes;
  return (
    power(chunkBytes) &&
    power(blockBytes) &&
    within(chunkBytes, CHUNK_BYTES_RANGE) &&
    within(blockBytes, BLOCK_BYTES_RANGE) &&
    perChunk >= 8 &&
    perChunk <= 4096
  );
}

/** Most chunks of one disk: the front's table takes 4 bytes of memory for each. */
export const MAX_CHUNKS: number = 2 ** 24;
/** Host offsets of pages are stored in 48 bits, in units of LOG_ALIGN. */
const MAX_HOST_BYTES = 2 ** 52;
/** Nobody comes so far by publishing; from there on, as many publications have their number. */
const MAX_GENERATION = 2 ** 52;
export const MAX_JOURNAL_BYTES: number = 64 * 1024 * 1024;

function assertSuperblock(block: Superblock, file: string): void {
  const ensure = (right: boolean, field: string, value: number): void => {
    if (!right) throw corrupt(file, `superblock.${field}`, `${value} is out of range`, { value });
  };
  const { chunkBytes, blockBytes, size, journal, root, catalog, hostChunks } = block;
  ensure(block.generation > 0 && block.generation <= MAX_GENERATION, 'generation', block.generation);
  ensure(isGeometry(chunkBytes, blockBytes), 'chunkBytes', chunkBytes);
  ensure(size > 0 && size % SECTOR_BYTES === 0, 'size', size);
  ensure(size <= chunkBytes * MAX_CHUNKS, 'size', size);
  const end = hostChunks * chunkBytes;
  ensure(hostChunks > 1 && hostChunks < 2 ** 31 && end <= MAX_HOST_BYTES, 'hostChunks', hostChunks);
  const aligned = journal.offset % chunkBytes === 0;
  ensure(aligned && isWithin(journal, chunkBytes, end), 'journal.offset', journal.offset);
  const whole = journal.bytes % chunkBytes === 0 && journal.bytes <= MAX_JOURNAL_BYTES;
  ensure(whole, 'journal.bytes', journal.bytes);
  ensure(isWithin(root, SUPERBLOCKS_BYTES, end) && root.offset % LOG_ALIGN === 0, 'root.offset', root.offset);
  ensure(root.bytes === rootBytes(geometryOf(chunkBytes, blockBytes), size), 'root.bytes', root.bytes);
  if (catalog.bytes > 0 || catalog.offset > 0) {
    const apart =
      catalog.offset + catalog.bytes <= journal.offset || journal.offset + journal.bytes <= catalog.offset;
    const placed = catalog.offset % chunkBytes === 0 && isWithin(catalog, chunkBytes, end);
    ensure(apart && placed, 'catalog.offset', catalog.offset);
  }
  assertPositions(block, end, ensure);
}

/** Where the next page and the next packed block go: never into what has another purpose. */
function assertPositions(
  { chunkBytes, blockBytes, journal, catalog, logOffset, packNext, tailFrom }: Superblock,
  end: number,
  ensure: (right: boolean, field: string, value: number) => void,
): void {
  const taken = (byte: number): boolean =>
    [journal, catalog].some(({ offset, bytes }) => {
      const last = Math.ceil((offset + bytes) / chunkBytes) * chunkBytes;
      return bytes > 0 && byte >= offset && byte < last;
    });
  const logged = logOffset >= SUPERBLOCKS_BYTES && logOffset <= end && logOffset % LOG_ALIGN === 0;
  ensure(logged && !taken(logOffset - 1), 'logOffset', logOffset);
  for (const [field, block] of [
    ['packNext', packNext],
    ['tailFrom', tailFrom],
  ] as const) {
    const byte = block * blockBytes;
    ensure(block === 0 || (byte >= chunkBytes && byte < end && !taken(byte)), field, block);
  }
}
