/* Tables with a line above them, for a terminal and for a README. */

export interface TitledTable {
  readonly title: string;
  readonly head: readonly string[];
  readonly rows: readonly (readonly string[])[];
  /** The first columns are names, and stand left; numbers stand right. */
  readonly leftColumns: number;
}

export function plainTable({ title, head, rows, leftColumns }: TitledTable): string {
  const widths = head.map((name, at) => Math.max(...[head, ...rows].map((row) => (row[at] ?? name).length)));
  const line = (cells: readonly string[]): string =>
    `  ${cells.map((cell, at) => (at < leftColumns ? cell.padEnd(widths[at] ?? 0) : cell.padStart(widths[at] ?? 0))).join('  ')}`;
  return [`${title}:`, line(head), ...rows.map(line)].join('\n');
}

export function markdownTable({ title, head, rows }: TitledTable): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
  return [`${title}:`, '', line(head), `|${'---|'.repeat(head.length)}`, ...rows.map(line)].join('\n');
}
