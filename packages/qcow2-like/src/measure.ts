import { CowlabError, countUnits, type MeasureRequest, type Measurement, roundUp } from '@cowlab/core';
import { type Geometry, maxL1Bytes } from './layout.ts';

/*
 * How large a new image gets: the header, all L2 tables that the disk's size can need, the L1 table, the data, and the
 * counts of all of these and of themselves. Tables are counted in full, also for an image that will use few; so the
 * required size is an upper bound, and the same as QEMU's.
 */

export async function measureImage(
  { clusterBytes, l2EntryBytes, refcountsPerBlock }: Geometry,
  { size, options, runs }: MeasureRequest,
): Promise<Measurement> {
  const dataBytes = roundUp(size, clusterBytes);
  const dataClusters = dataBytes / clusterBytes;
  const l2Clusters = Math.ceil((dataClusters * l2EntryBytes) / clusterBytes);
  if (l2Clusters * 8 > maxL1Bytes) {
    const problem = `the L1 table would be larger than ${maxL1Bytes} bytes; larger clusters allow larger disks`;
    throw new CowlabError('ERR_TOO_LARGE', `size: ${problem}`, { field: 'size', value: size });
  }
  const l1Clusters = Math.ceil((l2Clusters * 8) / clusterBytes);
  const isElsewhere = options['data_file'] !== undefined;
  const counted = 1 + l2Clusters + l1Clusters + (isElsewhere ? 0 : dataClusters);
  const total = (counted + refcountClusters(counted, clusterBytes, refcountsPerBlock)) * clusterBytes;
  // A data file is as long as the disk from the beginning.
  if (isElsewhere) return { requiredBytes: total + size, fullyAllocatedBytes: total + size };
  const isFull = options['preallocation'] === 'falloc' || options['preallocation'] === 'full';
  const written = isFull ? dataClusters : await countUnits(runs, clusterBytes);
  return {
    requiredBytes: total - (dataClusters - written) * clusterBytes,
    fullyAllocatedBytes: total,
  };
}

/** Clusters of refcount blocks and of the table, which count themselves, too. */
function refcountClusters(counted: number, clusterBytes: number, perBlock: number): number {
  let clusters = 0;
  for (;;) {
    const blocks = Math.ceil((counted + clusters) / perBlock);
    const needed = blocks + Math.ceil((blocks * 8) / clusterBytes);
    if (needed === clusters) return clusters;
    clusters = needed;
  }
}
