// Writes that would hit metadata, and other corruption that marks an image: nothing is written, and nothing is from then on.

import {
  type CheckReport,
  type Disk,
  type MemoryFolder,
  openDisk,
  type OptionValues,
  readU64BE,
  viewOf,
} from '@cowlab/core';
import { Random } from '@cowlab/conformance';
import { qcow2 } from '@cowlab/qcow2-like';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  bufferOf,
  bytesIn,
  bytesOf,
  KIB,
  MIB,
  newImage,
  open,
  placesIn,
  put,
  Qemu,
  qemuIsMissing,
} from './lab.ts';

const CLUSTER = 4 * KIB;
/** Of the guest: mapped, and nobody else's. */
const VICTIM = 6 * CLUSTER;
/** The byte of the header that has the dirty bit and the corrupt bit. */
const FEATURES_AT = 79;

interface Made {
  readonly folder: MemoryFolder;
  readonly bytes: Buffer;
}

/** A disk with a snapshot whose L2 table it shares no more, and which has two tables of its own. */
async function image(options: OptionValues = {}): Promise<Made> {
  const folder = await newImage(8 * MIB, { cluster_size: CLUSTER, ...options });
  const disk = await open(folder);
  await disk.write(0, bufferOf(50_000, 1));
  await disk.snapshots.create('one');
  await disk.write(0, bufferOf(50_000, 2));
  await disk.write(4 * MIB, bufferOf(CLUSTER, 3));
  await disk.close();
  return { folder, bytes: await bytesIn(folder) };
}

const at = (bytes: Buffer, offset: number): number =>
  Number(bytes.readBigUInt64BE(offset) & 0x00ff_ffff_ffff_fe00n);

/** Where structures lie, by the names that errors give them. */
function structuresIn(bytes: Buffer): Record<string, number> {
  const { l1, l2, refcountTable, refcountBlock } = placesIn(bytes);
  const snapshotTable = readU64BE(viewOf(bytes), 64);
  const snapshotL1 = readU64BE(viewOf(bytes), snapshotTable);
  return {
    'active L1 table': l1,
    'active L2 table': l2,
    'refcount table': refcountTable,
    'refcount block': refcountBlock,
    'snapshot table': snapshotTable,
    'L1 table of a snapshot': snapshotL1,
    'L2 table of a snapshot': at(bytes, snapshotL1),
  };
}

/** Points the victim's L2 entry to a structure, as if it owned it. */
function aim(bytes: Buffer, target: number): void {
  bytes.writeBigUInt64BE((1n << 63n) | BigInt(target), placesIn(bytes).l2 + (VICTIM / CLUSTER) * 8);
}

async function aimed(structure: string, options: OptionValues = {}): Promise<Made & { target: number }> {
  const { folder, bytes } = await image(options);
  const target = structuresIn(bytes)[structure] as number;
  aim(bytes, target);
  await put(folder, bytes);
  return { folder, bytes, target };
}

async function failure(run: () => unknown): Promise<unknown> {
  try {
    await run();
  } catch (error) {
    return error;
  }
  return undefined;
}

/** The image's bytes are as before, but for the corrupt bit. */
async function expectMarked(folder: MemoryFolder, before: Buffer): Promise<void> {
  const after = await bytesIn(folder);
  expect(after.readUInt8(FEATURES_AT) & 2).toBe(2);
  after.writeUInt8(before.readUInt8(FEATURES_AT), FEATURES_AT);
  expect(after.equals(before)).toBe(true);
}

const refused = { code: 'ERR_CORRUPT', data: { field: 'header.incompatible_features' } };

/** Every change is refused, reading goes on, closing writes nothing. */
async function expectCondemned(disk: Disk): Promise<void> {
  expect(await failure(() => disk.write(0, bufferOf(100, 9)))).toMatchObject(refused);
  expect(await failure(() => disk.write(7 * MIB, bufferOf(100, 9)))).toMatchObject(refused);
  expect(await failure(() => disk.discard(0, CLUSTER))).toMatchObject(refused);
  expect(await failure(() => disk.flush())).toMatchObject(refused);
  expect(await failure(() => disk.snapshots.create('more'))).toMatchObject(refused);
  expect(await failure(() => disk.snapshots.delete('one'))).toMatchObject(refused);
  expect(await failure(() => disk.resize(16 * MIB))).toMatchObject(refused);
  const target = Buffer.alloc(CLUSTER);
  await disk.read(0, target);
  expect(target.equals(bufferOf(50_000, 2).subarray(0, CLUSTER))).toBe(true);
  await disk.close();
}

const guardedBy = {
  constant: ['active L1 table', 'refcount table', 'snapshot table'],
  cached: ['active L2 table', 'refcount block', 'L1 table of a snapshot'],
  all: ['L2 table of a snapshot'],
};

describe('a write in place', () => {
  it.each([...guardedBy.constant, ...guardedBy.cached])(
    'that would hit the %s is refused, and the image marked',
    async (structure) => {
      const { folder, bytes, target } = await aimed(structure);
      const disk = await open(folder);
      const error = await failure(() => disk.write(VICTIM, bufferOf(CLUSTER, 9)));
      expect(error).toMatchObject({ code: 'ERR_CORRUPT', data: { field: structure, offset: target } });
      await expectCondemned(disk);
      await expectMarked(folder, bytes);
    },
  );

  it('that reaches a structure with its last cluster only is refused whole', async () => {
    const { folder, bytes } = await aimed('active L1 table');
    const disk = await open(folder);
    const error = await failure(() => disk.write(0, bufferOf(VICTIM + CLUSTER, 9)));
    expect(error).toMatchObject({ code: 'ERR_CORRUPT', data: { field: 'active L1 table' } });
    await disk.close();
    const after = await bytesIn(folder);
    const { l1 } = placesIn(bytes);
    expect(after.subarray(l1, l1 + 32).equals(bytes.subarray(l1, l1 + 32))).toBe(true);
  });

  const levels: [level: string, structure: string, isGuarded: boolean][] = [
    ['none', 'active L1 table', false],
    ['constant', 'active L1 table', true],
    ['constant', 'active L2 table', false],
    ['cached', 'L2 table of a snapshot', false],
    ['all', 'L2 table of a snapshot', true],
    ['all', 'refcount block', true],
  ];
  it.each(levels)('with overlap_check %s and the %s: guarded %s', async (level, structure, isGuarded) => {
    const { folder, target } = await aimed(structure);
    const disk = await open(folder, false, { overlap_check: level });
    const error = await failure(() => disk.write(VICTIM, bufferOf(100, 9)));
    if (isGuarded) expect(error).toMatchObject({ code: 'ERR_CORRUPT', data: { field: structure } });
    else expect(error).toBeUndefined();
    const wasHit = (await bytesIn(folder)).subarray(target, target + 100).equals(bufferOf(100, 9));
    expect(wasHit).toBe(!isGuarded);
    await failure(() => disk.close());
  });

  it('is guarded where metadata has come to lie since the image was opened', async () => {
    const { folder, bytes } = await image();
    // The file ends here, so the next table goes here, and this is where the victim already is.
    aim(bytes, Math.ceil(bytes.length / CLUSTER) * CLUSTER);
    const padded = Buffer.concat([bytes, Buffer.alloc(2 * CLUSTER)]);
    await put(folder, padded);
    const disk = await open(folder);
    await disk.write(2 * MIB, bufferOf(CLUSTER, 4));
    await disk.flush();
    const { l1 } = placesIn(padded);
    const table = at(await bytesIn(folder), l1 + 8);
    expect(table).toBe(bytes.length);
    const error = await failure(() => disk.write(VICTIM, bufferOf(CLUSTER, 9)));
    expect(error).toMatchObject({ code: 'ERR_CORRUPT', data: { field: 'active L2 table', offset: table } });
    await disk.close();
  });

  it('in version 2 is refused too, and so is all that follows; there is no bit to set', async () => {
    const { folder, bytes } = await aimed('active L1 table', { compat: '0.10' });
    const disk = await open(folder);
    const error = await failure(() => disk.write(VICTIM, bufferOf(CLUSTER, 9)));
    expect(error).toMatchObject({ code: 'ERR_CORRUPT', data: { field: 'active L1 table' } });
    await expectCondemned(disk);
    expect((await bytesIn(folder)).equals(bytes)).toBe(true);
  });
});

describe('an image whose counts are right', () => {
  it.each(['constant', 'cached', 'all'])('is never refused a change (overlap_check %s)', async (level) => {
    const folder = await newImage(8 * MIB, { cluster_size: 512 });
    const random = new Random(Number(process.env['COWLAB_SEED'] ?? 7));
    let disk = await open(folder, false, { overlap_check: level, l2_cache_size: 4 * KIB });
    const steps: (() => Promise<unknown>)[] = [
      async () => disk.write(random.below(7 * MIB), bufferOf(1 + random.below(90_000), random.below(99))),
      async () => disk.discard(random.below(7 * MIB), random.below(400_000)),
      async () => disk.flush(),
      async () => disk.snapshots.create(`s${random.below(1e9)}`),
      async () => disk.snapshots.delete(random.pick(await disk.snapshots.list()).id),
      async () => disk.snapshots.apply(random.pick(await disk.snapshots.list()).id),
      async () => {
        await disk.close();
        disk = await open(folder, false, { overlap_check: level });
      },
    ];
    for (let step = 0; step < 150; step += 1) {
      const hasSnapshots = (await disk.snapshots.list()).length > 0;
      const choice = random.below(steps.length + 4);
      const run = steps[choice < steps.length && (hasSnapshots || ![4, 5].includes(choice)) ? choice : 0];
      await run!();
    }
    expect(await disk.check()).toMatchObject({ corruptions: 0, leaks: 0 });
    await disk.close();
  });
});

describe('what was kept for zeros', () => {
  it('is not written to where it lies on metadata', async () => {
    const { folder, bytes, target } = await aimed('refcount block');
    const entry = placesIn(bytes).l2 + (VICTIM / CLUSTER) * 8;
    bytes.writeUInt8(bytes.readUInt8(entry + 7) | 1, entry + 7);
    await put(folder, bytes);
    const disk = await open(folder);
    const error = await failure(() => disk.write(VICTIM, bufferOf(CLUSTER, 9)));
    expect(error).toMatchObject({ code: 'ERR_CORRUPT', data: { field: 'refcount block', offset: target } });
    await expectCondemned(disk);
    await expectMarked(folder, bytes);
  });
});

describe('a discard', () => {
  it('punches no hole into metadata', async () => {
    const { folder, bytes, target } = await aimed('active L1 table');
    const disk = await open(folder);
    await disk.discard(VICTIM, CLUSTER);
    const error = await failure(() => disk.flush());
    expect(error).toMatchObject({ code: 'ERR_CORRUPT', data: { field: 'active L1 table' } });
    await disk.close();
    const after = await bytesIn(folder);
    expect(after.subarray(target, target + 32).equals(bytes.subarray(target, target + 32))).toBe(true);
    expect(after.readUInt8(FEATURES_AT) & 2).toBe(2);
  });
});

describe('an allocation', () => {
  it.each(['header', ...guardedBy.constant, ...guardedBy.cached])(
    'of the cluster of the %s, counted as free, is refused, and the image marked',
    async (structure) => {
      const { folder, bytes } = await image();
      const target = structuresIn(bytes)[structure] ?? 0;
      const { refcountBlock } = placesIn(bytes);
      bytes.writeUInt16BE(0, refcountBlock + (target / CLUSTER) * 2);
      await put(folder, bytes);
      const disk = await open(folder);
      const error = await failure(() => disk.write(7 * MIB, bufferOf(CLUSTER, 9)));
      expect(error).toMatchObject({ code: 'ERR_CORRUPT', data: { field: structure, offset: target } });
      await expectCondemned(disk);
      await expectMarked(folder, bytes);
    },
  );

  it('by a snapshot operation too: it has not happened, and the dirty bit stays for whoever repairs', async () => {
    const { folder, bytes } = await image();
    const { refcountBlock, l1 } = placesIn(bytes);
    bytes.writeUInt16BE(0, refcountBlock + (l1 / CLUSTER) * 2);
    await put(folder, bytes);
    const disk = await open(folder);
    const error = await failure(() => disk.snapshots.create('two'));
    expect(error).toMatchObject({ code: 'ERR_CORRUPT', data: { field: 'active L1 table' } });
    await expectCondemned(disk);
    const reader = await open(folder, true);
    expect((await reader.snapshots.list()).map(({ name }) => name)).toEqual(['one']);
    await reader.close();
  });
});

describe('corruption that marks an image which is open for writing, and no other', () => {
  const victimEntry = (bytes: Buffer): number => placesIn(bytes).l2 + (VICTIM / CLUSTER) * 8;
  const damages: [string, OptionValues, (bytes: Buffer) => void, string][] = [
    [
      'an L1 entry between clusters',
      {},
      (bytes) => void bytes.writeUInt16BE(0x0200, placesIn(bytes).l1 + 6),
      'l1_table.entry',
    ],
    [
      'an L2 entry between clusters',
      {},
      (bytes) => void bytes.writeUInt16BE(0x0200, victimEntry(bytes) + 6),
      'l2_table.entry',
    ],
    [
      'a ZERO entry in version 2',
      { compat: '0.10' },
      (bytes) => void bytes.writeUInt8(1, victimEntry(bytes) + 7),
      'l2_table.entry',
    ],
  ];
  it.each(damages)('%s, that a read meets', async (_, options, damage, field) => {
    const { folder, bytes } = await image(options);
    damage(bytes);
    await put(folder, bytes);
    const target = Buffer.alloc(CLUSTER);
    const reader = await open(folder, true);
    expect(await failure(() => reader.read(VICTIM, target))).toMatchObject({ code: 'ERR_CORRUPT' });
    await reader.close();
    expect((await bytesIn(folder)).equals(bytes)).toBe(true);
    const disk = await open(folder);
    const error = await failure(() => disk.read(VICTIM, target));
    expect(error).toMatchObject({ code: 'ERR_CORRUPT', data: { file: 'disk.qcow2', field } });
    expect(await failure(() => disk.write(5 * MIB, bufferOf(100, 1)))).toMatchObject(refused);
    await disk.close();
    if (options['compat'] === '0.10') expect((await bytesIn(folder)).equals(bytes)).toBe(true);
    else await expectMarked(folder, bytes);
  });

  it('a refcount block between clusters, that an allocation meets', async () => {
    const { folder, bytes } = await image();
    bytes.writeUInt16BE(0x0200, placesIn(bytes).refcountTable + 6);
    await put(folder, bytes);
    const disk = await open(folder);
    const error = await failure(() => disk.write(7 * MIB, bufferOf(CLUSTER, 9)));
    expect(error).toMatchObject({ code: 'ERR_CORRUPT', data: { field: 'refcount table entry' } });
    await expectCondemned(disk);
    await expectMarked(folder, bytes);
  });

  it('but not reserved bits, which QEMU passes over', async () => {
    const { folder, bytes } = await image();
    bytes.writeUInt8(0x81, victimEntry(bytes));
    await put(folder, bytes);
    const disk = await open(folder);
    expect(await failure(() => disk.read(VICTIM, Buffer.alloc(100)))).toMatchObject({ code: 'ERR_CORRUPT' });
    await disk.write(7 * MIB, bufferOf(100, 1));
    await disk.close();
    expect((await bytesIn(folder)).readUInt8(FEATURES_AT)).toBe(0);
  });
});

describe('an image with the corrupt bit', () => {
  const openForRepair = (folder: MemoryFolder): Promise<Disk> =>
    openDisk({ folder, file: 'disk.qcow2' }, { drivers: [qcow2], forRepair: true });

  async function marked(damage: (bytes: Buffer) => void = () => undefined): Promise<Made> {
    const { folder, bytes } = await image();
    damage(bytes);
    bytes.writeUInt8(2, FEATURES_AT);
    await put(folder, bytes);
    return { folder, bytes };
  }

  it.each([
    ['is whole', (): void => undefined],
    [
      'has a cluster in use that is counted as free',
      (bytes: Buffer): void =>
        void bytes.writeUInt16BE(0, placesIn(bytes).refcountBlock + (placesIn(bytes).l1 / CLUSTER) * 2),
    ],
  ])('that %s loses it when a repair of all leaves nothing', async (_, damage) => {
    const { folder } = await marked(damage);
    await expect(open(folder)).rejects.toMatchObject(refused);
    const disk = await openForRepair(folder);
    expect(await failure(() => disk.write(0, bufferOf(100, 9)))).toMatchObject(refused);
    expect(await failure(() => disk.snapshots.delete('one'))).toMatchObject(refused);
    expect(await disk.check({ repair: 'all' })).toMatchObject({ corruptions: 0, leaks: 0 });
    await disk.write(0, bufferOf(100, 9));
    await disk.close();
    const again = await open(folder);
    expect((await bytesOf(again)).subarray(0, 100).equals(bufferOf(100, 9))).toBe(true);
    expect(await again.check()).toMatchObject({ corruptions: 0, leaks: 0 });
    await again.close();
  });

  it.each<[string, OptionValues]>([
    ['active L1 table', {}],
    ['active L2 table', {}],
    ['refcount block', {}],
    ['refcount table', {}],
    ['snapshot table', {}],
    ['L1 table of a snapshot', {}],
    ['L2 table of a snapshot', {}],
    ['active L1 table', { extended_l2: true, cluster_size: 16 * KIB }],
    ['active L1 table', { compat: '0.10' }],
  ])(
    'because a guest cluster lies on the %s (%j) loses it by a repair of all',
    async (structure, options) => {
      const { folder, bytes } = await image(options);
      const target = structuresIn(bytes)[structure] as number;
      const step = options['extended_l2'] === true ? 16 : 8;
      const clusterBytes = Number(options['cluster_size'] ?? CLUSTER);
      bytes.writeBigUInt64BE((1n << 63n) | BigInt(target), placesIn(bytes).l2 + step);
      if (options['compat'] !== '0.10') bytes.writeUInt8(bytes.readUInt8(FEATURES_AT) | 2, FEATURES_AT);
      await put(folder, bytes);
      const reader = await open(folder, true);
      const before = await bytesOf(reader);
      await reader.close();
      const disk = await openForRepair(folder);
      expect(await disk.check({ repair: 'all' })).toMatchObject({ corruptions: 0, leaks: 0 });
      expect((await bytesOf(disk)).equals(before)).toBe(true);
      await disk.write(clusterBytes, bufferOf(clusterBytes, 7));
      await disk.snapshots.create('two');
      await disk.snapshots.delete('one');
      await disk.close();
      const again = await open(folder);
      bufferOf(clusterBytes, 7).copy(before, clusterBytes);
      expect((await bytesOf(again)).equals(before)).toBe(true);
      expect(await again.check()).toMatchObject({ corruptions: 0, leaks: 0 });
      await again.close();
    },
  );

  it('because two tables lie on each other keeps it, and nothing is changed', async () => {
    const { folder, bytes } = await marked((whole) => {
      const { l1, refcountBlock } = placesIn(whole);
      whole.writeBigUInt64BE((1n << 63n) | BigInt(refcountBlock), l1 + 8);
    });
    const disk = await openForRepair(folder);
    expect((await disk.check({ repair: 'all' })).corruptions).toBeGreaterThan(0);
    await disk.close();
    expect((await bytesIn(folder)).equals(bytes)).toBe(true);
  });

  it.each([undefined, 'leaks'] as const)('keeps it through a check with repair %s', async (repair) => {
    const { folder, bytes } = await marked();
    const disk = await openForRepair(folder);
    const report: CheckReport = await disk.check(repair === undefined ? {} : { repair });
    expect(report).toMatchObject({ corruptions: 0, leaks: 0, repaired: 0 });
    await disk.close();
    expect((await bytesIn(folder)).equals(bytes)).toBe(true);
  });

  it('keeps it while there is something that cannot be mended', async () => {
    const { folder, bytes } = await marked((whole) => {
      whole.writeBigUInt64BE((1n << 63n) | (1n << 40n), placesIn(whole).l1 + 16);
    });
    const disk = await openForRepair(folder);
    expect((await disk.check({ repair: 'all' })).corruptions).toBeGreaterThan(0);
    expect(await failure(() => disk.write(0, bufferOf(100, 9)))).toMatchObject(refused);
    await disk.close();
    expect((await bytesIn(folder)).equals(bytes)).toBe(true);
  });
});

describe.skipIf(qemuIsMissing)('QEMU and the corrupt bit', () => {
  let qemu: Qemu;
  beforeEach(async () => {
    qemu = new Qemu(await mkdtemp(join(tmpdir(), 'cowlab-qcow2-')));
  });
  afterEach(() => rm(qemu.folder, { recursive: true, force: true }));

  /** The cluster of the L1 table is counted as free: the next allocation takes it. */
  async function damaged(): Promise<void> {
    const { bytes } = await image();
    const { refcountBlock, l1 } = placesIn(bytes);
    bytes.writeUInt16BE(0, refcountBlock + (l1 / CLUSTER) * 2);
    await writeFile(qemu.path('disk.qcow2'), bytes);
  }

  const isCorrupt = async (): Promise<unknown> => {
    const info = JSON.parse(await qemu.img('info', '--output=json', 'disk.qcow2')) as {
      'format-specific': { data: { corrupt: boolean } };
    };
    return info['format-specific'].data.corrupt;
  };

  it('one that we set it finds, and clears when it has repaired the image', async () => {
    await damaged();
    const disk = await openDisk(qemu.path('disk.qcow2'), { drivers: [qcow2] });
    const error = await failure(() => disk.write(7 * MIB, bufferOf(CLUSTER, 9)));
    expect(error).toMatchObject({ code: 'ERR_CORRUPT', data: { field: 'active L1 table' } });
    await disk.close();
    expect(await isCorrupt()).toBe(true);
    await expect(qemu.io('disk.qcow2', 'write 0 512')).rejects.toThrow(/corrupt/);
    await qemu.img('check', '-r', 'all', 'disk.qcow2');
    expect(await isCorrupt()).toBe(false);
    const again = await openDisk(qemu.path('disk.qcow2'), { drivers: [qcow2] });
    await again.write(7 * MIB, bufferOf(CLUSTER, 9));
    await again.close();
    await qemu.img('check', 'disk.qcow2');
  });

  const sights: [string, () => Promise<void>, string][] = [
    ['an allocation', damaged, 'write 7M 4k'],
    [
      'a write in place',
      async () => {
        const { bytes } = await image();
        aim(bytes, placesIn(bytes).l1);
        await writeFile(qemu.path('disk.qcow2'), bytes);
      },
      `write ${VICTIM} 4k`,
    ],
  ];
  it.each(sights)(
    'one that it sets in %s keeps us from writing, and goes with our repair',
    async (...args) => {
      const [, damage, command] = args;
      await damage();
      await expect(qemu.io('disk.qcow2', command)).rejects.toThrow(/corrupt|Input/);
      expect(await isCorrupt()).toBe(true);
      const before = await readFile(qemu.path('disk.qcow2'));
      await expect(openDisk(qemu.path('disk.qcow2'), { drivers: [qcow2] })).rejects.toMatchObject(refused);
      expect((await readFile(qemu.path('disk.qcow2'))).equals(before)).toBe(true);
      const disk = await openDisk(qemu.path('disk.qcow2'), { drivers: [qcow2], forRepair: true });
      expect(await disk.check({ repair: 'all' })).toMatchObject({ corruptions: 0, leaks: 0 });
      const bytes = await bytesOf(disk);
      await disk.close();
      expect(await isCorrupt()).toBe(false);
      await qemu.assertSees('disk.qcow2', bytes);
    },
  );
});
