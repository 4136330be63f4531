import assert from 'node:assert/strict';
import type { DiffExtent } from '@cowlab/core';
import { assertSameBytes } from './expect.ts';

/** Fails unless the extents are in order and apart, made of whole units, and all that differs lies in them. */
export function assertDiff(
  extents: readonly DiffExtent[],
  [one, other]: readonly [Uint8Array, Uint8Array],
  unitBytes: number,
  what: string,
): void {
  const [common, size] = [one.length, other.length].toSorted((a, b) => a - b) as [number, number];
  let at = 0;
  const assertEqualUpTo = (end: number): void => {
    const stop = Math.min(end, common);
    if (at < stop) assertSameBytes(one.subarray(at, stop), other.subarray(at, stop), `${what}, outside`);
  };
  for (const [index, { offset, length }] of extents.entries()) {
    const name = `${what}: ${length} bytes from ${offset}`;
    assert.ok(length > 0 && offset + length <= size, `${name} are not in the disk`);
    assert.ok(index === 0 ? offset >= 0 : offset > at, `${name} touch what comes before`);
    const isCut = (byte: number): boolean => byte % unitBytes !== 0 && byte !== common && byte !== size;
    assert.ok(!isCut(offset) && !isCut(offset + length), `${name} are no whole units`);
    assertEqualUpTo(offset);
    at = offset + length;
  }
  assertEqualUpTo(common);
  assert.ok(common === size || at === size, `${what}: the bytes that only one state has are left out`);
  const last = extents.at(-1);
  assert.ok(common === size || (last !== undefined && last.offset <= common), `${what}: a part is left out`);
}
