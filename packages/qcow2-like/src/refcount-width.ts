/*
 * Reading and writing one count of a refcount block, for each of the seven widths. In widths below a byte,
 * entry 0 sits in the least significant bits. Source: QEMU, docs/interop/qcow2, "Refcount block entry".
 */

export interface RefcountWidth {
  get(view: DataView, index: number): number;
  set(view: DataView, index: number, count: number): void;
}

function subByte(bits: 1 | 2 | 4): RefcountWidth {
  const perByte = 8 / bits;
  const mask = 2 ** bits - 1;
  return {
    get(view, index) {
      return (view.getUint8(Math.floor(index / perByte)) >>> ((index % perByte) * bits)) & mask;
    },
    set(view, index, count) {
      const at = Math.floor(index / perByte);
      const shift = (index % perByte) * bits;
      view.setUint8(at, (view.getUint8(at) & ~(mask << shift)) | (count << shift));
    },
  };
}

const byte: RefcountWidth = {
  get: (view, index) => view.getUint8(index),
  set: (view, index, count) => view.setUint8(index, count),
};

const word: RefcountWidth = {
  get: (view, index) => view.getUint16(index * 2),
  set: (view, index, count) => view.setUint16(index * 2, count),
};

const doubleWord: RefcountWidth = {
  get: (view, index) => view.getUint32(index * 4),
  set: (view, index, count) => view.setUint32(index * 4, count),
};

const quadWord: RefcountWidth = {
  // A count beyond 2^53 loses its last digits here, and is wrong in any case.
  get: (view, index) => view.getUint32(index * 8) * 2 ** 32 + view.getUint32(index * 8 + 4),
  set(view, index, count) {
    view.setUint32(index * 8, Math.floor(count / 2 ** 32));
    view.setUint32(index * 8 + 4, count % 2 ** 32);
  },
};

const widths: Readonly<Record<number, RefcountWidth>> = {
  1: subByte(1),
  2: subByte(2),
  4: subByte(4),
  8: byte,
  16: word,
  32: doubleWord,
  64: quadWord,
};

export function refcountWidth(bits: number): RefcountWidth {
  const width = widths[bits];
  if (width === undefined) throw new RangeError(`no refcount width of ${bits} bits`);
  return width;
}
