import { readExtent } from '@cowlab/core';
import type { Extents } from './extents.ts';
import type { Reservations } from './reservations.ts';

/** What the state as it is has from `offset` on. */
async function readRange(extents: Extents, offset: number, target: Uint8Array): Promise<void> {
  for (let done = 0; done < target.length; ) {
    const extent = await extents.at(offset + done, target.length - done);
    await readExtent(extent, target.subarray(done, done + extent.length));
    done += extent.length;
  }
}

/**
 * Writes the driver's own bytes, of one cluster at most, where the image has no place for them that it owns; what has
 * to be there around them comes along.
 */
export async function writeAround(
  writes: Reservations,
  extents: Extents,
  offset: number,
  bytes: Uint8Array,
): Promise<void> {
  const placement = await writes.reserve(offset, bytes.length);
  const { storage, hostOffset, head, length, tail } = placement;
  try {
    const whole = new Uint8Array(head + length + tail);
    await readRange(extents, offset - head, whole.subarray(0, head));
    whole.set(bytes, head);
    await readRange(extents, offset + length, whole.subarray(head + length));
    await storage.write(hostOffset - head, whole);
  } catch (error) {
    writes.abort(placement);
    throw error;
  }
  await writes.commit(placement);
}
