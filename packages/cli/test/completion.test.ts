import { spawnSync } from 'node:child_process';
import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { delimiter } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { cowlab, mustRun, scratch } from './lab.ts';

const at = scratch();
const program = fileURLToPath(new URL('../dist/cowlab.js', import.meta.url));

const NO_SPACE = 2;
const NO_FILES = 4;

/** Values and the number behind them, for the last word. */
async function offered(...words: string[]): Promise<{ values: string[]; directive: number }> {
  const lines = (await mustRun('complete', '--', ...words)).trimEnd().split('\n');
  const directive = Number(lines.pop()?.slice(1));
  return { values: lines.map((line) => line.split('\t')[0] ?? ''), directive };
}

describe('what can follow', () => {
  it.each<[string[], string[], number]>([
    [['com'], ['compare', 'commit', 'compact', 'completion'], NO_FILES],
    [['infx'], [], NO_FILES],
    [['--ver'], ['--version'], NO_FILES],
    [['create', '-f', ''], ['fvd', 'qcow2', 'vmdk', 'raw'], NO_FILES],
    [['create', '-f', 'q'], ['qcow2'], NO_FILES],
    [['create', '--format=q'], ['qcow2'], NO_FILES],
    [['create', '--format='], ['fvd', 'qcow2', 'vmdk', 'raw'], NO_FILES],
    [['create', '-f', 'qcow2', '-o', 'comp'], ['compat=', 'compression_type='], NO_FILES + NO_SPACE],
    [['create', '-f', 'qcow2', '-o', 'compat='], ['compat=1.1', 'compat=0.10'], NO_FILES],
    [['create', '-f', 'qcow2', '-o', 'compat=1.1,lazy'], ['compat=1.1,lazy_refcounts='], NO_FILES + NO_SPACE],
    [
      ['create', '-f', 'qcow2', '-o', 'compat=1.1,lazy_refcounts='],
      ['compat=1.1,lazy_refcounts=on', 'compat=1.1,lazy_refcounts=off'],
      NO_FILES,
    ],
    [['convert', '-f', 'vmdk', '-O', 'qcow2', '-o', 'compat=0'], ['compat=0.10'], NO_FILES],
    [['convert', '-O', 'fvd', '-o', 'compat=0'], [], NO_FILES],
    [['amend', '-o', 'lazy'], ['lazy_refcounts='], NO_FILES + NO_SPACE],
    [['amend', '-o', 'cluster'], [], NO_FILES + NO_SPACE],
    [['check', '-r', ''], ['leaks', 'all'], NO_FILES],
    [['check', '--rep'], ['--repair'], NO_FILES],
    [['serve', '--io', 't'], ['threads'], NO_FILES],
    [['serve', '--tls', ''], ['allow', 'require'], NO_FILES],
    [['bench', '--profile', 's'], ['standard'], NO_FILES],
    [['completion', ''], ['bash', 'zsh', 'fish', 'powershell'], NO_FILES],
    // Files.
    [['info', ''], [], 0],
    [['info', '--json', 'di'], [], 0],
    [['info', 'disk', ''], [], NO_FILES],
    [['compare', '-f', 'raw', 'disk', ''], [], 0],
    [['serve', 'one', 'two', ''], [], 0],
    [['serve', '--pid-file', ''], [], 0],
    [['create', '-b', ''], [], 0],
    // Names, numbers, sizes: nobody knows.
    [['snapshot', '-c', ''], [], NO_FILES],
    [['resize', 'disk', ''], [], NO_FILES],
  ])('%j', async (words, values, directive) => {
    expect(await offered(...words)).toEqual({ values, directive });
  });

  it('is every option of a verb, and is not in the help', async () => {
    const { values } = await offered('info', '-');
    expect(values).toEqual(expect.arrayContaining(['--json', '-f', '--format', '-U', '--force-share']));
    expect((await cowlab('--help')).stdout).not.toMatch(/^ {2}complete /m);
  });
});

describe('completion', () => {
  it.each(['bash', 'zsh', 'fish', 'powershell'])('prints a script for %s, which asks us', async (shell) => {
    expect(await mustRun('completion', shell)).toContain('cowlab complete ');
  });

  it('knows no other shells', async () => {
    const { status, stderr } = await cowlab('completion', 'ksh');
    expect(status).toBe(1);
    expect(stderr).toContain('bash, zsh, fish, powershell');
  });
});

const hasBash = spawnSync('bash', ['--version'], { stdio: 'ignore' }).status === 0;

describe.skipIf(!hasBash)('bash, with the script,', () => {
  /** What bash would put in the place of the last word. */
  async function replies(line: string): Promise<string[]> {
    await mkdir(at('bin'), { recursive: true });
    await writeFile(at('bin/cowlab'), `#!/bin/sh\nexec '${process.execPath}' '${program}' "$@"\n`);
    await chmod(at('bin/cowlab'), 0o755);
    await writeFile(at('script'), await mustRun('completion', 'bash'));
    // Read twice: a user may do so.
    const lines = [
      `source '${at('script')}'; source '${at('script')}'`,
      'compopt() { :; }',
      `COMP_LINE='${line}'; COMP_POINT=\${#COMP_LINE}; __cowlab_complete`,
      'printf "%s\\n" "${COMPREPLY[@]}"',
    ];
    const { stdout, stderr } = spawnSync('bash', ['--norc', '-c', lines.join('\n')], {
      encoding: 'utf8',
      env: { ...process.env, PATH: `${at('bin')}${delimiter}${process.env['PATH'] ?? ''}` },
    });
    expect(stderr).toBe('');
    return stdout.split('\n').filter((each) => each !== '');
  }

  it.each([
    ['cowlab che', ['check']],
    ['cowlab check -r ', ['leaks', 'all']],
    ['cowlab check -r l', ['leaks']],
    // Behind the last = only.
    ['cowlab create -f qcow2 -o compat=', ['1.1', '0.10']],
    ['cowlab info ', []],
  ])('completes %j', async (line, words) => {
    expect(await replies(line)).toEqual(words);
  });

  it('runs nothing that stands in the line', async () => {
    expect(await replies(`cowlab info $(touch ${at('touched')}) --js`)).toEqual(['--json']);
    expect(spawnSync('test', ['-e', at('touched')]).status).toBe(1);
  });
});
