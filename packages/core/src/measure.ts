import type { Disk } from './disk.ts';
import type { BlockDriver, MeasuredRun, Measurement, OptionValues } from './driver.ts';
import { CowlabError } from './errors.ts';
import { checkOptions } from './options.ts';

export interface MeasureOptions {
  /** Guest bytes of an empty disk. */
  readonly size?: number;
  /** A disk (or a snapshot, opened as one) that is to be copied, in the place of a size. */
  readonly source?: Disk;
  /** Create options of the new image. */
  readonly options?: OptionValues;
}

/** What is not known to be zeros. */
async function* runsOf(source: Disk | undefined): AsyncGenerator<MeasuredRun> {
  if (source === undefined) return;
  for await (const { offset, length, kind } of source.extents())
    if (kind !== 'zero') yield { offset, length };
}

/**
 * How large the files of a new image would be, without making one. Rejects with `ERR_UNSUPPORTED`, `ERR_TOO_LARGE`, and
 * with `ERR_INVALID_OPTION` for a size or options that cannot be.
 */
export async function measureDisk(driver: BlockDriver, asked: MeasureOptions): Promise<Measurement> {
  const { source, options = {} } = asked;
  const { sizeMultiple, maxSize, measure } = driver.capabilities;
  if (driver.measure === undefined || !measure) {
    const problem = `${driver.name} does not measure`;
    throw new CowlabError('ERR_UNSUPPORTED', problem, { field: 'measure', value: driver.name });
  }
  const checked = checkOptions(driver.options, options);
  const size = Math.ceil((asked.size ?? source?.size ?? 0) / sizeMultiple) * sizeMultiple;
  if (!Number.isSafeInteger(size) || size <= 0 || size > maxSize) {
    const problem = `${asked.size ?? source?.size} is not from 1 to ${maxSize}`;
    throw new CowlabError('ERR_INVALID_OPTION', `size: ${problem}`, { field: 'size', value: size });
  }
  return driver.measure({ size, options: checked, runs: runsOf(source) });
}

/** The units that runs touch, as runs of units that follow each other; each unit once. `offset` and `length` are units. */
export async function* touchedUnits(
  runs: AsyncIterable<MeasuredRun>,
  unitBytes: number,
): AsyncGenerator<MeasuredRun> {
  let next = 0;
  for await (const { offset, length } of runs) {
    const first = Math.max(next, Math.floor(offset / unitBytes));
    next = Math.ceil((offset + length) / unitBytes);
    if (next > first) yield { offset: first, length: next - first };
  }
}

export async function countUnits(runs: AsyncIterable<MeasuredRun>, unitBytes: number): Promise<number> {
  let count = 0;
  for await (const { length } of touchedUnits(runs, unitBytes)) count += length;
  return count;
}
