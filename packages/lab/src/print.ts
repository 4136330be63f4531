import type { LabRequest } from './arguments.ts';
import type { Row, Tally } from './tally.ts';

const number = (value: number): string => value.toLocaleString('en-US');

function otherCounts({ counts }: Row): string {
  const others = Object.entries(counts).filter(([name]) => name !== 'verified' && name !== 'duplicates');
  return others.map(([name, value]) => `${name} ${number(value)}`).join(', ');
}

function sumOf(rows: readonly Row[], label: string): Row {
  const sum: Row = { driver: label, part: '', workload: '', counts: {}, violations: 0 };
  for (const { counts, violations } of rows) {
    sum.violations += violations;
    for (const [name, value] of Object.entries(counts)) sum.counts[name] = (sum.counts[name] ?? 0) + value;
  }
  return sum;
}

function cellsOf(row: Row): string[] {
  const { driver, part, workload, counts, violations } = row;
  const [verified, duplicates] = [counts['verified'] ?? 0, counts['duplicates'] ?? 0];
  return [
    driver,
    part,
    workload,
    number(verified + duplicates),
    number(verified),
    number(duplicates),
    number(violations),
    otherCounts(row),
  ];
}

const titles = ['driver', 'part', 'workload', 'explored', 'verified', 'duplicates', 'violations', 'of them'];
const isNumeric = (column: number): boolean => column >= 3 && column <= 6;

/** The table at the end. */
export function tableOf(rows: readonly Row[]): string {
  const drivers = [...new Set(rows.map(({ driver }) => driver))];
  const sums = drivers.map((name) =>
    sumOf(
      rows.filter(({ driver }) => driver === name),
      `${name}, all`,
    ),
  );
  const lines = [titles, ...rows.map(cellsOf), ...[...sums, sumOf(rows, 'all')].map(cellsOf)];
  const widths = titles.map((_, column) => Math.max(...lines.map((line) => line[column]!.length)));
  const pad = (cell: string, column: number): string =>
    isNumeric(column) ? cell.padStart(widths[column]!) : cell.padEnd(widths[column]!);
  return lines.map((line) => line.map(pad).join('  ').trimEnd()).join('\n');
}

/** What went wrong, each with the command that shows it again. */
export function problemsOf(tally: Tally): string {
  const lines = tally.problems.map(
    ({ driver, part, message, replay }) => `${driver}, ${part}: ${message}\n  ${replay}`,
  );
  const hidden = tally.failures - tally.problems.length;
  if (hidden > 0) lines.push(`and ${number(hidden)} more`);
  return lines.join('\n');
}

/** The result for programs. */
export function jsonOf(request: LabRequest, tally: Tally, seconds: number): string {
  const { seed, drivers, parts, jobs } = request;
  const { rows, problems, failures, verified } = tally;
  return `${JSON.stringify({ seed, drivers, parts, jobs, seconds, verified, failures, rows, problems }, null, 2)}\n`;
}
