import type { BackingExtent, DriverImage, Extent } from './driver.ts';
import { readBytes, readExtent, writeBytes } from './data-path.ts';

/*
 * Local copies: bytes that a backing answers for become the image's own, and read as they did.
 *
 *   what the backing has           what the image gets
 *   zeros, by its own mapping      a zero mapping; nothing is read
 *   a hole in its storage          the same
 *   bytes, whole units of zeros    a zero mapping
 *   bytes                          a write like any other: reserve → bytes → commit
 *   nothing (past its end)         nothing: these are zeros with or without it
 *
 * The caller holds the units exclusively from before they are mapped until they are committed, so no guest write
 * comes between the reading of old bytes and their writing. A power loss in between leaves what an unflushed write
 * leaves; old and new say the same, because the backing is still named.
 */

/** What a copy holds in memory, and keeps others waiting for; one allocation unit where that is larger. */
export const STEP_BYTES: number = 1024 * 1024;

/** A look at the mapping asks for so much at most: a driver may walk all of it, and a search looks again and again. */
const LOOK_BYTES: number = 64 * 1024 * 1024;

/** What a copy has done. Times are the storages' alone: nobody's turn is waited for in them. */
export interface PopulateReport {
  /** Bytes that were read from the backing. */
  readonly readBytes: number;
  readonly readMs: number;
  /** Bytes that were written to the image. */
  readonly writtenBytes: number;
  readonly writeMs: number;
  /** Bytes that became zero mappings. */
  readonly zeroedBytes: number;
}

/** Adds up what steps have done. */
export type PopulateTally = { -readonly [sum in keyof PopulateReport]: PopulateReport[sum] };

export function newTally(): PopulateTally {
  return { readBytes: 0, readMs: 0, writtenBytes: 0, writeMs: 0, zeroedBytes: 0 };
}

/** A part of a disk that its backing answers for, with bytes of its own or zeros. */
export interface BackedRange {
  readonly offset: number;
  readonly length: number;
}

/** How many of the extent's bytes a backing has; what lies past its end is zeros without it, too. */
function backedBytes(extent: Extent): number {
  if (extent.kind !== 'backing') return 0;
  return Math.max(0, Math.min(extent.length, extent.source.size - extent.offset));
}

/** Whether a read of the range would ask a backing. Undefined when that cannot be told without waiting. */
export function asksBacking(image: DriverImage, offset: number, length: number): boolean | undefined {
  for (let done = 0; done < length; ) {
    const extent = image.map(offset + done, length - done);
    if (extent instanceof Promise) {
      // Nobody waits for this answer, so nobody else would hear of its failure, and the process would end.
      extent.catch(() => undefined);
      return undefined;
    }
    if (backedBytes(extent) > 0) return true;
    done += extent.length;
  }
  return false;
}

/**
 * The first run that a backing answers for, after a look at so many extents at most: `end` tells how far it looked
 * when it found none.
 */
export async function findBacked(
  image: DriverImage,
  offset: number,
  end: number,
  maxExtents: number,
): Promise<{ readonly found?: BackedRange; readonly end: number }> {
  let at = offset;
  for (let looked = 0; at < end && looked < maxExtents; looked++) {
    const extent = await image.map(at, Math.min(end - at, LOOK_BYTES));
    const length = backedBytes(extent);
    if (length > 0) return { found: { offset: at, length }, end: at + length };
    at += extent.length;
  }
  return { end: at };
}

/** Copies what a backing answers for between two offsets; both are multiples of the unit, or the disk's end. */
export async function populateUnits(
  image: DriverImage,
  start: number,
  end: number,
  tally: PopulateTally,
  now: () => number,
): Promise<void> {
  for (let at = start; at < end; ) {
    const extent = await image.map(at, end - at);
    if (extent.kind !== 'backing' || backedBytes(extent) === 0) {
      at += extent.length;
      continue;
    }
    const length = wholeUnits(image, at, Math.min(backedBytes(extent), end - at));
    const zeros = await zerosBelow(image, at, extent, length);
    if (zeros > 0) {
      await image.unmap(at, zeros, 'zero');
      tally.zeroedBytes += zeros;
      at += zeros;
    } else {
      const bytes = new Uint8Array(length);
      const before = now();
      await readExtent({ ...extent, length }, bytes);
      tally.readMs += now() - before;
      tally.readBytes += length;
      await keep(image, at, bytes, tally, now);
      at += length;
    }
  }
}

/**
 * Reads, and keeps what came from a backing. Whole units are read for that; when this or the keeping fails, the
 * bytes that were asked for are read as if nothing were kept. Resolves to the failure that the reader never sees.
 */
export async function readAndKeep(
  image: DriverImage,
  offset: number,
  target: Uint8Array,
  tally: PopulateTally,
): Promise<unknown> {
  const { unitBytes, size } = image;
  const step = Math.max(STEP_BYTES, unitBytes);
  const stop = offset + target.length;
  let failure: unknown;
  for (let at = offset; at < stop; ) {
    const next = Math.min(stop, at - (at % step) + step);
    const part = target.subarray(at - offset, next - offset);
    const start = at - (at % unitBytes);
    try {
      const bytes = new Uint8Array(Math.min(size, Math.ceil(next / unitBytes) * unitBytes) - start);
      await readBytes(image, start, bytes);
      part.set(bytes.subarray(at - start, next - start));
      await keepBacked(image, start, bytes, tally);
    } catch (error) {
      failure = error;
      await readBytes(image, at, part);
    }
    at = next;
  }
  return failure;
}

/** Keeps those of the units that a backing answers for; `bytes` are what they read as. */
async function keepBacked(
  image: DriverImage,
  start: number,
  bytes: Uint8Array,
  tally: PopulateTally,
): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const extent = await image.map(start + done, bytes.length - done);
    const backed = backedBytes(extent);
    if (backed > 0) {
      const length = Math.min(bytes.length - done, wholeUnits(image, start + done, backed));
      await keep(image, start + done, bytes.subarray(done, done + length), tally, () => 0);
    }
    done += extent.length;
  }
}

/** Makes `bytes` the image's own: zero mappings for whole units of zeros, writes for what lies between them. */
export async function keep(
  image: DriverImage,
  offset: number,
  bytes: Uint8Array,
  tally: PopulateTally,
  now: () => number,
): Promise<void> {
  const { unitBytes } = image;
  for (let done = 0; done < bytes.length; ) {
    const isZero = isAllZeros(bytes, done, unitBytes);
    let end = done + unitBytes;
    while (end < bytes.length && isAllZeros(bytes, end, unitBytes) === isZero) end += unitBytes;
    end = Math.min(end, bytes.length);
    const before = now();
    if (isZero) {
      await image.unmap(offset + done, end - done, 'zero');
      tally.zeroedBytes += end - done;
    } else {
      await writeBytes(image, offset + done, bytes.subarray(done, end));
      tally.writeMs += now() - before;
      tally.writtenBytes += end - done;
    }
    done = end;
  }
}

function isAllZeros(bytes: Uint8Array, start: number, length: number): boolean {
  const part = Buffer.from(bytes.buffer, bytes.byteOffset + start, Math.min(length, bytes.length - start));
  return part.length > 0 && part[0] === 0 && part.compare(part, 1, part.length, 0, part.length - 1) === 0;
}

/** So many bytes from a unit's start, rounded up to whole units, or to the end of the disk. */
function wholeUnits({ unitBytes, size }: DriverImage, offset: number, length: number): number {
  return Math.min(size - offset, Math.ceil(length / unitBytes) * unitBytes);
}

/** How many bytes from `offset` on, in whole units, read as zeros by what the images and storages below know. */
async function zerosBelow(
  image: DriverImage,
  offset: number,
  extent: BackingExtent,
  length: number,
): Promise<number> {
  const inside = Math.min(length, backedBytes(extent));
  let zeros = 0;
  while (zeros < inside) {
    const below = await extent.source.resolve(extent.offset + zeros, inside - zeros);
    if (below.kind === 'zero') zeros += below.length;
    else if (below.storage === undefined || below.hostOffset === undefined) break;
    else {
      const status = await below.storage.status(below.hostOffset, below.length);
      if (status.data) break;
      zeros += status.length;
    }
  }
  return zeros >= inside ? length : zeros - (zeros % image.unitBytes);
}
