import { execFile } from 'node:child_process';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { root } from './repository.ts';

const run = promisify(execFile);

export interface Tarball {
  path: string;
  /** Paths inside the package. */
  files: string[];
}

interface PackReport {
  name: string;
  filename: string;
  files: { path: string }[];
}

/** A scratch folder outside the repository, so that nothing resolves through the workspace by accident. */
export function makeScratchFolder(): Promise<string> {
  return mkdtemp(join(tmpdir(), 'cowlab-'));
}

/** Packs packages as `npm publish` would; the result is keyed by folder name under packages/. */
export async function pack(names: readonly string[], folder: string): Promise<Map<string, Tarball>> {
  const workspaces = names.map((name) => `--workspace=packages/${name}`);
  const args = ['pack', '--json', '--pack-destination', folder, ...workspaces];
  const { stdout } = await run('npm', args, { cwd: root, maxBuffer: 1 << 26 });
  const reports = JSON.parse(stdout) as PackReport[];
  return new Map(
    reports.map(({ name, filename, files }) => [
      name.replace('@cowlab/', ''),
      { path: join(folder, filename), files: files.map((file) => file.path) },
    ]),
  );
}
