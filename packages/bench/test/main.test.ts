import { existsSync } from 'node:fs';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { beforeAll, describe, expect, it, vi } from 'vitest';
import { type BenchMainOptions, benchMain, parseResults, type Results, type Verdict } from '../src/index.ts';
import { scratch, tiny } from './lab.ts';

const at = scratch();

interface Outcome {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

async function bench(options: Partial<BenchMainOptions>): Promise<Outcome> {
  const said = { stdout: '', stderr: '' };
  const stream = (name: keyof typeof said) => ({ write: (text: string) => (said[name] += text) });
  const streams = { stdout: stream('stdout'), stderr: stream('stderr') };
  const status = await benchMain({ profile: tiny, formats: ['qcow2'], ...streams, ...options });
  return { status, ...said };
}

async function results(): Promise<Results> {
  return parseResults(JSON.parse(await readFile(at('out/results.json'), 'utf8')));
}

describe('the command', () => {
  let first: Outcome;
  beforeAll(async () => {
    first = await bench({ out: at('out'), seed: 3, bold: (text) => `*${text}*` });
  }, 60_000);

  it('prints the report on stdout and says last where the results are', () => {
    expect(first.status).toBe(0);
    expect(first.stdout).toMatch(/^\*cowlab bench: profile tiny, image 4 MiB, seed 3, /);
    expect(first.stdout.trimEnd().split('\n').at(-1)).toBe(`results: ${at('out/results.json')}`);
  });

  it('shows its progress on stderr and nothing else', () => {
    const lines = first.stderr.trimEnd().split('\n');
    expect(lines.length).toBeGreaterThan(5);
    for (const line of lines) expect(line).toMatch(/^bench: +\d+ % \d+ s(, about \d+ s left,)? {2}\w/);
  });

  // QCOW2 counts references in every image: no run finds it ideal on G1, and none finds everything very poor.
  it.each<[string, Verdict, number, RegExp]>([
    ['worse', 'ideal', 2, /G1 qcow2: ideal → (?:ok|poor|very poor)\n/],
    ['better', 'very poor', 0, /G5 qcow2: very poor → \w+/],
  ])(
    'tells what is %s than in a baseline, and ends with a status that says so',
    async (_, verdict, status, words) => {
      const before = await results();
      const goals = before.goals.map((goal) => ({ ...goal, verdict }));
      await writeFile(at('baseline.json'), JSON.stringify({ ...before, goals }));
      const outcome = await bench({ out: at('again'), seed: 3, baseline: at('baseline.json') });
      expect(outcome.stdout).toContain(`against the baseline of ${before.environment.date}:`);
      expect(outcome.stdout).toMatch(words);
      expect(outcome.status).toBe(status);
    },
  );
});

it('without a folder for them, puts the results into a new temporary one', async () => {
  await mkdir(at('temporary'));
  vi.stubEnv('TMPDIR', at('temporary'));
  const { stdout } = await bench({ formats: ['vmdk'] });
  vi.unstubAllEnvs();
  const file = stdout.trimEnd().split('\n').at(-1)?.replace('results: ', '') ?? '';
  expect(file.startsWith(at('temporary'))).toBe(true);
  expect(parseResults(JSON.parse(await readFile(file, 'utf8'))).formats).toEqual(['vmdk']);
});

describe('a baseline that cannot be read', () => {
  it.each([
    ['is missing', undefined, 'ERR_NOT_FOUND'],
    ['is no JSON', '{', 'ERR_CORRUPT'],
    ['holds something else', '{"schema":"other"}', 'ERR_CORRUPT'],
  ])('because it %s fails before anything is measured, and names the file', async (_, text, code) => {
    const file = at('broken.json');
    if (text === undefined) await rm(file, { force: true });
    else await writeFile(file, text);
    await expect(bench({ baseline: file, out: at('never') })).rejects.toMatchObject({
      code,
      message: expect.stringContaining(file),
    });
    expect(existsSync(at('never'))).toBe(false);
  });
});
