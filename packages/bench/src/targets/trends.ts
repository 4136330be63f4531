import { grade, scales } from '../rules.ts';
import type { OverwriteRow, RequestRow, Results, TrendRow } from '../schema.ts';
import { fitGrowth, type Growth, type Interval, median, medianInterval } from '../statistics.ts';

/*
 * Do our drivers behave as the originals do? Not how fast: how a number goes with N, against the smallest N that both
 * have. Two trends agree when their ratios deserve the same word on the scale of G2 and G3 (for memory: their growth in
 * bytes on that of G4), or are so close to each other that the words differ by chance. Else ours is better, or worse.
 *
 * Times have an interval. Where those of the two ratios overlap, and the words differ, the run cannot tell: unsure.
 *
 * Where ours has not been measured at an N that QEMU got to, the law that fits ours says what it is there.
 */

/** Which of ours does what an original does. FVD has no original. */
const pairs = [
  ['qcow2', 'qemu-qcow2'],
  ['vmdk', 'qemu-vmdk-chain'],
  // Of another format, and the same strategy: a file for each snapshot.
  ['vmdk', 'qemu-qcow2-chain'],
] as const;

/** Ratios that differ by less are the same trend. */
const CLOSE = 1.5;

interface Sample {
  readonly n: number;
  readonly value: number;
  /** What the value is the median of; none for a count. */
  readonly times?: readonly number[];
}

/** One or two samples have no interval; they may be as wrong as this. */
const FEW = 3;
const DOUBT = 2;

/** The ends of a sample's interval, in parts of its value. */
function spreadOf({ value, times = [] }: Sample): Pick<Interval, 'low' | 'high'> {
  if (times.length === 0) return { low: 1, high: 1 };
  if (times.length < FEW) return { low: 1 / DOUBT, high: DOUBT };
  const { low, high } = medianInterval(times);
  return { low: low / value, high: high / value };
}

type Measurements = Pick<Results, 'reads' | 'overwrites' | 'opens' | 'processMemory' | 'snapshotOperations'>;

interface Quantity {
  readonly name: string;
  readonly unit: TrendRow['unit'];
  samples(results: Measurements, format: string): Sample[];
}

function samplesOf<T extends { format: string; snapshots: number }>(
  rows: readonly T[],
  format: string,
  value: (row: T) => number | readonly number[],
): Sample[] {
  return rows
    .filter((row) => row.format === format)
    .map((row) => {
      const measured = value(row);
      if (typeof measured === 'number') return { n: row.snapshots, value: measured };
      return { n: row.snapshots, value: median(measured), times: measured };
    })
    .toSorted((a, b) => a.n - b.n);
}

function requestQuantities(
  name: string,
  rows: (results: Measurements) => readonly RequestRow[],
  flushes: boolean,
): Quantity[] {
  const each = (what: string, value: (row: RequestRow) => number | readonly number[]): Quantity => ({
    name: `${name}, ${what}`,
    unit: 'ratio',
    samples: (results, format) => samplesOf(rows(results), format, value),
  });
  return [
    each('storage calls', ({ calls, operations }) => calls.calls / operations),
    each('bytes', ({ calls, operations }) => calls.bytes / operations),
    ...(flushes ? [each('flushes', ({ calls, operations }) => calls.flushes / operations)] : []),
    each('time', ({ roundMicros }) => roundMicros),
  ];
}

const passOf =
  (pass: OverwriteRow['pass']) =>
  ({ overwrites }: Measurements): OverwriteRow[] =>
    overwrites.filter((row) => row.pass === pass);

/** A snapshot operation on the small images: of one size for each format. */
function operationQuantity(operation: 'create' | 'delete'): Quantity {
  return {
    name: `${operation} a snapshot, time`,
    unit: 'ratio',
    samples: ({ snapshotOperations }, format) => {
      const own = snapshotOperations.filter((row) => row.format === format && row.operation === operation);
      const smallest = Math.min(...own.map(({ imageBytes }) => imageBytes));
      return samplesOf(
        own.filter(({ imageBytes }) => imageBytes === smallest),
        format,
        ({ samplesMs }) => samplesMs,
      );
    },
  };
}

const quantities: readonly Quantity[] = [
  ...requestQuantities('random reads', ({ reads }) => reads, false),
  ...requestQuantities('first overwrites', passOf('first'), true),
  ...requestQuantities('steady overwrites', passOf('steady'), true),
  {
    name: 'memory of the process',
    unit: 'bytes',
    samples: ({ processMemory }, format) => samplesOf(processMemory, format, (row) => median(row.rssBytes)),
  },
  {
    name: 'open and first read, time',
    unit: 'ratio',
    samples: ({ opens }, format) => samplesOf(opens, format, (row) => row.milliseconds),
  },
  operationQuantity('create'),
  operationQuantity('delete'),
];

export function judgeTrends(results: Measurements): TrendRow[] {
  return pairs.flatMap(([format, original]) =>
    quantities.flatMap((quantity) => {
      const [ours, originals] = [quantity.samples(results, format), quantity.samples(results, original)];
      const trend = compareTrends(quantity.unit, ours, originals);
      return trend === undefined ? [] : [{ format, original, quantity: quantity.name, ...trend }];
    }),
  );
}

type Trend = Omit<TrendRow, 'format' | 'original' | 'quantity'>;

/** Undefined where there is no N to compare at, or nothing to compare with. */
function compareTrends(
  unit: TrendRow['unit'],
  ours: readonly Sample[],
  originals: readonly Sample[],
): Trend | undefined {
  const shared = originals.filter(({ n }) => ours.some((each) => each.n === n));
  const [from] = shared;
  const furthest = ours.at(-1)?.n ?? 0;
  const to = originals.findLast(({ n }) => n <= furthest);
  if (from === undefined || to === undefined || to.n <= from.n) return undefined;
  const [ourLaw, originalLaw] = [lawOf(ours), lawOf(originals)];
  const early = ours.find(({ n }) => n === from.n)!;
  const before = early.value;
  if (ourLaw === undefined || originalLaw === undefined || before === 0 || from.value === 0) return undefined;
  const measured = ours.find(({ n }) => n === to.n);
  // What the law says is as sure as what it comes from.
  const after = measured?.value ?? ourLaw.at(to.n);
  const late = measured ?? ours.at(-1)!;
  const difference = (end: number, start: number): number => (unit === 'ratio' ? end / start : end - start);
  const [oursValue, originalValue] = [difference(after, before), difference(to.value, from.value)];
  return {
    unit,
    fromSnapshots: from.n,
    snapshots: to.n,
    byLaw: measured === undefined,
    ours: oursValue,
    originals: originalValue,
    oursOrder: ourLaw.order,
    originalsOrder: originalLaw.order,
    agreement: agreementOf(unit, oursValue, originalValue, () =>
      overlap(rangeOf(oursValue, early, late), rangeOf(originalValue, from, to)),
    ),
  };
}

function lawOf(samples: readonly Sample[]): Growth | undefined {
  return samples.every(({ value }) => value > 0) ? fitGrowth(samples) : undefined;
}

/** Between which values a ratio lies. */
function rangeOf(value: number, early: Sample, late: Sample): Interval {
  const [start, end] = [spreadOf(early), spreadOf(late)];
  return { low: (value * end.low) / start.high, median: value, high: (value * end.high) / start.low };
}

function overlap(one: Interval, other: Interval): boolean {
  return one.low <= other.high && other.low <= one.high;
}

function agreementOf(
  unit: TrendRow['unit'],
  ours: number,
  originals: number,
  cannotTell: () => boolean,
): TrendRow['agreement'] {
  const scale = unit === 'ratio' ? scales.speed : scales.growth;
  const close = unit === 'ratio' && Math.max(ours / originals, originals / ours) <= CLOSE;
  if (close || grade(ours, scale) === grade(originals, scale)) return 'agrees';
  if (unit === 'ratio' && cannotTell()) return 'unsure';
  return ours < originals ? 'better' : 'worse';
}
