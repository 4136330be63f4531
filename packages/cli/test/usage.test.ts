import { describe, expect, it } from 'vitest';
import { cowlab, cowlabIn, scratch } from './lab.ts';

const at = scratch();

const verbs = [
  'create',
  'info',
  'check',
  'snapshot',
  'convert',
  'compare',
  'map',
  'resize',
  'rebase',
  'commit',
  'measure',
  'amend',
  'compact',
  'serve',
  'bench',
];

describe('the command', () => {
  it('prints its version and its verbs', async () => {
    expect(await cowlab('--version')).toEqual({ status: 0, stdout: '0.1.0\n', stderr: '' });
    const { status, stdout } = await cowlab('--help');
    expect(status).toBe(0);
    for (const verb of verbs) expect(stdout).toContain(`  ${verb} `);
  });

  it.each(verbs)('explains %s', async (verb) => {
    const { status, stdout, stderr } = await cowlab(verb, '--help');
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout).toContain(`Usage: cowlab ${verb}`);
  });

  it('asks for a verb when there is none', async () => {
    const { status, stderr } = await cowlab();
    expect(status).toBe(1);
    expect(stderr).toContain('Usage: cowlab');
  });

  it.each([
    [['frobnicate'], 1, 'frobnicate'],
    [['infos', 'x'], 1, 'Did you mean info?'],
    [['info'], 1, 'file'],
    [['info', 'a', 'b'], 1, 'too many arguments'],
    [['info', '--nonsense', 'x'], 1, '--nonsense'],
    [['check', '-r', 'some', 'x'], 1, 'leaks, all'],
    [['info', '-f', 'vdi', 'x'], 1, 'unknown format "vdi"; there are: '],
    [['create', '-f', 'vdi', 'x', '1M'], 1, '-f: unknown format "vdi"'],
    [['create'], 1, 'which file?'],
    [['create', '-F', 'raw', 'x', '1M'], 1, 'without a backing file'],
    [['create', '--backing-snapshot', 'a', 'x', '1M'], 1, 'a snapshot without a backing file'],
    [['create', 'x', '1MB'], 1, 'size: "1MB" is not a size'],
    [['create', '-o', 'nonsense=1', 'x', '1M'], 1, 'option nonsense: raw has no such option'],
    [['convert', '-O', 'vdi', 'x', 'y'], 1, '-O: unknown format "vdi"'],
    [['snapshot', '-l', '-c', 'a', 'x'], 1, 'only one of -l, -c, -a, -d'],
    [['snapshot', '-c', 'a', '-d', 'b', 'x'], 1, 'only one of -l, -c, -a, -d'],
    [['snapshot', '-c', 'a', '--json', 'x'], 1, '--json: goes with -l'],
    [['resize', 'x', 'big'], 1, 'size: "big" is not a size'],
    [['amend', 'x'], 1, '-o, --options'],
    [['amend', '-o', 'compat=1.1'], 1, 'which file'],
    [['rebase', 'x'], 1, '-b, --backing'],
    [['rebase', '-b', '', '-F', 'raw', 'x'], 1, '"" is no backing file'],
    [['compare', 'a'], 2, "'b'"],
    [['compare', '--nonsense', 'a', 'b'], 2, '--nonsense'],
    [['bench', '--profile', 'gigantic'], 1, 'quick, standard, full'],
    [['bench', '--seed', '-3'], 1, '--seed'],
  ])('answers %j with status %d and one line', async (argv, status, words) => {
    const outcome = await cowlab(...argv);
    expect(outcome).toMatchObject({ status, stdout: '' });
    expect(outcome.stderr).toMatch(/^cowlab: [^\n]+\n$/);
    expect(outcome.stderr).toContain(words);
  });

  it.each([
    [['info'], 1],
    [['check'], 1],
    [['map'], 1],
    [['snapshot', '-l'], 1],
    [['snapshot', '-c', 'a'], 1],
    [['convert', '-O', 'raw', 'target'], 1],
    [['compare', 'other'], 2],
  ])('names the file when %j does not find it', async (argv, status) => {
    const missing = at('missing.img');
    const outcome = await cowlab(argv[0] ?? '', ...argv.slice(1, -1), missing, ...argv.slice(1).slice(-1));
    expect(outcome.status).toBe(status);
    expect(outcome.stderr).toMatch(/^cowlab: [^\n]+\n$/);
  });
});

describe('colour', () => {
  it.each([
    ['a terminal', { terminal: true }, true],
    ['a pipe', {}, false],
    ['a terminal with NO_COLOR', { terminal: true, env: { NO_COLOR: '1' } }, false],
    ['a terminal with an empty NO_COLOR', { terminal: true, env: { NO_COLOR: '' } }, true],
    ['a dumb terminal', { terminal: true, env: { TERM: 'dumb' } }, false],
    ['a pipe with FORCE_COLOR', { env: { FORCE_COLOR: '1' } }, true],
    ['a terminal with FORCE_COLOR=0', { terminal: true, env: { FORCE_COLOR: '0' } }, false],
  ])('on %s', async (_, surroundings, coloured) => {
    const { stderr } = await cowlabIn(surroundings, 'info', at('missing.img'));
    expect(stderr.includes('\u001b[')).toBe(coloured);
  });
});
