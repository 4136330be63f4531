import { CowlabError, corrupt, readU64LE, roundUp, viewOf, writeU64LE } from '@cowlab/core';
import { encodeHeader, GRAIN_TABLE_ENTRIES, MAX_TABLES, SECTOR, type SparseHeader } from './layout.ts';
import { headerFields, markerFields as fields } from './layout-fields.ts';

/*
 * A stream-optimized extent ("Virtual Disk Format 5.0", section "Stream-Optimized Compressed Sparse Extents"): written
 * from its start to its end without ever going back, so what is known last comes last. Everything lies in whole sectors.
 *
 *   header                          gdOffset is all ones: ask the footer
 *   descriptor, up to overHead
 *   grains        each: lba 8 | bytes 4 | zlib stream | zeros up to a sector; in the order of the disk
 *   «1» table     behind the grains that it maps; a table without grains is left out
 *   «2» directory
 *   «3» footer    the header again, with its gdOffset
 *   «0»           the end
 *
 * «n» is a marker, a sector: sectors that follow 8 | 0 4 | type 4. A grain is told from a marker by its 4 bytes, which
 * are no 0. QEMU writes such extents with the directory in front, and without markers.
 */

/** Before the bytes of a grain. */
export const GRAIN_HEADER_BYTES = 12;
/** What the end of a file looks like: a marker, the footer, and the last marker. */
export const FOOTER_BYTES: number = 3 * SECTOR;
/** Where grains begin in ours, as in those of others. */
const OVERHEAD_BYTES = 65_536;
const DESCRIPTOR_SECTORS = 20;
const DIRECTORY_AT_END = 2n ** 64n - 1n;
const FLAGS: number = (1 << 16) | (1 << 17);
const DEFLATE = 1;

export const markerTypes = { end: 0, table: 1, directory: 2, footer: 3 } as const;
type MarkerType = keyof typeof markerTypes;

/** Whether the header leaves it to the footer to say where the directory is. */
export function isDirectoryAtEnd(header: Uint8Array): boolean {
  return viewOf(header).getBigUint64(headerFields.gdOffset.at, true) === DIRECTORY_AT_END;
}

/** What a new stream's header says; the directory's place is not known yet. Throws `ERR_TOO_LARGE`. */
export function planStream(file: string, size: number, grainBytes: number): SparseHeader {
  const tableCount = Math.ceil(size / (grainBytes * GRAIN_TABLE_ENTRIES));
  if (tableCount > MAX_TABLES) {
    const problem = `${size} bytes need more grain tables than an extent can have; larger grains need fewer`;
    throw new CowlabError('ERR_TOO_LARGE', `${file}: size: ${problem}`, { file, field: 'size', value: size });
  }
  return {
    version: 3,
    size,
    grainBytes,
    descriptorOffset: SECTOR,
    descriptorBytes: DESCRIPTOR_SECTORS * SECTOR,
    tableCount,
    directoryOffset: 0,
    isDirectoryLost: false,
    redundantDirectoryOffset: undefined,
    overheadBytes: OVERHEAD_BYTES,
    zeroedGrains: false,
    streamOptimized: true,
  };
}

/** The header as it is at the start (without a directory), or in the footer. */
export function encodeStreamHeader(header: SparseHeader, directoryOffset: number | undefined): Uint8Array {
  const bytes = encodeHeader(header);
  const view = viewOf(bytes);
  view.setUint32(headerFields.flags.at, view.getUint32(headerFields.flags.at, true) | FLAGS, true);
  view.setUint16(headerFields.compressAlgorithm.at, DEFLATE, true);
  const place = directoryOffset === undefined ? DIRECTORY_AT_END : BigInt(directoryOffset / SECTOR);
  view.setBigUint64(headerFields.gdOffset.at, place, true);
  return bytes;
}

/** A marker, and the sectors that it stands before. */
export function encodeMarked(type: MarkerType, bytes: Uint8Array): Uint8Array {
  const length = roundUp(bytes.length, SECTOR);
  const marked = new Uint8Array(SECTOR + length);
  const view = viewOf(marked);
  writeU64LE(view, fields.value.at, length / SECTOR);
  view.setUint32(fields.type.at, markerTypes[type], true);
  marked.set(bytes, SECTOR);
  return marked;
}

/** A grain with what stands before and behind its bytes. */
export function encodeGrain(lba: number, bytes: Uint8Array): Uint8Array {
  const grain = new Uint8Array(roundUp(GRAIN_HEADER_BYTES + bytes.length, SECTOR));
  const view = viewOf(grain);
  writeU64LE(view, fields.value.at, lba);
  view.setUint32(fields.size.at, bytes.length, true);
  grain.set(bytes, GRAIN_HEADER_BYTES);
  return grain;
}

/** The end of a stream whose directory is written. */
export function encodeEnd(header: SparseHeader, directoryOffset: number): Uint8Array {
  const footer = encodeMarked('footer', encodeStreamHeader(header, directoryOffset));
  return Buffer.concat([footer, encodeMarked('end', new Uint8Array(0))]);
}

export interface Marker {
  /** Of a grain: its first sector in the disk; else sectors that follow. Undefined where that is more than any file has. */
  readonly value: number | undefined;
  /** Of a grain: bytes of its stream; else 0. */
  readonly size: number;
  readonly type: number;
}

/** What the first bytes of a sector in the stream say, 16 of them. */
export function decodeMarker(bytes: Uint8Array): Marker {
  const view = viewOf(bytes);
  const isHuge = view.getUint32(fields.value.at + 4, true) > 0x1f_ffff;
  return {
    value: isHuge ? undefined : readU64LE(view, fields.value.at),
    size: view.getUint32(fields.size.at, true),
    type: view.getUint32(fields.type.at, true),
  };
}

/** The header in the footer; `bytes` are the last ones of the file. Throws `ERR_CORRUPT`. */
export function decodeFooter(file: string, bytes: Uint8Array): Uint8Array {
  const assertMarker = (at: number, type: MarkerType, value: number): void => {
    const marker = decodeMarker(bytes.subarray(at));
    if (marker.value === value && marker.size === 0 && marker.type === markerTypes[type]) return;
    const problem = `the file does not end with a ${type} marker in its place: it is cut, or was never finished`;
    throw corrupt(file, 'footer.marker', problem, { value: marker.type });
  };
  if (bytes.length < FOOTER_BYTES) throw corrupt(file, 'footer', 'the file ends before it');
  assertMarker(0, 'footer', 1);
  assertMarker(2 * SECTOR, 'end', 0);
  const header = bytes.subarray(SECTOR, 2 * SECTOR);
  if (isDirectoryAtEnd(header)) throw corrupt(file, 'footer.gdOffset', 'names no place');
  return header;
}
