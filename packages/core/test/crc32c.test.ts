import { createRequire } from 'node:module';
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { crc32c, crc32cTable } from '../src/index.ts';

const counted = Uint8Array.from({ length: 32 }, (_, index) => index);

/** RFC 3720, appendix B.4, and the check value of the CRC catalogue. */
const vectors: [string, Uint8Array, number][] = [
  ['nothing', new Uint8Array(0), 0],
  ['"123456789"', new TextEncoder().encode('123456789'), 0xe3069283],
  ['32 zeros', new Uint8Array(32), 0x8a9136aa],
  ['32 ones', new Uint8Array(32).fill(0xff), 0x62a8ab43],
  ['32 incrementing bytes', counted, 0x46dd794e],
  ['32 decrementing bytes', counted.toReversed(), 0x113fdb5c],
];

describe.each([
  ['crc32c', crc32c],
  ['crc32cTable', crc32cTable],
])('%s', (_, checksum) => {
  it.each(vectors)('of %s is the published one', (_name, bytes, expected) => {
    expect(checksum(bytes)).toBe(expected);
  });

  it('goes on from a seed', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 100 }), fc.nat(100), (bytes, at) => {
        expect(checksum(bytes.subarray(at), checksum(bytes.subarray(0, at)))).toBe(checksum(bytes));
      }),
    );
  });
});

describe('the native module', () => {
  it('is the one in use, and agrees with the table', () => {
    const native = createRequire(import.meta.url)('@node-rs/crc32') as { crc32c: typeof crc32c };
    expect(crc32c).toBe(native.crc32c);
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
        expect(crc32cTable(bytes)).toBe(crc32c(bytes));
      }),
    );
  });
});
