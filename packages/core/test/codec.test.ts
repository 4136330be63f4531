import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  isPowerOfTwo,
  readU64BE,
  readU64LE,
  roundDown,
  roundUp,
  viewOf,
  writeU64BE,
  writeU64LE,
} from '../src/index.ts';

const orders = [
  { order: 'big-endian', read: readU64BE, write: writeU64BE, littleEndian: false },
  { order: 'little-endian', read: readU64LE, write: writeU64LE, littleEndian: true },
];

describe.each(orders)('64-bit fields, $order', ({ read, write, littleEndian }) => {
  it('read and write what a bigint field does', () => {
    fc.assert(
      fc.property(fc.maxSafeNat(), (value) => {
        const view = new DataView(new ArrayBuffer(16));
        write(view, 5, value);
        expect(view.getBigUint64(5, littleEndian)).toBe(BigInt(value));
        expect(read(view, 5)).toBe(value);
      }),
    );
  });

  it.each([2n ** 53n, 2n ** 63n, 2n ** 64n - 1n])('refuse to read %i', (value) => {
    const view = new DataView(new ArrayBuffer(8));
    view.setBigUint64(0, value, littleEndian);
    expect(() => read(view, 0)).toThrow(RangeError);
  });

  it.each([-1, 0.5, Number.NaN, 2 ** 53])('refuse to write %d, and leave the field alone', (value) => {
    const view = new DataView(new ArrayBuffer(8));
    expect(() => write(view, 0, value)).toThrow(RangeError);
    expect(view.getBigUint64(0)).toBe(0n);
  });
});

describe('viewOf', () => {
  it('sees the bytes of a subarray and no others', () => {
    const view = viewOf(Uint8Array.of(1, 2, 3, 4).subarray(1, 3));
    expect(view.byteLength).toBe(2);
    expect(view.getUint16(0)).toBe(0x0203);
  });
});

describe('arithmetic', () => {
  it('knows every power of two, and nothing beside them', () => {
    for (let exponent = 0; exponent < 53; exponent++) {
      expect(isPowerOfTwo(2 ** exponent)).toBe(true);
      if (exponent > 1) expect(isPowerOfTwo(2 ** exponent - 1)).toBe(false);
    }
    for (const value of [0, -1, -2, 0.5, 3, Number.NaN, 2 ** 53]) expect(isPowerOfTwo(value)).toBe(false);
  });

  it('rounds to the multiples on either side', () => {
    fc.assert(
      fc.property(fc.nat(2 ** 40), fc.integer({ min: 1, max: 2 ** 20 }), (value, unit) => {
        const below = roundDown(value, unit);
        const above = roundUp(value, unit);
        expect([below % unit, above % unit]).toEqual([0, 0]);
        expect(below <= value && value < below + unit).toBe(true);
        expect(above >= value && value > above - unit).toBe(true);
      }),
    );
  });
});
