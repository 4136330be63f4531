import { corrupt, type CowlabError, type ErrorData } from '@cowlab/core';
import { hostOffsetOf } from './entries.ts';

/*
 * Corruption that marks an image. Most damage is answered with an error and nothing else. Some shows that the
 * bookkeeping cannot be trusted, so that the next write could destroy what is still whole: a write that would hit
 * metadata, an entry that points between clusters, a ZERO entry in version 2, a header that is given away as free. These
 * are the cases in which QEMU sets the corrupt bit (qcow2_signal_corruption, fatal). An image that is open for writing
 * sets it too, and takes no change from then on (Metadata.condemn).
 */

const fatalErrors = new WeakSet<CowlabError>();

/** `ERR_CORRUPT` that marks the image when it is open for writing. */
export function fatalCorrupt(
  file: string,
  field: string,
  problem: string,
  data: ErrorData = {},
): CowlabError {
  const error = corrupt(file, field, problem, data);
  fatalErrors.add(error);
  return error;
}

export function isFatal(error: unknown): error is CowlabError {
  return fatalErrors.has(error as CowlabError);
}

/** What is wrong with a malformed entry of an L1, L2 or refcount table: it points between clusters, or has reserved bits. */
export function malformedEntry(
  file: string,
  field: string,
  hi: number,
  lo: number,
  clusterBytes: number,
  index: number,
): CowlabError {
  const offset = hostOffsetOf(hi, lo);
  if (offset % clusterBytes === 0) return corrupt(file, field, 'reserved bits are set', { index });
  return fatalCorrupt(file, field, `${offset} is not a multiple of ${clusterBytes}`, { index, offset });
}
