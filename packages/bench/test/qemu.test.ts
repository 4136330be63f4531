import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, it, vi } from 'vitest';
import { type QemuProfile, qemuProfiles } from '../src/qemu/profiles.ts';
import { qemuFigures, qemuReport } from '../src/qemu/report.ts';
import { runQemuBench } from '../src/qemu/run.ts';
import { parseQemuResults, type QemuResults } from '../src/qemu/schema.ts';
import { scratch } from './lab.ts';

const at = scratch();
const missing = ['qemu-img', 'strace'].filter((tool) => spawnSync(tool, ['--version']).status !== 0);

const KIB = 1024;
const MIB = 1024 * KIB;

const tiny: QemuProfile = {
  name: 'tiny',
  repetitions: 1,
  depths: [1, 32],
  imageBytes: 4 * MIB,
  emptyBytes: 64 * MIB,
  requests: [
    { requestBytes: 4 * KIB, reads: 64, overwrites: 64, allocations: 32 },
    { requestBytes: 64 * KIB, reads: 16, overwrites: 16, allocations: 16 },
  ],
  firstPassWrites: 64,
  flushEvery: 32,
  countedWrites: 129,
  mapped: [{ imageBytes: 64 * MIB, snapshots: 2, repetitions: 1 }],
};

it.skipIf(missing.length > 0 && !process.env['CI'])(
  'qemu-img and strace are here (Debian: apt-get install qemu-utils strace)',
  () => {
    expect(missing).toEqual([]);
  },
);

it('without qemu-img a run says what is missing, and leaves nothing', async () => {
  await mkdir(at('temporary'));
  vi.stubEnv('PATH', at('temporary'));
  vi.stubEnv('TMPDIR', at('temporary'));
  const stderr = { write: () => true };
  await expect(runQemuBench({ profile: tiny, stderr })).rejects.toMatchObject({
    code: 'ERR_NOT_FOUND',
    message: expect.stringContaining('qemu-utils') as string,
  });
  vi.unstubAllEnvs();
  expect(readdirSync(at('temporary'))).toEqual([]);
});

describe.skipIf(missing.length > 0)('a run', () => {
  let results: QemuResults;
  const command = fileURLToPath(new URL('../../cli/dist/cowlab.js', import.meta.url));
  beforeAll(async () => {
    const stderr = { write: () => true };
    // Built by `npm test` before the tests.
    results = await runQemuBench({ profile: tiny, stderr, ...(existsSync(command) && { command }) });
  }, 120_000);

  it('leaves what its schema says', () => {
    expect(parseQemuResults(JSON.parse(JSON.stringify(results)))).toEqual(results);
    const { speeds, ...rest } = results;
    expect(() => parseQemuResults({ ...rest, speeds: [{ ...speeds[0], depth: -1 }] })).toThrow(
      /speeds\.0\.depth/,
    );
  });

  it('has a row for every format, request, order, size and depth, with a number for each repetition', () => {
    const perFormat = tiny.requests.length * tiny.depths.length * 3 * 2;
    const firstPasses = tiny.depths.length;
    expect(results.speeds).toHaveLength(3 * perFormat + 2 * firstPasses);
    for (const { qemuMs, oursMs, ratio } of results.speeds) {
      expect([qemuMs.length, oursMs.length]).toEqual([1, 1]);
      expect(ratio.low).toBeGreaterThan(0);
      expect(ratio.high).toBeLessThan(Number.POSITIVE_INFINITY);
    }
  });

  it('has chosen a way of asynchronous I/O for each depth from those that work', () => {
    for (const { aio, tried } of results.settings) {
      expect(tried).toContainEqual({ aio, milliseconds: expect.any(Number) as number });
    }
  });

  it('counts the calls of both sides alike: of raw, one for each write, and one for each flush', () => {
    const row = results.calls.find(({ format, operation }) => format === 'raw' && operation === 'overwrite');
    const counts = { reads: 0, writes: 128, zeroes: 0, flushes: 4 };
    expect(row?.qemu).toMatchObject({ ...counts, flushes: expect.closeTo(4, -0.5) as number });
    expect(row?.ours).toMatchObject(counts);
  });

  it('times every snapshot operation and check as `qemu-img`, in process, and as `cowlab`', () => {
    const operations = results.commands.map(({ format, operation }) => `${format} ${operation}`);
    expect(operations).toEqual(['qcow2 create', 'qcow2 apply', 'qcow2 delete', 'qcow2 check', 'vmdk check']);
    const runs = existsSync(command) ? 1 : 0;
    for (const { qemuMs, oursMs, commandMs } of results.commands) {
      expect([qemuMs.length, oursMs.length, commandMs.length]).toEqual([1, 1, runs]);
    }
  });

  it('is reported with every row, and no number that is none', () => {
    const text = qemuReport(results);
    const rows = results.speeds.length + results.commands.length + results.calls.length;
    expect(text.match(/^ {2}(?:raw|qcow2|vmdk) /gm)).toHaveLength(rows);
    expect(text).not.toMatch(/NaN|undefined|Infinity/);
  });

  it.each([
    ['qcow2', 'qcow2-like'],
    ['vmdk', 'vmdk-chain'],
  ])('the README of %s has the tables that a run prints, row by row', (format, name) => {
    const readme = readFileSync(new URL(`../../${name}/README.md`, import.meta.url), 'utf8');
    const figures = /<!-- figures: .*? -->\n\n(.*?)\n\n<!-- end of figures -->/s.exec(readme)?.[1] ?? '';
    const profile = Object.values(qemuProfiles).find(
      (each) => each.name === /^Profile `(\w+)`/.exec(figures)?.[1],
    );
    expect(profile, 'the profile that the README names').toBeDefined();
    expect(shape(figures)).toEqual(shape(qemuFigures(withMapped(results, profile!), format)));
  });
});

/** As if the run had had another profile's images of mapped clusters, and `cowlab` as a command. */
function withMapped(results: QemuResults, profile: QemuProfile): QemuResults {
  const commands = profile.mapped.flatMap(({ imageBytes }) =>
    results.commands.map((row) => ({
      ...row,
      imageBytes,
      commandMs: row.oursMs,
      commandRatio: row.ratio,
    })),
  );
  return { ...results, profile: { ...profile }, commands };
}

/** Rows of tables and the lines above them, without the numbers, and without what a run may decide otherwise. */
function shape(markdown: string): string[] {
  return markdown
    .split('\n')
    .filter((line) => line.startsWith('|') || line.endsWith(':'))
    .map((line) => line.replaceAll(/\d[\d,.]*\d|\d/g, '#').replaceAll(/\| (?:yes|no) \|/g, '| ? |'));
}
