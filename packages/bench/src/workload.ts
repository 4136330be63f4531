/*
 * What is asked of the disks. Everything comes from the seed: two runs issue the same requests, and every
 * format and snapshot count of one run is asked the same.
 */

/** A generator of numbers in [0, 1): mulberry32. Enough for offsets, not for secrets. */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** `count` different offsets, multiples of `requestBytes`, spread over the disk at random. At most as many as fit. */
export function distinctOffsets(
  seed: number,
  count: number,
  diskBytes: number,
  requestBytes: number,
): number[] {
  const random = seededRandom(seed);
  const places = Math.floor(diskBytes / requestBytes);
  const chosen = new Set<number>();
  while (chosen.size < Math.min(count, places)) chosen.add(Math.floor(random() * places));
  return Array.from(chosen, (place) => place * requestBytes);
}

/** `count` offsets, multiples of `requestBytes`; the same one may come twice. */
export function randomOffsets(
  seed: number,
  count: number,
  diskBytes: number,
  requestBytes: number,
): number[] {
  const random = seededRandom(seed);
  const places = Math.floor(diskBytes / requestBytes);
  return Array.from({ length: count }, () => Math.floor(random() * places) * requestBytes);
}

/** `count` offsets one behind the other, from the beginning again at the end of the disk. The seed says where they begin. */
export function sequentialOffsets(
  seed: number,
  count: number,
  diskBytes: number,
  requestBytes: number,
): number[] {
  const places = Math.floor(diskBytes / requestBytes);
  const first = Math.floor(seededRandom(seed)() * places);
  return Array.from({ length: count }, (_, nth) => ((first + nth) % places) * requestBytes);
}

/** Of Zipf's law: a little below 1, as in the traces of many systems. */
const ZIPF_EXPONENT = 0.99;

/**
 * `count` offsets of which a few come often: the k-th most wanted place of the disk is wanted 1 / k^0.99 times as often as
 * the first. Which place is the k-th is drawn by lot.
 */
export function zipfOffsets(seed: number, count: number, diskBytes: number, requestBytes: number): number[] {
  const random = seededRandom(seed);
  const places = Math.floor(diskBytes / requestBytes);
  // How often the first k are wanted, together.
  const upTo = new Float64Array(places);
  let total = 0;
  for (let rank = 0; rank < places; rank++) upTo[rank] = total += (rank + 1) ** -ZIPF_EXPONENT;
  const byRank = Uint32Array.from({ length: places }, (_, place) => place);
  for (let rank = places - 1; rank > 0; rank--) {
    const other = Math.floor(random() * (rank + 1));
    [byRank[rank], byRank[other]] = [byRank[other]!, byRank[rank]!];
  }
  return Array.from({ length: count }, () => byRank[firstAbove(upTo, random() * total)]! * requestBytes);
}

/** The index of the first of some rising values that is larger. */
function firstAbove(rising: Float64Array, value: number): number {
  let [low, high] = [0, rising.length - 1];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (rising[middle]! > value) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** Bytes that are not zeros and do not compress to nothing: formats that look for either find none. */
export function patternBytes(seed: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  const words = new Uint32Array(bytes.buffer, 0, Math.floor(length / 4));
  const random = seededRandom(seed);
  for (let at = 0; at < words.length; at++) words[at] = random() * 2 ** 32;
  for (let at = words.length * 4; at < length; at++) bytes[at] = 1 + at;
  return bytes;
}
