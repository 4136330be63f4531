import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import {
  type BenchProgress,
  formatNames,
  parseResults,
  report,
  type Results,
  runBench,
} from '../src/index.ts';
import { countedOf, sameCounts } from '../src/baseline.ts';
import { scratch, tiny } from './lab.ts';

const at = scratch();
const cells = [
  'raw 0',
  ...formatNames.flatMap((format) => tiny.snapshotCounts.map((count) => `${format} ${count}`)),
];

const largeBytes = tiny.large[0]!.imageBytes;

/** The run that the tests below look at: the whole benchmark, every format. */
let results: Results;
const progress: BenchProgress[] = [];

beforeAll(async () => {
  await mkdir(at('images'));
  vi.stubEnv('TMPDIR', at('images'));
  results = await runBench({
    profile: tiny,
    out: at('new/out'),
    seed: 7,
    onProgress: (each) => progress.push(each),
  });
  vi.unstubAllEnvs();
}, 120_000);

function cellsOf(rows: readonly { readonly format: string; readonly snapshots: number }[]): string[] {
  return rows.map(({ format, snapshots }) => `${format} ${snapshots}`);
}

function row<T extends { format: string; snapshots: number }>(
  rows: T[],
  format: string,
  snapshots: number,
): T {
  const found = rows.find((each) => each.format === format && each.snapshots === snapshots);
  if (found === undefined) throw new Error(`no row of ${format} at N=${snapshots}`);
  return found;
}

describe('a run', () => {
  it('leaves results.json, which its schema accepts', async () => {
    const parsed = parseResults(JSON.parse(await readFile(at('new/out/results.json'), 'utf8')));
    expect(parsed).toEqual(results);
    expect(parsed).toMatchObject({ seed: 7, profile: { name: 'tiny' }, formats: formatNames });
  });

  it('says where it took place', () => {
    const { environment } = results;
    expect(environment).toMatchObject({
      node: process.version,
      platform: process.platform,
      arch: process.arch,
    });
    expect(environment.fileSystem).toMatch(/^[\w. ]+$/);
  });

  it('judges every format on every goal', () => {
    expect(results.goals.map(({ goal, format }) => `${goal} ${format}`)).toEqual(
      ['G1', 'G2', 'G3', 'G4', 'G5', 'G6'].flatMap((goal) =>
        formatNames.map((format) => `${goal} ${format}`),
      ),
    );
    expect(report(results)).toContain('G6 deleting a snapshot is fast');
  });

  it('measures every format at every N, and raw', () => {
    expect(cellsOf(results.reads)).toEqual(cells);
    expect(cellsOf(results.opens)).toEqual(cells);
    expect(cellsOf(results.sessions)).toEqual(cells);
    for (const pass of ['first', 'steady']) {
      expect(cellsOf(results.overwrites.filter((each) => each.pass === pass))).toEqual(cells);
    }
    expect(
      results.allocations.filter(({ variant }) => variant === 'as is').map(({ format }) => format),
    ).toEqual(['raw', ...formatNames]);
    expect(results.histories.map(({ format, snapshots }) => [format, snapshots])).toEqual(
      formatNames.map((format) => [format, tiny.historyRounds]),
    );
  });

  it('reads every aged disk beside one without a history, in paired rounds', () => {
    for (const { randomReads, sequentialReads } of results.histories) {
      for (const { before, after, callsAfter } of [randomReads, sequentialReads]) {
        expect(after.length).toBe(before.length);
        expect(after.length).toBeGreaterThan(0);
        expect(callsAfter).toBeGreaterThanOrEqual(1);
      }
    }
  });

  it('finds on every disk of one N the same bytes, those that the workload wrote', () => {
    for (const snapshots of tiny.snapshotCounts) {
      const sums = results.sessions
        .filter((each) => each.snapshots === snapshots)
        .map((each) => each.contentsCrc32c);
      expect(sums).toHaveLength(formatNames.length + (snapshots === 0 ? 1 : 0));
      expect(new Set(sums).size).toBe(1);
    }
  });

  it('asks every cell for the same number of requests', () => {
    for (const { operations } of results.reads) expect(operations).toBe(tiny.readRounds * tiny.readBatch);
    for (const { operations } of results.overwrites)
      expect(operations).toBe(tiny.overwriteRounds * tiny.flushEvery);
  });

  it('times creates at every N and deletes where there is something to delete, and more on the large image', () => {
    const small = results.snapshotOperations.filter(({ imageBytes }) => imageBytes === tiny.imageBytes);
    const large = results.snapshotOperations.filter(({ imageBytes }) => imageBytes === largeBytes);
    const named = (operation: string) => small.filter((each) => each.operation === operation);
    expect(cellsOf(named('create'))).toEqual(cells.slice(1));
    expect(cellsOf(named('delete'))).toEqual(cells.slice(1).filter((cell) => !cell.endsWith(' 0')));
    expect(large.map(({ operation, format, snapshots }) => `${operation} ${format} ${snapshots}`)).toEqual(
      formatNames.flatMap((format) => [
        `create ${format} 0`,
        ...[1, 4].flatMap((count) =>
          ['create', 'apply', 'delete'].map((operation) => `${operation} ${format} ${count}`),
        ),
      ]),
    );
    for (const { samplesMs, medianMs } of results.snapshotOperations) {
      expect(samplesMs.length).toBeGreaterThan(0);
      expect(medianMs).toBeGreaterThanOrEqual(samplesMs[0]!);
    }
  });

  it('counts what every snapshot operation and every opening asks of the storages', () => {
    for (const { calls } of results.snapshotOperations) expect(calls.calls).toBeGreaterThan(0);
    for (const { opening, openSamplesMs } of results.largeImages) {
      expect(opening.purposes.header.reads).toBeGreaterThan(0);
      expect(openSamplesMs).toHaveLength(tiny.large[0]!.iterations);
    }
    // FVD reads counts when there are snapshots, and times that; it has none before.
    for (const { snapshots, refcountScanMs, opening } of results.largeImages.filter(
      ({ format }) => format === 'fvd',
    )) {
      expect([opening.purposes.refcount.reads > 0, refcountScanMs > 0]).toEqual([
        snapshots > 0,
        snapshots > 0,
      ]);
    }
  });

  it('takes idle snapshots of every format, and says what they take', () => {
    expect(cellsOf(results.idleSnapshots)).toEqual(formatNames.map((format) => `${format} 3`));
    for (const { grownBytes } of results.idleSnapshots) expect(grownBytes).toBeGreaterThan(0);
  });

  it('writes files that grow as a first pass does, a flush a round and one more where it is noted', () => {
    const rounds = tiny.overwriteRounds;
    expect(results.growths.map(({ pattern, operations, flushes }) => [pattern, operations, flushes])).toEqual(
      [
        ['in place', rounds * tiny.flushEvery, rounds],
        ['appended', rounds * tiny.flushEvery, rounds],
        ['recorded', rounds * tiny.flushEvery, 2 * rounds],
      ],
    );
  });

  it('says what a power loss leaves of each format', () => {
    expect(results.powerLosses).toEqual([
      { format: 'fvd', leaves: 'clean', repairable: true },
      { format: 'qcow2', leaves: 'leaks', repairable: true },
      { format: 'vmdk', leaves: 'leaks', repairable: false },
    ]);
  });

  it('copies a base into every format that can have it, and names the others', () => {
    const copied = results.baseCopies.map(({ format, method }) => `${format} ${method}`);
    const able = ['fvd', 'qcow2'];
    expect(copied).toEqual([
      'raw file copy',
      ...able.flatMap((format) => [`${format} populate`, `${format} prefetch`]),
    ]);
    for (const { milliseconds } of results.baseCopies) expect(milliseconds).toHaveLength(tiny.copyRounds);
    const left = results.omissions.filter(({ scenario }) => scenario === 'copies of a base');
    expect(left.map(({ format }) => format)).toEqual(['vmdk']);
  });

  it('meets the bars of FVD that only count', () => {
    const counted = results.bars.filter(({ unit, subject }) => unit === 'count' || subject.includes('idle'));
    expect(counted.length).toBeGreaterThan(5);
    expect(counted.filter(({ met }) => !met)).toEqual([]);
  });

  it('maps the large image wholly, and writes next to nothing', () => {
    expect(cellsOf(results.largeImages)).toEqual(
      formatNames.flatMap((format) => [`${format} 0`, `${format} 1`, `${format} 4`]),
    );
    for (const { storageBytes } of results.largeImages) {
      expect(storageBytes).toBeLessThan(largeBytes / 8);
    }
  });

  it('tells how far it is, from nothing to nearly everything, never backwards', () => {
    const done = progress.map((each) => each.done);
    expect(done[0]).toBe(0);
    expect(done).toEqual(done.toSorted((a, b) => a - b));
    expect(done.at(-1)).toBeGreaterThan(0.9);
    expect(done.at(-1)).toBeLessThanOrEqual(1);
  });

  it('leaves the numbers and the reports, and takes its images away', () => {
    expect(readdirSync(at('new/out'))).toEqual(['charts.csv', 'report.html', 'report.md', 'results.json']);
    expect(readdirSync(at('images'))).toEqual([]);
  });
});

it('counts what it counted when counts.json was written', () => {
  const file = new URL('fixtures/counts.json', import.meta.url);
  const counts = Object.fromEntries(
    countedOf(results).map(({ what, each }) => [
      what,
      Object.entries(each).map(([name, value]) => `${name} ${Number(value.toPrecision(9))}`),
    ]),
  );
  // A count that changed, for the better or the worse, is written anew with COWLAB_WRITE_TABLES=1, and seen in the diff.
  if (process.env['COWLAB_WRITE_TABLES'] !== undefined)
    writeFileSync(file, `${JSON.stringify(counts, null, 2)}\n`);
  expect(counts).toEqual(JSON.parse(readFileSync(file, 'utf8')));
});

describe('what must be readable from the results of FVD', () => {
  it.each(tiny.snapshotCounts)(
    'no refcount is read or written between open and close at N=%d',
    (snapshots) => {
      const { reads, writes, zeroes, discards } = row(results.sessions, 'fvd', snapshots).working.purposes
        .refcount;
      expect({ reads, writes, zeroes, discards }).toEqual({ reads: 0, writes: 0, zeroes: 0, discards: 0 });
    },
  );

  it.each(['steady'])('a %s overwrite costs as much at any N, in calls and bytes', (pass) => {
    const rows = results.overwrites.filter((each) => each.pass === pass);
    const before = row(rows, 'fvd', 0);
    for (const snapshots of [1, 3]) {
      const after = row(rows, 'fvd', snapshots);
      expect(after.operations).toBe(before.operations);
      expect(after.calls.calls / before.calls.calls).toBeLessThan(1.1);
      expect(after.calls.bytes / before.calls.bytes).toBeLessThan(1.1);
    }
  });
});

it('two runs with one seed have every count alike, to the last digit', async () => {
  const again = await runBench({ profile: tiny, seed: 7 });
  const { same, of, cut } = sameCounts(results, again);
  expect(cut).toBe(0);
  expect(of).toBeGreaterThan(500);
  expect(same).toBe(of);
}, 240_000);

describe('the chosen formats', () => {
  it('run alone, beside raw', async () => {
    const { formats, reads } = await runBench({ profile: tiny, formats: ['vmdk'] });
    expect(formats).toEqual(['vmdk']);
    expect(new Set(reads.map(({ format }) => format))).toEqual(new Set(['raw', 'vmdk']));
  });
});

describe('a run that cannot be', () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'cowlab-bench-test-'));
    await writeFile(join(folder, 'a file'), '');
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  it.each([
    [
      'of an unknown format',
      { profile: tiny, formats: ['vdi'] },
      'ERR_UNKNOWN_FORMAT',
      'unknown format "vdi"; there are: fvd',
    ],
    ['of no format', { profile: tiny, formats: [] }, 'ERR_INVALID_OPTION', 'formats'],
    ['with half a seed', { profile: tiny, seed: 0.5 }, 'ERR_INVALID_OPTION', 'seed 0.5'],
    ['with a seed past 32 bits', { profile: tiny, seed: 2 ** 32 }, 'ERR_INVALID_OPTION', 'seed'],
    [
      'on images larger than the device',
      { profile: { ...tiny, imageBytes: 2 ** 60 } },
      'ERR_NO_SPACE',
      'GiB are needed',
    ],
  ])('%s is refused before anything is made', async (_, options, code, words) => {
    await expect(runBench(options)).rejects.toMatchObject({ code, message: expect.stringContaining(words) });
  });

  it.each([
    ['below a file', ['a file', 'out']],
    ['that is a file', ['a file']],
  ])(
    'for lack of a place for its results, one %s, fails before it measures, and names it',
    async (_, names) => {
      const out = join(folder, ...names);
      const progressed: BenchProgress[] = [];
      const run = runBench({ profile: tiny, out, onProgress: (each) => progressed.push(each) });
      await expect(run).rejects.toMatchObject({ message: expect.stringContaining(out) });
      expect(progressed).toEqual([]);
    },
  );
});
