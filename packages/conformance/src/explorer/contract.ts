import assert from 'node:assert/strict';

/*
 * What a guest may count on, made from what it did. `at` is the position of the crash folder then: an event at 7
 * that promises something holds for a crash at 7; one that begins something holds for crashes after 7.
 */

const sectorBytes = 512;

export type GuestEvent = { readonly at: number } & (
  | { readonly kind: 'issued' | 'flushed' | 'applied' | 'closed'; readonly disk: Uint8Array }
  /** The disk becomes `disk` as a whole, or stays. */
  | { readonly kind: 'replacing'; readonly disk: Uint8Array }
  | { readonly kind: 'resizing' | 'resized'; readonly size: number }
  | { readonly kind: 'creating' | 'created'; readonly name: string; readonly disk: Uint8Array }
  | { readonly kind: 'deleting' | 'deleted'; readonly name: string }
  | { readonly kind: 'renaming' | 'renamed'; readonly name: string; readonly newName: string }
  | { readonly kind: 'releasing' | 'released' }
);

/** A snapshot that is there, or may be, under one of the names. */
interface ExpectedSnapshot {
  readonly names: readonly string[];
  readonly disk: Uint8Array;
  readonly required: boolean;
}

export interface Contract {
  /** Of equal contracts of one history. */
  readonly key: string;
  /** One of these holds: each sector is as in one of its disks, which have one size. */
  readonly alternatives: readonly (readonly Uint8Array[])[];
  readonly snapshots: readonly ExpectedSnapshot[];
  /** Whether the image names a backing. */
  readonly backing: 'named' | 'either' | 'released';
}

/** The same disk, longer or shorter. */
export function resized(disk: Uint8Array, size: number): Uint8Array {
  const copy = new Uint8Array(size);
  copy.set(disk.subarray(0, size));
  return copy;
}

const promises = new Set<GuestEvent['kind']>([
  'flushed',
  'applied',
  'closed',
  'resized',
  'created',
  'deleted',
  'renamed',
  'released',
]);

/** Whether the event counts for a crash at `position`. */
function counts({ kind, at }: GuestEvent, position: number): boolean {
  return promises.has(kind) ? at <= position : at < position;
}

interface Draft {
  alternatives: Uint8Array[][];
  snapshots: ExpectedSnapshot[];
  backing: Contract['backing'];
}

function withSnapshot(
  draft: Draft,
  name: string,
  change: (snapshot: ExpectedSnapshot) => ExpectedSnapshot | undefined,
): void {
  draft.snapshots = draft.snapshots.flatMap((snapshot) => {
    if (!snapshot.names.includes(name)) return [snapshot];
    return change(snapshot) ?? [];
  });
}

/** What one more event makes of what may be there. */
function advance(draft: Draft, event: GuestEvent): void {
  switch (event.kind) {
    case 'issued':
      for (const disks of draft.alternatives) disks.push(event.disk);
      return;
    case 'flushed':
    case 'applied':
    case 'closed':
      draft.alternatives = [[event.disk]];
      return;
    case 'replacing':
      draft.alternatives.push([event.disk]);
      return;
    case 'resizing':
      draft.alternatives.push(draft.alternatives[0]!.map((disk) => resized(disk, event.size)));
      return;
    case 'resized':
      draft.alternatives = draft.alternatives.slice(1);
      return;
    case 'creating':
      draft.snapshots.push({ names: [event.name], disk: event.disk, required: false });
      return;
    case 'created':
      withSnapshot(draft, event.name, (snapshot) => ({ ...snapshot, required: true }));
      return;
    case 'deleting':
      withSnapshot(draft, event.name, (snapshot) => ({ ...snapshot, required: false }));
      return;
    case 'deleted':
      withSnapshot(draft, event.name, () => undefined);
      return;
    case 'renaming':
      withSnapshot(draft, event.name, (snapshot) => ({ ...snapshot, names: [event.name, event.newName] }));
      return;
    case 'renamed':
      withSnapshot(draft, event.name, (snapshot) => ({ ...snapshot, names: [event.newName] }));
      return;
    case 'releasing':
      draft.backing = 'either';
      return;
    case 'released':
      draft.backing = 'released';
  }
}

/** What holds for a crash at `position`. The first event is a flush. */
export function contractAt(events: readonly GuestEvent[], position: number): Contract {
  const draft: Draft = { alternatives: [], snapshots: [], backing: 'named' };
  const counted = events
    .map((event, index) => ({ event, index }))
    .filter(({ event }) => counts(event, position));
  for (const { event } of counted) advance(draft, event);
  return { ...draft, key: counted.map(({ index }) => index).join() };
}

/** Whether something is promised at `position` that was not before. */
export function promisesAt(events: readonly GuestEvent[], position: number): boolean {
  return events.some(({ kind, at }) => at === position && promises.has(kind));
}

const isEqual = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;

/** The first sector that is as in none of the disks; undefined when there is none. */
function strangeSector(found: Uint8Array, disks: readonly Uint8Array[]): number | undefined {
  if (disks.some((disk) => isEqual(found, disk))) return undefined;
  for (let at = 0; at < found.length; at += sectorBytes) {
    const sector = found.subarray(at, at + sectorBytes);
    if (!disks.some((disk) => isEqual(sector, disk.subarray(at, at + sectorBytes)))) return at;
  }
  return undefined;
}

export function assertDisk(found: Uint8Array, { alternatives }: Contract): void {
  const sized = alternatives.filter((disks) => disks[0]?.length === found.length);
  assert.ok(sized.length > 0, `the disk has ${found.length} bytes, which it never had`);
  const strange = sized.map((disks) => strangeSector(found, disks));
  if (strange.includes(undefined)) return;
  assert.fail(`the sector at ${strange[0]} was never there`);
}

/** The expectation that a snapshot of this name and contents meets. */
export function assertSnapshots(found: ReadonlyMap<string, Uint8Array>, { snapshots }: Contract): void {
  const met = new Set<ExpectedSnapshot>();
  for (const [name, disk] of found) {
    const expected = snapshots.find(({ names }) => names.includes(name));
    assert.ok(expected !== undefined, `snapshot ${name} is back, or never was`);
    assert.ok(!met.has(expected), `snapshot ${name} is there under two names`);
    met.add(expected);
    const strange = strangeSector(disk, [expected.disk]);
    const isWhole = disk.length === expected.disk.length && strange === undefined;
    assert.ok(
      isWhole,
      `snapshot ${name} has changed${strange === undefined ? ' its size' : ` at ${strange}`}`,
    );
  }
  for (const expected of snapshots) {
    assert.ok(!expected.required || met.has(expected), `snapshot ${expected.names.join(' or ')} is lost`);
  }
}
