import type { Capabilities, DriverImage } from './driver.ts';
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

/** Throws RangeError unless the range lies on the disk and is whole units; the last one may end with the disk. */
export function assertUnits({ size, unitBytes }: DriverImage, offset: number, length: number): void {
  assertRange(offset, length, size);
  const end = offset + length;
  if (offset % unitBytes === 0 && (end % unitBytes === 0 || end === size)) return;
  throw new RangeError(`bytes ${offset} to ${end} are no whole units of ${unitBytes} bytes`);
}

/** What a request holds that reserves or unmaps: the units around its range. */
export function unitsAround(image: DriverImage, start: number, end: number): [number, number] {
  const unit = image.reserveBytes ?? image.unitBytes;
  return [start - (start % unit), Math.ceil(end / unit) * unit];
}
