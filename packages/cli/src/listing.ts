import type { Output } from './output.ts';
import type { JsonOptions } from './session.ts';

/*
 * Lists of extents. A large image has millions of them: they are printed as they come, one to a line, as
 * qemu-img does, so columns have a fixed width.
 */

/** Fits every offset up to 2^53, in hexadecimal, and a blank. */
const COLUMN_WIDTH = 17;

/** An extent as a row of a table; the last cell may have any width. */
export interface Columns<T> {
  readonly titles: readonly string[];
  readonly cellsOf: (item: T) => readonly string[];
}

export async function printExtents<T>(
  output: Output,
  items: AsyncIterable<T>,
  { json }: JsonOptions,
  columns: Columns<T>,
): Promise<void> {
  await (json ? printJson(output, items) : printTable(output, items, columns));
}

async function printJson(output: Output, items: AsyncIterable<unknown>): Promise<void> {
  let before: string | undefined;
  for await (const item of items) {
    if (before !== undefined) output.line(`${before},`);
    before = `${before === undefined ? '[' : ' '}${JSON.stringify(item)}`;
  }
  output.line(before === undefined ? '[]' : `${before}]`);
}

async function printTable<T>(output: Output, items: AsyncIterable<T>, columns: Columns<T>): Promise<void> {
  const row = (cells: readonly string[]): string =>
    cells
      .map((cell) => cell.padEnd(COLUMN_WIDTH))
      .join('')
      .trimEnd();
  output.line(output.styled('bold', row(columns.titles)));
  for await (const item of items) output.line(row(columns.cellsOf(item)));
}

export function hex(value: number): string {
  return value === 0 ? '0' : `0x${value.toString(16)}`;
}
