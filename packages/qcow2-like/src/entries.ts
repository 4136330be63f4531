/*
 * One entry of an L1, L2 or refcount table is 64 bits, handled as two 32-bit halves: a bigint for each
 * would cost more than the lookup.
 *
 *   hi  63 COPIED: the target's refcount is exactly one, it may be changed where it is
 *       62 COMPRESSED (L2 only)        56-61 reserved       32-55 host offset
 *   lo  9-31 host offset               1-8 reserved         0 ZERO (L2, version 3 only)
 *
 * Source: QEMU, docs/interop/qcow2, "Cluster mapping".
 */

export const copiedFlag = 0x8000_0000;
export const compressedFlag = 0x4000_0000;
export const zeroFlag = 1;

const offsetHi = 0x00ff_ffff;
const offsetLo = 0xffff_fe00;
const reservedHi = 0x3f00_0000;
const two32 = 2 ** 32;

/** The host offset of a standard entry; 0 when there is none. */
export function hostOffsetOf(hi: number, lo: number): number {
  return (hi & offsetHi) * two32 + ((lo & offsetLo) >>> 0);
}

/** True when bits that the specification reserves are set, or the offset is not a multiple of the cluster size. */
export function isMalformed(hi: number, lo: number, clusterBytes: number, flagsLo: number): boolean {
  return ((hi & reservedHi) | (lo & (clusterBytes - 1) & ~flagsLo)) !== 0;
}

export function setEntry(
  view: DataView,
  index: number,
  hostOffset: number,
  flagsHi: number,
  flagsLo: number,
): void {
  setEntryAt(view, index * 8, hostOffset, flagsHi, flagsLo);
}

/** As `setEntry`, at a byte of the table. */
export function setEntryAt(
  view: DataView,
  at: number,
  hostOffset: number,
  flagsHi: number,
  flagsLo: number,
): void {
  view.setUint32(at, (Math.floor(hostOffset / two32) | flagsHi) >>> 0);
  view.setUint32(at + 4, ((hostOffset % two32) | flagsLo) >>> 0);
}

/** Where a compressed cluster's bytes are: from `offset` up to, at most, `end`. */
export interface CompressedPlace {
  readonly offset: number;
  readonly end: number;
}

/** The last offset that a descriptor can name. */
export function maxCompressedOffset(clusterBits: number): number {
  return 2 ** (70 - clusterBits) - 1;
}

/** Writes the descriptor of `bytes` compressed bytes at `offset`, fewer than a cluster has, at a byte of the table. */
export function setCompressedEntry(
  view: DataView,
  at: number,
  { offset, bytes }: { readonly offset: number; readonly bytes: number },
  clusterBits: number,
): void {
  const sectors = Math.floor((offset + bytes - 1) / 512) - Math.floor(offset / 512);
  const hi = sectors * 2 ** (70 - clusterBits - 32) + Math.floor(offset / two32);
  view.setUint32(at, (compressedFlag | hi) >>> 0);
  view.setUint32(at + 4, offset % two32);
}

/** Decodes a compressed cluster descriptor; the number of its offset bits depends on the cluster size. */
export function compressedPlace(hi: number, lo: number, clusterBits: number): CompressedPlace {
  const offsetBitsHi = 70 - clusterBits - 32;
  const descriptor = hi & 0x3fff_ffff;
  const offset = (descriptor & (2 ** offsetBitsHi - 1)) * two32 + lo;
  const sectors = descriptor >>> offsetBitsHi;
  return { offset, end: Math.floor(offset / 512) * 512 + (sectors + 1) * 512 };
}
