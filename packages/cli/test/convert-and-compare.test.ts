import { readdir, readFile, stat, truncate, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { describe, expect, it } from 'vitest';
import { baseFormatOf, fill, formats, formatsWith, judged, makeSample, MiB } from './images.ts';
import { cowlab, cowlabIn, hasJudge, judge, mustRun, scratch } from './lab.ts';

const at = scratch();
const pairs = formats.flatMap((from) => formats.map((to) => [from, to] as const));
const withSnapshots = formatsWith(({ snapshots }) => snapshots !== 'none');

describe.each(pairs)('convert from %s to %s', (from, to) => {
  it('copies what is there and nothing else', async () => {
    await makeSample(at('source'), from);
    await mustRun('convert', '-f', from, '-O', to, at('source'), at('target'));
    expect(await mustRun('compare', '-f', from, '-F', to, at('source'), at('target'))).toBe(
      'Images are identical.\n',
    );
    expect((await stat(at('target'))).blocks * 512).toBeLessThan(6 * MiB);
    expect((await cowlab('check', '-q', '-f', to, at('target'))).status).toBe(0);
  });
});

describe('convert', () => {
  it('leaves out zeros that the source stores', async () => {
    const bytes = new Uint8Array(8 * MiB);
    bytes[3 * MiB] = 7;
    await writeFile(at('source'), bytes);
    await mustRun('convert', '-O', 'raw', at('source'), at('target'));
    expect((await stat(at('target'))).blocks * 512).toBeLessThan(MiB);
    expect(Buffer.compare(await readFile(at('target')), bytes)).toBe(0);
  });

  it.each(formats)('rounds an odd size up to what %s can have', async (format) => {
    await writeFile(at('source'), Buffer.alloc(1000, 5));
    await mustRun('convert', '-f', 'raw', '-O', format, at('source'), at('target'));
    const { status, stdout } = await cowlab('compare', '-f', 'raw', '-F', format, at('source'), at('target'));
    expect(status).toBe(0);
    expect(stdout).toContain('Images are identical.');
  });

  it('refuses a target that exists, and replaces it with --force', async () => {
    await makeSample(at('source'), 'raw');
    await writeFile(at('target'), 'precious');
    const { status, stderr } = await cowlab('convert', '-O', 'raw', at('source'), at('target'));
    expect({ status, stderr }).toEqual({
      status: 1,
      stderr: `cowlab: ${at('target')}: exists already; --force replaces it\n`,
    });
    expect(await readFile(at('target'), 'utf8')).toBe('precious');
    await mustRun('convert', '--force', '-O', 'raw', at('source'), at('target'));
    await mustRun('compare', '-q', at('source'), at('target'));
    expect(await readdir(dirname(at('target')))).toEqual(['source', 'target']);
  });

  it('never replaces a file of its own source', async () => {
    await makeSample(at('source'), 'raw');
    const { status, stderr } = await cowlab('convert', '--force', '-O', 'raw', at('source'), at('./source'));
    expect(status).toBe(1);
    expect(stderr).toContain(`is a file of the source ${at('source')}`);
    expect((await stat(at('source'))).size).toBe(16 * MiB);
  });

  it('never replaces the backing file of its source', async () => {
    for (const format of formatsWith(({ backing }) => backing)) {
      await makeSample(at(`base.${format}`), baseFormatOf(format));
      await mustRun('create', '-f', format, '-b', `base.${format}`, at(`top.${format}`));
      const argv = ['convert', '--force', '-O', 'raw', at(`top.${format}`), at(`base.${format}`)];
      expect((await cowlab(...argv)).stderr).toContain('is a file of the source');
    }
  });

  it('says how far it is: lines in a pipe, one line redrawn on a terminal', async () => {
    await makeSample(at('source'), 'raw');
    const plain = await cowlab('convert', '-p', '-O', 'raw', at('source'), at('one'));
    expect(plain.stderr).toBe('convert: 100 % (16 MiB of 16 MiB)\n');
    const terminal = await cowlabIn(
      { terminal: true },
      'convert',
      '-p',
      '-O',
      'raw',
      at('source'),
      at('two'),
    );
    expect(terminal.stderr).toMatch(/^(?:\r[^\n]+)*\n$/);
    expect(terminal.stderr.endsWith('\rconvert: 100 % (16 MiB of 16 MiB)\u001B[K\n')).toBe(true);
  });

  it.each(['data_file=data', 'data_file=data,data_file_raw=true'])(
    'writes and reads images with %s',
    async (option) => {
      await makeSample(at('source'), 'raw');
      await mustRun('convert', '-O', 'qcow2', '-o', option, at('source'), at('target'));
      expect(await mustRun('compare', at('source'), at('target'))).toBe('Images are identical.\n');
      const { files } = JSON.parse(await mustRun('info', '--json', at('target'))) as { files: string[] };
      expect(files).toEqual(['target', 'data']);
      await mustRun('convert', '-O', 'raw', at('target'), at('back'));
      expect(Buffer.compare(await readFile(at('back')), await readFile(at('source')))).toBe(0);
      const { stderr } = await cowlab('convert', '--force', '-O', 'raw', at('target'), at('data'));
      expect(stderr).toContain('is a file of the source');
    },
  );

  it.each([
    ['raw', []],
    ['qcow2', ['-o', 'data_file=data']],
  ])('to %s, when interrupted, ends with 130 and takes its target away', async (format, options) => {
    // Enough real data for the copy to be under way when the signal is seen.
    await writeFile(at('source'), Buffer.alloc(256 * MiB, 1));
    const others = process.listeners('SIGTERM').length;
    const running = cowlab('convert', '-O', format, ...options, at('source'), at('target'));
    while (process.listeners('SIGTERM').length === others) {
      await new Promise((resolve) => setImmediate(resolve));
    }
    // Only the command's own listener: the test runner has one too.
    process.listeners('SIGTERM').at(-1)?.('SIGTERM');
    const { status, stderr } = await running;
    expect({ status, stderr }).toEqual({ status: 130, stderr: 'cowlab: interrupted\n' });
    expect(await readdir(dirname(at('source')))).toEqual(['source']);
    expect(process.listeners('SIGTERM')).toHaveLength(others);
  });

  it.each(withSnapshots)('copies a snapshot of %s with -l', async (format) => {
    await makeSample(at('source'), format);
    await mustRun('convert', '-f', format, '-O', 'raw', at('source'), at('before'));
    await mustRun('snapshot', '-c', 'first', at('source'));
    await fill(at('source'), format, 0, 2 * MiB, 9);
    await mustRun('convert', '-f', format, '-l', 'first', '-O', 'raw', at('source'), at('target'));
    await mustRun('compare', '-q', at('before'), at('target'));
    const { status, stderr } = await cowlab('convert', '-l', 'absent', '-O', 'raw', at('source'), at('no'));
    expect(status).toBe(1);
    expect(stderr).toContain('snapshot "absent": no such snapshot');
    await expect(stat(at('no'))).rejects.toThrow('ENOENT');
  });
});

describe('convert -c', () => {
  it.each(['compression_type=zlib', 'compression_type=zstd', 'extended_l2=on'])(
    'stores the data of a qcow2 image compressed, with %s',
    async (option) => {
      // An odd size, and a hole in a unit that has data before and behind it.
      const bytes = Buffer.alloc(9 * MiB + 512, 'all work and no play ');
      await writeFile(at('source'), bytes.fill(0, 3 * MiB + 8192, 3 * MiB + 16_384));
      await mustRun('convert', '-f', 'raw', '-O', 'qcow2', at('source'), at('plain'));
      await mustRun('convert', '-f', 'raw', '-c', '-O', 'qcow2', '-o', option, at('source'), at('target'));
      await mustRun('compare', '-q', '-f', 'raw', '-F', 'qcow2', at('source'), at('target'));
      expect((await cowlab('check', '-q', at('target'))).status).toBe(0);
      expect((await stat(at('target'))).size).toBeLessThan((await stat(at('plain'))).size / 8);
      expect(await mustRun('map', at('target'))).toContain('compressed');
    },
  );

  it.each(formatsWith(({ compress }) => compress === 'none'))('is refused for %s', async (format) => {
    await makeSample(at('source'), 'raw');
    const { status, stderr } = await cowlab('convert', '-c', '-O', format, at('source'), at('target'));
    expect({ status, stderr }).toEqual({
      status: 1,
      stderr: `cowlab: -c: ${format} stores nothing compressed\n`,
    });
    expect(await readdir(dirname(at('source')))).toEqual(['source']);
  });

  it('makes a stream-optimized vmdk image, with -c and without', async () => {
    await makeSample(at('source'), 'qcow2');
    const options = ['-O', 'vmdk', '-o', 'subformat=streamOptimized'];
    await mustRun('convert', ...options, at('source'), at('one.vmdk'));
    await mustRun('convert', '-c', ...options, at('source'), at('two.vmdk'));
    for (const name of ['one.vmdk', 'two.vmdk']) {
      await mustRun('compare', '-q', at('source'), at(name));
      expect((await cowlab('check', '-q', at(name))).status).toBe(0);
    }
    const { status, stderr } = await cowlab('snapshot', '-c', 'no', at('one.vmdk'));
    expect(status).toBe(1);
    expect(stderr).toContain('can only be opened read-only');
    const plain = await cowlab('convert', '-c', '-O', 'vmdk', at('source'), at('three.vmdk'));
    expect(plain).toMatchObject({
      status: 1,
      stderr: 'cowlab: -c: this kind of vmdk image stores nothing compressed\n',
    });
    expect(await readdir(dirname(at('source')))).not.toContain('three.vmdk');
  });

  it('is refused with -n', async () => {
    const argv = ['convert', '-c', '-n', '--from', 'a', '-O', 'qcow2', at('source'), at('target')];
    expect(await cowlab(...argv)).toMatchObject({
      status: 1,
      stderr: 'cowlab: -c: goes with a new target, not with -n\n',
    });
  });

  it('when interrupted, ends with 130 and takes its target away', async () => {
    await writeFile(at('source'), Buffer.alloc(256 * MiB, 'all work and no play '));
    const others = process.listeners('SIGTERM').length;
    const running = cowlab('convert', '-c', '-O', 'qcow2', at('source'), at('target'));
    while (process.listeners('SIGTERM').length === others) {
      await new Promise((resolve) => setImmediate(resolve));
    }
    process.listeners('SIGTERM').at(-1)?.('SIGTERM');
    expect(await running).toMatchObject({ status: 130, stderr: 'cowlab: interrupted\n' });
    expect(await readdir(dirname(at('source')))).toEqual(['source']);
  });
});

describe.each(pairs)('compare %s with %s', (left, right) => {
  it('finds the first byte that differs', async () => {
    await makeSample(at('a'), left);
    await makeSample(at('b'), right);
    await fill(at('b'), right, 9 * MiB + 77, 1, 4);
    await fill(at('b'), right, 12 * MiB, 10, 4);
    const { status, stdout } = await cowlab('compare', at('a'), at('b'));
    expect({ status, stdout }).toEqual({
      status: 1,
      stdout: `Content mismatch at offset ${9 * MiB + 77}!\n`,
    });
    expect(await cowlab('compare', '-q', at('a'), at('b'))).toEqual({ status: 1, stdout: '', stderr: '' });
  });
});

describe('compare', () => {
  it('takes what is missing of a shorter disk for zeros, unless it is to be strict', async () => {
    await makeSample(at('a'), 'raw');
    await makeSample(at('b'), 'raw');
    await truncate(at('b'), 20 * MiB);
    const { status, stdout } = await cowlab('compare', at('a'), at('b'));
    expect(status).toBe(0);
    expect(stdout).toMatch(/^Warning: Image size mismatch! .*\nImages are identical\.\n$/);
    const strict = await cowlab('compare', '--strict', at('a'), at('b'));
    expect(strict.status).toBe(1);
    expect(strict.stdout).toContain('Strict mode: Image size mismatch!');
    await fill(at('b'), 'raw', 20 * MiB - 1, 1, 1);
    const longer = await cowlab('compare', at('b'), at('a'));
    expect(longer.status).toBe(1);
    expect(longer.stdout).toContain(`Content mismatch at offset ${20 * MiB - 1}!`);
  });

  it('ends with 2 when it cannot tell', async () => {
    await makeSample(at('a'), 'raw');
    const { status, stderr } = await cowlab('compare', at('a'), at('missing'));
    expect(status).toBe(2);
    expect(stderr).toContain('missing');
  });
});

describe.skipIf(!hasJudge('qemu-img')).each(judged)('%s and qemu-img', (format) => {
  it('agree on what convert and compare say', async () => {
    await makeSample(at('source'), 'raw');
    await mustRun('convert', '-f', 'raw', '-O', format, at('source'), at('ours'));
    expect(judge('qemu-img', 'compare', '-f', 'raw', '-F', format, at('source'), at('ours'))).toMatchObject({
      status: 0,
      stdout: 'Images are identical.\n',
    });
    expect(judge('qemu-img', 'convert', '-f', 'raw', '-O', format, at('source'), at('theirs')).status).toBe(
      0,
    );
    const ours = await cowlab('compare', '-f', 'raw', '-F', format, at('source'), at('theirs'));
    expect(ours).toMatchObject({ status: 0, stdout: 'Images are identical.\n' });
    await fill(at('ours'), format, 6 * MiB, 1, 1);
    const theirs = judge('qemu-img', 'compare', '-f', 'raw', '-F', format, at('source'), at('ours'));
    const again = await cowlab('compare', '-f', 'raw', '-F', format, at('source'), at('ours'));
    expect({ status: again.status, stdout: again.stdout }).toEqual({
      status: theirs.status,
      stdout: theirs.stdout,
    });
  });
});
