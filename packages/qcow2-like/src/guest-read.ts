import type { Extent } from '@cowlab/core';

/** Fills `target` with the first bytes of an extent, for the few places where the driver itself moves guest data. */
export async function readBytesOf(extent: Extent, target: Uint8Array): Promise<void> {
  switch (extent.kind) {
    case 'data':
      return extent.storage.read(extent.hostOffset, target);
    case 'encoded':
      return extent.read(target);
    case 'zero':
      target.fill(0);
      return;
    case 'backing': {
      const inside = Math.min(target.length, Math.max(0, extent.source.size - extent.offset));
      target.fill(0, inside);
      if (inside > 0) await extent.source.read(extent.offset, target.subarray(0, inside));
    }
  }
}
