import type { ResolvedExtent } from './driver.ts';

/* What `Disk.extents` tells: the extents of the image, as few and as empty as they can be told. */

/** A run of guest bytes in the answer of {@link Disk.extents}. */
export interface DiskExtent {
  readonly offset: number;
  readonly length: number;
  readonly kind: 'data' | 'zero' | 'encoded';
  /** Which image of the chain answers: 0 this one, 1 its backing, … */
  readonly depth: number;
  /** Whether some image of the chain has these bytes, or says that they are zeros. */
  readonly allocated: boolean;
}

/** The extents of a range, in order, without gaps, neighbours of one kind and depth joined. */
export async function* joinedExtents(
  offset: number,
  length: number,
  next: (offset: number, length: number) => Promise<ResolvedExtent>,
): AsyncGenerator<DiskExtent> {
  let current: DiskExtent | undefined;
  for (let at = offset; at < offset + length; ) {
    const { kind, length: part, depth, allocated } = await next(at, offset + length - at);
    if (current?.kind === kind && current.depth === depth && current.allocated === allocated) {
      current = { ...current, length: current.length + part };
    } else {
      if (current !== undefined) yield current;
      current = { offset: at, length: part, kind, depth, allocated };
    }
    at += part;
  }
  if (current !== undefined) yield current;
}

/** An extent that lies in a hole of its storage is one of zeros. */
export async function holesAsZeros(extent: ResolvedExtent): Promise<ResolvedExtent> {
  if (extent.storage === undefined || extent.hostOffset === undefined) return extent;
  const status = await extent.storage.status(extent.hostOffset, extent.length);
  return status.data
    ? { ...extent, length: status.length }
    : { kind: 'zero', length: status.length, depth: extent.depth, allocated: extent.allocated };
}
