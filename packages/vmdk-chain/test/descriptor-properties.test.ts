// Descriptors of any making: what is read is written back byte for byte, and a change changes its line alone.

import * as fc from 'fast-check';
import { isCowlabError } from '@cowlab/core';
import { describe, expect, it } from 'vitest';
import { Descriptor, NO_PARENT } from '../src/descriptor.ts';
import type { ExtentLine } from '../src/extent-line.ts';
import { SECTOR } from '../src/layout.ts';

// A failure names its seed.
const replay = process.env['COWLAB_SEED'];
const check = <T>(property: fc.IProperty<T>): void =>
  fc.assert(property, replay === undefined ? {} : { seed: Number(replay) });

const textOf = (descriptor: Descriptor): string => Buffer.from(descriptor.encode()).toString('latin1');
const parse = (text: string): Descriptor => Descriptor.parse(Buffer.from(text, 'latin1'));

/** Bytes of a line: anything but its end and the end of the text. */
const anyLine = fc
  .array(fc.integer({ min: 1, max: 255 }), { maxLength: 60 })
  .map((bytes) => String.fromCharCode(...bytes.filter((byte) => byte !== 10 && byte !== 13)))
  // Lines that mean something here come on purpose only.
  .filter(
    (line) =>
      !/^\s*(RW|RDONLY|NOACCESS)\s|^\s*(cid|parentcid|parentfilenamehint|encoding)\s*=|^##/i.test(line),
  );

const fileName = fc
  .string({ unit: 'grapheme', minLength: 1, maxLength: 40 })
  .filter((name) => !/["\p{Cc}]/u.test(name) && !/\p{Cs}/u.test(name));

const sectors = fc.integer({ min: 1, max: 2 ** 40 });
const extentLine: fc.Arbitrary<ExtentLine> = fc.oneof(
  fc.record({ access: fc.constantFrom('RW', 'RDONLY'), sectors, type: fc.constant('SPARSE'), fileName }),
  fc.record({
    access: fc.constantFrom('RW', 'RDONLY', 'NOACCESS'),
    sectors,
    type: fc.constant('FLAT'),
    fileName,
    offset: fc.integer({ min: 0, max: 2 ** 40 }),
  }),
  fc.record({ access: fc.constant('RW'), sectors, type: fc.constant('ZERO') }),
) as fc.Arbitrary<ExtentLine>;

const whole = fc.record({
  before: fc.array(anyLine, { maxLength: 4 }),
  after: fc.array(anyLine, { maxLength: 6 }),
  lineBreak: fc.constantFrom('\n', '\r\n'),
  endsWithBreak: fc.boolean(),
  cid: fc.integer({ min: 0, max: NO_PARENT - 1 }),
});

type Whole = typeof whole extends fc.Arbitrary<infer T> ? T : never;

function textWith({ before, after, lineBreak, endsWithBreak, cid }: Whole): string {
  const lines = [
    '# Disk DescriptorFile',
    ...before,
    `CID=${cid.toString(16).padStart(8, '0')}`,
    'parentCID=ffffffff',
    ...after,
  ];
  return lines.join(lineBreak) + (endsWithBreak ? lineBreak : '');
}

describe('a descriptor', () => {
  it('of any lines is written back as it was read', () => {
    check(
      fc.property(whole, (parts) => {
        expect(textOf(parse(textWith(parts)))).toBe(textWith(parts));
      }),
    );
  });

  it('whose CID changes differs in that line alone', () => {
    check(
      fc.property(whole, fc.integer({ min: 0, max: NO_PARENT - 1 }), (parts, cid) => {
        const descriptor = parse(textWith(parts));
        descriptor.setCid(cid);
        expect(textOf(descriptor)).toBe(textWith({ ...parts, cid }));
        expect(descriptor.cid('f', 'CID')).toBe(cid);
      }),
    );
  });

  it('that gets a parent and loses it again has the lines that it had', () => {
    check(
      fc.property(whole, fileName, (parts, hint) => {
        const descriptor = parse(textWith({ ...parts, endsWithBreak: true }));
        descriptor.setParent(5, hint);
        const changed = Descriptor.parse(descriptor.encode());
        expect(changed.get('parentFileNameHint')).toBe(hint);
        expect(changed.cid('f', 'parentCID')).toBe(5);
        changed.setParent(NO_PARENT, undefined);
        const lines = textOf(changed)
          .split('\n')
          .filter((line) => !/^#{2,}\r?$/.test(line));
        expect(lines.join('\n')).toBe(textWith({ ...parts, endsWithBreak: true }));
      }),
    );
  });

  it('of any extents reads back as it was made, with everything that may change in its first sector', () => {
    check(
      fc.property(fc.array(extentLine, { minLength: 1, maxLength: 30 }), fileName, (extents, hint) => {
        const fields = {
          cid: 1,
          parentCid: 2,
          createType: 'custom',
          size: 1024 * SECTOR,
          adapterType: 'ide',
        };
        const made = Descriptor.create({ ...fields, parentHint: hint, extents });
        const bytes = Buffer.from(made.encode());
        const read = Descriptor.parse(bytes);
        expect(read.extents('f')).toEqual(extents);
        expect(read.get('parentFileNameHint')).toBe(hint);
        read.setCid(7);
        read.setParent(8, 'other.vmdk');
        const changed = Buffer.from(read.encode());
        if (bytes.length <= SECTOR) return;
        // A name that is too long for the sector loses its place there.
        if (bytes[SECTOR - 1] !== 10 || bytes[SECTOR - 2] !== 35) return;
        expect(changed.subarray(SECTOR).equals(bytes.subarray(SECTOR))).toBe(true);
      }),
    );
  });

  it('of any bytes is read, or refused with a code that names its field', () => {
    const bytes = fc.oneof(
      fc.uint8Array({ maxLength: 600 }),
      fc
        .array(
          fc.constantFrom(
            'RW',
            'RDONLY',
            ' ',
            '\t',
            '8',
            '-1',
            '"',
            'a',
            'FLAT',
            'SPARSE',
            'ZERO',
            '\n',
            'CID',
            '=',
            '\r',
          ),
          { maxLength: 60 },
        )
        .map((words) => new Uint8Array(Buffer.from(words.join('')))),
    );
    check(
      fc.property(bytes, (text) => {
        const descriptor = Descriptor.parse(text);
        for (const ask of [() => descriptor.extents('f'), () => descriptor.cid('f', 'CID')]) {
          try {
            ask();
          } catch (error) {
            expect(isCowlabError(error, 'ERR_CORRUPT')).toBe(true);
            expect(error).toMatchObject({
              data: { file: 'f', field: expect.stringMatching(/^descriptor\./) },
            });
          }
        }
        const end = text.indexOf(0);
        const expected = Buffer.from(end === -1 ? text : text.subarray(0, end));
        expect(Buffer.from(descriptor.encode()).equals(expected)).toBe(true);
      }),
    );
  });
});

describe('the encoding of a descriptor', () => {
  const text = (label: string, hint: Buffer): Buffer =>
    Buffer.concat([
      Buffer.from(
        `# Disk DescriptorFile\nencoding="${label}"\nCID=1\nparentCID=2\nparentFileNameHint="`,
        'latin1',
      ),
      hint,
      Buffer.from('"\n', 'latin1'),
    ]);

  it.each([
    ['windows-1252', Buffer.from([0x80, 0xfc]), '\u20ac\u00fc'],
    ['UTF-8', Buffer.from('\u20ac', 'utf8'), '\u20ac'],
    ['GBK', Buffer.from([0xd6, 0xd0]), '\u4e2d'],
    ['of nobody', Buffer.from([0xfc]), '\u00fc'],
  ])('%s is that of its names', (label, hint, name) => {
    const descriptor = Descriptor.parse(text(label, hint));
    expect(descriptor.get('parentFileNameHint')).toBe(name);
    expect(Buffer.from(descriptor.encode()).equals(text(label, hint))).toBe(true);
  });

  it('is kept by new names, and one that has no such letters is refused', () => {
    const descriptor = Descriptor.parse(text('windows-1252', Buffer.from('a')));
    descriptor.setParent(3, '\u20ac.vmdk');
    expect(Buffer.from(descriptor.encode()).includes(Buffer.from([0x80]))).toBe(true);
    expect(descriptor.get('parentFileNameHint')).toBe('\u20ac.vmdk');
    expect(() => descriptor.setParent(3, '\u4e2d.vmdk')).toThrow(
      expect.objectContaining({ code: 'ERR_INVALID_OPTION' }),
    );
  });
});
