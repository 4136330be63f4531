import type { RequestRow, Results } from './schema.ts';
import { medianInterval } from './statistics.ts';

/* Which times a run cannot vouch for: those whose rounds differ so much that the median could as well be another one. */

export interface NoisyRow {
  readonly what: string;
  /** Width of the 95 % interval of the median, as a share of it. */
  readonly spread: number;
}

/** A median that is only known to so large a share of itself tells little. */
const MOST_SPREAD = 0.25;

export function noisyRows({ reads, overwrites, allocations }: Results): NoisyRow[] {
  const sets: readonly [string, readonly RequestRow[]][] = [
    ['reads', reads],
    ['first overwrites', overwrites.filter(({ pass }) => pass === 'first')],
    ['steady overwrites', overwrites.filter(({ pass }) => pass === 'steady')],
    ['allocations', allocations],
  ];
  return sets.flatMap(([name, rows]) =>
    rows.flatMap(({ format, snapshots, roundMicros }) => {
      const { low, median, high } = medianInterval(roundMicros);
      const spread = (high - low) / median;
      return spread > MOST_SPREAD ? [{ what: `${name}, ${format} N=${snapshots}`, spread }] : [];
    }),
  );
}
