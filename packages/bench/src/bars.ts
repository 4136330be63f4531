import { median, pairedRatio } from './statistics.ts';
import type { BarRow, Calls, HistoryRow, LargeImageRow, Results, SnapshotRow } from './schema.ts';
import { size } from './wording.ts';

/*
 * What the design of FVD promises in numbers, and what was measured: the bars. Unlike goals they are about one format,
 * and know only met and not met. A bar whose scenario was left out, or ran at a size that the bar is not about, has
 * no row. Every limit is here.
 *
 *   churn         bytes written, flushes, time of a long history: no more than the better of the other formats
 *   first pass    overwrites of what a snapshot holds: writes, reads, flushes, and time against N = 0 of the same run
 *   reads         at random, after the long history, against an image that had none: paired rounds, the median
 *   operations    create, delete, apply, open of large images; time and bytes in proportion to the size, whatever N
 *   memory        of a large image and of its snapshots, on the host, in the driver, and of a whole process
 */

const KIB = 1024;
const MIB = 1024 * KIB;
const TIB = 1024 * 1024 * MIB;

const limits = {
  /** Storage writes for a guest write, without the journal's; storage flushes for a guest flush; time of N = 0. */
  firstPass: { writes: 1.05, reads: 0, flushes: 2, time: 1.15 },
  /** Of the speed of reads without a history. */
  readsAfterChurn: 0.9,
  /** Milliseconds for each operation, at two sizes. */
  operationMs: new Map([
    [TIB, 100],
    [16 * TIB, 1000],
  ]),
  /** Ratios that still count as none: bytes are counted, times are measured. */
  evenBytes: 1.1,
  evenTime: 1.5,
  /** On the host, of snapshots that nobody wrote between. */
  idleBytes: 100e6,
  refcountScanMs: 20,
  /** Of one bitmap, for each TiB of file: a bit a chunk, and a little room to grow. */
  bitmapBytes: 128 * KIB * 1.02,
  processBytes: 2 * MIB,
  residentBytes: 5 * MIB,
};

const FORMAT = 'fvd';

type BarMeasurements = Pick<
  Results,
  'overwrites' | 'histories' | 'largeImages' | 'snapshotOperations' | 'idleSnapshots'
>;

export function judgeBars(results: BarMeasurements): BarRow[] {
  return [
    ...churnBars(results),
    ...firstPassBars(results),
    ...readBars(results),
    ...operationBars(results),
    ...evenBars(results),
    ...memoryBars(results),
  ];
}

type Limited = Pick<BarRow, 'quantity' | 'unit' | 'value' | 'limit'> & Partial<BarRow>;

function bar(subject: string, { relation = 'at most', limitOf = '', ...row }: Limited): BarRow {
  const met = relation === 'at most' ? row.value <= row.limit : row.value >= row.limit;
  return { ...row, subject, relation, limitOf, met };
}

/** Bytes that were written, for whatever purpose. */
export function writtenBytes({ purposes }: Calls): number {
  return Object.values(purposes).reduce((sum, each) => sum + each.writtenBytes, 0);
}

function churnBars({ histories }: BarMeasurements): BarRow[] {
  const own = histories.find(({ format }) => format === FORMAT);
  const others = histories.filter(({ format }) => format !== FORMAT && !format.startsWith(`${FORMAT}-`));
  if (own === undefined || others.length === 0) return [];
  const quantities: [string, BarRow['unit'], (row: HistoryRow) => number][] = [
    ['written, a snapshot', 'bytes', ({ calls }) => writtenBytes(calls)],
    ['storage flushes, a snapshot', 'count', ({ calls }) => calls.flushes],
    ['time, a snapshot', 'ms', ({ milliseconds }) => milliseconds],
  ];
  return quantities.map(([quantity, unit, total]) => {
    const each = (row: HistoryRow): number => total(row) / row.snapshots;
    const best = others.reduce((one, other) => (each(other) < each(one) ? other : one));
    const row = { quantity, unit, value: each(own), limit: each(best), limitOf: best.format };
    return bar(`churn, N=${own.snapshots}`, row);
  });
}

/** The numbers of snapshots that first passes are judged at: the fewest and the most. */
function firstAndLast(counts: readonly number[]): number[] {
  const some = counts.filter((count) => count > 0);
  return some.length === 0 ? [] : [...new Set([Math.min(...some), Math.max(...some)])];
}

function firstPassBars({ overwrites }: BarMeasurements): BarRow[] {
  const rows = overwrites.filter(({ format, pass }) => format === FORMAT && pass === 'first');
  const before = rows.find(({ snapshots }) => snapshots === 0);
  if (before === undefined) return [];
  return firstAndLast(rows.map(({ snapshots }) => snapshots)).flatMap((count) => {
    const { calls, operations, flushEvery, snapshots, roundMicros } = rows.find(
      (row) => row.snapshots === count,
    )!;
    const purposes = Object.values(calls.purposes);
    const sum = (key: 'reads' | 'writes'): number => purposes.reduce((total, each) => total + each[key], 0);
    const { writes, reads, flushes, time } = limits.firstPass;
    const subject = `first pass, N=${snapshots}`;
    const measured: Limited[] = [
      {
        quantity: 'writes for one, without journal',
        unit: 'count',
        value: (sum('writes') - calls.purposes.journal.writes) / operations,
        limit: writes,
      },
      { quantity: 'reads for a write', unit: 'count', value: sum('reads') / operations, limit: reads },
      {
        quantity: 'flushes for one',
        unit: 'count',
        value: calls.flushes / Math.ceil(operations / flushEvery),
        limit: flushes,
      },
      {
        quantity: 'time, of N=0',
        unit: 'ratio',
        value: pairedRatio(roundMicros, before.roundMicros).median,
        limit: time,
      },
    ];
    return measured.map((each) => bar(subject, each));
  });
}

function readBars({ histories }: BarMeasurements): BarRow[] {
  const row = histories.find(({ format }) => format === FORMAT);
  if (row === undefined) return [];
  const { before, after } = row.randomReads;
  return [
    bar(`reads after churn, N=${row.snapshots}`, {
      quantity: 'random reads: speed, of N=0',
      unit: 'ratio',
      value: 1 / pairedRatio(after, before).median,
      relation: 'at least',
      limit: limits.readsAfterChurn,
    }),
  ];
}

const operationNames = ['open', 'create', 'delete', 'apply'] as const;

interface Cost {
  readonly milliseconds: number;
  readonly bytes: number;
}

/** What one operation on a large image takes: its median time, the bytes it reads and writes. */
export function costOf(
  { snapshotOperations }: Pick<Results, 'snapshotOperations'>,
  image: LargeImageRow,
  operation: (typeof operationNames)[number],
): Cost | undefined {
  if (operation === 'open') return { milliseconds: image.openMs, bytes: image.opening.bytes };
  const row = snapshotOperations.find(
    (each: SnapshotRow) =>
      each.operation === operation &&
      each.format === image.format &&
      each.imageBytes === image.imageBytes &&
      each.snapshots === image.snapshots,
  );
  return row && { milliseconds: row.medianMs, bytes: row.calls.bytes / row.samplesMs.length };
}

/** The images of FVD with most snapshots, by ascending size; with `fewest`, those with the fewest but one at least. */
function imagesWith({ largeImages }: BarMeasurements, choice: 'most' | 'fewest'): LargeImageRow[] {
  const own = largeImages.filter(({ format, snapshots }) => format === FORMAT && snapshots > 0);
  const sizes = [...new Set(own.map(({ imageBytes }) => imageBytes))].toSorted((a, b) => a - b);
  return sizes.map((imageBytes) => {
    const rows = own
      .filter((row) => row.imageBytes === imageBytes)
      .toSorted((a, b) => a.snapshots - b.snapshots);
    return rows.at(choice === 'most' ? -1 : 0)!;
  });
}

function operationBars(results: BarMeasurements): BarRow[] {
  return imagesWith(results, 'most').flatMap((image) => {
    const limit = limits.operationMs.get(image.imageBytes);
    if (limit === undefined) return [];
    return operationNames.flatMap((operation) => {
      const cost = costOf(results, image, operation);
      if (cost === undefined) return [];
      return [bar(nameOf(image), { quantity: operation, unit: 'ms', value: cost.milliseconds, limit })];
    });
  });
}

function nameOf({ imageBytes, snapshots }: { imageBytes: number; snapshots: number }): string {
  return `${size(imageBytes)}, N=${snapshots}`;
}

/** Flat in N: many snapshots against one. Linear in size: the largest image against the smallest, byte for byte. */
function evenBars(results: BarMeasurements): BarRow[] {
  const most = imagesWith(results, 'most');
  const [smallest, largest] = [most[0], most.at(-1)];
  const one = imagesWith(results, 'fewest')[0];
  if (smallest === undefined || largest === undefined || one === undefined) return [];
  const rows = evenly(results, `${nameOf(smallest)}, of N=${one.snapshots}`, smallest, one);
  if (largest === smallest) return rows;
  const subject = `${nameOf(largest)}, each byte, of ${size(smallest.imageBytes)}`;
  return [...rows, ...evenly(results, subject, largest, smallest)];
}

function evenly(
  results: BarMeasurements,
  subject: string,
  image: LargeImageRow,
  other: LargeImageRow,
): BarRow[] {
  const scale = image.imageBytes / other.imageBytes;
  const worst = (key: keyof Cost): number =>
    Math.max(
      ...operationNames.map((operation) => {
        const [cost, base] = [image, other].map((each) => costOf(results, each, operation)?.[key] ?? 0);
        return base ? cost! / base / scale : 0;
      }),
    );
  const quantity = 'of the worst operation';
  return [
    bar(subject, {
      quantity: `bytes ${quantity}`,
      unit: 'ratio',
      value: worst('bytes'),
      limit: limits.evenBytes,
    }),
    bar(subject, {
      quantity: `time ${quantity}`,
      unit: 'ratio',
      value: worst('milliseconds'),
      limit: limits.evenTime,
    }),
  ];
}

function memoryBars(results: BarMeasurements): BarRow[] {
  const rows: BarRow[] = [];
  const image = imagesWith(results, 'most').find(({ imageBytes }) => imageBytes === TIB);
  const fresh = results.largeImages.find(
    ({ format, imageBytes, snapshots }) => format === FORMAT && imageBytes === TIB && snapshots === 0,
  );
  const idle = results.idleSnapshots.find(
    ({ format, imageBytes }) => format === FORMAT && imageBytes === TIB,
  );
  if (idle !== undefined) {
    const subject = `${nameOf(idle)}, idle`;
    const [grown, resident] = ['on the host, all snapshots', 'metadata in memory, nothing split'];
    rows.push(
      bar(subject, { quantity: grown, unit: 'bytes', value: idle.grownBytes, limit: limits.idleBytes }),
      bar(subject, {
        quantity: resident,
        unit: 'bytes',
        value: idle.residentMetadataBytes,
        limit: limits.residentBytes,
      }),
    );
  }
  if (image === undefined) return rows;
  const subject = nameOf(image);
  rows.push(
    bar(subject, {
      quantity: 'refcounts read at open',
      unit: 'ms',
      value: image.refcountScanMs,
      limit: limits.refcountScanMs,
    }),
    bar(subject, {
      quantity: 'each of two bitmaps, a TiB of file',
      unit: 'bytes',
      value: (image.counters.bitmapBytes ?? 0) / (image.fileBytes / TIB),
      limit: limits.bitmapBytes,
    }),
  );
  if (fresh !== undefined && fresh.rssBytes.length > 0 && image.rssBytes.length > 0) {
    const value = growthOf(image, fresh);
    rows.push(
      bar(subject, { quantity: 'process, more than N=0', unit: 'bytes', value, limit: limits.processBytes }),
    );
  }
  return rows;
}

/** How much larger processes are with the one image than with the other: the median of pairs that ran side by side. */
export function growthOf(image: LargeImageRow, fresh: LargeImageRow): number {
  return median(image.rssBytes.map((bytes, round) => bytes - (fresh.rssBytes[round] ?? bytes)));
}
