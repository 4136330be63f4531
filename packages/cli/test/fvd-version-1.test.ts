import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { gunzipSync } from 'node:zlib';
import { beforeEach, describe, expect, it } from 'vitest';
import { formats } from './images.ts';
import { cowlab, mustRun, scratch } from './lab.ts';

/* Images that the original FVD program wrote; what a guest must read from them is in their manifest. */

interface Fixture {
  readonly file: string;
  readonly raw_sha256: string;
  readonly file_sha256: string;
}

const place = new URL('../../fvd/test/fixtures/v1/', import.meta.url);
const fixtures = JSON.parse(readFileSync(new URL('manifest.json', place), 'utf8')) as Fixture[];
const at = scratch();

async function sha256(path: string): Promise<string> {
  return createHash('sha256')
    .update(await readFile(path))
    .digest('hex');
}

describe.each(fixtures)('FVD version 1: $file', ({ file, raw_sha256, file_sha256 }) => {
  beforeEach(async () => {
    for (const name of [file, 'base.raw']) {
      await writeFile(at(name), gunzipSync(readFileSync(new URL(`${name}.gz`, place))));
    }
  });

  it.each(formats)('convert to %s gives what a guest reads', async (format) => {
    await mustRun('convert', '-O', format, at(file), at('target'));
    await mustRun('convert', '-f', format, '-O', 'raw', at('target'), at('raw'));
    expect(await sha256(at('raw'))).toBe(raw_sha256);
    expect((await cowlab('check', '-q', '-f', format, at('target'))).status).toBe(0);
    expect(await sha256(at(file))).toBe(file_sha256);
  });

  it('info says that it is version 1, and check finds nothing', async () => {
    expect(await mustRun('info', at(file))).toMatch(/^file format: fvd$[^]*^ {4}version: 1$/m);
    expect((await cowlab('check', at(file))).status).toBe(0);
  });

  it.each([
    ['check', '-r', 'all'],
    ['snapshot', '-c', 'name'],
  ])('%s %s is refused, and changes nothing', async (...verb) => {
    const { status, stderr } = await cowlab(...verb, at(file));
    expect({ status, stderr }).toEqual({
      status: 1,
      stderr: `cowlab: ${at(file)}: header.version: version 1 images can only be read; convert it\n`,
    });
    expect(await sha256(at(file))).toBe(file_sha256);
  });
});
