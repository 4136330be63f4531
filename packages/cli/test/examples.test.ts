// The examples of --help: every option in them is one of the verb, and they do what they say.

import { cp, mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { examples } from '../src/examples.ts';
import { fill, makeSample } from './images.ts';
import { cowlab, mustRun } from './lab.ts';

const home = process.cwd();
let parent: string;

beforeAll(async () => {
  parent = await mkdtemp(join(tmpdir(), 'cowlab-examples-'));
});

afterAll(async () => {
  process.chdir(home);
  await rm(parent, { recursive: true, force: true });
});

/** Everything that the examples find, in the working directory. */
async function makeFiles(): Promise<void> {
  await mkdir(join(parent, 'files'));
  process.chdir(join(parent, 'files'));
  await makeSample('disk.raw', 'raw');
  for (const format of ['qcow2', 'fvd']) {
    await makeSample(`disk.${format}`, format);
    for (const [index, name] of ['monday', 'tuesday'].entries()) {
      await mustRun('snapshot', '-c', name, `disk.${format}`);
      await fill(`disk.${format}`, format, 2_000_000, 1000, index + 1);
    }
  }
  await mustRun('convert', '-O', 'qcow2', 'disk.raw', 'same.qcow2');
  for (const name of ['base.qcow2', 'moved.qcow2']) await mustRun('convert', '-O', 'qcow2', 'disk.raw', name);
  await mustRun('create', '-q', '-f', 'qcow2', '-b', 'base.qcow2', 'top.qcow2');
  await mustRun('convert', '-l', 'monday', '-O', 'raw', 'disk.fvd', 'backup.raw');
}

/** As a shell splits them; what is behind a > is its own. */
function wordsOf(command: string): string[] {
  return command
    .replace(/ > .*$/, '')
    .split(' ')
    .map((word) => (word === "''" ? '' : word));
}

const all = Object.entries(examples).flatMap(([verb, list]) =>
  list.map(({ command }) => [verb, command] as const),
);

it.each(Object.keys(examples))('the help of %s shows them', async (verb) => {
  const { stdout } = await cowlab(verb, '--help');
  expect(stdout).toContain('Examples:');
  for (const { command } of examples[verb] ?? []) expect(stdout).toContain(`  cowlab ${command}\n`);
});

it('there are some for every verb', async () => {
  const { stdout } = await cowlab('--help');
  const verbs = [...stdout.slice(stdout.indexOf('Commands:')).matchAll(/^ {2}(\w+) /gm)].map(
    ([, name]) => name,
  );
  expect(new Set(Object.keys(examples))).toEqual(new Set(verbs.filter((name) => name !== 'help')));
});

it.each(all)('%s: the options of "cowlab %s" are there', async (verb, command) => {
  const { stdout } = await cowlab(verb, '--help');
  const [typed, ...words] = wordsOf(command);
  expect(typed).toBe(verb);
  for (const word of words.filter((each) => /^--?[a-zA-Z]/.test(each))) {
    expect(stdout).toMatch(new RegExp(`^ {2}(?:-\\w, )?${word}\\b|^ {2}${word}, `, 'm'));
  }
});

describe('run', () => {
  // Servers and benchmarks have tests of their own.
  const alone = all.filter(
    ([verb, command]) => !['serve', 'bench'].includes(verb) && !command.includes('nbd+unix'),
  );

  beforeAll(makeFiles);

  beforeEach(async () => {
    await cp(join(parent, 'files'), join(parent, 'copies'), { recursive: true });
    process.chdir(join(parent, 'copies'));
  });

  afterEach(async () => {
    process.chdir(home);
    await rm(join(parent, 'copies'), { recursive: true });
  });

  it.each(alone)('%s: "cowlab %s" does', async (verb, command) => {
    // A backing file that has moved is one that is not there.
    if (command.includes('moved.qcow2')) await rm('base.qcow2');
    const { status, stderr } = await cowlab(...wordsOf(command));
    expect({ status, stderr: verb === 'convert' || verb === 'compact' ? '' : stderr }).toEqual({
      status: 0,
      stderr: '',
    });
  });
});
