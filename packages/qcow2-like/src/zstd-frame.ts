import { viewOf } from '@cowlab/core';

/*
 * Where a zstd frame ends, and what it promises: the decoders here take exactly one frame, and what is stored of a
 * compressed cluster is whole sectors, with another cluster's bytes behind it. Nothing is decoded.
 *
 *   magic 4 | descriptor 1 | window 0-1 | dictionary id 0-4 | content size 0-8 | blocks, 3 + n bytes each | checksum 0-4
 *
 * Everything is little-endian. Source: RFC 8878, "Zstandard Frames".
 */

const magic = 0xfd2f_b528;
/** What the RFC asks every decoder to have room for; nobody needs more for a cluster. */
const maxWindowBytes = 8 * 1024 * 1024;

export interface Frame {
  /** One past its last byte. */
  readonly end: number;
  /** What it says that it decodes to; undefined where it does not say. */
  readonly contentBytes?: number;
}

/** The frame at `start`. Throws an Error that says what is wrong with it. */
export function frameAt(bytes: Uint8Array, start: number): Frame {
  const view = viewOf(bytes);
  const need = (at: number, count: number): number => {
    if (at + count > bytes.length) throw new Error('the zstd frame does not end where its cluster does');
    return at;
  };
  if (view.getUint32(need(start, 5), true) !== magic) throw new Error('no zstd frame');
  const descriptor = view.getUint8(start + 4);
  if ((descriptor & 0x08) !== 0) throw new Error('a reserved bit of the zstd frame is set');
  const isSingleSegment = (descriptor & 0x20) !== 0;
  let at = start + 5;
  if (!isSingleSegment) {
    const windowBytes = windowBytesOf(view.getUint8(need(at, 1)));
    if (windowBytes > maxWindowBytes)
      throw new Error(`the zstd frame asks for a window of ${windowBytes} bytes`);
    at += 1;
  }
  at += [0, 1, 2, 4][descriptor & 3] as number;
  const sizeBytes = [isSingleSegment ? 1 : 0, 2, 4, 8][descriptor >> 6] as number;
  const contentBytes = contentBytesAt(view, need(at, sizeBytes), sizeBytes);
  at += sizeBytes;
  for (let isLast = false; !isLast; ) {
    const header = view.getUint16(need(at, 3), true) | (view.getUint8(at + 2) << 16);
    const [type, size] = [(header >> 1) & 3, header >> 3];
    if (type === 3) throw new Error('a block of the zstd frame is of no known type');
    at += 3 + (type === 1 ? 1 : size);
    isLast = (header & 1) !== 0;
  }
  const end = at + ((descriptor & 0x04) === 0 ? 0 : 4);
  need(end, 0);
  return contentBytes === undefined ? { end } : { end, contentBytes };
}

function windowBytesOf(descriptor: number): number {
  const base = 2 ** (10 + (descriptor >> 3));
  return base + (base / 8) * (descriptor & 7);
}

function contentBytesAt(view: DataView, at: number, sizeBytes: number): number | undefined {
  switch (sizeBytes) {
    case 1:
      return view.getUint8(at);
    case 2:
      return view.getUint16(at, true) + 256;
    case 4:
      return view.getUint32(at, true);
    case 8:
      return Number(view.getBigUint64(at, true));
    default:
      return undefined;
  }
}
