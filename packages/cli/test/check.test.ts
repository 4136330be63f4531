import { open, readFile, truncate, writeFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import type { CheckJson } from '../src/index.ts';
import { formats, formatsWith, makeSample, MiB } from './images.ts';
import { cowlab, hasJudge, judge, mustRun, scratch } from './lab.ts';

const at = scratch();

describe.each(formats)('check of %s', (format) => {
  it('finds a sound image sound', async () => {
    await makeSample(at('disk'), format);
    const text = await mustRun('check', at('disk'));
    expect(text).toMatch(/^No errors were found on the image\.\nAllocated: .* of 16 MiB \([\d.]+ %\)\n/);
    expect(await mustRun('check', '-q', at('disk'))).toBe('');
    expect(JSON.parse(await mustRun('check', '--json', at('disk')))).toEqual({
      filename: at('disk'),
      format,
      corruptions: 0,
      leaks: 0,
      repaired: 0,
      'image-end-offset': expect.any(Number),
      'allocated-bytes': expect.any(Number),
      findings: [],
    } satisfies CheckJson);
  });
});

describe.each(formatsWith(({ repair }) => repair.length === 0))('check -r of %s', (format) => {
  it('is refused in one line', async () => {
    await makeSample(at('disk'), format);
    const { status, stderr } = await cowlab('check', '-r', 'all', at('disk'));
    expect(status).toBe(1);
    expect(stderr).toBe(`cowlab: ${at('disk')}: ${format} does not repair all\n`);
  });
});

describe.each(formats.filter((name) => name !== 'raw'))('a damaged %s image', (format) => {
  it.each([
    ['cut off in its header', (file: string) => truncate(file, 40)],
    ['without its magic', (file: string) => scribble(file, 0, 'NOPE')],
    ['of an impossible version', (file: string) => scribble(file, 4, '\xff\xff\xff\xff')],
    ['that is empty', (file: string) => truncate(file, 0)],
  ])('%s is refused in one line and not touched', async (_, damage) => {
    const file = at('disk');
    await makeSample(file, format);
    await damage(file);
    const before = await readFile(file);
    for (const argv of [['info'], ['check'], ['map'], ['snapshot', '-c', 'a'], ['resize', '--shrink']]) {
      const rest = argv[0] === 'resize' ? ['32M'] : [];
      const { status, stderr } = await cowlab(...argv, '-f', format, file, ...rest);
      expect(status, argv.join(' ')).toBe(1);
      expect(stderr).toMatch(/^cowlab: [^\n]+\n$/);
      expect(stderr).toContain(file);
      expect(stderr).not.toContain('unexpected');
    }
    expect((await readFile(file)).equals(before)).toBe(true);
  });
});

const qcow2 = formats.filter((name) => name === 'qcow2');
describe.skipIf(!hasJudge('qemu-img')).each(qcow2)('check of %s and qemu-img', (format) => {
  it('agree on a leak, and on its repair', async () => {
    await makeSample(at('disk'), format);
    await addReference(at('disk'));
    expect(judge('qemu-img', 'check', at('disk')).status).toBe(3);
    const found = await cowlab('check', '--json', at('disk'));
    expect(found.status).toBe(3);
    expect(JSON.parse(found.stdout)).toMatchObject({
      corruptions: 0,
      leaks: 1,
      findings: [{ severity: 'leak' }],
    });
    expect((await cowlab('check', at('disk'))).stdout).toContain('1 leaks were found on the image.');
    expect((await cowlab('check', '-r', 'leaks', at('disk'))).status).toBe(0);
    expect(judge('qemu-img', 'check', at('disk')).status).toBe(0);
  });

  it('agree on an image with the corrupt bit: only a repair opens it, and takes the bit away', async () => {
    await makeSample(at('disk'), format);
    await scribble(at('disk'), 79, '\x02');
    const refused = await cowlab('snapshot', '-c', 'more', at('disk'));
    expect(refused.status).toBe(1);
    expect(refused.stderr).toMatch(/^cowlab: .*marked corrupt.*\n$/);
    expect((await cowlab('check', at('disk'))).status).toBe(0);
    expect(judge('qemu-io', '-f', 'qcow2', '-c', 'write 0 512', at('disk')).status).not.toBe(0);
    expect((await cowlab('check', '-r', 'all', at('disk'))).status).toBe(0);
    expect(judge('qemu-io', '-f', 'qcow2', '-c', 'write 0 512', at('disk')).status).toBe(0);
  });

  it('agree on a corruption', async () => {
    await makeSample(at('disk'), format);
    await zeroFirstReference(at('disk'));
    expect(judge('qemu-img', 'check', at('disk')).status).toBe(2);
    const { status, stdout } = await cowlab('check', at('disk'));
    expect(status).toBe(2);
    expect(stdout).toMatch(/ERROR [\s\S]*errors were found on the image\./);
  });
});

async function scribble(file: string, offset: number, text: string): Promise<void> {
  const handle = await open(file, 'r+');
  await handle.write(Buffer.from(text, 'latin1'), 0, text.length, offset);
  await handle.close();
}

/** The first refcount block of a QCOW2 image: header field at 48 names the table, whose first entry names it. */
async function firstRefcountBlock(image: Buffer): Promise<number> {
  return Number(image.readBigUInt64BE(Number(image.readBigUInt64BE(48))));
}

/** One reference too many, to a new last cluster of the file. */
async function addReference(file: string): Promise<void> {
  const image = await readFile(file);
  const clusters = Math.ceil(image.length / 65_536);
  const grown = Buffer.concat([image, Buffer.alloc((clusters + 1) * 65_536 - image.length)]);
  grown.writeUInt16BE(1, (await firstRefcountBlock(image)) + 2 * clusters);
  await writeFile(file, grown);
}

/** The header's own cluster counted as free. */
async function zeroFirstReference(file: string): Promise<void> {
  const image = await readFile(file);
  image.writeUInt16BE(0, await firstRefcountBlock(image));
  await writeFile(file, image);
  expect(image.length).toBeGreaterThan(MiB / 4);
}
