import { crc32c, viewOf } from '@cowlab/core';

/* What all on-disk structures share: geometry, regions, and the checksum that seals each of them. */

export const SECTOR_BYTES = 512;
export const SLOT_BYTES = 4096;
/** Both slots of the superblock; the log may begin behind them. */
export const SUPERBLOCKS_BYTES: number = 2 * SLOT_BYTES;
/** Pages and roots lie at multiples of this in the log, and their lengths are told in it. */
export const LOG_ALIGN = 16;
export const TWO_32 = 0x1_0000_0000;

export interface Geometry {
  readonly chunkBytes: number;
  readonly blockBytes: number;
  readonly blocksPerChunk: number;
  /** Entries of the lookup table that one page holds. */
  readonly pageChunks: number;
}

const MAX_PAGE_CHUNKS = 256;
/** A page in which every block of every chunk is a run of its own still fits the length field of its pointer. */
const MAX_PAGE_BLOCKS = 65_536;

export function geometryOf(chunkBytes: number, blockBytes: number): Geometry {
  const blocksPerChunk = chunkBytes / blockBytes;
  const pageChunks = Math.min(MAX_PAGE_CHUNKS, MAX_PAGE_BLOCKS / blocksPerChunk);
  return { chunkBytes, blockBytes, blocksPerChunk, pageChunks };
}

/** A place in the host file. `bytes` 0 means that there is none. */
export interface Region {
  readonly offset: number;
  readonly bytes: number;
}

export const NO_REGION: Region = { offset: 0, bytes: 0 };

/** Whether a region that is there lies between `from` and `end`. */
export function isWithin({ offset, bytes }: Region, from: number, end: number): boolean {
  return bytes > 0 && offset >= from && offset + bytes <= end;
}

const ZEROS = new Uint8Array(4);

/** CRC of `bytes` with the 4 bytes at `at` taken as zero; stored there by `seal`, compared by `sealed`. */
function crcAround(bytes: Uint8Array, at: number): number {
  const head = crc32c(bytes.subarray(0, at));
  return crc32c(bytes.subarray(at + 4), crc32c(ZEROS, head));
}

export function seal(bytes: Uint8Array, at: number): Uint8Array {
  viewOf(bytes).setUint32(at, crcAround(bytes, at), true);
  return bytes;
}

export function sealed(bytes: Uint8Array, at: number): boolean {
  return viewOf(bytes).getUint32(at, true) === crcAround(bytes, at);
}
