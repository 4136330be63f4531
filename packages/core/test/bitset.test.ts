import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Bitset } from '../src/index.ts';

/** The slow, obvious version. */
function bitsOf(bitset: Bitset): boolean[] {
  return Array.from({ length: bitset.length }, (_, index) => bitset.get(index));
}

const operation = fc.record({
  kind: fc.constantFrom('set', 'clear', 'setRange', 'clearRange'),
  a: fc.nat(200),
  b: fc.nat(200),
});

describe('Bitset', () => {
  it('agrees with an array of booleans after any sequence of operations', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 200 }), fc.array(operation), (length, operations) => {
        const bitset = new Bitset(length);
        const model = new Array<boolean>(length).fill(false);
        for (const { kind, a, b } of operations) {
          const start = Math.min(a, b) % length;
          const end = Math.min(length, Math.max(a, b));
          if (kind === 'set') bitset.set(start);
          if (kind === 'clear') bitset.clear(start);
          if (kind === 'set' || kind === 'clear') model[start] = kind === 'set';
          if (kind === 'setRange') bitset.setRange(start, end);
          if (kind === 'clearRange') bitset.clearRange(start, end);
          if (kind.endsWith('Range') && start < end) model.fill(kind === 'setRange', start, end);
        }
        expect(bitsOf(bitset)).toEqual(model);
        expect(bitset.count()).toBe(model.filter(Boolean).length);
        for (let from = 0; from <= length; from++) {
          expect(bitset.nextSet(from)).toBe(model.indexOf(true, from));
          expect(bitset.nextClear(from)).toBe(model.indexOf(false, from));
        }
      }),
    );
  });

  it.each([1, 31, 32, 33, 64, 65])('finds no clear bit past the last of %i set ones', (length) => {
    const bitset = new Bitset(length);
    bitset.setRange(0, length);
    expect(bitset.count()).toBe(length);
    expect(bitset.nextClear(0)).toBe(-1);
    expect(bitset.nextSet(length)).toBe(-1);
  });

  it.each([
    [100, 40],
    [100, 64],
    [100, 1],
    [40, 100],
    [40, 40],
  ])('resized from %i to %i keeps the bits that fit and no others', (before, after) => {
    const bitset = new Bitset(before);
    bitset.setRange(0, before);
    const copy = bitset.resized(after);
    expect(copy.length).toBe(after);
    expect(copy.count()).toBe(Math.min(before, after));
    expect(bitset.count()).toBe(before);
  });
});
