// The header and the directories as bytes: round trips, the smallest and largest values, one step beyond each.

import { describe, expect, it } from 'vitest';
import {
  decodeDirectory,
  decodeHeader,
  encodeDirectory,
  encodeHeader,
  GRAIN_TABLE_BYTES,
  MAX_GRAIN_BYTES,
  MAX_SECTORS,
  MIN_GRAIN_BYTES,
  planExtent,
  SECTOR,
  signatureOf,
} from '../src/layout.ts';

const GIB = 1024 ** 3;
const FILE = 'disk.vmdk';

describe('a new extent', () => {
  it.each([
    ['one sector', SECTOR, MIN_GRAIN_BYTES],
    ['one table, full', 512 * MIN_GRAIN_BYTES, MIN_GRAIN_BYTES],
    ['one sector more than a table', 512 * MIN_GRAIN_BYTES + SECTOR, MIN_GRAIN_BYTES],
    ['the largest grain', 10 * GIB, MAX_GRAIN_BYTES],
    ['more than its grains can fill', MAX_SECTORS * SECTOR + GIB, 64 * 1024],
  ])('of %s reads back as it was planned', (_, size, grainBytes) => {
    for (const zeroedGrains of [true, false]) {
      const header = planExtent(FILE, size, grainBytes, zeroedGrains);
      expect(decodeHeader(FILE, encodeHeader(header), header.overheadBytes)).toEqual(header);
      expect(header.overheadBytes % grainBytes).toBe(0);
    }
  });

  it('may be larger than its grains can fill, but not than its tables can be named', () => {
    const tableBytes = 512 * MIN_GRAIN_BYTES;
    expect(planExtent(FILE, 2 ** 23 * tableBytes, MIN_GRAIN_BYTES, true).tableCount).toBe(2 ** 23);
    expect(() => planExtent(FILE, 2 ** 23 * tableBytes + SECTOR, MIN_GRAIN_BYTES, true)).toThrow(
      expect.objectContaining({ code: 'ERR_TOO_LARGE', data: expect.objectContaining({ field: 'size' }) }),
    );
  });

  it('has its tables one after another, both copies apart, all before the grains', () => {
    const header = planExtent(FILE, 100 * GIB, 64 * 1024, true);
    const places = [header.redundantDirectoryOffset ?? 0, header.directoryOffset].map((offset) => {
      const bytes = encodeDirectory(header, offset).subarray(0, header.tableCount * 4);
      const entries = decodeDirectory(FILE, 'grain directory', bytes, header.overheadBytes);
      expect(entries).toHaveLength(header.tableCount);
      return { start: offset, end: entries.at(-1)! * SECTOR + GRAIN_TABLE_BYTES };
    });
    expect(places[0]!.end).toBe(places[1]!.start);
    expect(places[1]!.end).toBeLessThanOrEqual(header.overheadBytes);
  });
});

describe('a header', () => {
  const planned = planExtent(FILE, 10 * GIB, 64 * 1024, true);
  const decode = (change: (view: DataView) => void, fileBytes = planned.overheadBytes): unknown => {
    const bytes = encodeHeader(planned);
    change(new DataView(bytes.buffer));
    return decodeHeader(FILE, bytes, fileBytes);
  };

  it.each([
    ['version', 4, [1, 2, 3], [0, 4]],
    ['grainSize', 20, [2 ** 7, 2 ** 17], [0, 3, 2 ** 18]],
    ['numGTEsPerGT', 44, [512], [0, 511, 513]],
    ['overHead', 64, [1, planned.overheadBytes / SECTOR], [0, planned.overheadBytes / SECTOR + 1]],
    ['descriptorSize', 36, [1, 20], [0, 2049]],
  ])('takes %s at its limits, and no step beyond', (field, at, accepted, refused) => {
    for (const value of accepted)
      expect(() => decode((view) => view.setUint32(at, value, true))).not.toThrow();
    for (const value of refused) {
      expect(() => decode((view) => view.setUint32(at, value, true)), String(value)).toThrow(
        `header.${field}`,
      );
    }
  });

  it('that ends with its file is whole, and one sector less is not', () => {
    expect(decode(() => undefined)).toEqual(planned);
    expect(() => decode(() => undefined, planned.overheadBytes - SECTOR)).toThrow('header.overHead');
  });

  it('without the flag of a second copy has none', () => {
    expect(decode((view) => view.setUint32(8, 1, true))).toMatchObject({
      redundantDirectoryOffset: undefined,
      zeroedGrains: false,
    });
  });
});

describe('a directory', () => {
  const decode = (...sectors: number[]): Uint32Array =>
    decodeDirectory(FILE, 'grain directory', new Uint8Array(Uint32Array.from(sectors).buffer), 100 * SECTOR);

  it('may lack tables, and may have them in any order', () => {
    expect([...decode(50, 0, 20, 24, 0)]).toEqual([50, 0, 20, 24, 0]);
  });

  it('takes the last place in the file, and not the one after', () => {
    expect([...decode(96)]).toEqual([96]);
    expect(() => decode(97)).toThrow('grain directory[0]');
  });

  it.each([
    [[20, 20], 1],
    [[50, 20, 23], 2],
    [[50, 0, 47, 90], 0],
  ])('with two tables on one another is corrupt: %j', (sectors, index) => {
    expect(() => decode(...sectors)).toThrow(
      expect.objectContaining({
        code: 'ERR_CORRUPT',
        data: expect.objectContaining({ field: `grain directory[${index}]` }),
      }),
    );
  });
});

describe('the first bytes of a file', () => {
  it.each([
    ['KDMV', 'sparse'],
    ['COWD', 'cowd'],
    ['# Disk DescriptorFile\n', 'descriptor'],
    ['# disk descriptorfile\n', 'descriptor'],
    ['# Disk', 'other'],
    ['KD', 'other'],
    ['', 'other'],
  ])('%j are %s', (head, expected) => {
    expect(signatureOf(Buffer.from(head))).toBe(expected);
  });
});
