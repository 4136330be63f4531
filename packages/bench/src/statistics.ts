import { seededRandom } from './workload.ts';

/*
 * What samples say, and how sure it is. Times are skewed and have outliers, so nothing here takes them for normally
 * distributed: medians, bootstrap intervals, ranks. Whatever draws lots draws them from a seed: same samples, same answer.
 */

export function median(values: readonly number[]): number {
  return quantile(values, 0.5);
}

/** The value that a share of the samples lies below, between two samples in proportion; NaN without samples. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  const place = (sorted.length - 1) * share;
  const below = sorted[Math.floor(place)] ?? Number.NaN;
  const above = sorted[Math.ceil(place)] ?? Number.NaN;
  return below + (above - below) * (place - Math.floor(place));
}

/** A median and the ends of its 95 % interval. */
export interface Interval {
  readonly low: number;
  readonly median: number;
  readonly high: number;
}

const RESAMPLES = 1000;

/** The median, and between which values it lies in 95 % of resamples. */
export function medianInterval(values: readonly number[]): Interval {
  const random = seededRandom(values.length);
  const medians = Array.from({ length: RESAMPLES }, () =>
    median(values.map(() => values[Math.floor(random() * values.length)] ?? Number.NaN)),
  );
  return { low: quantile(medians, 0.025), median: median(values), high: quantile(medians, 0.975) };
}

/** How many times `baseline` the measured values are, by pairs of one round; a round that one of them lacks is left out. */
export function pairedRatio(measured: readonly number[], baseline: readonly number[]): Interval {
  const pairs = Math.min(measured.length, baseline.length);
  return medianInterval(Array.from({ length: pairs }, (_, round) => measured[round]! / baseline[round]!));
}

export interface RankTest {
  /** Pairs (one of each side) in which the first side is larger, ties counted half. */
  readonly u: number;
  /** Chance that sides drawn from one distribution differ at least as much, both directions; 1 without samples. */
  readonly p: number;
  /** Cliff's delta, −1 … 1: how much more often the first side is the larger one than the smaller one. */
  readonly effect: number;
}

/** The Mann–Whitney test of two sets of samples: normal approximation with correction for ties and continuity. */
export function mannWhitney(one: readonly number[], other: readonly number[]): RankTest {
  const pairs = one.length * other.length;
  if (pairs === 0) return { u: 0, p: 1, effect: 0 };
  let u = 0;
  for (const a of one) for (const b of other) u += a > b ? 1 : a === b ? 0.5 : 0;
  const total = one.length + other.length;
  const ties = tieSizes([...one, ...other]).reduce((sum, size) => sum + size ** 3 - size, 0);
  const variance = (pairs / 12) * (total + 1 - ties / Math.max(1, total * (total - 1)));
  const distance = Math.max(0, Math.abs(u - pairs / 2) - 0.5);
  const p = variance === 0 ? 1 : 2 * upperTail(distance / Math.sqrt(variance));
  return { u, p: Math.min(1, p), effect: (2 * u) / pairs - 1 };
}

function tieSizes(values: readonly number[]): number[] {
  const sizes = new Map<number, number>();
  for (const value of values) sizes.set(value, (sizes.get(value) ?? 0) + 1);
  return [...sizes.values()];
}

/** Chance that a standard normal variable exceeds z ≥ 0; Abramowitz and Stegun 26.2.17, off by less than 7.5e-8. */
function upperTail(z: number): number {
  const t = 1 / (1 + 0.2316419 * z);
  const series = [0.31938153, -0.356563782, 1.781477937, -1.821255978, 1.330274429];
  const sum = series.reduceRight((inner, coefficient) => t * (coefficient + inner), 0);
  return (Math.exp((-z * z) / 2) / Math.sqrt(2 * Math.PI)) * sum;
}

/** How a quantity grows with another one, by the simplest law that fits. */
export interface Growth {
  readonly order: GrowthOrder;
  /** Root mean square of the deviations from the law, each as a share of its value. */
  readonly error: number;
  /** Different places it was measured at: three say little. */
  readonly points: number;
  /** What the law says at a place. */
  readonly at: (n: number) => number;
}

export type GrowthOrder = 'O(1)' | 'O(log n)' | 'O(n)' | 'O(n log n)' | 'O(n²)';

const laws: readonly { readonly order: GrowthOrder; readonly shape: (n: number) => number }[] = [
  { order: 'O(1)', shape: () => 0 },
  { order: 'O(log n)', shape: (n) => Math.log2(n + 1) },
  { order: 'O(n)', shape: (n) => n },
  { order: 'O(n log n)', shape: (n) => n * Math.log2(n + 1) },
  { order: 'O(n²)', shape: (n) => n * n },
];

/** Deviations up to this share are noise, whatever law would come closer. */
const CLOSE_ENOUGH = 0.15;
/** Two points fit any law. */
const FEWEST_POINTS = 3;
/** A more complicated law has to come closer by this factor. */
const MUCH_CLOSER = 0.7;

/**
 * The simplest law `a + b · shape(n)`, a and b not negative, that fits the values, which are positive: one that comes
 * close enough, or than which none of higher order comes much closer. Deviations count in proportion, so that small n
 * count as large ones do.
 */
export function fitGrowth(samples: readonly { readonly n: number; readonly value: number }[]): Growth {
  const points = new Set(samples.map(({ n }) => n)).size;
  const fits = laws
    .slice(0, points < FEWEST_POINTS ? 1 : laws.length)
    .map(({ order, shape }) => ({ order, points, ...fitted(samples, shape) }));
  return fits.reduce((best, next) =>
    best.error > CLOSE_ENOUGH && next.error < best.error * MUCH_CLOSER ? next : best,
  );
}

/** The `a + b · shape(n)` of the least deviation in proportion to the values, and that. */
function fitted(
  samples: readonly { readonly n: number; readonly value: number }[],
  shape: (n: number) => number,
): Pick<Growth, 'error' | 'at'> {
  // Divided by its value, each equation asks for a/v + b·s/v = 1.
  const rows = samples.map(({ n, value }) => ({ one: 1 / value, law: shape(n) / value }));
  const sum = (of: (row: { one: number; law: number }) => number): number =>
    rows.reduce((total, row) => total + of(row), 0);
  const [aa, ab, bb] = [
    sum(({ one }) => one * one),
    sum(({ one, law }) => one * law),
    sum(({ law }) => law * law),
  ];
  const [a1, b1] = [sum(({ one }) => one), sum(({ law }) => law)];
  const determinant = aa * bb - ab * ab;
  let [a, b] = [a1 / aa, 0];
  if (determinant > 1e-12 * aa * bb) {
    b = (aa * b1 - ab * a1) / determinant;
    a = (bb * a1 - ab * b1) / determinant;
    if (b < 0) [a, b] = [a1 / aa, 0];
    else if (a < 0) [a, b] = [0, b1 / bb];
  }
  const squares = sum(({ one, law }) => (a * one + b * law - 1) ** 2);
  const error = Math.sqrt(squares / Math.max(1, rows.length));
  return { error, at: (n) => a + b * shape(n) };
}
