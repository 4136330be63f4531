import type { Disk } from '@cowlab/core';
import { RefusedRequest } from './failures.ts';
import { WireError } from './protocol.ts';

/*
 * Commands that have no call of their own in Disk. They go over their range in pieces, and stop between two of them when
 * the connection is to end: a client may ask for terabytes in one request.
 */

const PIECE_BYTES = 1024 * 1024;
const ZEROS: Uint8Array = new Uint8Array(PIECE_BYTES);
/** Where cached bytes are read to. Nobody looks at it, so all may write to it at once. */
const NOWHERE: Uint8Array = new Uint8Array(PIECE_BYTES);

/** Zeros as data, so that their space stays allocated (NO_HOLE). */
export async function writeZeros(
  disk: Disk,
  offset: number,
  length: number,
  isEnding: () => boolean,
): Promise<void> {
  for (let done = 0; done < length; done += PIECE_BYTES) {
    await disk.write(offset + done, ZEROS.subarray(0, Math.min(PIECE_BYTES, length - done)));
    await aTurn(isEnding);
  }
}

/** Reads the range, so that what is slow to reach is near: in the page cache, or, with copy-on-read, in the image. */
export async function cacheRange(
  disk: Disk,
  offset: number,
  length: number,
  isEnding: () => boolean,
): Promise<void> {
  for (let done = 0; done < length; done += PIECE_BYTES) {
    await disk.read(offset + done, NOWHERE.subarray(0, Math.min(PIECE_BYTES, length - done)));
    await aTurn(isEnding);
  }
}

/**
 * Whether zeroing the range may take as long as writing zeros to it. Parts of units are written; and what lies in a raw
 * file is where the file system has no call for it.
 */
export function mayBeSlow(disk: Disk, offset: number, length: number): boolean {
  const end = offset + length;
  const whole = offset % disk.unitBytes === 0 && (end % disk.unitBytes === 0 || end === disk.size);
  return !whole || disk.format === 'raw';
}

/** Others have theirs. */
async function aTurn(isEnding: () => boolean): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve));
  if (isEnding()) throw new RefusedRequest(WireError.shutdown, 'the connection ends');
}
