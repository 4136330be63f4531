import { describe, expect, it } from 'vitest';
import { judgeBars } from '../src/bars.ts';
import type { BarRow, Results } from '../src/schema.ts';
import { idealResults, noCalls } from './samples.ts';

const KIB = 1024;
const MIB = 1024 * KIB;

/** Every bar is met, until a test changes one number. */
function sample(): Results {
  const results = idealResults();
  for (const row of results.overwrites) {
    row.calls = noCalls();
    row.calls.flushes = 2 * Math.ceil(row.operations / row.flushEvery);
    row.calls.purposes.data.writes = row.operations;
    row.calls.purposes.journal.writes = row.operations / row.flushEvery;
  }
  for (const row of results.histories) row.randomReads.after = row.randomReads.before;
  return results;
}

function only<T extends { format: string; snapshots: number }>(rows: T[], snapshots: number): T {
  return rows.find((row) => row.format === 'fvd' && row.snapshots === snapshots)!;
}

function firstPass(results: Results): Results['overwrites'][number] {
  return only(
    results.overwrites.filter(({ pass }) => pass === 'first'),
    1000,
  );
}

function operation(results: Results, name: string, snapshots: number): Results['snapshotOperations'][number] {
  return only(
    results.snapshotOperations.filter((row) => row.operation === name && row.imageBytes === 2 ** 40),
    snapshots,
  );
}

const missed = (results: Results): BarRow[] => judgeBars(results).filter(({ met }) => !met);

it('all bars are met by measurements that meet them', () => {
  expect(missed(sample())).toEqual([]);
  expect(judgeBars(sample()).length).toBeGreaterThan(20);
});

it('what FVD is without a part of it is no other format to be better than', () => {
  const results = sample();
  const [own] = results.histories;
  results.histories.push({ ...own!, format: 'fvd-chunk-copy', milliseconds: 1 });
  expect(missed(results)).toEqual([]);
});

describe.each<[string, string, (results: Results) => void]>([
  [
    'written, a snapshot',
    'a history that writes more than the better of the others',
    (results) => {
      results.histories[0]!.calls.purposes.mapping.writtenBytes = 1;
    },
  ],
  [
    'storage flushes, a snapshot',
    'a history with a flush more',
    (results) => {
      results.histories[0]!.calls.flushes = 1;
    },
  ],
  [
    'time, a snapshot',
    'a history that takes longer',
    (results) => {
      results.histories[0]!.milliseconds *= 1.01;
    },
  ],
  [
    'writes for one, without journal',
    'a first pass that writes more than the guest',
    (results) => {
      firstPass(results).calls.purposes.mapping.writes = 51;
    },
  ],
  [
    'reads for a write',
    'a first pass that reads once',
    (results) => {
      firstPass(results).calls.purposes.refcount.reads = 1;
    },
  ],
  [
    'flushes for one',
    'a first pass with a flush more',
    (results) => {
      firstPass(results).calls.flushes += 1;
    },
  ],
  [
    'time, of N=0',
    'a first pass that takes a fifth longer',
    (results) => {
      firstPass(results).roundMicros = firstPass(results).roundMicros.map((micros) => micros * 1.2);
    },
  ],
  [
    'random reads: speed, of N=0',
    'reads that a history has slowed down by an eighth',
    (results) => {
      results.histories[0]!.randomReads.after = [2.25, 2.25];
    },
  ],
  [
    'open',
    'an opening that takes longer than a tenth of a second at 1 TiB',
    (results) => {
      for (const row of results.largeImages) row.openMs = 101;
    },
  ],
  [
    'apply',
    'an apply that does',
    (results) => {
      for (const count of [1, 100]) operation(results, 'apply', count).medianMs = 101;
    },
  ],
  [
    'bytes of the worst operation',
    'a delete that moves a fifth more with many snapshots',
    (results) => {
      operation(results, 'delete', 100).calls.bytes *= 1.2;
    },
  ],
  [
    'time of the worst operation',
    'a create that takes twice as long with many snapshots',
    (results) => {
      operation(results, 'create', 100).medianMs *= 2;
    },
  ],
  [
    'on the host, all snapshots',
    'idle snapshots of 101 MB',
    (results) => {
      results.idleSnapshots[0]!.grownBytes = 101e6;
    },
  ],
  [
    'metadata in memory, nothing split',
    'metadata of 6 MiB',
    (results) => {
      results.idleSnapshots[0]!.residentMetadataBytes = 6 * MIB;
    },
  ],
  [
    'refcounts read at open',
    'refcounts that take 21 ms',
    (results) => {
      only(results.largeImages, 100).refcountScanMs = 21;
    },
  ],
  [
    'each of two bitmaps, a TiB of file',
    'bitmaps of an eighth more',
    (results) => {
      only(results.largeImages, 100).counters.bitmapBytes = 144 * KIB;
    },
  ],
  [
    'process, more than N=0',
    'a process that is 3 MiB larger',
    (results) => {
      only(results.largeImages, 100).rssBytes = [73 * MIB];
    },
  ],
])('the bar "%s"', (quantity, what, damage) => {
  it(`is not met by ${what}, and no other bar says so`, () => {
    const results = sample();
    damage(results);
    expect(missed(results).map((row) => row.quantity)).toEqual([quantity]);
  });
});

it('a larger image may take as many times longer as it is larger', () => {
  const results = sample();
  const larger = results.largeImages
    .filter(({ format }) => format === 'fvd')
    .map((row) => {
      const opening = { ...row.opening, bytes: 16 * row.opening.bytes };
      return { ...row, opening, imageBytes: 16 * row.imageBytes, openMs: 16 * row.openMs };
    });
  results.largeImages.push(...larger);
  expect(missed(results)).toEqual([]);
  for (const row of larger) row.opening.bytes *= 2;
  expect(missed(results).map(({ subject }) => subject)).toEqual(['16 TiB, N=100, each byte, of 1 TiB']);
});

it('a run without FVD has no bars', () => {
  const results = sample();
  const others = <T extends { format: string }>(rows: T[]): T[] =>
    rows.filter(({ format }) => format !== 'fvd');
  const { overwrites, histories, largeImages, snapshotOperations, idleSnapshots } = results;
  expect(
    judgeBars({
      overwrites: others(overwrites),
      histories: others(histories),
      largeImages: others(largeImages),
      snapshotOperations: others(snapshotOperations),
      idleSnapshots: others(idleSnapshots),
    }),
  ).toEqual([]);
});
