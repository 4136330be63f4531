// Snapshots of others, with the state of a machine and with more in their entries than we know: whatever happens beside
// them, they stay; and applying one brings all of it back, as the format has it.

import { readFile, writeFile } from 'node:fs/promises';
import { readU64BE, viewOf } from '@cowlab/core';
import { describe, expect, it } from 'vitest';
import { bufferOf, bytesOf, KIB, MIB, Qemu, qemuIsMissing } from './lab.ts';

/** A table of clusters of 512 bytes speaks for 32 KiB, so that a small disk has many. */
const CLUSTER = 512;
const SPAN = 32 * KIB;
const SIZE = 2 * MIB;
const STATE_BYTES = 256 * KIB;

const qemu = Qemu.forEachTest();

/** One entry of the snapshot table as it is in the file. */
interface Entry {
  readonly at: number;
  readonly l1: number;
  readonly l1Size: number;
  readonly stateSize: number;
  readonly clock: bigint;
  readonly extra: Buffer;
  readonly id: string;
  readonly name: string;
}

function entriesOf(bytes: Buffer): Entry[] {
  const entries: Entry[] = [];
  let at = readU64BE(viewOf(bytes), 64);
  for (let left = bytes.readUInt32BE(60); left > 0; left -= 1) {
    const extraBytes = bytes.readUInt32BE(at + 36);
    const idAt = at + 40 + extraBytes;
    const nameAt = idAt + bytes.readUInt16BE(at + 12);
    const end = nameAt + bytes.readUInt16BE(at + 14);
    entries.push({
      at,
      l1: readU64BE(viewOf(bytes), at),
      l1Size: bytes.readUInt32BE(at + 8),
      stateSize: bytes.readUInt32BE(at + 32),
      clock: bytes.readBigUInt64BE(at + 24),
      extra: bytes.subarray(at + 40, idAt),
      id: bytes.toString('utf8', idAt, nameAt),
      name: bytes.toString('utf8', nameAt, end),
    });
    at += Math.ceil((end - at) / 8) * 8;
  }
  return entries;
}

/** What an L1 table maps behind the end of the disk: where QEMU keeps the state of the machine. */
function stateIn(bytes: Buffer, l1: number): Buffer {
  const pointer = (at: number): number => Number(bytes.readBigUInt64BE(at) & 0x00ff_ffff_ffff_fe00n);
  const state = Buffer.alloc(STATE_BYTES);
  for (let at = 0; at < STATE_BYTES; at += CLUSTER) {
    const table = pointer(l1 + ((SIZE + at) / SPAN) * 8 - (((SIZE + at) % SPAN) / SPAN) * 8);
    const host = pointer(table + (((SIZE + at) % SPAN) / CLUSTER) * 8);
    if (host !== 0) bytes.copy(state, at, host, host + CLUSTER);
  }
  return state;
}

/**
 * A disk of QEMU's with the snapshot `theirs`. It was larger when it was taken: what lay behind the present end is the
 * state of a machine now, and the entry says so, with extra data of `extraBytes`.
 */
async function create(compat: string, extraBytes: number): Promise<{ state: Buffer; contents: Buffer }> {
  const options = `cluster_size=${CLUSTER},compat=${compat}`;
  await qemu.img('create', '-q', '-f', 'qcow2', '-o', options, 'disk.qcow2', '4M');
  await qemu.io('disk.qcow2', 'write -P 1 0 1M', `write -P 2 ${SIZE} ${STATE_BYTES}`);
  await qemu.img('snapshot', '-c', 'theirs', 'disk.qcow2');
  await qemu.io('disk.qcow2', 'write -P 3 64k 200k', `discard ${SIZE} ${STATE_BYTES}`);
  const bytes = await readFile(qemu.path('disk.qcow2'));
  bytes.writeBigUInt64BE(BigInt(SIZE), 24);
  const [{ at, id, name }] = entriesOf(bytes) as [Entry];
  const extra = Buffer.alloc(extraBytes, 0x5a);
  if (extraBytes >= 16) {
    extra.writeBigUInt64BE(BigInt(STATE_BYTES), 0);
    extra.writeBigUInt64BE(BigInt(SIZE), 8);
  }
  bytes.fill(0, at + 40, at + CLUSTER);
  bytes.writeBigUInt64BE(123_456_789n, at + 24);
  bytes.writeUInt32BE(STATE_BYTES, at + 32);
  bytes.writeUInt32BE(extraBytes, at + 36);
  extra.copy(bytes, at + 40);
  bytes.write(id + name, at + 40 + extraBytes, 'latin1');
  await writeFile(qemu.path('disk.qcow2'), bytes);
  await qemu.img('check', 'disk.qcow2');
  const contents = Buffer.concat([Buffer.alloc(MIB, 1), Buffer.alloc(SIZE - MIB)]);
  return { state: Buffer.alloc(STATE_BYTES, 2), contents };
}

describe.skipIf(qemuIsMissing)('a snapshot with the state of a machine', () => {
  it.each([
    ['0.10', 0],
    ['0.10', 16],
    ['1.1', 16],
    ['1.1', 24],
    ['1.1', 72],
  ])('in version %s, with extra data of %i bytes, is carried along and applied whole', async (...args) => {
    const { state, contents } = await create(...args);
    const [before] = entriesOf(await readFile(qemu.path('disk.qcow2'))) as [Entry];
    const expectKept = async (name: string): Promise<void> => {
      const bytes = await readFile(qemu.path('disk.qcow2'));
      const kept = entriesOf(bytes).find(({ id }) => id === before.id) as Entry;
      expect({ ...kept, at: 0 }).toEqual({ ...before, at: 0, name });
      expect(stateIn(bytes, kept.l1).equals(state)).toBe(true);
      await qemu.img('check', 'disk.qcow2');
      expect(await qemu.img('snapshot', '-l', 'disk.qcow2')).toMatch(new RegExp(`${name} +256 KiB`));
    };
    const disk = await qemu.open();
    await disk.snapshots.create('ours');
    await disk.write(10_000, bufferOf(100_000, 5));
    await disk.snapshots.rename('theirs', 'theirs still');
    await disk.close();
    await expectKept('theirs still');
    const again = await qemu.open();
    await again.snapshots.delete('ours');
    await again.snapshots.apply('theirs still');
    expect((await bytesOf(again)).equals(contents)).toBe(true);
    await again.close();
    await expectKept('theirs still');
    const applied = await readFile(qemu.path('disk.qcow2'));
    expect(stateIn(applied, readU64BE(viewOf(applied), 40)).equals(state)).toBe(true);
    const last = await qemu.open();
    await last.write(50_000, bufferOf(100_000, 6));
    await last.resize(4 * MIB);
    const grown = await bytesOf(last);
    expect(grown.subarray(SIZE).every((byte) => byte === 0)).toBe(true);
    await last.close();
    await expectKept('theirs still');
    const deleting = await qemu.open();
    await deleting.snapshots.delete('theirs still');
    expect(await deleting.check()).toMatchObject({ corruptions: 0, leaks: 0 });
    await deleting.close();
    await qemu.assertSees('disk.qcow2', grown);
  });
});
