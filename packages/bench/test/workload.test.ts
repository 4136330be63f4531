import { describe, expect, it } from 'vitest';
import {
  distinctOffsets,
  patternBytes,
  randomOffsets,
  seededRandom,
  sequentialOffsets,
  zipfOffsets,
} from '../src/workload.ts';

describe.each([
  ['distinct offsets', distinctOffsets],
  ['random offsets', randomOffsets],
  ['sequential offsets', sequentialOffsets],
  ['offsets by Zipf', zipfOffsets],
])('%s', (_, offsets) => {
  it('are the same for the same seed, and others for another', () => {
    expect(offsets(1, 50, 2 ** 30, 4096)).toEqual(offsets(1, 50, 2 ** 30, 4096));
    expect(offsets(1, 50, 2 ** 30, 4096)).not.toEqual(offsets(2, 50, 2 ** 30, 4096));
  });

  it('are aligned, and their requests lie within the disk', () => {
    const size = 10 * 4096 + 512;
    for (const offset of offsets(3, 10, size, 4096)) {
      expect(offset % 4096).toBe(0);
      expect(offset + 4096).toBeLessThanOrEqual(size);
    }
  });
});

it('distinct offsets come once each, and no more than fit', () => {
  const offsets = distinctOffsets(5, 1000, 64 * 4096, 4096);
  expect(offsets).toHaveLength(64);
  expect(new Set(offsets).size).toBe(64);
});

it('sequential offsets follow each other, and begin again behind the last', () => {
  const offsets = sequentialOffsets(4, 100, 64 * 4096, 4096);
  for (let nth = 1; nth < 100; nth++)
    expect(offsets[nth]! % (64 * 4096)).toBe((offsets[nth - 1]! + 4096) % (64 * 4096));
});

/** How often each place comes, the most wanted first. */
function frequencies(offsets: readonly number[]): number[] {
  const times = new Map<number, number>();
  for (const offset of offsets) times.set(offset, (times.get(offset) ?? 0) + 1);
  return [...times.values()].toSorted((a, b) => b - a);
}

describe('offsets by Zipf', () => {
  const [places, count] = [1000, 200_000];
  const offsets = zipfOffsets(11, count, places * 4096, 4096);
  const weights = Array.from({ length: places }, (_, rank) => (rank + 1) ** -0.99);
  const total = weights.reduce((sum, weight) => sum + weight, 0);

  it.each([1, 2, 3, 10, 100])('want the %d-th place as often as the law says', (rank) => {
    const expected = (weights[rank - 1]! / total) * count;
    // Five standard deviations, and the places that chance has put before or behind it.
    expect(Math.abs(frequencies(offsets)[rank - 1]! - expected)).toBeLessThan(5 * Math.sqrt(expected));
  });

  it('come to what the law says of the first tenth of the places', () => {
    const expected = weights.slice(0, places / 10).reduce((sum, weight) => sum + weight, 0) / total;
    const tenth = frequencies(offsets).slice(0, places / 10);
    expect(tenth.reduce((sum, times) => sum + times, 0) / count).toBeCloseTo(expected, 1);
  });

  it('do not lie together', () => {
    const wanted = [...new Set(offsets.slice(0, 50))].map((offset) => offset / 4096);
    const mean = wanted.reduce((sum, place) => sum + place, 0) / wanted.length;
    expect(Math.max(...wanted) - Math.min(...wanted)).toBeGreaterThan(places / 2);
    expect(Math.abs(mean - places / 2)).toBeLessThan(places / 4);
  });
});

it('random numbers spread over [0, 1) evenly', () => {
  const random = seededRandom(7);
  const tenths = Array.from({ length: 10 }, () => 0);
  for (let i = 0; i < 10_000; i++) tenths[Math.floor(random() * 10)]! += 1;
  for (const count of tenths) expect(Math.abs(count - 1000)).toBeLessThan(150);
});

it.each([4096, 4099, 1])('a pattern of %d bytes is not zeros', (length) => {
  const bytes = patternBytes(9, length);
  expect(bytes).toHaveLength(length);
  expect(bytes.some((byte) => byte !== 0)).toBe(true);
  expect(bytes).toEqual(patternBytes(9, length));
});
