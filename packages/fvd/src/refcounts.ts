import { Bitset, corrupt } from '@cowlab/core';

/*
 * The static refcounts while a snapshot is created or deleted: of each host chunk, how many snapshots reach it. A
 * disk of 16 TiB has 16 million of them, so they go by as words of 32 chunks, and most words are full or empty.
 */

const FULL = 0xffff_ffff;

/** Counts with one more for every chunk that is reached. */
export function raised(counts: Uint16Array, { words }: Bitset, length: number): Uint16Array {
  const after = new Uint16Array(Math.max(length, counts.length));
  after.set(counts);
  for (let at = 0; at < words.length; at++) {
    const word = words[at]!;
    const first = at * 32;
    if (word === FULL) for (let chunk = first; chunk < first + 32; chunk++) after[chunk]!++;
    else for (let bit = 0; word >>> bit !== 0 && bit < 32; bit++) after[first + bit]! += (word >>> bit) & 1;
  }
  return after;
}

/** Takes one off for every chunk that is reached; yields those that come to 0. */
export function lower(counts: Uint16Array, reached: Bitset, file: string): Bitset {
  const fallen = new Bitset(reached.length);
  const { words } = reached;
  for (let at = 0; at < words.length; at++) {
    const word = words[at]!;
    let zeros = 0;
    for (let bit = 0; word >>> bit !== 0 && bit < 32; bit++) {
      if (((word >>> bit) & 1) === 0) continue;
      const chunk = at * 32 + bit;
      const left = (counts[chunk] ?? 0) - 1;
      if (left < 0) throw corrupt(file, 'catalog.counts', `chunk ${chunk} is reached but not counted`);
      counts[chunk] = left;
      if (left === 0) zeros |= 1 << bit;
    }
    fallen.words[at] = zeros;
  }
  return fallen;
}
