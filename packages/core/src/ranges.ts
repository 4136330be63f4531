import type { Capabilities } from './driver.ts';
import { CowlabError } from './errors.ts';

/** Throws `RangeError` unless the range lies on a disk of so many bytes. */
export function assertRange(offset: number, length: number, size: number): void {
  if (!Number.isSafeInteger(offset) || offset < 0) {
    throw new RangeError(`offset: not a whole number from 0: ${offset}`);
  }
  if (!Number.isSafeInteger(length) || length < 0) {
    throw new RangeError(`length: not a whole number from 0: ${length}`);
  }
  if (offset + length > size) {
    throw new RangeError(`bytes ${offset} to ${offset + length} lie past the disk's end at ${size}`);
  }
}

/** Throws unless a disk of the format can be of this size. */
export function assertNewSize(size: number, { sizeMultiple, maxSize }: Capabilities, file: string): void {
  if (!Number.isSafeInteger(size) || size <= 0) {
    throw new RangeError(`size: not a whole number above 0: ${size}`);
  }
  if (size % sizeMultiple === 0 && size <= maxSize) return;
  const problem = `must be a multiple of ${sizeMultiple}, at most ${maxSize}`;
  throw new CowlabError('ERR_INVALID_OPTION', `${file}: size: ${problem}`, {
    file,
    field: 'size',
    value: size,
  });
}
