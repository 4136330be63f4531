import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { formatSize, parseSize, parseSizeChange } from '../src/sizes.ts';

describe('parseSize', () => {
  it.each([
    ['0', 0],
    ['512', 512],
    ['512b', 512],
    ['64k', 65_536],
    ['64K', 65_536],
    ['1KiB', 1024],
    ['1MiB', 1_048_576],
    ['1mib', 1_048_576],
    ['10G', 10_737_418_240],
    ['1.5k', 1536],
    ['2T', 2_199_023_255_552],
    ['1P', 1_125_899_906_842_624],
    ['9007199254740991', Number.MAX_SAFE_INTEGER],
  ])('reads %s exactly', (text, bytes) => {
    expect(parseSize(text)).toBe(bytes);
  });

  it.each([
    ['', 'is not a size'],
    ['ten', 'is not a size'],
    ['-1', 'is not a size'],
    ['+1', 'is not a size'],
    ['1 k', 'is not a size'],
    ['1MB', 'is not a size'],
    ['0x10', 'is not a size'],
    ['1e3', 'is not a size'],
    ['1.', 'is not a size'],
    ['0.3k', 'is not a whole number of bytes'],
    ['1.5', 'is not a whole number of bytes'],
    ['9007199254740992', 'is above 2^53 - 1'],
    ['8P', 'is above 2^53 - 1'],
    ['16E', 'is above 2^53 - 1'],
  ])('refuses %j and says why', (text, problem) => {
    expect(() => parseSize(text)).toThrow(problem);
    expect(() => parseSize(text)).toThrow(expect.objectContaining({ code: 'ERR_INVALID_OPTION' }));
  });

  it('reads every whole number of bytes in every unit as it is', () => {
    fc.assert(
      fc.property(fc.nat(1_000_000), fc.constantFrom('k', 'M', 'GiB'), (count, unit) => {
        const factor = { k: 1024, M: 1024 ** 2, GiB: 1024 ** 3 }[unit] ?? 0;
        expect(parseSize(`${count}${unit}`)).toBe(count * factor);
      }),
    );
  });
});

describe('parseSizeChange', () => {
  it.each([
    ['1G', undefined, 1_073_741_824],
    ['+1G', '+', 1_073_741_824],
    ['-512k', '-', 524_288],
  ])('reads %s', (text, sign, bytes) => {
    expect(parseSizeChange(text)).toEqual({ sign, bytes });
  });

  it.each(['+-1', '--1', '+', '-'])('refuses %s', (text) => {
    expect(() => parseSizeChange(text)).toThrow('is not a size');
  });
});

describe('formatSize', () => {
  it.each([
    [0, '0 B'],
    [999, '999 B'],
    [1000, '0.977 KiB'],
    [1024, '1 KiB'],
    [200_704, '196 KiB'],
    [1_572_864, '1.5 MiB'],
    [1_048_575, '1 MiB'],
    [1_099_511_627_776, '1 TiB'],
    [Number.MAX_SAFE_INTEGER, '8 PiB'],
  ])('prints %d as %s', (bytes, text) => {
    expect(formatSize(bytes)).toBe(text);
  });
});
