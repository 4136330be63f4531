import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { mkdir, symlink, writeFile } from 'node:fs/promises';
import { isCowlabError } from '@cowlab/core';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { type Calls, compareResults, parseResults, report, type Results, runBench } from '../src/index.ts';
import { Lab } from '../src/lab.ts';
import { growChain, linkName } from '../src/targets/chain.ts';
import { QemuCells, qemuTargets } from '../src/targets/images.ts';
import { measureQemu } from '../src/targets/measure.ts';
import { measureQemuOperations } from '../src/targets/operations.ts';
import { QemuIo } from '../src/targets/qemu-io.ts';
import { scratch, tiny } from './lab.ts';

/* QEMU's own formats as targets of a run. Without QEMU and strace the tests say so; CI has them. */

const at = scratch();
const missing = ['qemu-img', 'qemu-io', 'strace'].filter(
  (tool) => spawnSync(tool, ['--version']).status !== 0,
);
const targets = ['qemu-qcow2', 'qemu-qcow2-chain', 'qemu-vmdk-chain'];
const cells = ['qemu-raw 0', ...targets.flatMap((name) => [0, 1, 3].map((count) => `${name} ${count}`))];

function namesOf(rows: readonly { readonly format: string; readonly snapshots: number }[]): string[] {
  return rows
    .filter(({ format }) => format.startsWith('qemu-'))
    .map(({ format, snapshots }) => `${format} ${snapshots}`);
}

/** Calls without their bytes: QEMU gives each VMDK file an id by chance, of seven or eight digits. */
function numbersOf({ calls, flushes, folderCalls, purposes }: Calls): unknown {
  const each = Object.entries(purposes).map(([purpose, { reads, writes, zeroes, discards }]) => {
    return { purpose, reads, writes, zeroes, discards };
  });
  return { calls, flushes, folderCalls, each };
}

type CountedRows = Pick<Results, 'reads' | 'overwrites' | 'allocations' | 'snapshotOperations'>;

/** Everything that is counted and no clock decides. */
function countsOf({ reads, overwrites, allocations, snapshotOperations }: CountedRows): unknown {
  return {
    requests: [...reads, ...overwrites, ...allocations]
      .filter(({ format }) => format.startsWith('qemu-'))
      .map(({ format, snapshots, operations, calls }) => ({ format, snapshots, operations, calls })),
    operations: snapshotOperations
      .filter(({ format }) => format.startsWith('qemu-'))
      .map(({ format, snapshots, operation, calls }) => ({
        format,
        snapshots,
        operation,
        calls: numbersOf(calls),
      })),
  };
}

it.skipIf(missing.length > 0 && !process.env['CI'])(
  'qemu-img, qemu-io and strace are here (Debian: apt-get install qemu-utils strace)',
  () => {
    expect(missing).toEqual([]);
  },
);

describe.skipIf(missing.length > 0)('a run with QEMU', () => {
  let results: Results;

  beforeAll(async () => {
    await mkdir(at('images'));
    vi.stubEnv('TMPDIR', at('images'));
    results = await runBench({ profile: tiny, formats: ['qcow2'], withQemu: true, seed: 7, out: at('out') });
    vi.unstubAllEnvs();
  }, 120_000);

  it('has its targets among the formats, and leaves results that the schema accepts', () => {
    const parsed = parseResults(JSON.parse(readFileSync(at('out/results.json'), 'utf8')));
    expect(parsed).toEqual(results);
    expect(parsed.formats).toEqual(['qcow2', ...targets]);
    expect(parsed.qemu?.version).toMatch(/^\d+\.\d+/);
  });

  it('measures every target at every N, and raw through QEMU', () => {
    expect(namesOf(results.reads)).toEqual(cells);
    expect(namesOf(results.opens)).toEqual(cells);
    expect(namesOf(results.processMemory)).toEqual(cells);
    for (const pass of ['first', 'steady']) {
      expect(namesOf(results.overwrites.filter((row) => row.pass === pass))).toEqual(cells);
    }
    expect(namesOf(results.allocations.filter(({ variant }) => variant === 'as is'))).toEqual(
      ['qemu-raw', ...targets].map((name) => `${name} 0`),
    );
  });

  it.each(['create', 'delete', 'apply'])('times %s where there is something to do it with', (operation) => {
    const own = namesOf(results.snapshotOperations.filter((row) => row.operation === operation));
    const counts = operation === 'delete' ? [1, 3] : [0, 1, 3];
    const small = targets.flatMap((name) => counts.map((count) => `${name} ${count}`));
    expect(own).toEqual([...small, 'qemu-qcow2 1']);
  });

  it('judges every target on every goal, with a claim where the mail makes one', () => {
    for (const name of targets) {
      const own = results.goals.filter(({ format }) => format === name);
      expect(own.map(({ goal }) => goal)).toEqual(['G1', 'G2', 'G3', 'G4', 'G5', 'G6']);
      for (const { claim, agreement } of own) {
        expect([claim === undefined, agreement === undefined]).toEqual(
          Array<boolean>(2).fill(name === 'qemu-qcow2-chain'),
        );
      }
    }
  });

  it('counts what the formats must ask for', () => {
    const first = (format: string, snapshots: number): Results['overwrites'][number] =>
      results.overwrites.find(
        (row) => row.pass === 'first' && row.format === format && row.snapshots === snapshots,
      )!;
    const writes = tiny.flushEvery * tiny.qemu.overwriteRounds;
    // In place: a write for each write, a flush for each batch, nothing else.
    for (const name of ['qemu-raw', 'qemu-qcow2', 'qemu-qcow2-chain']) {
      const { calls, operations } = first(name, 0);
      expect(operations).toBe(writes);
      expect(calls).toMatchObject({ calls: writes + tiny.qemu.overwriteRounds, bytes: writes * 4096 });
      expect(calls.purposes.data).toMatchObject({ reads: 0, writes });
    }
    // After a snapshot clusters are copied, tables and, in a file with counts, counts written.
    for (const name of targets) {
      const { data, mapping, refcount } = first(name, 1).calls.purposes;
      expect(data.reads).toBeGreaterThan(0);
      expect(mapping.writes).toBeGreaterThan(0);
      expect(refcount.writes > 0).toBe(name !== 'qemu-vmdk-chain');
    }
  });

  it('knows counts from the rest in an empty image, and tells what it is without', () => {
    const counted = Object.fromEntries(
      results.allocations
        .filter(({ format }) => format.startsWith('qemu-'))
        .map(({ format, variant, calls }) => [`${format} ${variant}`, calls.purposes.refcount.writes]),
    );
    expect(counted['qemu-raw as is']).toBe(0);
    expect(counted['qemu-vmdk-chain as is']).toBe(0);
    expect(counted['qemu-qcow2 as is']).toBeGreaterThan(counted['qemu-qcow2 without bookkeeping']!);
  });

  it('compares the bytes of more requests than it reads', () => {
    expect(namesOf(results.qemu!.sessions)).toEqual(cells);
    const { readRounds, readBatch } = tiny.qemu;
    for (const { comparedRequests } of results.qemu!.sessions)
      expect(comparedRequests).toBeGreaterThan(readRounds * readBatch);
  });

  it('tells how ours goes with N beside the original', () => {
    const trends = results.qemu!.trends.filter(({ original }) => original === 'qemu-qcow2');
    expect(trends.map(({ quantity }) => quantity)).toContain('first overwrites, storage calls');
    expect(trends.find(({ quantity }) => quantity === 'random reads, storage calls')).toMatchObject({
      fromSnapshots: 0,
      snapshots: 3,
      ours: 1,
      originals: 1,
      agreement: 'agrees',
    });
  });

  it('fits a terminal, with the verdicts of QEMU below ours', () => {
    const lines = report(results).split('\n');
    expect(lines.filter((line) => !line.startsWith('  left out') && line.length > 110)).toEqual([]);
    const head = lines.findLastIndex((line) => line.startsWith('QEMU '));
    expect(lines[head]).toMatch(/qemu-qcow2 +qemu-qcow2-chain +qemu-vmdk-chain$/);
    expect(lines.slice(head).filter((line) => /^ {2}G\d /.test(line))).toHaveLength(6);
  });

  it('is no business of a baseline: what QEMU does is no regression of ours', () => {
    const later = structuredClone(results);
    for (const row of [...later.reads, ...later.overwrites, ...later.allocations]) {
      if (row.format.startsWith('qemu-')) row.calls.calls *= 2;
    }
    for (const row of later.goals) if (row.format.startsWith('qemu-')) row.verdict = 'very poor';
    expect(compareResults(results, later)).toEqual([]);
  });

  it('counts the same with the same seed', async () => {
    const lab = new Lab();
    try {
      const again = await measureQemu(lab, tiny, 7, () => undefined);
      expect(countsOf(again)).toEqual(countsOf(results));
      expect(again.part.sessions).toEqual(results.qemu!.sessions);
    } finally {
      lab.close();
    }
  });
});

describe.skipIf(missing.length > 0)('an image that holds something else', () => {
  it('is found by the first read, and named', async () => {
    const file = at('other.img');
    await writeFile(file, new Uint8Array(65_536).fill(3));
    const io = await QemuIo.start({ format: 'raw', file });
    try {
      await io.read({ offset: 0, length: 4096, pattern: 3 });
      const reading = io.read({ offset: 4096, length: 4096, pattern: 4 });
      await expect(reading).rejects.toSatisfy((error) => isCowlabError(error, 'ERR_CORRUPT'));
      await expect(reading).rejects.toThrow('other.img');
    } finally {
      await io.kill();
    }
  });
});

describe.skipIf(missing.length > 0)('a chain of copies of what QEMU makes', () => {
  it.each(['qcow2', 'vmdk'])('of %s is one to QEMU, each file over the one before', async (format) => {
    const folder = at(`chain-${format}`);
    await mkdir(folder);
    const run = (...args: string[]): string =>
      spawnSync('qemu-img', args, { cwd: folder, encoding: 'utf8' }).stdout;
    run('create', '-q', '-f', format, 'base.img', '1M');
    spawnSync('qemu-io', ['-f', format, '-c', 'write -P 7 0 64k', `${folder}/base.img`]);
    await growChain(folder, format, 'base.img', 1024 * 1024, 5);
    const info = run('info', '--backing-chain', '--output=json', linkName(5));
    const files = (JSON.parse(info) as { filename: string }[]).map(({ filename }) =>
      filename.split('/').at(-1),
    );
    expect(files).toEqual([5, 4, 3, 2, 1].map(linkName).concat('base.img'));
    const io = await QemuIo.start({ format, file: `${folder}/${linkName(5)}` });
    await io.read({ offset: 0, length: 4096, pattern: 7 });
    await io.close();
  });
});

describe.skipIf(missing.length > 0)('cells that QEMU opens too slowly for more', () => {
  const lab = new Lab();
  afterAll(() => lab.close());

  it('have one round of create and delete, timed and counted at once', async () => {
    const [internal] = qemuTargets;
    const { cells: made } = await QemuCells.make(lab, internal!, tiny.qemu);
    const sizes = { ...tiny.qemu, requestBytes: 4096, flushEvery: 8, snapshotBudgetMs: 0 };
    const rows = await measureQemuOperations(lab, made, sizes, 0, 1, () => undefined);
    expect(
      rows.map(({ operation, snapshots, samplesMs }) => [operation, snapshots, samplesMs.length]),
    ).toEqual([
      ['create', 0, 1],
      ['create', 1, 1],
      ['delete', 1, 1],
      ['create', 3, 1],
      ['delete', 3, 1],
    ]);
    for (const { calls } of rows) expect(calls.calls).toBeGreaterThan(0);
  });

  it('end N, which an omission says', async () => {
    // QEMU takes far longer for a thousand files, and far less for one.
    const chain = { name: 'slow-chain', format: 'vmdk', snapshots: 'chain' } as const;
    const { cells: made, ended } = await QemuCells.make(lab, chain, {
      ...tiny.qemu,
      snapshotCounts: [0, 1, 1000],
      openLimitMs: 3000,
    });
    expect(made.map(({ snapshots }) => snapshots)).toEqual([0, 1]);
    expect(ended).toMatch(/^budget ended at N=1: QEMU had not opened N=1000 after \d+ s$/);
  });
});

describe.skipIf(missing.length > 0 || spawnSync('prlimit', ['--version']).status !== 0)(
  'a chain of more files than a process may have open',
  () => {
    const lab = new Lab();
    const limit = (soft: string): void =>
      void spawnSync('prlimit', ['--pid', String(process.pid), `--nofile=${soft}:`]);
    const before = spawnSync('prlimit', [
      '--pid',
      String(process.pid),
      '--nofile',
      '-o',
      'SOFT',
      '--noheadings',
    ]);
    afterAll(() => {
      limit(String(before.stdout).trim());
      lab.close();
    });

    it('ends N with the reason that QEMU gives', async () => {
      limit('200');
      const chain = { name: 'long-chain', format: 'vmdk', snapshots: 'chain' } as const;
      const sizes = { ...tiny.qemu, snapshotCounts: [0, 1, 250] };
      const { cells: made, ended } = await QemuCells.make(lab, chain, sizes);
      expect(made.map(({ snapshots }) => snapshots)).toEqual([0, 1]);
      expect(ended).toMatch(/^ended at N=1: QEMU does not open N=250: .*Too many open files/s);
    });
  },
);

describe('a run with QEMU where tracing is not allowed', () => {
  it('is refused, with what strace says', async () => {
    const folder = at('no-tracing');
    await mkdir(folder);
    for (const tool of ['qemu-img', 'qemu-io']) await symlink('/bin/true', `${folder}/${tool}`);
    const script = '#!/bin/sh\n[ "$1" = --version ] || { echo "ptrace: not permitted" >&2; exit 1; }\n';
    await writeFile(`${folder}/strace`, script, { mode: 0o755 });
    vi.stubEnv('PATH', folder);
    try {
      await expect(runBench({ profile: tiny, withQemu: true })).rejects.toMatchObject({
        code: 'ERR_UNSUPPORTED',
        message: expect.stringContaining('ptrace: not permitted'),
      });
    } finally {
      vi.unstubAllEnvs();
    }
  });
});

describe('a run with QEMU where a tool is missing', () => {
  it.each(['qemu-img', 'qemu-io', 'strace'])('names %s before anything is made', async (tool) => {
    const folder = at(`without-${tool}`);
    await mkdir(folder);
    for (const other of ['qemu-img', 'qemu-io', 'strace'].filter((each) => each !== tool))
      await symlink('/bin/true', `${folder}/${other}`);
    vi.stubEnv('PATH', folder);
    try {
      const run = runBench({ profile: tiny, withQemu: true, out: at('never') });
      await expect(run).rejects.toMatchObject({
        code: 'ERR_NOT_FOUND',
        message: expect.stringContaining(`${tool} is missing`),
      });
    } finally {
      vi.unstubAllEnvs();
    }
  });
});
