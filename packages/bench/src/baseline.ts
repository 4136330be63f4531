import { grades } from './rules.ts';
import type { RequestRow, Results } from './schema.ts';

/** Something that is not as it was in an earlier run. */
export interface Difference {
  readonly what: string;
  readonly before: string;
  readonly after: string;
  /** A verdict got worse. Counts that moved are told, but a different profile moves them too. */
  readonly regression: boolean;
}

const MOVED = 0.1;

/** What changed between two runs, by verdicts and by counts per operation; times of two runs are not comparable. */
export function compareResults(before: Results, after: Results): Difference[] {
  const differences: Difference[] = [];
  for (const now of after.goals) {
    const then = before.goals.find(({ goal, format }) => goal === now.goal && format === now.format);
    if (then === undefined || then.verdict === now.verdict) continue;
    const regression = grades.indexOf(now.verdict) > grades.indexOf(then.verdict);
    differences.push({
      what: `${now.goal} ${now.format}`,
      before: then.verdict,
      after: now.verdict,
      regression,
    });
  }
  const label = (row: RequestRow & { pass?: string }): string =>
    `${row.format} N=${row.snapshots} ${row.pass ?? 'reads'}`;
  const rowsOf = (results: Results): RequestRow[] => [...results.reads, ...results.overwrites];
  const earlier = new Map(rowsOf(before).map((row) => [label(row), row]));
  for (const now of rowsOf(after)) {
    const then = earlier.get(label(now));
    if (then === undefined) continue;
    for (const key of ['calls', 'bytes'] as const) {
      const [was, is] = [then.calls[key] / then.operations, now.calls[key] / now.operations];
      if (Math.abs(is - was) <= was * MOVED) continue;
      const what = `${label(now)}, ${key} per operation`;
      differences.push({ what, before: was.toFixed(2), after: is.toFixed(2), regression: false });
    }
  }
  return differences;
}
