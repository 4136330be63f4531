import { CowlabError, crc32c, type Disk } from '@cowlab/core';
import type { Cell } from './lab.ts';
import { FILL_BYTES, heldOffset } from './lab.ts';
import { breathe } from './measure.ts';
import type { Profile } from './profiles.ts';
import { patternBytes } from './workload.ts';

/*
 * What a disk holds after all that was asked of it, and whether it does: numbers of a disk that lost a write are worth
 * nothing. Known from the workload alone: the bytes it was filled with, those that the deleted snapshots hold, the
 * requests of the overwrite passes, one over the other.
 */

interface Layer {
  readonly offset: number;
  readonly length: number;
  /** Repeated from the layer's beginning. */
  readonly pattern: Uint8Array;
}

/** Writes that all have the same bytes. */
export interface Requests {
  readonly offsets: readonly number[];
  readonly source: Uint8Array;
}

/** Bytes as `fill` writes them. */
function filled(offset: number, length: number): Layer {
  return { offset, length, pattern: patternBytes(offset + 1, FILL_BYTES) };
}

function copyLayer({ offset, length, pattern }: Layer, start: number, piece: Uint8Array): void {
  const end = Math.min(offset + length, start + piece.length);
  for (let at = Math.max(offset, start); at < end; ) {
    const within = (at - offset) % pattern.length;
    const part = Math.min(end - at, pattern.length - within);
    piece.set(pattern.subarray(within, within + part), at - start);
    at += part;
  }
}

/** The checksum (CRC-32C) of a disk that has what it should. Rejects with `ERR_CORRUPT`, naming the first piece that differs. */
export async function verifiedChecksum(
  disk: Disk,
  { subject, snapshots, held }: Cell,
  profile: Profile,
  passes: readonly Requests[],
): Promise<number> {
  const layers = [
    filled(0, disk.size),
    ...held.map((_, index) =>
      snapshots === 1 ? filled(0, 0) : filled(heldOffset(index, disk.size, profile), profile.heldBytes),
    ),
  ];
  const writes = passes.map(({ offsets, source }) => ({
    source,
    offsets: offsets.toSorted((a, b) => a - b),
    next: 0,
  }));
  const [expected, found] = [new Uint8Array(FILL_BYTES), new Uint8Array(FILL_BYTES)];
  let checksum = 0;
  for (let start = 0; start < disk.size; start += FILL_BYTES) {
    const length = Math.min(FILL_BYTES, disk.size - start);
    const [wanted, read] = [expected.subarray(0, length), found.subarray(0, length)];
    for (const layer of layers) copyLayer(layer, start, wanted);
    for (const pass of writes) {
      for (; pass.next < pass.offsets.length && pass.offsets[pass.next]! < start + length; pass.next += 1) {
        wanted.set(pass.source, pass.offsets[pass.next]! - start);
      }
    }
    await disk.read(start, read);
    if (Buffer.compare(wanted, read) !== 0) {
      const message = `bench: ${subject.name}, N=${snapshots}: the disk does not hold what was written, from ${start} on`;
      throw new CowlabError('ERR_CORRUPT', message, { file: subject.name, offset: start });
    }
    checksum = crc32c(read, checksum);
    if (start % (64 * FILL_BYTES) === 0) await breathe();
  }
  return checksum;
}
