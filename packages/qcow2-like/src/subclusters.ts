import { corrupt } from '@cowlab/core';
import { malformedEntry } from './corruption.ts';
import { compressedFlag, copiedFlag, hostOffsetOf, isMalformed } from './entries.ts';
import type { ImageFile } from './image-file.ts';
import { subclusterCount } from './layout.ts';

/*
 * An extended L2 entry is 128 bits: an entry as entries.ts has it, whose bit 0 is always 0, and a bitmap that has two
 * bits for each of the 32 subclusters of the cluster. It is handled as two halves, as the entry is.
 *
 *   at + 8    hi  zeros      bit n: subcluster n reads as zeros; it is not allocated then
 *   at + 12   lo  allocated  bit n: its bytes are in the host cluster, of which there is one then
 *                 neither    the backing answers, whether there is a host cluster or not
 *
 * A compressed cluster has no subclusters: both halves are 0.
 * Source: QEMU, docs/interop/qcow2, "Extended L2 Entries".
 */

export const extendedEntryBytes = 16;
export const allSubclusters = 0xffff_ffff;

export function zerosAt(view: DataView, at: number): number {
  return view.getUint32(at + 8);
}

export function allocatedAt(view: DataView, at: number): number {
  return view.getUint32(at + 12);
}

/** Whether the bytes of a subcluster are in its cluster. */
export function isThere(view: DataView, at: number, subcluster: number): boolean {
  return ((allocatedAt(view, at) >>> subcluster) & 1) !== 0;
}

export function setBitmap(view: DataView, at: number, zeros: number, allocated: number): void {
  view.setUint32(at + 8, zeros >>> 0);
  view.setUint32(at + 12, allocated >>> 0);
}

/** The bits from `first` up to, not with, `stop`. */
export function bitsBetween(first: number, stop: number): number {
  if (first >= stop) return 0;
  return ((allSubclusters >>> (subclusterCount - (stop - first))) << first) >>> 0;
}

/** How many bits are set in a row from bit `first` upwards. */
export function onesFrom(bits: number, first: number): number {
  if (first >= subclusterCount) return 0;
  const zeros = ~(bits >>> first);
  return zeros === 0 ? subclusterCount : 31 - Math.clz32(zeros & -zeros);
}

/** How many bits are set in a row downwards from the one below bit `stop`. */
export function onesBelow(bits: number, stop: number): number {
  return stop === 0 ? 0 : Math.clz32(~(bits << (subclusterCount - stop)));
}

/** Whether an entry has a standard host cluster. The first one of a data file has offset 0: COPIED tells it from none. */
export function hasCluster(view: DataView, at: number, hasDataFile: boolean): boolean {
  const hi = view.getUint32(at);
  if ((hi & compressedFlag) !== 0) return false;
  return hostOffsetOf(hi, view.getUint32(at + 4)) !== 0 || (hasDataFile && (hi & copiedFlag) !== 0);
}

/** What is wrong with the bitmap of an entry, if anything. */
export function bitmapProblem(view: DataView, at: number, hasDataFile: boolean): string | undefined {
  const zeros = zerosAt(view, at);
  const allocated = allocatedAt(view, at);
  if ((zeros & allocated) !== 0) return 'a subcluster is allocated and reads as zeros';
  if ((view.getUint32(at) & compressedFlag) !== 0)
    return (zeros | allocated) === 0 ? undefined : 'a compressed cluster has subclusters';
  if (allocated !== 0 && !hasCluster(view, at, hasDataFile))
    return 'subclusters are allocated without a cluster';
  return undefined;
}

/**
 * Whether a wrong bitmap can only mean one thing: that of a compressed cluster says nothing, and without a cluster there
 * is nothing allocated.
 */
export function isMendable(view: DataView, at: number, hasDataFile: boolean): boolean {
  return !hasCluster(view, at, hasDataFile);
}

/** Makes a wrong bitmap say what it can only mean. */
export function mendBitmap(view: DataView, at: number): void {
  setBitmap(view, at, (view.getUint32(at) & compressedFlag) !== 0 ? 0 : zerosAt(view, at), 0);
}

/** Throws `ERR_CORRUPT` when nobody can tell what an entry says. */
export function requireSoundEntry(
  view: DataView,
  at: number,
  { geometry, name: file, hasDataFile }: ImageFile,
): void {
  const { clusterBytes } = geometry;
  const index = at / extendedEntryBytes;
  const hi = view.getUint32(at);
  const lo = view.getUint32(at + 4);
  if ((hi & compressedFlag) === 0 && isMalformed(hi, lo, clusterBytes, 0))
    throw malformedEntry(file, 'l2_table.entry', hi, lo, clusterBytes, index);
  const problem = bitmapProblem(view, at, hasDataFile);
  if (problem !== undefined) throw corrupt(file, 'l2_table.subcluster_bitmap', problem, { index });
}
