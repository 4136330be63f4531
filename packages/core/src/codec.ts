/*
 * Fixed-width fields. 64-bit fields of disk formats hold offsets and sizes; we read them as two 32-bit halves
 * into a number, which is three times as fast as a bigint and exact up to 2^53 - 1. What is larger cannot be
 * an offset into any file we could open, and throws a RangeError that the driver turns into its own error.
 */

const TWO_32 = 0x1_0000_0000;

function join(high: number, low: number): number {
  const value = high * TWO_32 + low;
  if (value > Number.MAX_SAFE_INTEGER) throw new RangeError('64-bit field is larger than 2^53 - 1');
  return value;
}

function assertU64(value: number): void {
  if (!Number.isSafeInteger(value) || value < 0) {
    throw new RangeError(`not a whole number from 0 to 2^53 - 1: ${value}`);
  }
}

export function readU64BE(view: DataView, at: number): number {
  return join(view.getUint32(at), view.getUint32(at + 4));
}

export function readU64LE(view: DataView, at: number): number {
  return join(view.getUint32(at + 4, true), view.getUint32(at, true));
}

export function writeU64BE(view: DataView, at: number, value: number): void {
  assertU64(value);
  view.setUint32(at, Math.floor(value / TWO_32));
  view.setUint32(at + 4, value >>> 0);
}

export function writeU64LE(view: DataView, at: number, value: number): void {
  assertU64(value);
  view.setUint32(at + 4, Math.floor(value / TWO_32), true);
  view.setUint32(at, value >>> 0, true);
}

/** A DataView over exactly the bytes of `bytes`. */
export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

export function isPowerOfTwo(value: number): boolean {
  return Number.isSafeInteger(value) && value > 0 && 2 ** Math.round(Math.log2(value)) === value;
}

/** The largest multiple of `unit` that is at most `value`. */
export function roundDown(value: number, unit: number): number {
  return value - (value % unit);
}

/** The smallest multiple of `unit` that is at least `value`. */
export function roundUp(value: number, unit: number): number {
  return roundDown(value + unit - 1, unit);
}
