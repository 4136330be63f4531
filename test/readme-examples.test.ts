import { execFile } from 'node:child_process';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { makeScratchFolder, pack } from './pack.ts';
import { driverNames, readText } from './repository.ts';

const run = promisify(execFile);
const installed = ['core', 'nbd', ...driverNames];
let project: string;

/** The first ```js block below the heading `## Example`, before the next heading of that rank. */
function exampleOf(readme: string): string {
  const section = /^## Example\s*$([\s\S]*?)(?=^## |$(?![\s\S]))/m.exec(readme)?.[1];
  const code = section === undefined ? undefined : /^```js\n([\s\S]*?)^```\s*$/m.exec(section)?.[1];
  if (code === undefined) throw new Error('no ```js block under a heading "## Example"');
  return code;
}

beforeAll(async () => {
  project = await makeScratchFolder();
  const tarballs = await pack(installed, project);
  await writeFile(join(project, 'package.json'), '{ "name": "reader", "private": true, "type": "module" }\n');
  const paths = [...tarballs.values()].map((tarball) => tarball.path);
  // npm ci has put the third-party tarballs into npm's cache; the registry is only asked for what is not there.
  await run('npm', ['install', '--prefer-offline', '--no-audit', '--no-fund', ...paths], { cwd: project });
}, 300_000);

afterAll(() => rm(project, { recursive: true, force: true }));

describe.each(installed)('the example in the README of %s', (name) => {
  it('runs as written against the installed package', async () => {
    const folder = join(project, name);
    await mkdir(folder);
    await writeFile(join(folder, 'example.js'), exampleOf(readText(`packages/${name}/README.md`)));
    const example = run(process.execPath, ['example.js'], { cwd: folder, timeout: 50_000 });
    await expect(example).resolves.toBeDefined();
  });
});
