// Where a zstd frame ends, and that no frame can ask for more than a cluster's worth of anything.

import { beforeAll, describe, expect, it } from 'vitest';
import { type Codec, codecOf } from '../src/codecs.ts';
import { frameAt } from '../src/zstd-frame.ts';
import { bufferOf } from './lab.ts';

const CLUSTER = 65_536;
let zstd: Codec;

beforeAll(async () => {
  zstd = await codecOf('zstd');
});

const frameOf = async (bytes: Uint8Array): Promise<Buffer> => Buffer.from(await zstd.encode(bytes));

/** Magic, descriptor, and what follows them. */
const frame = (descriptor: number, ...rest: number[]): Buffer =>
  Buffer.from([0x28, 0xb5, 0x2f, 0xfd, descriptor, ...rest]);

/** A last block of `size` equal bytes. */
const run = (size: number): number[] => {
  const header = (size << 3) | (1 << 1) | 1;
  return [header & 0xff, (header >> 8) & 0xff, header >> 16, 7];
};

describe('a zstd frame', () => {
  it.each([0, 1, 100, 255, 256, 5000, CLUSTER])('of %i bytes ends where its last byte is', async (length) => {
    const bytes = await frameOf(bufferOf(length, 3));
    const padded = Buffer.concat([Buffer.alloc(9), bytes, bufferOf(700, 1)]);
    const { end, contentBytes } = frameAt(padded, 9);
    expect(end).toBe(9 + bytes.length);
    expect(contentBytes ?? length).toBe(length);
  });

  it('with a checksum has it counted', () => {
    expect(frameAt(frame(0x24, 5, ...run(5), 1, 2, 3, 4), 0).end).toBe(5 + 1 + 4 + 4);
  });

  it('cut anywhere is refused', async () => {
    const bytes = await frameOf(bufferOf(3000, 3));
    for (let length = 0; length < bytes.length; length += 1) {
      expect(() => frameAt(bytes.subarray(0, length), 0)).toThrow('does not end');
    }
  });

  it.each<[string, Buffer, string]>([
    ['another magic', Buffer.alloc(20), 'no zstd frame'],
    ['a reserved bit', frame(0x28, 5, ...run(5)), 'reserved bit'],
    ['a reserved type of block', frame(0x20, 5, 0x07, 0, 0, 0), 'no known type'],
    ['a window of more than 8 MiB', frame(0x00, 14 << 3, ...run(5)), 'window of 16777216'],
  ])('with %s is refused', (_, bytes, problem) => {
    expect(() => frameAt(bytes, 0)).toThrow(problem);
  });
});

describe('a cluster in zstd', () => {
  it('may be one frame or several, with other bytes behind them', async () => {
    const cluster = bufferOf(CLUSTER, 5);
    const whole = await frameOf(cluster);
    const parts = [await frameOf(cluster.subarray(0, 1000)), await frameOf(cluster.subarray(1000))];
    for (const stored of [whole, Buffer.concat(parts)]) {
      const padded = Buffer.concat([stored, bufferOf(300, 9)]);
      expect(Buffer.compare(zstd.decode(padded, CLUSTER), cluster)).toBe(0);
    }
  });

  it.each<[string, Buffer]>([
    ['says that it is of 4 GiB', frame(0xa0, 0xff, 0xff, 0xff, 0xff, ...run(1000))],
    ['says that it is of 2^62 bytes', frame(0xe0, 0, 0, 0, 0, 0, 0, 0, 0x40, ...run(1000))],
    ['is of more than a cluster and does not say so', frame(0x00, 0x38, ...run(CLUSTER + 1))],
    ['is of fewer bytes than it says', frame(0x60, 0x00, 0xff, ...run(1000))],
    ['is a run without a byte', frame(0x60, 0x00, 0xff, 0x03, 0x01, 0x00)],
    ['is cut', frame(0x60, 0x00, 0xff)],
    ['has a block that is none', frame(0x60, 0x00, 0xff, 0x25, 0, 0, 1, 2, 3, 4)],
  ])('that %s is refused', (_, stored) => {
    expect(() => zstd.decode(stored, CLUSTER)).toThrow();
  });
});
