// Bitmaps under power loss: in every state that the disk can be in afterwards, a bitmap that does not say that it is in
// use has a bit for all that has changed, and the image is no more than leaky.

import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Random, TraceFolder } from '@cowlab/conformance';
import { type Awaitable, type Disk, MemoryFolder } from '@cowlab/core';
import { describe, expect, it } from 'vitest';
import { readBitmapTable, readDirectory } from '../src/bitmap-directory.ts';
import { ImageFile } from '../src/image-file.ts';
import { bufferOf, bytesOf, KIB, MIB, open, put, qemuIsMissing } from './lab.ts';

const SECTOR = 512;

/** A piece that is written wholly or not at all, or a flush. */
type Event = { readonly offset: number; readonly bytes: Buffer } | 'flush' | { readonly truncate: number };

class LogFolder extends TraceFolder {
  readonly events: Event[] = [];

  override intercept<T>(
    call: Parameters<TraceFolder['intercept']>[0],
    run: () => Awaitable<T>,
  ): Awaitable<T> {
    const { method, offset, length, source } = call;
    if (method === 'flush') this.events.push('flush');
    if (method === 'truncate') this.events.push({ truncate: offset });
    if (method === 'write' && source !== undefined) {
      for (let at = 0; at < length; at += SECTOR)
        this.events.push({ offset: offset + at, bytes: Buffer.from(source.subarray(at, at + SECTOR)) });
    }
    return run();
  }
}

/** Long enough that the next entry of the directory lies in two sectors. */
const long = 'x'.repeat(480);

/** An image of QEMU's, with data, that has a disabled bitmap, an enabled one, and an enabled coarser one. */
function create(options: string): Buffer {
  const folder = mkdtempSync(join(tmpdir(), 'cowlab-qcow2-'));
  const qemu = (...args: string[]): unknown => execFileSync('qemu-img', args, { cwd: folder });
  try {
    qemu('create', '-q', '-f', 'qcow2', '-o', options, 'disk', '2M');
    execFileSync('qemu-io', ['-f', 'qcow2', '-c', 'write -P 9 0 1M', 'disk'], { cwd: folder });
    qemu('bitmap', '--add', '--disable', 'disk', long);
    qemu('bitmap', '--add', '-g', '512', 'disk', 'on');
    qemu('bitmap', '--add', 'disk', 'coarse');
    return readFileSync(join(folder, 'disk'));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function apply(state: Buffer, event: Event): Buffer {
  if (event === 'flush') return state;
  if ('truncate' in event) return Buffer.concat([state, Buffer.alloc(event.truncate)], event.truncate);
  const end = event.offset + event.bytes.length;
  const grown = end > state.length ? Buffer.concat([state], end) : Buffer.from(state);
  event.bytes.copy(grown, event.offset);
  return grown;
}

/** States after a power loss: all that was flushed, and any of what came after it. */
function* crashStates(base: Buffer, events: readonly Event[], random: Random): Generator<Buffer> {
  let durable = base;
  for (let at = 0; at < events.length; ) {
    const next = events.indexOf('flush', at);
    const pending = events.slice(at, next === -1 ? events.length : next);
    // Where much was under way, not every piece of it in turn.
    const stride = Math.ceil(Math.max(1, pending.length) / 12);
    for (let drop = 0; drop <= pending.length; drop += stride) {
      yield pending.slice(0, drop).reduce(apply, durable);
      yield pending.filter((_, nth) => nth !== drop).reduce(apply, durable);
      yield pending.filter(() => random.below(2) === 0).reduce(apply, durable);
    }
    durable = pending.reduce(apply, durable);
    at += pending.length + 1;
  }
  yield durable;
}

interface Found {
  readonly isInUse: boolean;
  readonly isSet: (offset: number) => boolean;
}

async function bitmapsIn(bytes: Buffer): Promise<Map<string, Found>> {
  const folder = new MemoryFolder();
  await put(folder, bytes);
  const storage = await folder.open('disk.qcow2', { readOnly: true });
  const file = await ImageFile.open(storage, () => Promise.reject(new Error('there is no data file')));
  const found = new Map<string, Found>();
  for (const bitmap of (await readDirectory(file)).bitmaps) {
    const table = await readBitmapTable(file, bitmap);
    const bits = Buffer.concat(
      table.map((entry) =>
        entry < 2
          ? Buffer.alloc(file.geometry.clusterBytes, entry === 1 ? 0xff : 0)
          : bytes.subarray(entry, entry + file.geometry.clusterBytes),
      ),
    );
    found.set(bitmap.name, {
      isInUse: bitmap.isInUse,
      isSet(offset) {
        const bit = Math.floor(offset / 2 ** bitmap.granularityBits);
        return ((bits[Math.floor(bit / 8)]! >>> (bit % 8)) & 1) === 1;
      },
    });
  }
  return found;
}

async function assertTrue(state: Buffer, before: Buffer): Promise<void> {
  const folder = new MemoryFolder();
  await put(folder, state);
  const disk = await open(folder, true);
  expect((await disk.check()).corruptions).toBe(0);
  const contents = Buffer.alloc(Math.min(disk.size, before.length));
  await disk.read(0, contents);
  await disk.close();
  const bitmaps = await bitmapsIn(state);
  expect([...bitmaps.keys()]).toEqual([long, 'on', 'coarse']);
  for (const name of ['on', 'coarse']) {
    const { isInUse, isSet } = bitmaps.get(name) as Found;
    if (isInUse) continue;
    for (let at = 0; at < contents.length; at += SECTOR) {
      if (contents.compare(before, at, at + SECTOR, at, at + SECTOR) !== 0)
        expect(isSet(at), `${name} at ${at}`).toBe(true);
    }
  }
}

const workloads: [string, (disk: Disk) => Promise<void>][] = [
  [
    'writes',
    async (disk) => {
      await disk.write(100 * KIB, bufferOf(3000, 1));
      await disk.write(101 * KIB, bufferOf(3000, 2));
      await disk.flush();
      await disk.write(100 * KIB, bufferOf(2000, 3));
      await disk.writeZeroes(1536 * KIB, 64 * KIB);
      await disk.discard(64 * KIB, 64 * KIB);
    },
  ],
  [
    'a larger size',
    async (disk) => {
      await disk.write(5000, bufferOf(3000, 1));
      // In clusters of 512 bytes the finest bitmap's table gets a second cluster.
      await disk.resize(140 * MIB);
    },
  ],
  [
    'a smaller size',
    async (disk) => {
      await disk.resize(MIB);
      await disk.write(5000, bufferOf(3000, 1));
    },
  ],
];

const runs = workloads.flatMap(([name, run]) =>
  ['cluster_size=512', 'cluster_size=4k', 'cluster_size=4k,lazy_refcounts=on'].map(
    (options) => [name, options, run] as const,
  ),
);

describe.skipIf(qemuIsMissing)('after a power loss', () => {
  it.each(runs)('bitmaps are true or in use: %s, with %s', async (_, options, run) => {
    const base = create(options);
    const inner = new MemoryFolder();
    await put(inner, base);
    const folder = new LogFolder(inner);
    const disk = await open(folder);
    const before = await bytesOf(disk);
    await run(disk);
    await disk.close();
    const random = new Random(Number(process.env['COWLAB_SEED'] ?? 1));
    let states = 0;
    for (const state of crashStates(base, folder.events, random)) {
      await assertTrue(state, before);
      states += 1;
    }
    expect(states).toBeGreaterThan(30);
    const last = await bitmapsIn(folder.events.reduce(apply, base));
    expect([...last.values()].map(({ isInUse }) => isInUse)).toEqual([false, false, false]);
  });
});
