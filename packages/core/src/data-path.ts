import type { Awaitable } from './awaitable.ts';
import type { DriverImage, Extent, Placement, ResolvedExtent } from './driver.ts';

/*
 * How guest bytes move, for every format alike. The caller has validated the range and holds its lock.
 *
 *   read    map → fetch each extent: from the storage, as zeros, from the backing, or decoded
 *   write   map → owned data: overwrite in place
 *               → anything else: reserve → fill head and tail from the old state → one write → commit
 *   zero    whole units: unmap; the partial ones at the edges: written zeros, where they are not zero yet
 *   write compressed   whole units to the driver, which stores those that get smaller → the others as a write
 *
 * The first extent that answers for the whole request without waiting is the hot path, and returns without a
 * promise. Everything else falls through to an async function that goes on from where the hot path stood.
 */

type Pending = Promise<void>;

/**
 * A read goes down a chain of images as calls within calls, and the stack has room for some two thousand of
 * them. So every so many images it starts again on an empty one.
 */
const MAX_NESTING = 1200;
let nesting = 0;

/** Fills `target` with the extent's first bytes. */
export function readExtent(extent: Extent, target: Uint8Array): Awaitable<void> {
  switch (extent.kind) {
    case 'data':
      return extent.storage.read(extent.hostOffset, target);
    case 'zero':
      target.fill(0);
      return;
    case 'backing': {
      const inside = Math.max(0, Math.min(target.length, extent.source.size - extent.offset));
      target.fill(0, inside);
      if (inside === 0) return;
      if (nesting >= MAX_NESTING) return Promise.resolve().then(() => readExtent(extent, target));
      nesting++;
      try {
        return extent.source.read(
          extent.offset,
          inside === target.length ? target : target.subarray(0, inside),
        );
      } finally {
        nesting--;
      }
    }
    case 'encoded':
      return extent.read(target);
  }
}

/** Reads `target.length` bytes from `offset`. */
export function readBytes(image: DriverImage, offset: number, target: Uint8Array): Awaitable<void> {
  const extent = image.map(offset, target.length);
  if (extent instanceof Promise) return readRest(image, offset, target, 0, extent, []);
  return extent.length === target.length
    ? readExtent(extent, target)
    : readParts(image, offset, target, extent);
}

/** Reads extent by extent, without a promise as long as nothing waits. */
function readParts(image: DriverImage, offset: number, target: Uint8Array, first: Extent): Awaitable<void> {
  const waiting: Pending[] = [];
  let done = 0;
  try {
    for (let extent = first; ; ) {
      const fetched = readExtent(extent, target.subarray(done, done + extent.length));
      if (fetched instanceof Promise) waiting.push(fetched);
      done += extent.length;
      if (done === target.length) break;
      const next = image.map(offset + done, target.length - done);
      if (next instanceof Promise) return readRest(image, offset, target, done, next, waiting);
      extent = next;
    }
  } catch (error) {
    if (waiting.length === 0) throw error;
    return failAfter(waiting, error);
  }
  return waiting.length === 0 ? undefined : allOf(waiting);
}

/** Throws once nothing goes on any more: no fetch may write into a buffer that the caller has back. */
async function failAfter(waiting: readonly Pending[], error: unknown): Promise<void> {
  await Promise.allSettled(waiting);
  throw error;
}

async function readRest(
  image: DriverImage,
  offset: number,
  target: Uint8Array,
  start: number,
  first: Promise<Extent>,
  waiting: Pending[],
): Promise<void> {
  let done = start;
  let next: Awaitable<Extent> = first;
  try {
    for (;;) {
      const extent: Extent = await next;
      const fetched = readExtent(extent, target.subarray(done, done + extent.length));
      if (fetched instanceof Promise) waiting.push(fetched);
      done += extent.length;
      if (done === target.length) break;
      next = image.map(offset + done, target.length - done);
    }
  } catch (error) {
    return failAfter(waiting, error);
  }
  await allOf(waiting);
}

/** Waits for all, then throws the first failure: nothing goes on behind the caller's back. */
async function allOf(waiting: readonly Pending[]): Promise<void> {
  const results = await Promise.allSettled(waiting);
  const failed = results.find((result) => result.status === 'rejected');
  if (failed !== undefined) throw failed.reason;
}

/** True when a write to the range would go in place, wholly. Undefined when that cannot be told without waiting. */
export function isOwned(image: DriverImage, offset: number, length: number): boolean | undefined {
  for (let done = 0; done < length; ) {
    const extent = mapNow(image, offset + done, length - done);
    if (extent === undefined) return undefined;
    if (extent.kind !== 'data' || !extent.owned) return false;
    done += extent.length;
  }
  return true;
}

/** Writes all of `source` at `offset`. */
export function writeBytes(image: DriverImage, offset: number, source: Uint8Array): Awaitable<void> {
  const extent = image.map(offset, source.length);
  if (extent instanceof Promise) return extent.then((there) => writeRest(image, offset, source, there));
  if (extent.kind === 'data' && extent.owned) {
    if (extent.length === source.length) return extent.storage.write(extent.hostOffset, source);
    return writeRest(image, offset, source, extent);
  }
  const placement = image.reserve(offset, source.length);
  if (placement instanceof Promise) return placement.then((there) => placeThenRest(image, there, source));
  if (placement.length === source.length && needsNoFill(image, placement)) {
    return place(image, placement, source, placement.hostOffset);
  }
  return placeThenRest(image, placement, source);
}

/** Whether the bytes of a placement go alone, as far as that can be told without waiting. */
function needsNoFill(image: DriverImage, { guestOffset, length, head, tail, fresh }: Placement): boolean {
  if (head === 0 && tail === 0) return true;
  const end = guestOffset + length;
  const known = Math.min(tail, Math.max(0, image.size - end));
  return fresh && isUnmapped(image, guestOffset - head, head) && isUnmapped(image, end, known);
}

/** Whether the image itself says of the whole range, without waiting, that it is zeros. */
function isUnmapped(image: DriverImage, offset: number, length: number): boolean {
  for (let done = 0; done < length; ) {
    const extent = mapNow(image, offset + done, length - done);
    if (extent?.kind !== 'zero') return false;
    done += extent.length;
  }
  return true;
}

/** What `map` says when it says it at once: nobody waits for another answer, and nobody would hear of its failure. */
function mapNow(image: DriverImage, offset: number, length: number): Extent | undefined {
  try {
    const extent = image.map(offset, length);
    if (!(extent instanceof Promise)) return extent;
    extent.catch(() => undefined);
  } catch {
    // Who has to know fails by it again, and says so.
  }
  return undefined;
}

/** `first` is what `map` said of the start, when it was asked already. */
async function writeRest(
  image: DriverImage,
  offset: number,
  source: Uint8Array,
  first?: Extent,
): Promise<void> {
  for (let done = 0; done < source.length; ) {
    const known = done === 0 ? first : undefined;
    const extent = known ?? (await image.map(offset + done, source.length - done));
    if (extent.kind === 'data' && extent.owned) {
      await extent.storage.write(extent.hostOffset, source.subarray(done, done + extent.length));
      done += extent.length;
    } else {
      const placement = await image.reserve(offset + done, source.length - done);
      await fillAndPlace(image, placement, source.subarray(done, done + placement.length));
      done += placement.length;
    }
  }
}

async function placeThenRest(image: DriverImage, placement: Placement, source: Uint8Array): Promise<void> {
  await fillAndPlace(image, placement, source.subarray(0, placement.length));
  if (placement.length < source.length) {
    await writeRest(image, placement.guestOffset + placement.length, source.subarray(placement.length));
  }
}

/** Puts bytes where the placement says and makes them visible, or gives the space back. */
function place(image: DriverImage, placement: Placement, bytes: Uint8Array, at: number): Awaitable<void> {
  try {
    const written = placement.storage.write(at, bytes);
    if (written instanceof Promise) {
      return written.then(
        () => image.commit(placement),
        (error: unknown) => {
          image.abort(placement);
          throw error;
        },
      );
    }
  } catch (error) {
    image.abort(placement);
    throw error;
  }
  return image.commit(placement);
}

async function fillAndPlace(image: DriverImage, placement: Placement, bytes: Uint8Array): Promise<void> {
  const { guestOffset, length, fresh } = placement;
  let filled: { readonly bytes: Uint8Array; readonly at: number };
  try {
    const head = await withoutNeedlessZeros(image, guestOffset - placement.head, placement.head, fresh);
    const tail = await withoutNeedlessZeros(image, guestOffset + length, placement.tail, fresh);
    filled = { bytes, at: placement.hostOffset - head };
    if (head + tail > 0) {
      const whole = new Uint8Array(head + length + tail);
      if (head > 0) await readBytes(image, guestOffset - head, whole.subarray(0, head));
      whole.set(bytes, head);
      const end = guestOffset + length;
      const known = Math.min(tail, Math.max(0, image.size - end));
      // A driver maps no empty range: at the end of the disk there would be nothing to map.
      if (known > 0) await readBytes(image, end, whole.subarray(head + length, head + length + known));
      filled = { bytes: whole, at: placement.hostOffset - head };
    }
  } catch (error) {
    image.abort(placement);
    throw error;
  }
  await place(image, placement, filled.bytes, filled.at);
}

/** How much of the fill must be written: nothing when it is all zeros and the host bytes are zeros already. */
async function withoutNeedlessZeros(
  image: DriverImage,
  offset: number,
  length: number,
  fresh: boolean,
): Promise<number> {
  if (length === 0 || !fresh) return length;
  return (await readsAsZeros(image, offset, Math.min(length, image.size - offset))) ? 0 : length;
}

/** Whether the mapping alone says that the range is all zeros. */
async function readsAsZeros(image: DriverImage, offset: number, length: number): Promise<boolean> {
  for (let done = 0; done < length; ) {
    const extent = await resolveExtent(image, offset + done, length - done);
    if (extent.kind !== 'zero') return false;
    done += extent.length;
  }
  return true;
}

/** Stores units in compressed form, those that get no smaller as they are; how many bytes are stored compressed. */
export async function writeCompressedBytes(
  image: DriverImage,
  offset: number,
  source: Uint8Array,
): Promise<number> {
  if (image.writeCompressed === undefined) throw new TypeError('the image stores nothing compressed');
  let compressed = source.length;
  for (const { offset: at, length } of await image.writeCompressed(offset, source)) {
    await writeBytes(image, at, source.subarray(at - offset, at - offset + length));
    compressed -= length;
  }
  return compressed;
}

/** Makes the range read as zeros. Partial units at the edges are written, unless `mode` lets them be (`discard`). */
export async function unmapBytes(
  image: DriverImage,
  offset: number,
  length: number,
  mode: 'discard' | 'zero',
): Promise<void> {
  const unit = image.unitBytes;
  const end = offset + length;
  const wholeStart = Math.ceil(offset / unit) * unit;
  const wholeEnd = end === image.size ? end : Math.floor(end / unit) * unit;
  const edges: [number, number][] =
    wholeStart >= wholeEnd
      ? [[offset, end]]
      : [
          [offset, wholeStart],
          [wholeEnd, end],
        ];
  if (mode === 'zero') {
    for (const [from, to] of edges) {
      if (from < to && !(await readsAsZeros(image, from, to - from))) {
        await writeBytes(image, from, new Uint8Array(to - from));
      }
    }
  }
  if (wholeStart < wholeEnd) await image.unmap(wholeStart, wholeEnd - wholeStart, mode);
}

/** One extent with the backing chain walked. */
export async function resolveExtent(
  image: DriverImage,
  offset: number,
  length: number,
): Promise<ResolvedExtent> {
  const extent = await image.map(offset, length);
  switch (extent.kind) {
    case 'data':
      return {
        kind: 'data',
        length: extent.length,
        depth: 0,
        allocated: true,
        storage: extent.storage,
        hostOffset: extent.hostOffset,
      };
    case 'zero':
      return { kind: 'zero', length: extent.length, depth: 0, allocated: extent.allocated };
    case 'encoded':
      return { kind: 'encoded', length: extent.length, depth: 0, allocated: true };
    case 'backing': {
      const inside = Math.min(extent.length, extent.source.size - extent.offset);
      if (inside <= 0) return { kind: 'zero', length: extent.length, depth: 0, allocated: false };
      const below = await extent.source.resolve(extent.offset, inside);
      return { ...below, depth: below.depth + 1 };
    }
  }
}
