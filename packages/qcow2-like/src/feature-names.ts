/*
 * The feature name table: what bits of the header mean, for programs that do not know them. The one that QEMU writes.
 *
 *   entry    0 field: 0 incompatible, 1 compatible, 2 autoclear | 1 bit | 2 name, padded with zeros to 46 bytes
 *
 * Source: QEMU, docs/interop/qcow2, "Feature name table".
 */

const entryBytes = 48;
const incompatible = 0;
const compatible = 1;
const autoclear = 2;

const names: readonly [field: number, bit: number, name: string][] = [
  [incompatible, 0, 'dirty bit'],
  [incompatible, 1, 'corrupt bit'],
  [incompatible, 2, 'external data file'],
  [incompatible, 3, 'compression type'],
  [incompatible, 4, 'extended L2 entries'],
  [compatible, 0, 'lazy refcounts'],
  [autoclear, 0, 'bitmaps'],
  [autoclear, 1, 'raw external data'],
];

export function featureNameTable(): Uint8Array {
  const bytes = new Uint8Array(names.length * entryBytes);
  for (const [nth, [field, bit, name]] of names.entries())
    bytes.set([field, bit, ...new TextEncoder().encode(name)], nth * entryBytes);
  return bytes;
}
