import { corrupt, type CowlabError, unsupported } from '@cowlab/core';
import { fatalCorrupt } from './corruption.ts';

/*
 * Data in a file of their own. The image keeps all metadata; guest clusters are in the external data file, each at the
 * offset that it has on the disk, so nothing is allocated there and nothing counted: COPIED is always set, and internal
 * snapshots and compressed clusters cannot be.
 *
 *   L2 entry                       in the data file, at the guest offset
 *   none, ZERO without a cluster   anything; the entry says what is read (raw: zeros)
 *   ZERO with its cluster          anything (raw: zeros)
 *   COPIED, its own offset         the guest's bytes. The first cluster has offset 0, so only COPIED tells it from none
 *
 * With the raw bit the data file alone is the disk, at every moment. So a new raw image has all its entries, and zeros
 * are written into the file and change no entry; what another program left unmapped is mapped before it is written.
 */

export const incompatibleDataFile = 4n;
export const autoclearRawData = 2n;
/** "DATA". */
export const extensionDataFile = 0x44415441;

export interface DataFile {
  readonly name: string;
  /** The data file reads as the disk does, without the image: what the raw external data bit says. */
  readonly raw: boolean;
}

interface FeatureBits {
  readonly incompatible: bigint;
  readonly autoclear: bigint;
}

/**
 * What header and extension say of a data file. The raw bit of an image with a backing says what cannot be, and is not
 * believed: an open for writing clears it, as every autoclear bit that is not kept true. Throws as `decodeHeader`.
 */
export function decodeDataFile(
  { incompatible, autoclear }: FeatureBits,
  { name, hasBacking }: { readonly name: string | undefined; readonly hasBacking: boolean },
  file: string,
): { readonly dataFile?: DataFile } {
  const isRaw = (autoclear & autoclearRawData) !== 0n;
  if ((incompatible & incompatibleDataFile) === 0n) {
    if (!isRaw) return {};
    throw corrupt(file, 'header.autoclear_features', 'raw external data without an external data file');
  }
  if (name === undefined || name === '') {
    throw unsupported(file, 'header extension.data_file', 'the external data file has no name');
  }
  return { dataFile: { name, raw: isRaw && !hasBacking } };
}

/** Throws `ERR_CORRUPT` unless a cluster in the data file lies where the disk has it. */
export function requireOwnPlace(file: string, hostOffset: number, guestOffset: number): void {
  if (hostOffset === guestOffset) return;
  const problem = `the cluster of guest offset ${guestOffset} lies at ${hostOffset} in the data file`;
  throw fatalCorrupt(file, 'l2_table.entry', problem, { offset: hostOffset });
}

export function compressedElsewhere(file: string): CowlabError {
  return fatalCorrupt(file, 'l2_table.entry', 'a compressed cluster with an external data file');
}
