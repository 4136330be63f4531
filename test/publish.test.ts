import { execFile } from 'node:child_process';
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { publint } from 'publint';
import { formatMessage } from 'publint/utils';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { makeScratchFolder, pack, type Tarball } from './pack.ts';
import { publishedNames, root } from './repository.ts';

const attw = join(root, 'node_modules/.bin/attw');
let folder: string;
let tarballs: Map<string, Tarball>;

function tarballOf(name: string): Tarball {
  const tarball = tarballs.get(name);
  if (tarball === undefined) throw new Error(`npm pack made no tarball of ${name}`);
  return tarball;
}

/** Exit status and everything printed; a status other than 0 is an answer here, not an exception. */
function attwOn(path: string): Promise<{ status: number | string; output: string }> {
  const args = [path, '--profile', 'esm-only', '--no-color', '--no-emoji'];
  return new Promise((resolve) => {
    execFile(attw, args, (error, stdout, stderr) => {
      resolve({ status: error === null ? 0 : (error.code ?? 'killed'), output: stdout + stderr });
    });
  });
}

beforeAll(async () => {
  folder = await makeScratchFolder();
  tarballs = await pack(publishedNames, folder);
});

afterAll(() => rm(folder, { recursive: true, force: true }));

describe.each(publishedNames)('the tarball of %s', (name) => {
  it('has nothing for publint to report', async () => {
    const bytes = await readFile(tarballOf(name).path);
    const tarball = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
    const { messages, pkg } = await publint({ pack: { tarball }, level: 'suggestion', strict: true });
    expect(messages.map((message) => formatMessage(message, pkg, { color: false }))).toEqual([]);
  });

  it('has types that every ESM resolver finds', async () => {
    const { status, output } = await attwOn(tarballOf(name).path);
    expect(status, output).toBe(0);
  });

  it('carries the license, the README, and only built files that a source stands behind', () => {
    const { files } = tarballOf(name);
    expect(files).toEqual(
      expect.arrayContaining(['LICENSE', 'README.md', 'dist/index.js', 'dist/index.d.ts']),
    );
    const sources = new Set(files.filter((file) => file.startsWith('src/')));
    const built = files.filter((file) => file.startsWith('dist/'));
    const orphans = built.filter((file) => {
      const stem = file.replace(/^dist\//, 'src/').replace(/(?:\.d\.ts|\.js)(?:\.map)?$/, '');
      return !sources.has(`${stem}.ts`);
    });
    expect(orphans, 'left over from an earlier build: delete packages/*/dist and build again').toEqual([]);
  });
});
