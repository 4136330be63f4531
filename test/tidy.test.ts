// The rules of the house as tests. A rule that catches something prints where, so its name and the
// list of offenders are all one needs to read. Patterns are written so that they do not catch themselves.

import { existsSync, statSync } from 'node:fs';
import { isBuiltin } from 'node:module';
import { basename, dirname, join, relative } from 'node:path';
import { describe, expect, it } from 'vitest';
import { driverNames, listFiles, packageNames, readManifest, readText, root } from './repository.ts';

const files = listFiles();
const generated = new Set(['package-lock.json']);
const written = files.filter((path) => !generated.has(path));
const sources = files.filter((path) => /^packages\/[^/]+\/src\/.*\.ts$/.test(path));
const tests = files.filter((path) => /(?:^|\/)test\/.*\.ts$/.test(path));

/** Which workspace packages a package may know. A new package is entered here first. */
const arrows: Record<string, string[]> = {
  core: [],
  conformance: ['core'],
  fvd: ['core'],
  'qcow2-like': ['core'],
  'vmdk-chain': ['core'],
  nbd: ['core'],
  bench: ['core', 'nbd', ...driverNames],
  cli: ['bench', 'core', 'nbd', ...driverNames],
  lab: ['conformance', 'core', 'nbd', ...driverNames],
};

function withoutComments(code: string): string {
  // The look-behind keeps the // of a URL; line breaks stay, so that line numbers do.
  return code
    .replace(/\/\*[\s\S]*?\*\//g, (comment) => comment.replace(/[^\n]/g, ''))
    .replace(/(?<!:)\/\/.*$/gm, '');
}

/** `path:line` of every match. */
function findAll(pattern: RegExp, paths: string[], prepare = (text: string): string => text): string[] {
  return paths.flatMap((path) => {
    const text = prepare(readText(path));
    return [...text.matchAll(pattern)].map((match) => {
      const line = text.slice(0, match.index).split('\n').length;
      return `${path}:${line} ${match[0].trim()}`;
    });
  });
}

function importsOf(path: string): string[] {
  const pattern = /(?:\bfrom\s+|\bimport\s+|\bimport\s*\(\s*|\brequire\s*\(\s*)(['"])([^'"\n]+)\1/g;
  return [...withoutComments(readText(path)).matchAll(pattern)].map((match) => match[2] ?? '');
}

/** '@scope/name/inner' → '@scope/name' */
function packageOf(specifier: string): string {
  return specifier.split('/', specifier.startsWith('@') ? 2 : 1).join('/');
}

function workspaceNames(dependencies: Record<string, string> | undefined): string[] {
  return Object.keys(dependencies ?? {})
    .filter((name) => name.startsWith('@cowlab/'))
    .map((name) => name.replace('@cowlab/', ''));
}

function lineCount(text: string): number {
  return text.trimEnd().split('\n').length;
}

describe('everywhere', () => {
  it.each([
    ['marks of unfinished work', /\b(?:TO[D]O|FIX[M]E|X[X]X|HA[C]K)\b/g],
    ['paths to a folder beside the repository', /\.\.\/shared\b/g],
    ['paths of one machine', /(?<![\w.])\/(?:work|tmp)\//g],
  ])('there are no %s', (_, pattern) => {
    expect(findAll(pattern, written)).toEqual([]);
  });

  it('no file is named for being useful instead of for what it holds', () => {
    expect(files.filter((path) => /^utils?\b/.test(basename(path)))).toEqual([]);
  });

  it('all packages have one version and one idea of Node', () => {
    const { version, engines } = readManifest('package.json');
    const manifests = packageNames.map((name) => readManifest(`packages/${name}/package.json`));
    expect(engines).toHaveProperty('node');
    expect(manifests.filter((each) => each.version !== version).map((each) => each.name)).toEqual([]);
    for (const manifest of manifests) expect(manifest.engines, manifest.name).toEqual(engines);
  });

  it('.ci/run is executable and runs the test command that the README names', () => {
    const command = 'npm ci && npm test';
    expect(statSync(join(root, '.ci/run')).mode & 0o111).toBe(0o111);
    expect(readText('.ci/run')).toContain(command);
    expect(readText('README.md')).toContain(command);
  });
});

describe('sources', () => {
  it('are at most 500 lines long', () => {
    const long = sources.map((path) => `${path} ${lineCount(readText(path))}`);
    expect(long.filter((entry) => Number(entry.split(' ')[1]) > 500)).toEqual([]);
  });

  it('do not step out of the type system', () => {
    const pattern = /(?::|\bas|<)\s*any\s*(?=[;,)=[\]>|&}]|$)/gm;
    expect(findAll(pattern, sources, withoutComments)).toEqual([]);
  });

  it('do not silence the checks', () => {
    const pattern = /@ts-(?:ignore|nocheck|expect-error)|\b(?:eslint|oxlint)-disable|\bbiome-ignore/g;
    expect(findAll(pattern, sources)).toEqual([]);
  });
});

describe('tests', () => {
  it('are all run, whole', () => {
    const pattern = /\b(?:it|test|describe|suite)\b(?:\.\w+)*\.(?:only|skip|todo)\b/g;
    expect(findAll(pattern, [...tests, ...sources])).toEqual([]);
  });
});

describe.each(packageNames)('package %s', (name) => {
  const folder = `packages/${name}`;
  const manifest = readManifest(`${folder}/package.json`);
  const own = sources.filter((path) => path.startsWith(`${folder}/src/`));

  it('has a README and the license', () => {
    expect(existsSync(join(root, folder, 'README.md'))).toBe(true);
    expect(readText(`${folder}/LICENSE`)).toBe(readText('LICENSE'));
  });

  it('depends only on the packages below it', () => {
    const allowed = arrows[name];
    if (allowed === undefined) throw new Error(`${name} has no entry in the table of arrows`);
    const { dependencies, optionalDependencies, peerDependencies, devDependencies } = manifest;
    const runtime = [dependencies, optionalDependencies, peerDependencies].flatMap(workspaceNames);
    expect(allowed).toEqual(expect.arrayContaining(runtime));
    // core's tests reach the suite through the alias; naming it here would close a circle of builds.
    const testing = name === 'core' ? [] : ['conformance'];
    expect([...allowed, ...testing]).toEqual(expect.arrayContaining(workspaceNames(devDependencies)));
  });

  it('imports only Node, itself, and what it declares', () => {
    const { dependencies, optionalDependencies, peerDependencies } = manifest;
    const declared = new Set(Object.keys({ ...dependencies, ...optionalDependencies, ...peerDependencies }));
    const strangers = own.flatMap((path) =>
      importsOf(path)
        .filter((specifier) => {
          if (!specifier.startsWith('.')) return !isBuiltin(specifier) && !declared.has(packageOf(specifier));
          return relative(join(folder, 'src'), join(dirname(path), specifier)).startsWith('..');
        })
        .map((specifier) => `${path} imports ${specifier}`),
    );
    expect(strangers).toEqual([]);
  });
});

describe.each(driverNames)('driver %s', (name) => {
  const folder = `packages/${name}`;

  it.each([
    'FORMAT.md',
    'src/driver.ts',
    'src/image.ts',
    'src/layout.ts',
    'src/snapshots.ts',
    'src/check.ts',
    'src/index.ts',
    'test/conformance.test.ts',
  ])('has the room %s', (room) => {
    expect(existsSync(join(root, folder, room))).toBe(true);
  });

  it('passes the conformance suite by calling it, not by describing it again', () => {
    expect(lineCount(readText(`${folder}/test/conformance.test.ts`))).toBeLessThanOrEqual(15);
  });
});
