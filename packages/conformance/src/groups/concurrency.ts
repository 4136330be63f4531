import assert from 'node:assert/strict';
import { DelayedFolder } from '../delayed-folder.ts';
import { assertSameBytes } from '../expect.ts';
import type { Lab } from '../lab.ts';
import { pattern } from '../random.ts';
import { hasSnapshots, type Scenario, type ScenarioGroup } from '../subject.ts';
import { contentsOf, type Twin } from '../twin.ts';

const sectorBytes = 512;

interface PendingWrite {
  readonly offset: number;
  readonly bytes: Uint8Array;
}

function delayed(lab: Lab): DelayedFolder {
  return new DelayedFolder(lab.folder, lab.seed);
}

/** Whether `sector` of the disk is what one of `candidates` puts there. */
function isOneOf(actual: Uint8Array, sector: number, candidates: readonly PendingWrite[]): boolean {
  const start = sector * sectorBytes;
  const found = actual.subarray(start, start + sectorBytes);
  return candidates.some(({ offset, bytes }) => {
    const inside = start >= offset && start + found.length <= offset + bytes.length;
    return (
      inside && Buffer.compare(found, bytes.subarray(start - offset, start - offset + found.length)) === 0
    );
  });
}

/** Fails unless every sector is wholly one of the writes to it, or what `before` had where none was made. */
function assertOneOrTheOther(actual: Uint8Array, before: Uint8Array, writes: readonly PendingWrite[]): void {
  for (let sector = 0; sector * sectorBytes < actual.length; sector++) {
    const start = sector * sectorBytes;
    const touching = writes.filter(
      ({ offset, bytes }) => offset < start + sectorBytes && offset + bytes.length > start,
    );
    const candidates = touching.length > 0 ? touching : [{ offset: 0, bytes: before }];
    assert.ok(isOneOf(actual, sector, candidates), `sector ${sector} is none of ${touching.length} writes`);
  }
}

function sectorWrites(lab: Lab, size: number, count: number): PendingWrite[] {
  const sectors = Math.floor(size / sectorBytes);
  return Array.from({ length: count }, (_, index) => {
    const longest = Math.min(sectors, Math.ceil((1.5 * lab.stride) / sectorBytes));
    const length = 1 + lab.random.below(longest);
    const first = lab.random.below(sectors - length + 1);
    return { offset: first * sectorBytes, bytes: pattern(1000 + index, length * sectorBytes) };
  });
}

/** Issues the writes at once, with something beside them, and takes over the result where it is legal. */
async function race(twin: Twin, writes: readonly PendingWrite[], beside: () => Promise<void>): Promise<void> {
  const { disk, model } = twin;
  const before = model.bytes.slice();
  const running = writes.map(async ({ offset, bytes }) => disk.write(offset, bytes));
  await Promise.all([...running, beside()]);
  const after = await contentsOf(disk);
  assertOneOrTheOther(after, before, writes);
  model.write(0, after);
}

const scenarios: readonly Scenario[] = [
  {
    name: 'overlapping writes: every sector is one or the other',
    async run(lab) {
      const twin = await lab.twin({ folder: delayed(lab) });
      for (let round = 0; round < 3; round++) {
        await race(twin, sectorWrites(lab, twin.size, 25), async () => undefined);
      }
      await twin.reopen();
      await twin.verify('after reopening');
    },
  },
  {
    name: 'a flush beside writes, and readers that see old or new sectors only',
    async run(lab) {
      const twin = await lab.twin({ folder: delayed(lab) });
      await twin.fill();
      const before = twin.model.bytes.slice();
      const writes = sectorWrites(lab, twin.size, 20);
      await race(twin, writes, async () => {
        for (let round = 0; round < 4; round++) {
          const seen = new Uint8Array(twin.size);
          await Promise.all([twin.disk.flush(), twin.disk.read(0, seen)]);
          assertOneOrTheOther(seen, before, [...writes, { offset: 0, bytes: before }]);
        }
      });
    },
  },
  {
    name: 'writes side by side in one unit all arrive, on an empty and on a full disk',
    async run(lab) {
      const twin = await lab.twin({ folder: delayed(lab) });
      const part = Math.floor((2 * lab.stride) / 40);
      for (let round = 0; round < 2; round++) {
        await Promise.all(
          Array.from({ length: 40 }, (_, index) => twin.write(lab.stride / 2 + index * part, part)),
        );
        await twin.verify('after the writes');
        await twin.fill();
      }
    },
  },
  {
    name: 'writes, zeroes and discards of separate units do not disturb each other',
    async run(lab) {
      const twin = await lab.twin({ folder: delayed(lab), strides: 12 });
      await twin.fill();
      const calls: Promise<void>[] = [];
      for (let index = 0; index < 12; index++) {
        const offset = index * lab.stride;
        if (index % 3 === 0) calls.push(twin.write(offset + 100, lab.stride - 200));
        else if (index % 3 === 1) calls.push(twin.discard(offset, lab.stride));
        else calls.push(twin.writeZeroes(offset + 10, lab.stride - 20));
      }
      calls.push(Promise.resolve(twin.disk.flush()));
      await Promise.all(calls);
      await twin.verify('after all of them');
    },
  },
  {
    name: 'a close waits for what was issued before it',
    async run(lab) {
      const twin = await lab.twin({ folder: delayed(lab) });
      const writes = [0, 1, 2, 3].map((index) => twin.write(index * lab.stride + 9, lab.stride / 2));
      const closed = twin.disk.close();
      await Promise.all([...writes, closed]);
      twin.disk = await lab.open({ folder: lab.folder });
      await twin.verify('after the close');
    },
  },
  {
    name: 'a snapshot among writes holds every write that was done, and no half of a sector',
    when: hasSnapshots,
    async run(lab) {
      const twin = await lab.twin({ folder: delayed(lab) });
      await twin.fill();
      const before = twin.model.bytes.slice();
      const writes = sectorWrites(lab, twin.size, 12);
      const { disk } = twin;
      await race(twin, writes, async () => {
        await disk.snapshots.create('among');
      });
      const snapshot = await disk.snapshots.open('among');
      const kept = await contentsOf(snapshot);
      await snapshot.close();
      assertOneOrTheOther(kept, before, [...writes, { offset: 0, bytes: before }]);
      await disk.snapshots.delete('among');
    },
  },
  {
    name: 'snapshots under way together are made one after the other',
    when: hasSnapshots,
    async run(lab) {
      const twin = await lab.twin({ folder: delayed(lab) });
      await twin.fill();
      await Promise.all(['a', 'b', 'c'].map((name) => twin.createSnapshot(name)));
      await twin.write(0, lab.stride);
      const opened = twin.disk.snapshots.open('a');
      await Promise.all([twin.deleteSnapshot('b'), twin.write(lab.stride, 100)]);
      const disk = await opened;
      assertSameBytes(await contentsOf(disk), twin.model.snapshot('a'), 'snapshot a');
      await disk.close();
      await twin.verifySnapshots();
    },
  },
  {
    name: 'an opened snapshot is read while others are made, applied and deleted, and the front is written',
    when: (capabilities) => hasSnapshots(capabilities) && capabilities.maxSnapshots >= 4,
    async run(lab) {
      const twin = await lab.twin({ folder: delayed(lab) });
      for (const name of ['a', 'b', 'c']) {
        await twin.write(lab.random.below(4) * lab.stride + 300, 2 * lab.stride);
        await twin.createSnapshot(name);
      }
      const opened = await twin.disk.snapshots.open('b');
      const changed = new AbortController();
      const reading = (async () => {
        while (!changed.signal.aborted) {
          assertSameBytes(await contentsOf(opened), twin.model.snapshot('b'), 'snapshot b');
        }
      })();
      const changing = (async () => {
        await twin.createSnapshot('d');
        await twin.write(lab.stride, lab.stride);
        await twin.deleteSnapshot('c');
        await twin.deleteSnapshot('a');
        await twin.applySnapshot('d');
        await twin.write(0, 3 * lab.stride);
        await twin.deleteSnapshot('d');
      })().finally(() => changed.abort());
      await Promise.all([reading, changing]);
      await opened.close();
      await twin.verify('at last');
    },
  },
];

export const concurrency: ScenarioGroup = { name: 'concurrency', scenarios };
