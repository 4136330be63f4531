import { describe, expect, it } from 'vitest';
import { distinctOffsets, patternBytes, randomOffsets, seededRandom } from '../src/workload.ts';

describe.each([
  ['distinct offsets', distinctOffsets],
  ['random offsets', randomOffsets],
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
