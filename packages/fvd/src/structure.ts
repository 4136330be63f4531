import { crc32c, viewOf } from '@cowlab/core';

/* What all on-disk structures share: geometry, regions, and the checksum that seals each of them. */

export const SECTOR_BYTES = 512;
/** Pages and roots lie at multiples of this in the log, and their lengths are told in it. */
export const LOG_ALIGN = 16;
export const TWO_32 = 0x1_0000_0000;

export interface Geometry {
  readonly chunkBytes: number;
  readonly blockBytes: number;
  readonly blocksPerChunk: number;
}

export function geometryOf(chunkBytes: number, blockBytes: number): Geometry {
  return { chunkBytes, blockBytes, blocksPerChunk: chunkBytes / blockBytes };
}

/** A place in the host file. `bytes` 0 means that there is none. */
export interface Region {
  readonly offset: number;
  readonly bytes: number;
}

export const NO_REGION: Region = { offset: 0, bytes: 0 };

/** CRC of `bytes` with the 4 bytes at `at` taken as zero; stored there by `seal`, compared by `sealed`. */
function crcAround(bytes: Uint8Array, at: number): number {
  const head = crc32c(bytes.subarray(0, at));
  return crc32c(bytes.subarray(at + 4), crc32c(new Uint8Array(4), head));
}

export function seal(bytes: Uint8Array, at: number): Uint8Array {
  viewOf(bytes).setUint32(at, crcAround(bytes, at), true);
  return bytes;
}

export function sealed(bytes: Uint8Array, at: number): boolean {
  return viewOf(bytes).getUint32(at, true) === crcAround(bytes, at);
}
