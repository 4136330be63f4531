import {
  CowlabError,
  corrupt,
  isPowerOfTwo,
  readU64LE,
  roundUp,
  unsupported,
  viewOf,
  writeU64LE,
} from '@cowlab/core';
import { headerFields as fields } from './layout-fields.ts';

/*
 * A hosted sparse extent ("Virtual Disk Format 5.0", section "Hosted Sparse Extents"), as VMware and QEMU
 * lay it out. All numbers are little-endian, all offsets count sectors of 512 bytes:
 *
 *   0      header                        1 sector
 *   1      embedded descriptor           20 sectors
 *   21     redundant grain directory     4 bytes a table, whole sectors
 *          redundant grain tables        4 sectors each, all of them set aside from the start
 *   gd     grain directory and tables    the same again
 *   …      grains, from overHead on, in the order of their first write
 */

export const SECTOR = 512;
/** Entries of a grain table; the specification knows no other number. */
export const GRAIN_TABLE_ENTRIES = 512;
export const GRAIN_TABLE_BYTES: number = GRAIN_TABLE_ENTRIES * 4;
export const GRAIN_TABLE_SECTORS: number = GRAIN_TABLE_BYTES / SECTOR;
/** A grain table entry that says "zeros", where the header allows it; 0 says "ask the parent". */
export const ZEROED_GRAIN = 1;
/** As VMware and QEMU make them. */
export const DEFAULT_GRAIN_BYTES: number = 64 * 1024;
export const MIN_GRAIN_BYTES = 4096;
export const MAX_GRAIN_BYTES: number = 1024 * 1024;
const DESCRIPTOR_SECTORS = 20;
/** Grain table entries are 32-bit sector numbers. */
export const MAX_SECTORS: number = 2 ** 32;

const MAGIC = 0x564d444b; // "KDMV"
const COWD_MAGIC = 0x44574f43; // "COWD": sparse extents of ESX
const FLAG_NEWLINES = 1;
const FLAG_REDUNDANT = 2;
const FLAG_ZEROED_GRAIN = 4;
const FLAG_COMPRESSED = 1 << 16;
const FLAG_MARKERS = 1 << 17;
const NEWLINES = [0x0a, 0x20, 0x0d, 0x0a];
/** The first bytes of a descriptor that stands in a file of its own. */
const DESCRIPTOR_SIGNATURE = '# disk descriptorfile';
/** What an image may make a reader allocate; nothing sensible comes near. */
const MAX_GRAIN_SECTORS: number = (64 * 1024 * 1024) / SECTOR;
export const MAX_DESCRIPTOR_BYTES: number = 1024 * 1024;
export const MAX_TABLES: number = 2 ** 23;

/** The header of an extent, validated against its file. Offsets and sizes are in bytes. */
export interface SparseHeader {
  readonly version: number;
  /** Guest bytes. */
  readonly size: number;
  readonly grainBytes: number;
  /** Both 0 in an extent without a descriptor inside. */
  readonly descriptorOffset: number;
  readonly descriptorBytes: number;
  /** Entries of a grain directory. */
  readonly tableCount: number;
  readonly directoryOffset: number;
  /** It leads out of the file, and there is a second copy that does not. */
  readonly isDirectoryLost: boolean;
  /** Undefined where the header says that there is no second copy. */
  readonly redundantDirectoryOffset: number | undefined;
  /** Where metadata ends and grains may begin. */
  readonly overheadBytes: number;
  readonly zeroedGrains: boolean;
  /** Compressed grains with markers; see stream-layout.ts. */
  readonly streamOptimized: boolean;
}

/** What the first bytes of a file are. */
export function signatureOf(head: Uint8Array): 'sparse' | 'cowd' | 'descriptor' | 'other' {
  if (head.length < 4) return 'other';
  const magic = viewOf(head).getUint32(0, true);
  if (magic === MAGIC) return 'sparse';
  if (magic === COWD_MAGIC) return 'cowd';
  const text = new TextDecoder('latin1').decode(head.subarray(0, DESCRIPTOR_SIGNATURE.length));
  return text.toLowerCase() === DESCRIPTOR_SIGNATURE ? 'descriptor' : 'other';
}

/**
 * A new extent's header. `size` and `grainBytes` have been checked; throws `ERR_TOO_LARGE` where no table could be named,
 * or they are more than an extent may have. That every grain finds a place is not said: past 2 TiB they do not.
 */
export function planExtent(
  file: string,
  size: number,
  grainBytes: number,
  zeroedGrains: boolean,
): SparseHeader {
  const tableCount = Math.ceil(size / (grainBytes * GRAIN_TABLE_ENTRIES));
  const directoryBytes = roundUp(tableCount * 4, SECTOR);
  const copyBytes = directoryBytes + tableCount * GRAIN_TABLE_BYTES;
  const redundantDirectoryOffset = (1 + DESCRIPTOR_SECTORS) * SECTOR;
  const directoryOffset = redundantDirectoryOffset + copyBytes;
  const overheadBytes = roundUp(directoryOffset + copyBytes, grainBytes);
  if (tableCount > MAX_TABLES || overheadBytes / SECTOR > MAX_SECTORS) {
    const problem = `${size} bytes need more grain tables than an extent can have; larger grains need fewer`;
    throw new CowlabError('ERR_TOO_LARGE', `${file}: size: ${problem}`, { file, field: 'size', value: size });
  }
  return {
    version: zeroedGrains ? 2 : 1,
    size,
    grainBytes,
    descriptorOffset: SECTOR,
    descriptorBytes: DESCRIPTOR_SECTORS * SECTOR,
    tableCount,
    directoryOffset,
    isDirectoryLost: false,
    redundantDirectoryOffset,
    overheadBytes,
    zeroedGrains,
    streamOptimized: false,
  };
}

/** The header's sector, as QEMU writes it. */
export function encodeHeader(header: SparseHeader): Uint8Array {
  const bytes = new Uint8Array(SECTOR);
  const view = viewOf(bytes);
  const redundant = header.redundantDirectoryOffset;
  const flags =
    FLAG_NEWLINES |
    (redundant === undefined ? 0 : FLAG_REDUNDANT) |
    (header.zeroedGrains ? FLAG_ZEROED_GRAIN : 0);
  view.setUint32(fields.magicNumber.at, MAGIC, true);
  view.setUint32(fields.version.at, header.version, true);
  view.setUint32(fields.flags.at, flags, true);
  writeU64LE(view, fields.capacity.at, header.size / SECTOR);
  writeU64LE(view, fields.grainSize.at, header.grainBytes / SECTOR);
  writeU64LE(view, fields.descriptorOffset.at, header.descriptorOffset / SECTOR);
  writeU64LE(view, fields.descriptorSize.at, header.descriptorBytes / SECTOR);
  view.setUint32(fields.numGTEsPerGT.at, GRAIN_TABLE_ENTRIES, true);
  writeU64LE(view, fields.rgdOffset.at, (redundant ?? 0) / SECTOR);
  writeU64LE(view, fields.gdOffset.at, header.directoryOffset / SECTOR);
  writeU64LE(view, fields.overHead.at, header.overheadBytes / SECTOR);
  bytes.set(NEWLINES, fields.newLineChars.at);
  return bytes;
}

/** The directory of a new extent: its tables follow it one after another. */
export function encodeDirectory(header: SparseHeader, directoryOffset: number): Uint8Array {
  const bytes = new Uint8Array(roundUp(header.tableCount * 4, SECTOR));
  const view = viewOf(bytes);
  const first = (directoryOffset + bytes.length) / SECTOR;
  for (let i = 0; i < header.tableCount; i++) {
    view.setUint32(i * 4, first + i * GRAIN_TABLE_SECTORS, true);
  }
  return bytes;
}

/** Reads and validates the header of a file of `fileBytes` bytes. Throws `ERR_CORRUPT` or `ERR_UNSUPPORTED`. */
export function decodeHeader(file: string, bytes: Uint8Array, fileBytes: number): SparseHeader {
  const view = viewOf(bytes);
  const version = view.getUint32(fields.version.at, true);
  const flags = view.getUint32(fields.flags.at, true);
  const streamOptimized = isStream(file, view, flags);
  if (version < 1 || version > 3) {
    throw unsupported(file, 'header.version', `${version} is not 1, 2 or 3`, { value: version });
  }
  if (
    (flags & FLAG_NEWLINES) !== 0 &&
    NEWLINES.some((byte, i) => bytes[fields.newLineChars.at + i] !== byte)
  ) {
    throw corrupt(file, 'header.newLineChars', 'changed: the file was transferred as text');
  }
  const sectors = (field: keyof typeof fields): number =>
    sectorsAt(file, view, fields[field].at, `header.${field}`);
  const descriptorOffset = sectors('descriptorOffset');
  const descriptorBytes = descriptorOffset === 0 ? 0 : sectors('descriptorSize');
  if (descriptorOffset !== 0) checkDescriptorPlace(file, descriptorOffset, descriptorBytes, fileBytes);
  const size = sectors('capacity');
  const grainBytes = checkGrain(file, sectors('grainSize'), size);
  const entries = view.getUint32(fields.numGTEsPerGT.at, true);
  if (entries === 0) throw corrupt(file, 'header.numGTEsPerGT', 'is 0', { value: 0 });
  if (entries !== GRAIN_TABLE_ENTRIES) {
    throw unsupported(file, 'header.numGTEsPerGT', `${entries} is not ${GRAIN_TABLE_ENTRIES}`, {
      value: entries,
    });
  }
  const tableCount = Math.ceil(size / (grainBytes * GRAIN_TABLE_ENTRIES));
  if (tableCount > MAX_TABLES) {
    throw unsupported(file, 'header.capacity', `needs ${tableCount} grain tables, more than ${MAX_TABLES}`, {
      value: size / SECTOR,
    });
  }
  const hasRedundant = (flags & FLAG_REDUNDANT) !== 0 && !streamOptimized;
  const header: SparseHeader = {
    version,
    size,
    grainBytes,
    descriptorOffset,
    descriptorBytes,
    tableCount,
    directoryOffset: sectors('gdOffset'),
    isDirectoryLost: false,
    redundantDirectoryOffset: hasRedundant ? sectors('rgdOffset') : undefined,
    overheadBytes: sectors('overHead'),
    zeroedGrains: (flags & FLAG_ZEROED_GRAIN) !== 0,
    streamOptimized,
  };
  return { ...header, isDirectoryLost: checkDirectories(file, header, fileBytes) };
}

/** Grains are compressed, with deflate and behind headers that say how long they are, or none of it. */
function isStream(file: string, view: DataView, flags: number): boolean {
  const stream = flags & (FLAG_COMPRESSED | FLAG_MARKERS);
  const algorithm = view.getUint16(fields.compressAlgorithm.at, true);
  if (stream === 0 && algorithm === 0) return false;
  if (stream !== (FLAG_COMPRESSED | FLAG_MARKERS)) {
    throw unsupported(file, 'header.flags', 'compressed grains and markers, one without the other', {
      value: flags,
    });
  }
  if (algorithm === 1) return true;
  throw unsupported(file, 'header.compressAlgorithm', `${algorithm} is not 1 (deflate)`, {
    value: algorithm,
  });
}

/** A field of 64 bits that counts sectors, in bytes. */
function sectorsAt(file: string, view: DataView, at: number, field: string): number {
  let sectors: number;
  try {
    sectors = readU64LE(view, at);
  } catch {
    throw corrupt(file, field, 'is larger than any file', { value: view.getBigUint64(at, true) });
  }
  if (sectors > Number.MAX_SAFE_INTEGER / SECTOR) {
    throw corrupt(file, field, 'is larger than any file', { value: sectors });
  }
  return sectors * SECTOR;
}

function checkDescriptorPlace(file: string, offset: number, length: number, fileBytes: number): void {
  if (length === 0 || length > MAX_DESCRIPTOR_BYTES) {
    throw corrupt(file, 'header.descriptorSize', `${length} bytes are not from 512 to 1 MiB`, {
      value: length / SECTOR,
    });
  }
  if (offset + length > fileBytes) {
    throw corrupt(file, 'header.descriptorOffset', 'descriptor lies outside the file', {
      value: offset / SECTOR,
    });
  }
}

function checkGrain(file: string, grainBytes: number, size: number): number {
  const grainSectors = grainBytes / SECTOR;
  if (size === 0) {
    throw unsupported(file, 'header.capacity', '0: the descriptor names other extents', { value: 0 });
  }
  if (!isPowerOfTwo(grainSectors)) {
    throw corrupt(file, 'header.grainSize', `${grainSectors} sectors are not a power of two`, {
      value: grainSectors,
    });
  }
  if (grainSectors > MAX_GRAIN_SECTORS) {
    throw unsupported(
      file,
      'header.grainSize',
      `${grainSectors} sectors are more than ${MAX_GRAIN_SECTORS}`,
      {
        value: grainSectors,
      },
    );
  }
  return grainBytes;
}

/** The least that a table can say of a grain's place, whatever the header says of its metadata: 1 says zeros. */
export function firstGrainSector({ overheadBytes }: SparseHeader): number {
  return Math.max(overheadBytes / SECTOR, ZEROED_GRAIN + 1);
}

/** True when only the second directory lies inside the file. */
function checkDirectories(file: string, header: SparseHeader, fileBytes: number): boolean {
  const directoryBytes = header.tableCount * 4;
  const isInside = (offset: number): boolean => offset >= SECTOR && offset + directoryBytes <= fileBytes;
  const refuse = (field: string, offset: number): never => {
    throw corrupt(file, field, `directory of ${directoryBytes} bytes lies outside the file`, {
      value: offset / SECTOR,
    });
  };
  const { directoryOffset, redundantDirectoryOffset: second } = header;
  const isLost = !isInside(directoryOffset);
  if (isLost && (second === undefined || !isInside(second))) refuse('header.gdOffset', directoryOffset);
  if (second !== undefined && !isInside(second)) refuse('header.rgdOffset', second);
  if (header.overheadBytes < SECTOR || header.overheadBytes > fileBytes) {
    throw corrupt(file, 'header.overHead', `${header.overheadBytes} bytes lie outside the file`, {
      value: header.overheadBytes / SECTOR,
    });
  }
  return isLost;
}

/**
 * A directory's entries, sector numbers of tables; 0 is no table. Throws `ERR_CORRUPT` for a table outside the file,
 * and for two on one another: a write to the one would change what the other maps.
 */
export function decodeDirectory(
  file: string,
  name: string,
  bytes: Uint8Array,
  fileBytes: number,
): Uint32Array {
  const view = viewOf(bytes);
  const entries = new Uint32Array(bytes.length / 4);
  for (let i = 0; i < entries.length; i++) {
    const sector = view.getUint32(i * 4, true);
    if (sector !== 0 && sector * SECTOR + GRAIN_TABLE_BYTES > fileBytes) {
      throw corrupt(file, `${name}[${i}]`, `grain table at sector ${sector} lies outside the file`, {
        value: sector,
        offset: sector * SECTOR,
      });
    }
    entries[i] = sector;
  }
  assertApart(file, name, entries);
  return entries;
}

function assertApart(file: string, name: string, entries: Uint32Array): void {
  const sorted = isAscending(entries) ? entries : entries.toSorted();
  for (let i = 1; i < sorted.length; i++) {
    const [before, sector] = [sorted[i - 1]!, sorted[i]!];
    if (before === 0 || sector - before >= GRAIN_TABLE_SECTORS) continue;
    const at = entries.lastIndexOf(sector);
    throw corrupt(file, `${name}[${at}]`, `grain table at sector ${sector} lies on that of another entry`, {
      value: sector,
      offset: sector * SECTOR,
    });
  }
}

function isAscending(entries: Uint32Array): boolean {
  for (let i = 1; i < entries.length; i++) if (entries[i]! < entries[i - 1]!) return false;
  return true;
}
