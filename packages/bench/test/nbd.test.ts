import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, it, vi } from 'vitest';
import { barOf } from '../src/nbd/judge.ts';
import { type NbdProfile, nbdProfiles } from '../src/nbd/profiles.ts';
import { nbdFigures, nbdReport } from '../src/nbd/report.ts';
import { runNbdBench } from '../src/nbd/run.ts';
import { type NbdResults, parseNbdResults } from '../src/nbd/schema.ts';
import { canServe } from '../src/nbd/servers.ts';
import { scratch } from './lab.ts';

const at = scratch();
const missing = ['qemu-nbd', 'qemu-img', 'nbdkit', 'fio'].filter(
  (tool) => spawnSync(tool, ['--version']).status !== 0,
);

const KIB = 1024;
const MIB = 1024 * KIB;

const tiny: NbdProfile = {
  name: 'tiny',
  imageBytes: 4 * MIB,
  depths: [32],
  randomBytes: 4 * KIB,
  sequentialBytes: MIB,
  rounds: 1,
  batchMs: 20,
  converted: ['raw', 'fvd'],
  emptyBytes: 64 * MIB,
  conversions: 1,
};

const servers = ['qemu-nbd', 'nbdkit file', 'nbdkit memory', 'fvd', 'qcow2', 'vmdk'];

it.skipIf(missing.length > 0 && !process.env['CI'])(
  'qemu-nbd, nbdkit and fio are here (Debian: apt-get install qemu-utils nbdkit fio)',
  () => {
    expect(missing).toEqual([]);
  },
);

it('without the programs a run says what is missing, and leaves nothing', async () => {
  await mkdir(at('temporary'));
  vi.stubEnv('PATH', at('temporary'));
  vi.stubEnv('TMPDIR', at('temporary'));
  const stderr = { write: () => true };
  await expect(runNbdBench({ profile: tiny, stderr })).rejects.toMatchObject({
    code: 'ERR_NOT_FOUND',
    message: expect.stringContaining('qemu-utils') as string,
  });
  vi.unstubAllEnvs();
  expect(readdirSync(at('temporary'))).toEqual([]);
});

it.each([
  ['fvd', 'qemu-nbd', 'read', 'random', 1, 1],
  ['vmdk', 'qemu-nbd', 'write', 'random', 1, 1],
  ['qcow2', 'qemu-nbd', 'write', 'random', 32, 2],
  ['vmdk', 'qemu-nbd', 'read', 'sequential', 1, 2],
  ['fvd', 'nbdkit file', 'read', 'random', 32, 1],
  ['fvd', 'nbdkit file', 'write', 'random', 32, null],
  ['fvd', 'nbdkit file', 'write', 'sequential', 1, 1],
  ['qcow2', 'nbdkit file', 'read', 'random', 32, null],
] as const)(
  'the bar of %s beside %s: %s, %s, depth %i: %s',
  (format, peer, operation, pattern, depth, bar) => {
    expect(barOf(format, peer, { operation, pattern, depth })).toBe(bar);
  },
);

// Ours is a process of its own, built by `npm test` before the tests.
describe.skipIf(missing.length > 0 || !canServe())('a run', () => {
  let results: NbdResults;
  const command = fileURLToPath(new URL('../../cli/dist/cowlab.js', import.meta.url));
  const hasCommand = existsSync(command);
  beforeAll(async () => {
    const stderr = { write: () => true };
    results = await runNbdBench({ profile: tiny, stderr, ...(hasCommand && { command }) });
  }, 120_000);

  it('leaves what its schema says', () => {
    expect(parseNbdResults(JSON.parse(JSON.stringify(results)))).toEqual(results);
    const { requests, ...rest } = results;
    expect(() => parseNbdResults({ ...rest, requests: [{ ...requests[0], depth: -1 }] })).toThrow(
      /requests\.0\.depth/,
    );
  });

  it('has a row for every kind of request and server, with a number for each round', () => {
    expect(
      results.requests.map(({ pattern, operation, server }) => `${pattern} ${operation} ${server}`),
    ).toEqual(
      ['random read', 'random write', 'sequential read', 'sequential write'].flatMap((request) =>
        servers.map((server) => `${request} ${server}`),
      ),
    );
    for (const { perSecond } of results.requests) {
      expect(perSecond).toHaveLength(1);
      expect(perSecond[0]).toBeGreaterThan(0);
    }
  });

  it('compares each of ours with both others, and them with nobody', () => {
    for (const { ours, beside } of results.requests) {
      expect(beside.map(({ peer }) => peer)).toEqual(ours ? ['qemu-nbd', 'nbdkit file'] : []);
      for (const { ratio } of beside) expect(ratio.low).toBeGreaterThan(0);
    }
  });

  it('converts every pair, with data and without, as `qemu-img`, in process, and as `cowlab`', () => {
    const runs = hasCommand ? 1 : 0;
    expect(results.conversions.map(({ from, to, content, peer }) => [from, to, content, peer])).toEqual([
      ['raw', 'fvd', 'data', 'raw → qcow2'],
      ['fvd', 'raw', 'data', 'qcow2 → raw'],
      ['raw', 'fvd', 'empty', 'raw → qcow2'],
      ['fvd', 'raw', 'empty', 'qcow2 → raw'],
    ]);
    for (const { qemuMs, oursMs, commandMs } of results.conversions) {
      expect([qemuMs.length, oursMs.length, commandMs.length]).toEqual([1, runs, runs]);
    }
  });

  it('is reported with every row, and no number that is none', () => {
    const text = nbdReport(results);
    expect(text.match(/^ {2}(?:random|sequential|raw|fvd) /gm)).toHaveLength(
      results.requests.length + results.conversions.length,
    );
    expect(text).not.toMatch(/NaN|undefined|Infinity/);
  });

  it('the README of the server has the tables that a run prints', () => {
    const readme = readFileSync(new URL('../../nbd/README.md', import.meta.url), 'utf8');
    const figures = /<!-- figures: .*? -->\n\n(.*?)\n\n<!-- end of figures -->/s.exec(readme)?.[1] ?? '';
    const profile = Object.values(nbdProfiles).find(
      ({ name }) => name === /^Profile `(\w+)`/.exec(figures)?.[1],
    );
    expect(profile, 'the profile that the README names').toBeDefined();
    const { depths, converted } = profile!;
    expect(heads(figures)).toEqual(heads(nbdFigures(results)));
    expect(figures.match(/^\| (?:random|sequential) /gm)).toHaveLength(4 * depths.length * servers.length);
    expect(figures.match(/^\| \w+ → /gm)).toHaveLength(2 * converted.length * (converted.length - 1));
  });
});

/** The lines above tables and their first rows, without the numbers. */
function heads(markdown: string): string[] {
  return markdown
    .split('\n')
    .filter((line) => line.endsWith(':') || /^\| (?:request|conversion) \|/.test(line))
    .map((line) => line.replaceAll(/\d+/g, '#'));
}
