import {
  type Backing,
  CowlabError,
  type DriverImage,
  isPowerOfTwo,
  type LongCallOptions,
  type OptionValues,
  unsupported,
  viewOf,
  writeU64BE,
} from '@cowlab/core';
import { recover, takeSoundCensus } from './check.ts';
import { sectorBytes } from './layout.ts';
import { headerFields as fields } from './layout-fields.ts';
import { abortError, type Metadata } from './metadata.ts';
import { rebuildRefcounts } from './rebuild.ts';
import type { Reservations } from './reservations.ts';
import { dropZerosOfSnapshots } from './snapshot-zeros.ts';
import { encodeSnapshotTable, type Snapshot } from './snapshot-table.ts';

/*
 * Another version, another width of refcounts, lazy refcounts or not. What would be in the way is looked for first; then
 *
 *   1  to version 3    snapshot table with the fields that this version wants → header: version
 *   2  to version 2    ZERO entries: data of zeros over a backing, none elsewhere; all of a flush. Then those of
 *                      snapshots (snapshot-zeros.ts)
 *   3  lazy refcounts  header: the bit
 *   4  refcounts       everything is counted; blocks and a table of the new width past the end «flush» → header: where
 *                      they are, and the width. The old ones are free then
 *   5  to version 2    header: version, without the fields that it does not have
 *
 * Each header is one sector, after a «flush»; so at each moment the image is whole. After 4 and 5 memory has the old
 * width and version: the image is good for closing only.
 */

export interface AmendParts {
  readonly image: DriverImage;
  readonly metadata: Metadata;
  readonly backing: Backing | undefined;
  readonly writes: Reservations;
}

interface Target {
  readonly version: 2 | 3;
  readonly lazyRefcounts: boolean;
  readonly refcountBits: number;
}

export async function amendImage(
  parts: AmendParts,
  values: OptionValues,
  options: LongCallOptions,
): Promise<void> {
  const { metadata } = parts;
  const { file } = metadata;
  const target = targetOf(metadata, values);
  await metadata.sync();
  const present = file.header;
  if (target.version === 2 && present.version === 3) await assertFitsVersion2(parts);
  const recounts = target.refcountBits !== present.refcountBits;
  if (recounts) await assertFits(metadata, target);
  if (target.version === 3 && present.version === 2) await toVersion3(metadata);
  if (target.version === 2 && present.version === 3) await dropZeros(parts, options);
  if (options.signal?.aborted) throw abortError(file.name);
  if (target.lazyRefcounts !== present.lazyRefcounts && file.header.version === 3) {
    await file.update({ lazyRefcounts: target.lazyRefcounts });
  }
  if (recounts) {
    const { references } = await takeSoundCensus(metadata);
    metadata.retire('its refcounts have another width now');
    await rebuildRefcounts(metadata, references, target.refcountBits);
  }
  if (target.version !== file.header.version) {
    metadata.retire('it has another version now');
    await file.rewrite({ version: target.version });
  }
  options.onProgress?.({ done: 1, total: 1 });
}

/** What the image will be. Throws `ERR_INVALID_OPTION` for values that do not go together. */
function targetOf({ file }: Metadata, values: OptionValues): Target {
  const { header } = file;
  const { compat, refcount_bits: bits = header.refcountBits, lazy_refcounts: lazy } = values;
  const version = compat === undefined ? header.version : compat === '0.10' ? 2 : 3;
  const invalid = (field: string, problem: string): never => {
    throw new CowlabError('ERR_INVALID_OPTION', `${file.name}: option ${field}: ${problem}`, { field });
  };
  const refcountBits = Number(bits);
  if (!isPowerOfTwo(refcountBits) || refcountBits > 64) {
    invalid('refcount_bits', `${refcountBits} is not a power of two from 1 to 64`);
  }
  if (version === 2 && refcountBits !== 16) invalid('refcount_bits', 'must be 16 for compat=0.10');
  if (version === 2 && lazy === true) invalid('lazy_refcounts', 'is not possible with compat=0.10');
  const lazyRefcounts = version === 3 && (lazy === undefined ? header.lazyRefcounts : lazy === true);
  return { version, lazyRefcounts, refcountBits };
}

/** Throws `ERR_UNSUPPORTED` naming what the older version does not have. */
async function assertFitsVersion2({ metadata }: AmendParts): Promise<void> {
  const { file } = metadata;
  const refuse = (field: string, problem: string): never => {
    throw unsupported(file.name, field, `${problem}, which compat=0.10 does not have`);
  };
  const sector = new Uint8Array(sectorBytes);
  await file.storage.read(0, sector, 'header');
  const features = viewOf(sector).getBigUint64(fields.incompatible_features.at);
  if (features !== 0n) refuse('header.incompatible_features', `features 0x${features.toString(16)} are set`);
  if ((file.header.bitmaps?.count ?? 0) > 0) refuse('header extension.bitmaps', 'there are bitmaps');
  for (const snapshot of metadata.snapshots.snapshots) {
    const { name, size } = snapshot;
    if (size !== file.header.size) refuse('snapshots', `snapshot ${name} has a size of its own`);
    if (hasLargeState(snapshot)) refuse('snapshots', `snapshot ${name} has more than 4 GiB of VM state`);
  }
}

function hasLargeState({ extra }: Snapshot): boolean {
  return extra.length >= 8 && viewOf(extra).getUint32(0) > 0;
}

/** Throws unless counts of the new width can say how often each cluster is referred to. */
async function assertFits(metadata: Metadata, { refcountBits }: Target): Promise<void> {
  const { references } = await takeSoundCensus(metadata);
  const most = refcountBits > 52 ? Number.MAX_SAFE_INTEGER : 2 ** refcountBits - 1;
  for (const cluster of references.clusters()) {
    const times = references.get(cluster);
    if (times <= most) continue;
    const problem = `a cluster is referred to ${times} times, more than ${refcountBits} bits can say`;
    throw unsupported(metadata.file.name, 'refcount_bits', problem, { value: refcountBits });
  }
}

/** Version 3 wants snapshots to say how large they are. */
async function toVersion3(metadata: Metadata): Promise<void> {
  const { file } = metadata;
  const { snapshots, bytes: oldBytes } = metadata.snapshots;
  if (snapshots.some(({ extra }) => extra.length < 16)) {
    const { snapshotTableOffset: oldOffset } = file.header;
    const told = snapshots.map((snapshot) => ({ ...snapshot, extra: wholeExtra(snapshot) }));
    const table = encodeSnapshotTable(told);
    await metadata.transact(
      {
        raise: async () => ({ snapshotTableOffset: await metadata.writeNew(table, 'snapshot') }),
        lower: () => metadata.countDown(oldOffset, oldBytes),
        switched: async () => {
          metadata.snapshots = { snapshots: told, bytes: table.length };
        },
      },
      () => recover(metadata),
    );
  }
  await file.rewrite({ version: 3 });
}

function wholeExtra({ extra, vmStateBytes, size }: Snapshot): Uint8Array {
  if (extra.length >= 16) return extra;
  const whole = new Uint8Array(16);
  const view = viewOf(whole);
  writeU64BE(view, 0, vmStateBytes);
  if (extra.length >= 8) whole.set(extra.subarray(0, 8));
  writeU64BE(view, 8, size);
  return whole;
}

/** Makes of every ZERO entry what says the same without it. */
async function dropZeros(parts: AmendParts, { signal, onProgress }: LongCallOptions): Promise<void> {
  const { image, metadata, backing, writes } = parts;
  const { clusterBytes } = metadata.file.geometry;
  const shown = Math.min(image.size, Math.ceil((backing?.size ?? 0) / clusterBytes) * clusterBytes);
  for (let at = 0; at < image.size; ) {
    if (signal?.aborted) throw abortError(metadata.file.name);
    const extent = await image.map(at, at < shown ? shown - at : image.size - at);
    if (extent.kind === 'zero' && extent.allocated) {
      if (at < shown) await writeZeros(writes, at, extent.length);
      else await writes.unmap(at, extent.length, 'discard');
    }
    at += extent.length;
    onProgress?.({ done: at, total: image.size });
  }
  await metadata.sync();
  await dropZerosOfSnapshots(metadata, backing);
}

/** Clusters of zeros, where the backing would show through. */
async function writeZeros(writes: Reservations, start: number, length: number): Promise<void> {
  for (let at = start; at < start + length; ) {
    const placement = await writes.reserve(at, start + length - at);
    try {
      await placement.storage.zero(placement.hostOffset, placement.length + placement.tail);
    } catch (error) {
      writes.abort(placement);
      throw error;
    }
    await writes.commit(placement);
    at += placement.length;
  }
}
