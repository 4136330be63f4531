import assert from 'node:assert/strict';

const sectorBytes = 512;

/** What the guest may count on, in the order in which it came to; `at` is a position of the crash folder. */
export type GuestEvent = { readonly at: number } & (
  | { readonly kind: 'issued' | 'flushed'; readonly disk: Uint8Array }
  | { readonly kind: 'creating' | 'created'; readonly name: string; readonly disk: Uint8Array }
  | { readonly kind: 'deleting' | 'deleted'; readonly name: string }
);

/** The disks of which a sector may be after a crash at `position`. */
export function disksAt(events: readonly GuestEvent[], position: number): Uint8Array[] {
  let disks: Uint8Array[] = [];
  for (const event of events) {
    if (event.kind === 'flushed' && event.at <= position) disks = [event.disk];
    else if (event.kind === 'issued' && event.at < position) disks.push(event.disk);
  }
  return disks;
}

/** Each sector is what one of the disks has there. */
export function assertOldOrNew(found: Uint8Array, disks: readonly Uint8Array[], what: string): void {
  for (let at = 0; at < found.length; at += sectorBytes) {
    const sector = found.subarray(at, at + sectorBytes);
    const isKnown = disks.some((disk) => Buffer.compare(sector, disk.subarray(at, at + sectorBytes)) === 0);
    assert.ok(isKnown, `${what}: the sector at ${at} was never there`);
  }
}
