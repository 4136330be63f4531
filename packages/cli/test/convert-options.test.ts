import { readdir, readFile, stat, truncate, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { createDisk, type Disk, openDisk } from '@cowlab/core';
import { describe, expect, it } from 'vitest';
import { firstDifference } from '../src/comparison.ts';
import { drivers } from '../src/formats.ts';
import { copyDisk, copyOver } from '../src/transfer.ts';
import { baseFormatOf, fill, formats, formatsWith, makeSample, MiB } from './images.ts';
import { cowlab, mustRun, scratch } from './lab.ts';

const at = scratch();
const withBacking = formatsWith(({ backing }) => backing);

async function same(a: string, b: string, format: string): Promise<void> {
  await mustRun('compare', '-q', '-F', format, at(a), at(b));
  expect((await cowlab('check', '-q', '-f', format, at(b))).status).toBe(0);
}

describe.each(formats)('convert -n into a %s image that exists', (format) => {
  it('makes it equal, whatever it held', async () => {
    await makeSample(at('source'), 'raw');
    await mustRun('create', '-q', '-f', format, at('target'), '16M');
    await fill(at('target'), format, 0, 16 * MiB, 8);
    await mustRun('convert', '-n', '-O', format, at('source'), at('target'));
    await same('source', 'target', format);
  });

  it('--target-is-zero writes data only', async () => {
    await makeSample(at('source'), 'raw');
    await mustRun('create', '-q', '-f', format, at('target'), '16M');
    await fill(at('target'), format, 10 * MiB, 1, 8);
    await mustRun('convert', '-n', '--target-is-zero', '-O', format, at('source'), at('target'));
    const { status, stdout } = await cowlab('compare', '-F', format, at('source'), at('target'));
    expect({ status, stdout }).toEqual({ status: 1, stdout: `Content mismatch at offset ${10 * MiB}!\n` });
  });

  it('leaves what is past the end of the source, and refuses a smaller target', async () => {
    await makeSample(at('source'), 'raw');
    await mustRun('create', '-q', '-f', format, at('large'), '20M');
    await fill(at('large'), format, 17 * MiB, 1, 8);
    await mustRun('convert', '-n', '-O', format, at('source'), at('large'));
    expect(await cowlab('compare', '-F', format, at('source'), at('large'))).toMatchObject({
      status: 1,
      stdout: expect.stringContaining(`Content mismatch at offset ${17 * MiB}!`) as string,
    });
    await mustRun('create', '-q', '-f', format, at('small'), '8M');
    const before = await readFile(at('small'));
    const { status, stderr } = await cowlab('convert', '-n', '-O', format, at('source'), at('small'));
    expect({ status, stderr }).toEqual({
      status: 1,
      stderr: `cowlab: ${at('small')}: has ${8 * MiB} bytes, less than the ${16 * MiB} of the source\n`,
    });
    expect(Buffer.compare(await readFile(at('small')), before)).toBe(0);
  });
});

describe.each(withBacking)('convert -B into %s', (format) => {
  it('writes only what differs from the backing file, zeros too', async () => {
    const base = baseFormatOf(format);
    await makeSample(at('base'), base);
    await mustRun('convert', '-f', base, '-O', 'raw', at('base'), at('source'));
    await fill(at('source'), 'raw', 9 * MiB, 10, 4);
    await fill(at('source'), 'raw', MiB, 4096, 0);
    await mustRun('convert', '-O', format, '-B', 'base', '-F', base, at('source'), at('target'));
    await same('source', 'target', format);
    const own = JSON.parse(await mustRun('map', '--json', at('target'))) as {
      depth: number;
      length: number;
    }[];
    const bytes = own.filter(({ depth }) => depth === 0).reduce((sum, { length }) => sum + length, 0);
    expect(bytes).toBeGreaterThan(0);
    expect(bytes).toBeLessThanOrEqual(2 * 65_536);
  });

  it('that fails takes the target away, and nothing else', async () => {
    const base = baseFormatOf(format);
    await makeSample(at('base'), base);
    await writeFile(at('source'), Buffer.alloc(64 * MiB, 1));
    const others = process.listeners('SIGTERM').length;
    const running = cowlab('convert', '-O', format, '-B', 'base', at('source'), at('target'));
    while (process.listeners('SIGTERM').length === others) {
      await new Promise((resolve) => setImmediate(resolve));
    }
    process.listeners('SIGTERM').at(-1)?.('SIGTERM');
    expect((await running).status).toBe(130);
    expect(await readdir(dirname(at('source')))).toEqual(['base', 'source']);
  });
});

describe('convert', () => {
  it.each(formats)('-S 0 gives every byte of %s a place', async (format) => {
    await writeFile(at('source'), '');
    await truncate(at('source'), 4 * MiB);
    await mustRun('convert', '-f', 'raw', '-S', '0', '-O', format, at('source'), at('target'));
    await same('source', 'target', format);
    expect((await stat(at('target'))).blocks * 512).toBeGreaterThanOrEqual(4 * MiB);
  });

  it('-S says how many zeros in a row are a hole', async () => {
    const bytes = new Uint8Array(4 * MiB).fill(1);
    bytes.fill(0, MiB, MiB + 65_536);
    await writeFile(at('source'), bytes);
    const blocks = async (...argv: string[]): Promise<number> => {
      await mustRun('convert', '--force', '-O', 'raw', ...argv, at('source'), at('target'));
      expect(Buffer.compare(await readFile(at('target')), bytes)).toBe(0);
      return (await stat(at('target'))).blocks * 512;
    };
    expect(await blocks('-S', '512k')).toBeGreaterThanOrEqual(4 * MiB);
    expect(await blocks('-S', '64k')).toBeLessThan(4 * MiB);
  });

  it('-r keeps to a rate', async () => {
    await writeFile(at('source'), new Uint8Array(6 * MiB).fill(1));
    const start = performance.now();
    await mustRun('convert', '-r', '16M', '-O', 'raw', at('source'), at('target'));
    // The last of three pieces has to wait for the two before it.
    expect(performance.now() - start).toBeGreaterThan((1000 * 4) / 16 - 10);
    await mustRun('compare', '-q', at('source'), at('target'));
  });

  it.each([
    [['-m', '0'], '-m: 0 is not from 1 to 16'],
    [['-m', '17'], '-m: 17 is not from 1 to 16'],
    [['-m', 'many'], '-m: "many" is not a whole number'],
    [['-S', '100'], '-S: 100 is not a multiple of 512 up to 1M'],
    [['-S', '2M'], '-S: 2097152 is not a multiple of 512 up to 1M'],
    [['-r', '0'], '-r: 0 bytes in a second'],
    [['--target-is-zero'], '--target-is-zero: goes with -n'],
    [['-n', '-O', 'raw', '--unchecked'], '--unchecked: goes with --from'],
    [['-n', '-O', 'raw', '--from', 'one', '--target-is-zero'], 'has no meaning with --from'],
    [['-n', '-O', 'raw', '-B', 'base'], '-B: goes with a new target'],
    [['-O', 'qcow2', '-c', '-B', 'base'], '-B: not beside -c'],
    [['-O', 'qcow2', '-c', '-S', '0'], '-S: not for compressed data'],
    [['-O', 'qcow2', '-c', '-W'], '-W: not for compressed data'],
    [['-O', 'vmdk', '-o', 'subformat=streamOptimized', '-r', '1M'], '-r: not for compressed data'],
    [['-F', 'raw'], '-F: a backing format without a backing file'],
  ])('answers %j with one line', async (argv, words) => {
    await makeSample(at('source'), 'raw');
    const { status, stderr } = await cowlab('convert', ...argv, at('source'), at('target'));
    expect(status).toBe(1);
    expect(stderr).toMatch(/^cowlab: [^\n]+\n$/);
    expect(stderr).toContain(words);
    expect(await readdir(dirname(at('source')))).toEqual(['source']);
  });
});

describe.each(formats)('a copy into %s whose reads and writes take their time', (format) => {
  async function disks(use: (source: Disk, target: Disk) => Promise<void>): Promise<void> {
    await makeSample(at('source'), 'qcow2');
    await fill(at('source'), 'qcow2', 2 * MiB + 100, 9 * MiB, 6);
    await createDisk(at('target'), { driver: drivers.find(({ name }) => name === format)!, size: 16 * MiB });
    const source = await openDisk(at('source'), { drivers, io: 'threads' });
    const target = await openDisk(at('target'), { drivers, format, io: 'threads' });
    try {
      await use(source, target);
    } finally {
      await source.close();
      await target.close();
    }
  }

  it.each([{ parallel: 1 }, { parallel: 3 }, { parallel: 8 }, { parallel: 16, outOfOrder: true }])(
    'is whole with %j',
    async (options) => {
      await disks(async (source, target) => {
        await copyDisk(source, target, options);
        expect(await firstDifference(source, target)).toBeUndefined();
        await target.write(0, new Uint8Array(16 * MiB).fill(9));
        await copyOver(source, target, options);
        expect(await firstDifference(source, target)).toBeUndefined();
      });
      expect((await cowlab('check', '-q', '-f', format, at('target'))).status).toBe(0);
    },
  );

  it('ends with the first failure, when nothing is under way any more', async () => {
    await disks(async (source, target) => {
      let [running, calls] = [0, 0];
      let first: Error | undefined;
      const failing = Object.create(target, {
        size: { value: target.size },
        unitBytes: { value: target.unitBytes },
        write: {
          value: async (offset: number, bytes: Uint8Array) => {
            running += 1;
            calls += 1;
            const call = calls;
            await target.write(offset, bytes);
            await new Promise((resolve) => setImmediate(resolve));
            running -= 1;
            if (call < 3) return;
            const error = new Error(`call ${call}`);
            first ??= error;
            throw error;
          },
        },
      }) as Disk;
      // Of two that are under way together, either may be the first.
      const error = await copyDisk(source, failing, { parallel: 4 }).catch((reason: unknown) => reason);
      expect(error).toBe(first);
      expect(first?.message).toMatch(/^call [3-6]$/);
      expect(running).toBe(0);
    });
  });
});
