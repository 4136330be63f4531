import { readdir, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { type Disk, openDisk, type SnapshotInfo } from '@cowlab/core';
import { describe, expect, it } from 'vitest';
import { firstDifference } from '../src/comparison.ts';
import { drivers } from '../src/formats.ts';
import { formats, formatsWith, makeSample, MiB } from './images.ts';
import { cowlab, mustRun, scratch } from './lab.ts';

const at = scratch();
const withSnapshots = formatsWith(({ snapshots }) => snapshots !== 'none');
const keepingParents = formatsWith(({ snapshotParents }) => snapshotParents);
const resizing = formatsWith(({ snapshots, resize }) => snapshots !== 'none' && resize === 'both');
const pairs = withSnapshots.flatMap((from) => withSnapshots.map((to) => [from, to] as const));

async function opened<T>(file: string, format: string, use: (disk: Disk) => Promise<T>): Promise<T> {
  const disk = await openDisk(file, { drivers, format });
  try {
    return await use(disk);
  } finally {
    await disk.close();
  }
}

/**
 * Two branches: one, two, three, and then four and the disk from one. Data come, go, become zeros and are given up, in
 * whole units and in parts of them, and times are those of years ago.
 */
async function makeTree(file: string, format: string): Promise<void> {
  await makeSample(file, format);
  await opened(file, format, async (disk) => {
    const keep = (name: string, day: number): Promise<unknown> =>
      disk.snapshots.create(name, { createdAt: new Date(Date.UTC(2011, 2, day, 4, 5, 6, 789)) });
    await keep('one', 13);
    await disk.write(3 * MiB + 500, new Uint8Array(300_000).fill(7));
    await disk.writeZeroes(MiB + 4096, 20_000);
    await keep('two', 14);
    await disk.discard(0, 4 * MiB);
    await disk.write(8 * MiB, new Uint8Array(1).fill(9));
    await keep('three', 15);
    await disk.snapshots.apply('one');
    await disk.write(MiB, new Uint8Array(1000).fill(4));
    await keep('four, of one', 16);
    await disk.write(15 * MiB, new Uint8Array(MiB).fill(5));
  });
}

interface Told {
  readonly name: string;
  readonly createdAt: Date;
  readonly size: number;
  /** By its name. */
  readonly parent: string | null | undefined;
}

async function tell(disk: Disk): Promise<Told[]> {
  const all = await disk.snapshots.list();
  const nameOf = (parent: SnapshotInfo['parent']): string | null | undefined =>
    typeof parent === 'string' ? all.find(({ id }) => id === parent)?.name : parent;
  return all.map(({ name, createdAt, size, parent }) => ({ name, createdAt, size, parent: nameOf(parent) }));
}

/** Every state of the two disks is the same, byte for byte, and their snapshots have the same names, times and sizes. */
async function expectTheSame(from: string, to: string): Promise<void> {
  await opened(at('source'), from, (source) =>
    opened(at('target'), to, async (target) => {
      const bare = (all: Told[]): object[] =>
        all.map(({ name, createdAt, size }) => ({ name, createdAt, size }));
      const told = await tell(source);
      expect(bare(await tell(target))).toEqual(bare(told));
      expect(await firstDifference(source, target)).toBeUndefined();
      for (const { name } of told) {
        const [one, other] = [await source.snapshots.open(name), await target.snapshots.open(name)];
        expect({ name, differs: await firstDifference(one, other) }).toEqual({ name, differs: undefined });
      }
    }),
  );
  expect((await cowlab('check', '-q', '-f', to, at('target'))).status).toBe(0);
}

describe.each(pairs)('convert --with-snapshots from %s to %s', (from, to) => {
  it('keeps every state byte for byte, with its name and its time', async () => {
    await makeTree(at('source'), from);
    await mustRun('convert', '--with-snapshots', '-f', from, '-O', to, at('source'), at('target'));
    await expectTheSame(from, to);
  });
});

describe.each(pairs.filter((pair) => pair.every((format) => keepingParents.includes(format))))(
  'convert --with-snapshots from %s to %s',
  (from, to) => {
    it('keeps what every snapshot grew from', async () => {
      await makeTree(at('source'), from);
      await mustRun('convert', '--with-snapshots', '-O', to, at('source'), at('target'));
      const expected = { one: null, two: 'one', three: 'two', 'four, of one': 'one' };
      const told = await opened(at('target'), to, tell);
      expect(Object.fromEntries(told.map(({ name, parent }) => [name, parent]))).toEqual(expected);
    });

    it('keeps snapshots that grew from nothing apart, and leaves nothing else behind', async () => {
      await makeTree(at('source'), from);
      await mustRun('snapshot', '-d', 'one', at('source'));
      await mustRun('convert', '--with-snapshots', '-O', to, at('source'), at('target'));
      await expectTheSame(from, to);
      const told = await opened(at('target'), to, tell);
      const expected = { two: null, three: 'two', 'four, of one': null };
      expect(Object.fromEntries(told.map(({ name, parent }) => [name, parent]))).toEqual(expected);
    });
  },
);

describe.each(resizing)('convert --with-snapshots of %s disks that have changed their size', (format) => {
  async function makeResized(): Promise<void> {
    await makeTree(at('source'), format);
    for (const size of ['20M', '6M', '9M']) {
      await mustRun('resize', '-q', '--shrink', at('source'), size);
      await mustRun('snapshot', '-c', size, at('source'));
    }
  }

  it.each(resizing)('gives every state of %s its size', async (to) => {
    await makeResized();
    await mustRun('convert', '--with-snapshots', '-O', to, at('source'), at('target'));
    await expectTheSame(format, to);
  });

  it('is refused where the target keeps its size, and makes nothing', async () => {
    await makeResized();
    const argv = ['convert', '--with-snapshots', '-O', 'vmdk', at('source'), at('target')];
    const { status, stderr } = await cowlab(...argv);
    expect(status).toBe(1);
    expect(stderr).toMatch(
      /^cowlab: .*target: vmdk disks keep their size, and the snapshots have several: .*\n$/,
    );
    expect(await readdir(dirname(at('source')))).not.toContain('target');
  });
});

describe('convert --with-snapshots', () => {
  it.each(withSnapshots)('takes little room in %s for what has not changed', async (format) => {
    // A cluster is 2 MiB: that is what the source says has changed each time.
    await mustRun('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=2M', at('source'), '16M');
    await opened(at('source'), 'qcow2', async (disk) => {
      await disk.write(0, new Uint8Array(8 * MiB).fill(1));
      for (let index = 0; index < 20; index += 1) {
        await disk.snapshots.create(`s${index}`);
        await disk.write(index * 400_000, new Uint8Array(512).fill(2));
      }
    });
    const bytesOf = async (): Promise<number> => {
      const names = await readdir(dirname(at('source')));
      const own = names.filter((name) => name.startsWith('target'));
      const sizes = await Promise.all(own.map(async (name) => (await stat(at(name))).blocks * 512));
      return sizes.reduce((sum, size) => sum + size, 0);
    };
    await mustRun('convert', '--with-snapshots', '-O', format, at('source'), at('target'));
    expect(await bytesOf()).toBeLessThan(16 * MiB);
  });

  it('copies a disk that has none', async () => {
    for (const format of formats) {
      await makeSample(at(format), format);
      await mustRun('convert', '--with-snapshots', '-O', 'fvd', at(format), at(`${format}.copy`));
      await mustRun('compare', '-q', at(format), at(`${format}.copy`));
      await mustRun('convert', '--with-snapshots', '-O', format, at(format), at(`${format}.again`));
    }
  });

  it('says how far it is over all states', async () => {
    await makeTree(at('source'), 'fvd');
    const argv = ['convert', '-p', '--with-snapshots', '-O', 'qcow2', at('source'), at('target')];
    expect((await cowlab(...argv)).stderr).toBe('convert: 100 % (80 MiB of 80 MiB)\n');
  });

  it.each([
    [['-O', 'raw'], 'raw has no snapshots'],
    [['-O', 'vmdk', '-o', 'subformat=streamOptimized'], 'is written as a stream'],
    [['-O', 'qcow2', '-l', 'one'], '--with-snapshots: not beside -l'],
    [['-O', 'qcow2', '-c'], '--with-snapshots: not beside -c'],
    [['-O', 'qcow2', '-B', 'base'], '--with-snapshots: not beside -B'],
    [['-O', 'qcow2', '-n'], '--with-snapshots: goes with a new target'],
  ])('answers %j with one line, and makes nothing', async (argv, words) => {
    await makeTree(at('source'), 'fvd');
    const { status, stderr } = await cowlab(
      'convert',
      '--with-snapshots',
      ...argv,
      at('source'),
      at('target'),
    );
    expect(status).toBe(1);
    expect(stderr).toMatch(/^cowlab: [^\n]+\n$/);
    expect(stderr).toContain(words);
    expect(await readdir(dirname(at('source')))).toEqual(['source']);
  });

  it.each(withSnapshots)('to %s, when interrupted, takes every file of its target away', async (format) => {
    await makeTree(at('source'), 'fvd');
    await opened(at('source'), 'fvd', async (disk) => {
      for (let offset = 0; offset < 16; offset += 1)
        await disk.write(offset * MiB, new Uint8Array(MiB).fill(6));
      for (let index = 0; index < 40; index += 1) await disk.snapshots.create(`s${index}`);
    });
    const others = process.listeners('SIGTERM').length;
    const running = cowlab('convert', '--with-snapshots', '-O', format, at('source'), at('target'));
    while (process.listeners('SIGTERM').length === others) {
      await new Promise((resolve) => setImmediate(resolve));
    }
    process.listeners('SIGTERM').at(-1)?.('SIGTERM');
    const { status, stderr } = await running;
    expect(status).toBe(130);
    expect(stderr).toMatch(/^cowlab: [^\n]+\n$/);
    expect(await readdir(dirname(at('source')))).toEqual(['source']);
  });
});
