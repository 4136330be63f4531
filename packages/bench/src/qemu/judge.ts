import { median } from '../statistics.ts';
import type { CallCounts, Ratio, SpeedRow } from './schema.ts';

/* What ours has to reach beside QEMU. Everything that is asked for is here. */

/** Times as fast as QEMU at depth 1, where its round trips count; and wherever else something is compared. */
export const bars = { alone: 2, together: 1, command: 1 } as const;

/** Of paired repetitions: QEMU's time ÷ ours. */
export function ratioOf(qemuMs: readonly number[], oursMs: readonly number[]): Ratio {
  const ratios = qemuMs.map((value, at) => value / (oursMs[at] ?? Number.NaN));
  return { median: median(ratios), low: Math.min(...ratios), high: Math.max(...ratios) };
}

/** Raw has nothing of a format: it is the control, and owes nothing. */
export function barOf({
  format,
  operation,
  depth,
}: Pick<SpeedRow, 'format' | 'operation' | 'depth'>): number | null {
  if (format === 'raw') return null;
  return depth === 1 && operation !== 'first pass' ? bars.alone : bars.together;
}

export function judged(ratio: Ratio, bar: number | null): { ratio: Ratio; bar: number | null; met: boolean } {
  return { ratio, bar, met: bar === null || ratio.median >= bar };
}

export function sumOf({ reads, writes, zeroes, flushes }: CallCounts): number {
  return reads + writes + zeroes + flushes;
}
