import type { TrendRow } from '../schema.ts';
import { size, times } from '../wording.ts';

/* The trends of ours beside QEMU's, as cells of a table: in the terminal, in Markdown, on the page. */

export const trendHead: readonly string[] = ['', 'N', 'ours', 'QEMU’s', 'ours is', 'ours goes as', 'QEMU’s'];

export function trendCells(row: TrendRow): string[] {
  const { quantity, fromSnapshots, snapshots, unit, byLaw } = row;
  const show = (value: number): string =>
    unit === 'ratio' ? times(value) : `${value < 0 ? '−' : '+'}${size(Math.abs(value))}`;
  return [
    quantity,
    `${fromSnapshots} → ${snapshots}`,
    `${byLaw ? '≈ ' : ''}${show(row.ours)}`,
    show(row.originals),
    row.agreement === 'agrees' ? 'alike' : row.agreement,
    row.oursOrder,
    row.originalsOrder,
  ];
}

/** The trends of each pair, with a title. */
export function trendGroups(rows: readonly TrendRow[]): { title: string; rows: TrendRow[] }[] {
  const titles = [...new Set(rows.map(({ format, original }) => `${format} beside ${original}`))];
  return titles.map((title) => ({
    title,
    rows: rows.filter(({ format, original }) => `${format} beside ${original}` === title),
  }));
}

/** How many trends are alike, and how many are not. */
export function trendSummary(rows: readonly TrendRow[]): string {
  const count = (agreement: TrendRow['agreement']): number =>
    rows.filter((row) => row.agreement === agreement).length;
  const orders = rows.filter(({ oursOrder, originalsOrder }) => oursOrder === originalsOrder).length;
  return (
    `${count('agrees')} of ${rows.length} go with N alike, ${count('better')} of ours go up less, ` +
    `${count('worse')} more, ${count('unsure')} are unsure; ${orders} by the same law`
  );
}

export const trendNote: string =
  'Compared is how each number goes with N, never the number: what it is at N against what it was, or by how many bytes ' +
  'it grew. “≈”: ours has no image at that N, the law that fits its numbers says what it is there. “better”: ours goes up less; “unsure”: the times vary too much to tell.';
