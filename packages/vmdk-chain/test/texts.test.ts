// The two texts of the format: the descriptor inside a file, and the snapshot directory beside it.

import { describe, expect, it } from 'vitest';
import { Descriptor, entryOf, NO_PARENT } from '../src/descriptor.ts';
import { SECTOR } from '../src/layout.ts';
import { emptyDirectory, encodeDirectory, parseDirectory, type SnapshotEntry } from '../src/vmsd.ts';

const parse = (text: string): Descriptor => Descriptor.parse(Buffer.from(text, 'latin1'));
const textOf = (descriptor: Descriptor): string => Buffer.from(descriptor.encode()).toString('latin1');

describe('a line', () => {
  it.each([
    ['CID=fffffffe', { key: 'CID', value: 'fffffffe' }],
    ['  ddb.adapterType = "ide"  ', { key: 'ddb.adapterType', value: 'ide' }],
    ['hint="a=b "c""', { key: 'hint', value: 'a=b "c"' }],
    ['empty=', { key: 'empty', value: '' }],
    ['quote="', { key: 'quote', value: '"' }],
    ['# CID=1', undefined],
    ['=1', undefined],
    ['RW 1 SPARSE "a"', undefined],
  ])('%j is %j', (line, entry) => {
    expect(entryOf(line)).toEqual(entry);
  });

  it('of a million spaces is read like any other', () => {
    const spaces = ' '.repeat(1024 * 1024);
    const descriptor = parse(`a${spaces}b\nkey=${spaces}b\nRW 1 SPARSE${spaces}x\nCID=1\n`);
    expect(descriptor.get('CID')).toBe('1');
    expect(() => descriptor.extents('f')).toThrow('line 3');
  });
});

describe('a descriptor', () => {
  const fields = {
    cid: 0xabc,
    parentCid: NO_PARENT,
    createType: 'monolithicSparse',
    extents: [{ access: 'RW', sectors: 1024, type: 'SPARSE', fileName: 'disk.vmdk' }],
    size: 1024 * SECTOR,
    adapterType: 'ide',
  } as const;

  it('reads back what was put into it', () => {
    const made = Descriptor.create({ ...fields, parentCid: 7, parentHint: 'väter/a#b=.vmdk' });
    const read = Descriptor.parse(made.encode());
    expect(read.cid('f', 'CID')).toBe(0xabc);
    expect(read.cid('f', 'parentCID')).toBe(7);
    expect(read.get('PARENTFILENAMEHINT')).toBe('väter/a#b=.vmdk');
    expect(read.extents('f')).toEqual(fields.extents);
  });

  it('that is not UTF-8 keeps its bytes', () => {
    const text = '# Disk DescriptorFile\nCID=1\nparentCID=2\nparentFileNameHint="M\xfcll.vmdk"\n';
    const descriptor = parse(text);
    descriptor.setCid(3);
    expect(textOf(descriptor)).toBe(text.replace('CID=1', 'CID=00000003'));
  });

  it('ends at its first zero byte', () => {
    expect(parse('CID=1\n\0parentCID=2\n').get('parentCID')).toBeUndefined();
  });

  it('gets and loses a parent line by line', () => {
    const descriptor = parse('# Disk DescriptorFile\r\nversion=1\r\nCID=1\r\nparentCID=ffffffff\r\nx=y\r\n');
    const alone = textOf(descriptor);
    descriptor.setParent(2, 'a.vmdk');
    expect(textOf(descriptor)).toContain('parentCID=00000002\r\nparentFileNameHint="a.vmdk"\r\nx=y\r\n');
    descriptor.setParent(NO_PARENT, undefined);
    expect(textOf(descriptor)).toBe(alone);
  });

  it.each(['a"b.vmdk', 'a\nb.vmdk'])('takes no name that would break its line: %j', (fileName) => {
    const extents = [{ ...fields.extents[0], fileName }];
    expect(() => Descriptor.create({ ...fields, extents })).toThrow(
      expect.objectContaining({ code: 'ERR_INVALID_OPTION' }),
    );
  });
});

describe('a snapshot directory', () => {
  const entry = (uid: number, more: Partial<SnapshotEntry> = {}): SnapshotEntry => ({
    uid,
    parent: undefined,
    displayName: `s${uid}`,
    createdAt: new Date('2026-11-24T17:00:00.123Z'),
    fileName: `disk-00000${uid}.vmdk`,
    others: new Map(),
    ...more,
  });

  it.each([
    ['without snapshots', []],
    ['with a tree of them', [entry(1), entry(2, { parent: 1 }), entry(5, { parent: 1 })]],
    ['with names of any letters', [entry(1, { displayName: '50 % | "ü" #1 \u{1f4be} = x\\' })]],
    [
      'with old and far times',
      [entry(1, { createdAt: new Date(-1) }), entry(2, { createdAt: new Date(2 ** 42) })],
    ],
    ['with fields of other programs', [entry(1, { others: new Map([['disk0.node', 'scsi0:0']]) })]],
  ])('%s reads back as it was', (_, entries) => {
    const directory = { ...emptyDirectory(), entries, lastUid: 5, current: entries.at(-1)?.uid };
    directory.others.set('snapshot.mru0.uid', '4');
    expect(parseDirectory('disk.vmsd', encodeDirectory(directory))).toEqual(directory);
  });

  it('never gives an id again, whatever it says of the last one', () => {
    const bytes = encodeDirectory({ ...emptyDirectory(), entries: [entry(5)], lastUid: 1 });
    expect(parseDirectory('disk.vmsd', bytes).lastUid).toBe(5);
  });

  it.each([
    ['two snapshots of one id', 'snapshot1.uid = "2"', 'snapshot1.uid = "1"', 'snapshot.uid'],
    ['an id of 0', 'snapshot0.uid = "1"', 'snapshot0.uid = "0"', 'snapshot0.uid'],
    ['no id', 'snapshot0.uid = "1"', '', 'snapshot0.uid'],
    ['a file in another folder', '"disk-000001.vmdk"', '"a/b.vmdk"', 'snapshot0.disk0.fileName'],
    ['the folder as a file', '"disk-000001.vmdk"', '".."', 'snapshot0.disk0.fileName'],
  ])('with %s is corrupt', (_, from, to, field) => {
    const bytes = encodeDirectory({ ...emptyDirectory(), entries: [entry(1), entry(2)], lastUid: 2 });
    const damaged = Buffer.from(bytes).toString().replace(from, to);
    expect(() => parseDirectory('disk.vmsd', Buffer.from(damaged))).toThrow(
      expect.objectContaining({
        code: 'ERR_CORRUPT',
        data: expect.objectContaining({ file: 'disk.vmsd', field }),
      }),
    );
  });
});
