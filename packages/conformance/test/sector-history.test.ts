import { describe, expect, it } from 'vitest';
import { isExplained, type SectorEvent } from '../src/races/sector-history.ts';

const write = (value: number, called: number, returned: number): SectorEvent => ({
  kind: 'write',
  value,
  called,
  returned,
});
const read = (value: number, called: number, returned: number): SectorEvent => ({
  kind: 'read',
  value,
  called,
  returned,
});

describe('what was seen of a sector', () => {
  it.each<[string, SectorEvent[]]>([
    ['a read beside a write sees the old value', [write(1, 1, 4), read(0, 2, 3)]],
    ['a read beside a write sees the new value', [write(1, 1, 4), read(1, 2, 3)]],
    ['writes side by side in either order', [write(1, 1, 9), write(2, 2, 8), read(2, 3, 4), read(1, 5, 6)]],
    ['zeros that come back', [write(1, 1, 2), read(1, 3, 4), write(0, 5, 8), read(0, 9, 10)]],
    ['zeros among many writes', [read(0, 1, 9), write(0, 2, 8), write(1, 3, 7), read(1, 4, 6)]],
  ])('is explained: %s', (_, events) => {
    expect(isExplained(events, 0)).toBe(true);
  });

  it.each<[string, SectorEvent[]]>([
    ['a value that was overwritten before the read', [write(1, 1, 2), write(2, 3, 4), read(1, 5, 6)]],
    ['a write that is lost', [write(1, 1, 2), read(0, 3, 4)]],
    ['a value from the future', [read(1, 1, 2), write(1, 3, 4)]],
    ['reads that go back', [write(1, 1, 9), read(1, 2, 3), read(0, 4, 5)]],
    [
      'a value that comes back',
      [write(1, 1, 9), write(2, 1, 9), read(1, 2, 3), read(2, 4, 5), read(1, 6, 7)],
    ],
    ['a value that nobody wrote', [read(3, 1, 2)]],
  ])('is not explained: %s', (_, events) => {
    expect(isExplained(events, 0)).toBe(false);
  });
});
