// The first cluster laid out anew: everything is kept, and the first sector decides.

import { execFileSync } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { BackingReference } from '@cowlab/core';
import { describe, expect, it } from 'vitest';
import { rewriteHeader } from '../src/header-area.ts';
import { decodeHeader, type Header } from '../src/layout.ts';
import { encodeHeader } from '../src/new-header.ts';
import { qemuIsMissing } from './lab.ts';

const FILE_BYTES = 2 ** 40;
const plain: Header = {
  version: 3,
  clusterBits: 13,
  size: 2 ** 20,
  l1EntryCount: 1,
  l1Offset: 0x6000,
  refcountTableOffset: 0x2000,
  refcountTableClusters: 1,
  snapshotCount: 0,
  snapshotTableOffset: 0,
  dirty: false,
  damaged: false,
  lazyRefcounts: false,
  extendedL2: false,
  autoclear: 0n,
  refcountBits: 16,
  compressionType: 'zlib',
  nextSnapshotId: 7,
};

function areaOf(header: Header): Buffer {
  const area = Buffer.alloc(2 ** header.clusterBits);
  area.set(encodeHeader(header)!);
  return area;
}

/** Puts an extension in front of the others, as another program may have. */
function withExtension(area: Buffer, type: number, data: Uint8Array): Buffer {
  const start = area.readUInt32BE(4) === 3 ? area.readUInt32BE(100) : 72;
  const bytes = 8 + Math.ceil(data.length / 8) * 8;
  const next = Buffer.alloc(area.length);
  area.copy(next, 0, 0, start);
  next.writeUInt32BE(type, start);
  next.writeUInt32BE(data.length, start + 4);
  next.set(data, start + 8);
  area.copy(next, start + bytes, start, area.length - bytes);
  const nameAt = Number(next.readBigUInt64BE(8));
  if (nameAt > 0) next.writeBigUInt64BE(BigInt(nameAt + bytes), 8);
  return next;
}

/** The extensions of a header area, as types and contents; ours that lead from one to the next left out. */
function extensionsOf(area: Buffer): [type: number, data: string][] {
  const found: [number, string][] = [];
  for (let at = area.readUInt32BE(4) === 3 ? area.readUInt32BE(100) : 72; area.readUInt32BE(at) !== 0; ) {
    const bytes = area.readUInt32BE(at + 4);
    const type = area.readUInt32BE(at);
    if (type !== 0x434f5753) found.push([type, area.subarray(at + 8, at + 8 + bytes).toString('latin1')]);
    at += 8 + Math.ceil(bytes / 8) * 8;
  }
  return found.toSorted(([a], [b]) => a - b);
}

/** The area after each of the two writes. */
function rewritten(area: Buffer, backing: BackingReference | null): { between: Buffer; after: Buffer } {
  const next = rewriteHeader(area, { backing });
  if (next === undefined) throw new Error('no room');
  const between = Buffer.from(area);
  if (next.rest !== undefined) between.set(next.rest.bytes, next.rest.offset);
  const after = Buffer.from(between);
  after.set(next.sector);
  return { between, after };
}

function headerIn(area: Uint8Array): Header {
  const { nextSnapshotIdAt: _, ...header } = decodeHeader(area, FILE_BYTES, 'f');
  return header;
}

const others: [name: string, extension?: [type: number, bytes: number]][] = [
  ['no other extension'],
  ['a small extension of others', [0x12345678, 5]],
  ['an extension of others that goes past the first sector', [0x12345678, 600]],
];

const backings: (BackingReference | null)[] = [
  { file: 'b' },
  { file: 'base.img', format: 'qcow2' },
  { file: `${'long/'.repeat(60)}x`, format: 'raw' },
  { file: 'ü'.repeat(500), format: 'raw' },
  null,
  { file: 'another.img', format: 'vmdk' },
];

describe.each([2, 3] as const)('another backing in a header of version %i', (version) => {
  it.each(others)('keeps everything else, with %s', (_, extension) => {
    let area = areaOf({ ...plain, version });
    if (extension !== undefined) {
      area = withExtension(area, extension[0], new Uint8Array(extension[1]).fill(0xab));
    }
    const kept = extensionsOf(area);
    let backing: BackingReference | null = null;
    for (let round = 0; round < 3; round += 1) {
      for (const next of backings) {
        const { between, after } = rewritten(area, next);
        // Whoever reads before the first sector has changed finds what there was.
        expect(headerIn(between)).toEqual(headerIn(area));
        expect(extensionsOf(between)).toEqual(extensionsOf(area));
        expect(headerIn(after)).toEqual({ ...plain, version, ...(next !== null && { backing: next }) });
        expect(extensionsOf(after).filter(([type]) => type !== 0xe2792aca)).toEqual(kept);
        [area, backing] = [after, next];
      }
    }
    expect(backing).toEqual(backings.at(-1));
  });
});

describe('a first cluster without room', () => {
  const small = { ...plain, clusterBits: 9, l1Offset: 0x600, refcountTableOffset: 0x200, size: 512 };

  it('takes a name that fits the sector, and refuses one that does not', () => {
    expect(headerIn(rewritten(areaOf(small), { file: 'x'.repeat(300) }).after).backing?.file).toHaveLength(
      300,
    );
    expect(rewriteHeader(areaOf(small), { backing: { file: 'x'.repeat(400) } })).toBeUndefined();
  });

  it('gives up the names of features first', () => {
    const area = withExtension(areaOf(small), 0x6803f857, new Uint8Array(48 * 4));
    const { after } = rewritten(area, { file: 'x'.repeat(300) });
    expect(extensionsOf(after).map(([type]) => type)).not.toContain(0x6803f857);
    expect(headerIn(after).backing?.file).toHaveLength(300);
  });
});

describe.skipIf(qemuIsMissing)('a header that QEMU made', () => {
  it('is laid out anew such that QEMU reads it, and may write it in its turn', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'cowlab-qcow2-'));
    const qemu = (...args: string[]): string =>
      execFileSync('qemu-img', args, { encoding: 'utf8', cwd: folder });
    try {
      qemu('create', '-f', 'raw', 'base', '1M');
      qemu('create', '-f', 'raw', 'a-base-with-a-longer-name', '1M');
      qemu('create', '-f', 'qcow2', '-b', 'base', '-F', 'raw', 'disk.qcow2');
      const file = join(folder, 'disk.qcow2');
      for (const name of ['a-base-with-a-longer-name', 'base', 'a-base-with-a-longer-name']) {
        const bytes = await readFile(file);
        const { after } = rewritten(bytes.subarray(0, 65_536), { file: name, format: 'raw' });
        expect(extensionsOf(after).map(([type]) => type)).toContain(0x6803f857);
        bytes.set(after);
        await writeFile(file, bytes);
        const info = JSON.parse(qemu('info', '--output=json', 'disk.qcow2')) as Record<string, unknown>;
        expect(info).toMatchObject({ 'backing-filename': name, 'backing-filename-format': 'raw' });
        qemu('check', 'disk.qcow2');
        qemu('amend', '-o', 'lazy_refcounts=on', 'disk.qcow2');
        qemu('amend', '-o', 'lazy_refcounts=off', 'disk.qcow2');
      }
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });
});
