import { type Extent, unsupported } from '@cowlab/core';
import type { ChainFile } from './chain-file.ts';
import { SparseExtent } from './extent.ts';
import { FlatExtent } from './flat-extent.ts';
import {
  assertNotAborted,
  assertSameShape,
  type MergeOptions,
  moveDown,
  movesLessDown,
  moveUp,
} from './merge.ts';

/*
 * The moving of grains between two files of a chain, of whatever kinds. Two that are one sparse extent each go the way of
 * merge.ts, by their grain tables. Any others are asked what they say of their bytes (`map`), and told by way of their
 * parts: the table at the top of merge.ts holds for them too, and where it says "grain" a flat extent always has one.
 *
 * A disk of several files keeps its kind: a link with extents of its own takes what its only child has, however much that
 * is, when all its extents can be written to.
 */

const COPY_BYTES = 1024 * 1024;

export function unitCountOf({ size, unitBytes }: ChainFile): number {
  return Math.ceil(size / unitBytes);
}

/** Throws `ERR_UNSUPPORTED` unless both are of one size, with the same grains where both have some. */
export function assertSameDisk(link: ChainFile, child: ChainFile): void {
  const [one, other] = [link.onlySparse, child.onlySparse];
  if (one !== undefined && other !== undefined) return assertSameShape(one, other);
  const refuse = (field: string, value: number): never => {
    throw unsupported(child.file, field, `differs from that of ${link.file}`, { value });
  };
  const [below, above] = [link.grainBytes, child.grainBytes];
  if (below !== undefined && above !== undefined && below !== above) refuse('header.grainSize', above);
  if (link.size !== child.size) refuse('header.capacity', child.size);
}

/** Whether an only child is to be merged into its link, and not the other way round. Both are of one disk. */
export async function goesDown(
  link: ChainFile,
  child: ChainFile,
  options: Pick<MergeOptions, 'signal' | 'onGrains'>,
): Promise<boolean> {
  const [below, above] = [link.onlySparse, child.onlySparse];
  if (below !== undefined) return above !== undefined && movesLessDown(below, above, options);
  return link.parts.every(
    (part) =>
      part instanceof FlatExtent ||
      (part instanceof SparseExtent &&
        part.tables.directory.every((_, index) => part.tables.isWritable(index))),
  );
}

/** Gives a child what it lacks of its link. In memory as to the tables; both are of one disk. */
export async function fillUp(link: ChainFile, child: ChainFile, options: MergeOptions): Promise<void> {
  const [below, above] = [link.onlySparse, child.onlySparse];
  if (below !== undefined && above !== undefined) return moveUp(below, above, options);
  await eachRun(child, options, async (at) => {
    const own = await child.map(at, link.size - at, undefined);
    if (!isNothing(own)) return own.length;
    const old = await link.map(at, own.length, undefined);
    return isNothing(old) ? old.length : moveRun(link, child, at, old, own.length, options.below);
  });
}

/** Gives a link everything that its child has. In memory as to the tables; both are of one disk. */
export async function fillDown(child: ChainFile, link: ChainFile, options: MergeOptions): Promise<void> {
  const [below, above] = [link.onlySparse, child.onlySparse];
  if (below !== undefined && above !== undefined) return moveDown(above, below, options);
  await eachRun(child, options, async (at) => {
    const own = await child.map(at, child.size - at, undefined);
    return isNothing(own) ? own.length : moveRun(child, link, at, own, own.length, options.below);
  });
}

/** Calls `run` from unit to unit; it tells how far it got. */
async function eachRun(
  { size, unitBytes, file }: ChainFile,
  { signal, onGrains }: MergeOptions,
  run: (at: number) => Promise<number>,
): Promise<void> {
  let units = 0;
  for (let at = 0; at < size; ) {
    assertNotAborted(file, signal);
    at += await run(at);
    const done = Math.ceil(at / unitBytes);
    onGrains(done - units);
    units = done;
  }
}

/** Moves whole units of a run that `from` has at `at`, of `most` bytes that may go; returns how many bytes. */
async function moveRun(
  from: ChainFile,
  to: ChainFile,
  at: number,
  extent: Extent,
  most: number,
  below: boolean,
): Promise<number> {
  const unit = Math.min(to.unitBytes, most);
  const wholeUnits = (bytes: number): number => (bytes === most ? most : bytes - (bytes % to.unitBytes));
  let length = wholeUnits(extent.length);
  // A unit of which there are pieces in several places.
  if (length === 0) return copyBytes(from, to, at, unit);
  if (extent.kind === 'data') {
    const status = await extent.storage.status(extent.hostOffset, length);
    if (status.data) return copyBytes(from, to, at, Math.min(length, COPY_BYTES));
    length = wholeUnits(status.length);
    if (length === 0) return copyBytes(from, to, at, unit);
  }
  const part = to.partAt(at);
  if (part.crowded) await part.flush();
  return (await part.unmap(at, Math.min(at + length, part.start + part.size), below)) - at;
}

function isNothing(extent: Extent): boolean {
  return extent.kind === 'zero' && !extent.allocated;
}

/** Copies up to `length` bytes: whole units, or what there is to the end of the disk. */
async function copyBytes(from: ChainFile, to: ChainFile, at: number, length: number): Promise<number> {
  // Past the file's own `reserve`: what it shows through its chain stays, so its CID does.
  const part = to.partAt(at);
  if (part.crowded) await part.flush();
  const placement = await part.reserve(at, Math.min(length, part.start + part.size - at));
  try {
    const bytes = new Uint8Array(placement.length);
    await readOwn(from, at, bytes);
    await placement.storage.write(placement.hostOffset, bytes);
    await part.commit(placement);
  } catch (error) {
    part.abort(placement);
    throw error;
  }
  return placement.length;
}

/** What the file itself says; where it says nothing there are zeros. */
async function readOwn(file: ChainFile, at: number, target: Uint8Array): Promise<void> {
  for (let done = 0; done < target.length; ) {
    const extent = await file.map(at + done, target.length - done, undefined);
    const piece = target.subarray(done, done + extent.length);
    if (extent.kind === 'data') await extent.storage.read(extent.hostOffset, piece);
    else piece.fill(0);
    done += extent.length;
  }
}
