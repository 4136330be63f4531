import { judge } from '../src/rules.ts';
import type {
  Calls,
  OverwriteRow,
  ProcessMemoryRow,
  RequestRow,
  Results,
  SessionRow,
  SnapshotRow,
} from '../src/schema.ts';
import { RESULTS_VERSION } from '../src/schema.ts';
import { judgeTrends } from '../src/targets/trends.ts';

/* Results that nobody measured, for the rules and the report: everything equal, until a test changes one number. */

export const FORMATS = ['fvd', 'qcow2', 'vmdk'] as const;
const COUNTS = [0, 1, 1000] as const;

const MIB = 2 ** 20;

export function noCalls(): Calls {
  const none = { reads: 0, readBytes: 0, writes: 0, writtenBytes: 0, zeroes: 0, discards: 0 };
  const purposes = {
    data: { ...none },
    header: { ...none },
    mapping: { ...none },
    journal: { ...none },
    refcount: { ...none },
    snapshot: { ...none },
  };
  return { calls: 0, bytes: 0, flushes: 0, folderCalls: 0, purposes };
}

/** Calls that move 4 KiB each, none of them for refcounts. */
export function someCalls(calls: number): Calls {
  const some = noCalls();
  some.calls = calls;
  some.bytes = calls * 4096;
  some.purposes.data.reads = calls;
  some.purposes.data.readBytes = calls * 4096;
  return some;
}

function requests(format: string, snapshots: number): RequestRow {
  const roundMicros = Array.from({ length: 20 }, () => 5);
  return { format, snapshots, operations: 1000, roundMicros, calls: someCalls(1000) };
}

function session(format: string, snapshots: number): SessionRow {
  return {
    format,
    snapshots,
    opening: someCalls(3),
    working: someCalls(3000),
    closing: someCalls(1),
    residentMetadataBytes: 65_536,
    residentAfterOverwritesBytes: 65_536,
    counters: { residentMetadataBytes: 65_536 },
  };
}

function operation(kind: SnapshotRow['operation'], format: string, snapshots: number): SnapshotRow {
  const common = { operation: kind, format, snapshots, imageBytes: 64 * MIB, heldBytes: 4 * MIB };
  return { ...common, samplesMs: [4, 5, 6], medianMs: 5, calls: someCalls(30) };
}

/** What is timed on a large image. */
const LARGE: readonly [SnapshotRow['operation'], number][] = [
  ['create', 0],
  ...[1, 100].flatMap((snapshots): [SnapshotRow['operation'], number][] => [
    ['create', snapshots],
    ['delete', snapshots],
    ['apply', snapshots],
  ]),
];

/** Every format as good as can be, at every N. */
export function idealResults(): Results {
  const cells = FORMATS.flatMap((format) => COUNTS.map((snapshots) => ({ format, snapshots })));
  const withRaw = [{ format: 'raw', snapshots: 0 }, ...cells];
  const rows = <T>(make: (format: string, snapshots: number) => T, of = withRaw): T[] =>
    of.map(({ format, snapshots }) => make(format, snapshots));
  const pass = (which: OverwriteRow['pass']): OverwriteRow[] =>
    rows((format, snapshots) => ({ ...requests(format, snapshots), pass: which, flushEvery: 64 }));
  return {
    schema: 'cowlab-bench-results',
    version: RESULTS_VERSION,
    environment: {
      node: 'v20.19.0',
      platform: 'linux',
      arch: 'x64',
      kernel: '6.1.0',
      cpu: 'Some Processor',
      cores: 2,
      memoryBytes: 2 ** 34,
      fileSystem: 'ext4',
      date: '2026-11-24T12:00:00.000Z',
    },
    seed: 1,
    profile: { name: 'sample', imageBytes: 64 * MIB, requestBytes: 4096, historyWrites: 4 },
    formats: [...FORMATS],
    durationSeconds: 12.5,
    goals: [],
    bars: [],
    reads: rows(requests),
    overwrites: [...pass('first'), ...pass('steady')],
    allocations: ['raw', ...FORMATS].map((format) => ({
      ...requests(format, 0),
      variant: 'as is' as const,
      how: 'default options',
      residentRefcountBytes: 0,
    })),
    sessions: rows(session),
    opens: rows((format, snapshots) => ({ format, snapshots, milliseconds: [1, 2, 3] })),
    processMemory: rows(
      (format, snapshots): ProcessMemoryRow => ({ format, snapshots, rssBytes: [60 * MIB] }),
    ),
    snapshotOperations: [
      ...rows((format, snapshots) => operation('create', format, snapshots), cells),
      ...rows(
        (format, snapshots) => operation('delete', format, snapshots),
        cells.filter(({ snapshots }) => snapshots > 0),
      ),
      ...FORMATS.flatMap((format) =>
        LARGE.map(([kind, snapshots]) => ({ ...operation(kind, format, snapshots), imageBytes: 2 ** 40 })),
      ),
    ],
    largeImages: FORMATS.flatMap((format) =>
      [0, 1, 100].map((snapshots) => ({
        format,
        imageBytes: 2 ** 40,
        snapshots,
        storageBytes: 8 * MIB,
        fileBytes: 2 ** 40 + 16 * MIB,
        fileSystem: 'ext4',
        openSamplesMs: [11, 12, 13],
        openMs: 12,
        refcountScanMs: snapshots === 0 ? 0 : 3,
        opening: someCalls(1024),
        residentMetadataBytes: 4 * MIB,
        counters: { residentMetadataBytes: 4 * MIB, bitmapBytes: 128 * 1024 },
        rssBytes: [70 * MIB],
      })),
    ),
    idleSnapshots: FORMATS.map((format) => ({
      format,
      imageBytes: 2 ** 40,
      snapshots: 1000,
      milliseconds: 5000,
      grownBytes: 2 * MIB,
      residentBeforeBytes: 4 * MIB,
      residentMetadataBytes: 4 * MIB,
    })),
    growths: (['in place', 'appended', 'recorded'] as const).map((pattern) => ({
      pattern,
      operations: 640,
      roundMicros: Array.from({ length: 10 }, () => 12),
      flushes: pattern === 'recorded' ? 20 : 10,
    })),
    devices: [],
    ablations: [],
    services: [],
    axes: [],
    powerLosses: FORMATS.map((format) => ({
      format,
      leaves: format === 'fvd' ? ('clean' as const) : ('leaks' as const),
      repairable: format === 'qcow2',
    })),
    baseCopies: (
      [
        ['raw', 'file copy'],
        ['fvd', 'populate'],
        ['fvd', 'prefetch'],
        ['qcow2', 'populate'],
        ['qcow2', 'prefetch'],
      ] as const
    ).map(([format, method]) => ({
      format,
      method,
      bytes: 64 * MIB,
      milliseconds: [100, 110],
      releaseMs: method === 'file copy' ? [] : [2, 3],
    })),
    histories: FORMATS.map((format) => ({
      format,
      snapshots: 100,
      writesPerSnapshot: 4,
      milliseconds: 321,
      calls: someCalls(1600),
      storageBytesBefore: 64 * MIB,
      storageBytes: 66 * MIB,
      residentMetadataBytes: 70_000,
      randomReads: { before: [2, 2], after: [3, 3], callsAfter: 1 },
      sequentialReads: { before: [400, 400], after: [500, 500], callsAfter: 12 },
    })),
    omissions: [],
  };
}

/** Results with verdicts and something for every chart, no two rows alike. */
export function publishedResults(): Results {
  const results = idealResults();
  const rows = [...results.reads, ...results.overwrites];
  for (const [index, row] of rows.entries()) {
    row.roundMicros = row.roundMicros.map((micros, round) => micros + index + round / 10);
    row.calls.purposes.data.writes = 1000 + index;
    row.calls.flushes = 16 + index;
  }
  for (const [index, row] of results.sessions.entries()) row.residentMetadataBytes += index * 1000;
  for (const [index, row] of results.snapshotOperations.entries()) row.medianMs += index;
  results.devices = FORMATS.flatMap((format, index) =>
    (['first overwrite', 'create', 'delete'] as const).map((workload, nth) => ({
      device: 'ssd',
      depth: 1,
      format,
      snapshots: 1000,
      workload,
      operations: 1,
      micros: 100 + 10 * index + nth,
    })),
  );
  results.ablations = ['fvd', 'fvd-chunk-copy'].map((format, index) => ({
    ...requests(format, 1),
    workload: 'first overwrite' as const,
    imageBytes: 64 * MIB,
    residentMetadataBytes: 70_000,
    residentRefcountBytes: 2048 * index,
  }));
  results.services = FORMATS.map((format, index) => ({
    format,
    snapshots: 20,
    guestBytes: MIB,
    writing: someCalls(300),
    openMs: [1, 2],
    checkMs: [3 + index],
    checking: someCalls(10),
    snapshotOpenMs: [0.5],
    snapshotReads: { before: [2, 2], after: [3, 3], callsAfter: 1 },
    ...(format === 'vmdk' ? {} : { diff: { milliseconds: [1], calls: someCalls(4), bytes: MIB } }),
    deletion: { heldBytes: 16 * MIB, returnedBytes: 16 * MIB, milliseconds: 5 },
  }));
  results.axes = ['raw', ...FORMATS].flatMap((format, index) =>
    (['read', 'write'] as const).flatMap((direction) =>
      [['centre', 'random 4 KiB'] as const, ['pattern', 'Zipf'] as const].map(([axis, setting]) => ({
        ...requests(format, 1),
        axis,
        setting,
        operation: direction,
        pattern: axis === 'centre' ? ('random' as const) : ('zipf' as const),
        requestBytes: 4096,
        depth: 1,
        flushEvery: 64,
        mappedShare: 1,
        imageBytes: 64 * MIB,
        latencies: [0.1, 0.5, 0.99].map((share) => ({ share, micros: 1 + index + 100 * share })),
      })),
    ),
  );
  results.goals = judge(results, FORMATS);
  return results;
}

const QEMU_FORMATS = ['qemu-qcow2', 'qemu-qcow2-chain', 'qemu-vmdk-chain'] as const;
const QEMU_COUNTS = [0, 1, 10, 100] as const;
const QEMU_BYTES = 16 * MIB;

/** The published results, and QEMU's beside them. */
export function resultsWithQemu(): Results {
  const ours = publishedResults();
  const cells = QEMU_FORMATS.flatMap((format) => QEMU_COUNTS.map((snapshots) => ({ format, snapshots })));
  const all = [{ format: 'qemu-raw', snapshots: 0 }, ...cells];
  const rows = all.map(({ format, snapshots }) => requests(format, snapshots));
  const pass = (which: OverwriteRow['pass']): OverwriteRow[] =>
    all.map(({ format, snapshots }) => ({ ...requests(format, snapshots), pass: which, flushEvery: 64 }));
  for (const [index, row] of rows.entries())
    row.roundMicros = row.roundMicros.map((micros) => micros + index);
  const measured = {
    ...ours,
    profile: { ...ours.profile, qemu: { imageBytes: QEMU_BYTES } },
    reads: [...ours.reads, ...rows],
    overwrites: [...ours.overwrites, ...pass('first'), ...pass('steady')],
    allocations: [
      ...ours.allocations,
      ...['qemu-raw', ...QEMU_FORMATS].map((format) => ({
        ...requests(format, 0),
        variant: 'as is' as const,
        how: 'as qemu-img makes it',
      })),
    ],
    opens: [...ours.opens, ...all.map((cell) => ({ ...cell, milliseconds: [1, 2, 3] }))],
    processMemory: [
      ...ours.processMemory,
      ...all.map((cell) => ({ ...cell, rssBytes: [(8 + cell.snapshots / 10) * MIB] })),
    ],
    snapshotOperations: [
      ...ours.snapshotOperations,
      ...cells.flatMap(({ format, snapshots }) =>
        (['create', 'delete'] as const)
          .filter((kind) => kind === 'create' || snapshots > 0)
          .map((kind) => ({
            ...operation(kind, format, snapshots),
            imageBytes: QEMU_BYTES,
            countedSamples: 1,
          })),
      ),
    ],
  };
  const formats = [...ours.formats, ...QEMU_FORMATS];
  return {
    ...measured,
    formats,
    goals: judge(measured, formats),
    omissions: [{ scenario: 'larger N', format: 'qemu-qcow2-chain', reason: 'budget ended at N=100' }],
    qemu: {
      version: '7.2.22',
      yardstick: 'qemu-raw',
      starts: { qemuIoMs: 5, qemuImgMs: 6 },
      sessions: all.map((cell) => ({
        ...cell,
        opening: someCalls(4),
        closing: someCalls(1),
        comparedRequests: 1000,
      })),
      trends: judgeTrends(measured),
    },
  };
}
