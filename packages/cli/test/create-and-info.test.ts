import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { InfoJson } from '../src/index.ts';
import { baseFormatOf, formats, formatsWith, judged, MiB } from './images.ts';
import { cowlab, hasJudge, judge, mustRun, scratch } from './lab.ts';

const at = scratch();
const withBacking = formatsWith(({ backing }) => backing);

async function info(file: string, ...options: string[]): Promise<InfoJson> {
  return JSON.parse(await mustRun('info', '--json', ...options, file)) as InfoJson;
}

describe.each(formats)('create -f %s', (format) => {
  it('makes an image that info knows', async () => {
    const file = at(`disk.${format}`);
    const said = await mustRun('create', '-f', format, file, '64M');
    expect(said).toBe(`Created ${file}: format=${format} size=${64 * MiB}\n`);
    expect(await info(file)).toEqual({
      filename: file,
      format,
      'virtual-size': 64 * MiB,
      'actual-size': expect.any(Number),
      'cluster-size': expect.any(Number),
      files: [`disk.${format}`],
      snapshots: [],
      'format-specific': expect.any(Object),
    });
    const text = await mustRun('info', file);
    expect(text).toContain(`image: ${file}\nfile format: ${format}\nvirtual size: 64 MiB (67108864 bytes)\n`);
  });

  it('refuses a file that exists, and replaces it with --force', async () => {
    const file = at('disk.img');
    await writeFile(file, 'precious');
    const { status, stderr } = await cowlab('create', '-f', format, file, '1M');
    expect(status).toBe(1);
    expect(stderr).toBe(`cowlab: ${file}: exists already; --force replaces it\n`);
    expect(await readFile(file, 'utf8')).toBe('precious');
    expect(await mustRun('create', '--force', '-q', '-f', format, file, '1M')).toBe('');
    expect(await info(file)).toMatchObject({ format, 'virtual-size': MiB });
    expect(await readdir(dirname(file))).toEqual(['disk.img']);
  });

  it('does not replace what is no file, even with --force', async () => {
    await mkdir(at('folder'));
    const { status, stderr } = await cowlab('create', '--force', '-f', format, at('folder'), '1M');
    expect(status).toBe(1);
    expect(stderr).toBe(`cowlab: ${at('folder')}: not a regular file\n`);
    expect(await readdir(dirname(at('folder')))).toEqual(['folder']);
  });

  it('leaves nothing behind, and the old file as it was, when it fails', async () => {
    const file = at('disk.img');
    expect((await cowlab('create', '-f', format, file, '0')).stderr).toContain(`${file}: size: 0 is not`);
    expect(await readdir(dirname(file))).toEqual([]);
    await writeFile(file, 'precious');
    expect((await cowlab('create', '--force', '-f', format, file, '0')).status).toBe(1);
    expect(await readFile(file, 'utf8')).toBe('precious');
    expect(await readdir(dirname(file))).toEqual(['disk.img']);
  });

  it('needs a size or a backing file', async () => {
    const { status, stderr } = await cowlab('create', '-f', format, at('disk.img'));
    expect(status).toBe(1);
    expect(stderr).toContain('size: needed when there is no backing file');
  });

  it('lists its options with -o help, without a file', async () => {
    const { status, stdout } = await cowlab('create', '-f', format, '-o', 'help');
    expect(status).toBe(0);
    expect(stdout).toMatch(/OPTION|has no create options/);
  });
});

describe.each(withBacking)('create -f %s -b', (format) => {
  const base = baseFormatOf(format);

  it('takes the size of the backing file and records its format', async () => {
    await mustRun('create', '-f', base, at('base.img'), '3M');
    await mustRun('create', '-f', format, '-b', 'base.img', at('top.img'));
    expect(await info(at('top.img'))).toMatchObject({
      'virtual-size': 3 * MiB,
      'backing-filename': 'base.img',
      'backing-filename-format': base,
    });
    const text = await mustRun('info', at('top.img'));
    expect(text).toContain(`backing file: base.img\nbacking file format: ${base}\n`);
  });

  it('takes a backing file from elsewhere, which others must be allowed to open', async () => {
    for (const folder of ['here', 'elsewhere']) await mkdir(at(folder));
    const [top, below] = [at('here/top.img'), at('elsewhere/base.img')];
    await mustRun('create', '-f', base, below, '3M');
    await mustRun('create', '-f', format, '-b', below, '-F', base, top, '3M');
    const { status, stderr } = await cowlab('info', top);
    expect(status).toBe(1);
    expect(stderr).toMatch(/^cowlab: [^\n]*is not allowed; --allow DIR allows a folder\n$/);
    expect(await info(top, '--allow', at('elsewhere'))).toMatchObject({ 'virtual-size': 3 * MiB });
  });

  it.each([
    ['is missing', 'absent.img', /absent\.img/],
    ['is the image itself', 'top.img', /top\.img/],
  ])('refuses a backing file that %s', async (_, backing, words) => {
    const { status, stderr } = await cowlab('create', '-f', format, '-b', backing, at('top.img'), '1M');
    expect(status).toBe(1);
    expect(stderr).toMatch(/^cowlab: [^\n]+\n$/);
    expect(stderr).toMatch(words);
    await expect(stat(at('top.img'))).rejects.toThrow('ENOENT');
  });
});

describe.skipIf(!hasJudge('qemu-img')).each(judged)('%s and qemu-img', (format) => {
  it('agree on the size of what either made', async () => {
    await mustRun('create', '-f', format, at('ours.img'), '24M');
    expect(judge('qemu-img', 'create', '-f', format, at('theirs.img'), '24M').status).toBe(0);
    for (const name of ['ours.img', 'theirs.img']) {
      const theirs = judge('qemu-img', 'info', '-f', format, '--output=json', at(name));
      expect(JSON.parse(theirs.stdout)).toMatchObject({ format, 'virtual-size': 24 * MiB });
      expect(await info(at(name))).toMatchObject({ format, 'virtual-size': 24 * MiB });
    }
  });
});

describe.skipIf(!hasJudge('qemu-img'))('raw disks with their space set aside', () => {
  it.each([
    ['off', 0],
    ['falloc', 0],
    ['full', 6 * MiB],
  ])('are as qemu-img makes them, with preallocation=%s', async (preallocation, dataBytes) => {
    const option = ['-o', `preallocation=${preallocation}`];
    await mustRun('create', '-f', 'raw', ...option, at('ours.raw'), '6M');
    expect(judge('qemu-img', 'create', '-f', 'raw', ...option, at('theirs.raw'), '6M').status).toBe(0);
    const map = judge('qemu-img', 'map', '-f', 'raw', '--output=json', at('ours.raw')).stdout;
    const extents = JSON.parse(map) as { readonly length: number; readonly data: boolean }[];
    const data = extents.filter((extent) => extent.data).map(({ length }) => length);
    expect(data.reduce((sum, length) => sum + length, 0)).toBe(dataBytes);
    const [ours, theirs] = await Promise.all(['ours.raw', 'theirs.raw'].map((name) => stat(at(name))));
    // QEMU writes the first 4 KiB of a file, to find out what the file system asks for.
    expect(Math.abs(ours!.blocks - theirs!.blocks)).toBeLessThanOrEqual(8);
    expect(judge('qemu-img', 'compare', at('ours.raw'), at('theirs.raw')).status).toBe(0);
  });
});
