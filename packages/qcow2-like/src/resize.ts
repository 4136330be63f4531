import { type Backing, CowlabError, type LongCallOptions } from '@cowlab/core';
import type { Extents } from './extents.ts';
import { writeAround } from './fill.ts';
import { maxL1Bytes } from './layout.ts';
import { abortError, type Metadata } from './metadata.ts';
import type { Reservations } from './reservations.ts';

/*
 * Changing the size. The header's size switches in one sector write; everything else happens on the side of
 * it where nobody can see:
 *
 *   grow     larger L1 table if needed (header) → clusters past the old end are made to read as zeros «flush»
 *            → header.size
 *   shrink   header.size → clusters past the new end are given back
 *
 * An external data file is as long as the disk. It becomes shorter after the header does, and longer before:
 *
 *   grow     … clusters past the old end; raw: their entries, over zeros → the file's length «flush» → header.size
 *   shrink   header.size → the file's length → entries past the new end are given up
 *
 * A power loss after a shrink may leave clusters past the end; a later grow clears them, as it does anyway.
 */

export interface ResizeParts {
  readonly metadata: Metadata;
  readonly backing: Backing | undefined;
  readonly writes: Reservations;
  readonly extents: Extents;
}

/** Throws `ERR_TOO_LARGE` when the L1 table cannot be that large, `ERR_ABORTED`. */
export async function resizeImage(parts: ResizeParts, size: number, options: LongCallOptions): Promise<void> {
  const { metadata } = parts;
  const { file } = metadata;
  if (options.signal?.aborted) throw abortError(file.name);
  await metadata.sync();
  const present = file.header.size;
  if (size > present) await grow(parts, present, size);
  else if (size < present) await shrink(parts, present, size);
  options.onProgress?.({ done: 1, total: 1 });
}

async function shrink({ metadata, writes }: ResizeParts, present: number, size: number): Promise<void> {
  const { file } = metadata;
  const { unitBytes } = file.geometry;
  await file.update({ size });
  if (file.hasDataFile) await file.dataStorage.truncate(size);
  const from = Math.ceil(size / unitBytes) * unitBytes;
  if (from < present) await writes.clearEntries(from, present - from, 'discard');
  await metadata.sync();
}

async function grow(parts: ResizeParts, present: number, size: number): Promise<void> {
  const { metadata, writes } = parts;
  const { file } = metadata;
  const { unitBytes, l2SpanBytes } = file.geometry;
  const entryCount = Math.ceil(size / l2SpanBytes);
  if (entryCount > metadata.mapping.l1EntryCount) await growL1(metadata, entryCount);
  const from = Math.ceil(present / unitBytes) * unitBytes;
  // What a power loss in a shrink has left there would come into sight.
  if (file.hasDataFile && file.dataStorage.size() > present) await file.dataStorage.truncate(present);
  await clearTail(parts, present, from);
  await writes.include(from, size);
  if (file.hasDataFile) await file.dataStorage.truncate(size);
  await metadata.sync();
  await file.update({ size });
}

/** Moves the L1 table to a larger place. */
async function growL1(metadata: Metadata, entryCount: number): Promise<void> {
  const { file, mapping } = metadata;
  if (entryCount * 8 > maxL1Bytes) {
    const problem = `${file.name}: the L1 table would be larger than ${maxL1Bytes} bytes; larger clusters allow larger disks`;
    throw new CowlabError('ERR_TOO_LARGE', problem, { file: file.name, field: 'size' });
  }
  const { l1Offset: oldOffset, l1EntryCount: oldEntryCount } = file.header;
  const { clusterBytes } = file.geometry;
  const l1 = new Uint8Array(entryCount * 8);
  const old = mapping.l1;
  l1.set(new Uint8Array(old.buffer, old.byteOffset, old.byteLength));
  const l1Offset = await metadata.writeNew(l1, 'mapping');
  try {
    await metadata.sync();
  } catch (error) {
    metadata.refcounts.release(l1Offset / clusterBytes, Math.ceil(l1.length / clusterBytes), false);
    throw error;
  }
  await file.update({ l1Offset, l1EntryCount: entryCount });
  mapping.replaceL1(l1);
  const oldClusters = Math.ceil((oldEntryCount * 8) / clusterBytes);
  if (oldClusters > 0) metadata.refcounts.release(oldOffset / clusterBytes, oldClusters, false);
}

/** Makes the rest of the last unit read as zeros: it comes into sight. */
async function clearTail(
  { metadata, backing, writes, extents }: ResizeParts,
  present: number,
  end: number,
): Promise<void> {
  if (present === end) return;
  const { unitBytes } = metadata.file.geometry;
  const start = end - unitBytes;
  const extent = await extents.at(start, unitBytes);
  if (extent.kind === 'zero' || (extent.kind === 'backing' && (backing?.size ?? 0) <= present)) return;
  if (extent.kind === 'data' && extent.owned)
    await extent.storage.zero(extent.hostOffset + (present - start), end - present);
  else await writeAround(writes, extents, present, new Uint8Array(end - present));
}
