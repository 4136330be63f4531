import { type Command, Option } from 'commander';
import { invalidUse } from './errors.ts';
import { parseWhole } from './formats.ts';
import { parseSize } from './sizes.ts';
import type { CopyOptions } from './transfer.ts';

/* How `convert` copies, as it is typed; the letters are qemu-img's. */

const MAX_PARALLEL = 16;
const SECTOR_BYTES = 512;
const MAX_SPARSE_BYTES = 1024 * 1024;

export interface TypedCopyOptions {
  readonly parallel?: number;
  readonly outOfOrder?: boolean;
  readonly sparseSize?: number;
  readonly rateLimit?: number;
}

export function withCopyOptions(command: Command): Command {
  return command
    .addOption(
      new Option('-m, --parallel <number>', `pieces under way at a time, 1 to ${MAX_PARALLEL}`)
        .argParser(parseParallel)
        .default(undefined, '8'),
    )
    .option('-W, --out-of-order', 'let writes to the target begin in any order')
    .option(
      '-S, --sparse-size <size>',
      'so many zeros in a row are no data (4k); 0: zeros are data',
      parseSparse,
    )
    .option('-r, --rate-limit <size>', 'bytes of data in a second, at most', parseRate);
}

export function copyOptionsOf({
  parallel,
  outOfOrder,
  sparseSize,
  rateLimit,
}: TypedCopyOptions): CopyOptions {
  return {
    ...(parallel !== undefined && { parallel }),
    ...(outOfOrder !== undefined && { outOfOrder }),
    ...(sparseSize !== undefined && { sparseBytes: sparseSize }),
    ...(rateLimit !== undefined && { rate: rateLimit }),
  };
}

function parseParallel(text: string): number {
  const value = parseWhole(text, '-m');
  if (value < 1 || value > MAX_PARALLEL) throw invalidUse('-m', `${value} is not from 1 to ${MAX_PARALLEL}`);
  return value;
}

function parseSparse(text: string): number {
  const value = parseSize(text, '-S');
  if (value % SECTOR_BYTES !== 0 || value > MAX_SPARSE_BYTES) {
    throw invalidUse('-S', `${value} is not a multiple of ${SECTOR_BYTES} up to 1M`);
  }
  return value;
}

function parseRate(text: string): number {
  const value = parseSize(text, '-r');
  if (value === 0) throw invalidUse('-r', '0 bytes in a second would never end');
  return value;
}
