import { expect, it } from 'vitest';
import { duration, number, percent, size, times } from '../src/wording.ts';

it.each([
  [number(0), '0'],
  [number(0.123), '0.12'],
  [number(3.456), '3.46'],
  [number(67.89), '67.9'],
  [number(901.2), '901'],
  [size(512), '512 bytes'],
  [size(1536), '1.50 KiB'],
  [size(2 ** 30), '1 GiB'],
  [size(125 * 2 ** 20), '125 MiB'],
  [size(2 ** 40), '1 TiB'],
  [duration(0.5), '0.50 ms'],
  [duration(999), '999 ms'],
  [duration(1500), '1.50 s'],
  [percent(0.0316), '3.16 %'],
  [times(2.5), '2.50×'],
])('%s is written as people read it', (written, expected) => {
  expect(written).toBe(expected);
});
