// Writes that would hit metadata: nothing is written, and nothing is from then on.

import { Random } from '@cowlab/conformance';
import { describe, expect, it } from 'vitest';
import {
  aimed,
  at,
  CLUSTER,
  expectCondemned,
  expectMarked,
  failure,
  FEATURES_AT,
  image,
  structuresIn,
  VICTIM,
  aim,
} from './guarded-image.ts';
import { bufferOf, bytesIn, KIB, MIB, newImage, open, placesIn, put } from './lab.ts';

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
