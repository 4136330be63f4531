import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export interface Manifest {
  name: string;
  version: string;
  private?: boolean;
  engines?: Record<string, string>;
  dependencies?: Record<string, string>;
  devDependencies?: Record<string, string>;
  optionalDependencies?: Record<string, string>;
  peerDependencies?: Record<string, string>;
}

export const root: string = fileURLToPath(new URL('..', import.meta.url));

/** Folder names under packages/, in the order of the alphabet. */
export const packageNames: string[] = readdirSync(join(root, 'packages')).filter((name) =>
  existsSync(join(root, 'packages', name, 'package.json')),
);

/** Those that npm gets. */
export const publishedNames: string[] = packageNames.filter(
  (name) => readManifest(`packages/${name}/package.json`).private !== true,
);

export const driverNames = ['fvd', 'qcow2-like', 'vmdk-chain'];

export function readText(path: string): string {
  return readFileSync(join(root, path), 'utf8');
}

export function readManifest(path: string): Manifest {
  return JSON.parse(readText(path)) as Manifest;
}

/** Every file that is, or would become, part of the repository; paths relative to its root. */
export function listFiles(): string[] {
  const listed = execFileSync('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard'], {
    cwd: root,
    encoding: 'utf8',
  });
  // A file deleted but not yet staged is still in the index.
  return [...new Set(listed.split('\0'))].filter((path) => path !== '' && existsSync(join(root, path)));
}
