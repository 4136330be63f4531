import type { Backing, Extent, Storage } from '@cowlab/core';
import { ABSENT, ZERO } from './layout.ts';
import type { ChunkTable } from './table.ts';

/** The longest extent from `offset` by the table alone. `owned` tells whether a host block may be overwritten. */
export function mapState(
  table: ChunkTable,
  storage: Storage,
  base: Backing | undefined,
  owned: (hostBlock: number) => boolean,
  offset: number,
  length: number,
): Extent {
  const { blockBytes, blocksPerChunk } = table.geometry;
  const at = Math.floor(offset / blockBytes);
  const skip = offset - at * blockBytes;
  let chunk = Math.floor(at / blocksPerChunk);
  const first = table.find(chunk, at - chunk * blocksPerChunk);
  const isOwned = first.host > ZERO && owned(first.host);
  let blocks = first.count;
  for (chunk++; blocks * blockBytes - skip < length && chunk < table.chunks; chunk++) {
    if ((at + blocks) % blocksPerChunk !== 0) break;
    const next = table.find(chunk, 0);
    const follows = first.host > ZERO ? next.host === first.host + blocks : next.host === first.host;
    if (!follows || (first.host > ZERO && owned(next.host) !== isOwned)) break;
    blocks += next.count;
  }
  const covered = Math.min(length, blocks * blockBytes - skip);
  if (first.host > ZERO) {
    return {
      kind: 'data',
      length: covered,
      storage,
      hostOffset: first.host * blockBytes + skip,
      owned: isOwned,
    };
  }
  return first.host === ABSENT && base !== undefined
    ? { kind: 'backing', length: covered, source: base, offset }
    : { kind: 'zero', length: covered, allocated: first.host === ZERO };
}
