import { createRequire } from 'node:module';

/*
 * CRC-32C (Castagnoli, RFC 3720 appendix B.4). The native module uses the processor's instruction; where its
 * prebuilt binary is missing, a slicing-by-four table does the same.
 */

type Crc32c = (bytes: Uint8Array, seed?: number) => number;

const POLYNOMIAL = 0x82f63b78;

function buildTables(): readonly [Uint32Array, Uint32Array, Uint32Array, Uint32Array] {
  const tables = [
    new Uint32Array(256),
    new Uint32Array(256),
    new Uint32Array(256),
    new Uint32Array(256),
  ] as const;
  for (let byte = 0; byte < 256; byte++) {
    let crc = byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ POLYNOMIAL : crc >>> 1;
    tables[0][byte] = crc;
  }
  for (let byte = 0; byte < 256; byte++) {
    for (let slice = 1; slice < 4; slice++) {
      const before = tables[slice - 1]![byte]!;
      tables[slice]![byte] = (before >>> 8) ^ tables[0][before & 0xff]!;
    }
  }
  return tables;
}

let tables: ReturnType<typeof buildTables> | undefined;

/** The table version; exported so that tests hold it against the native one. */
export function crc32cTable(bytes: Uint8Array, seed = 0): number {
  tables ??= buildTables();
  const [t0, t1, t2, t3] = tables;
  let crc = ~seed;
  let at = 0;
  for (; at + 4 <= bytes.length; at += 4) {
    crc ^= bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24);
    crc = t3[crc & 0xff]! ^ t2[(crc >>> 8) & 0xff]! ^ t1[(crc >>> 16) & 0xff]! ^ t0[crc >>> 24]!;
  }
  for (; at < bytes.length; at++) crc = (crc >>> 8) ^ t0[(crc ^ bytes[at]!) & 0xff]!;
  return ~crc >>> 0;
}

function loadNative(): Crc32c | undefined {
  try {
    const native = createRequire(import.meta.url)('@node-rs/crc32') as { crc32c: Crc32c };
    return native.crc32c;
  } catch {
    return undefined;
  }
}

const native = loadNative();

/** CRC-32C of `bytes`, continuing from `seed` (the CRC of what came before); 0 … 2^32 - 1. */
export const crc32c: Crc32c = native ?? crc32cTable;
