import { execFile, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { performance } from 'node:perf_hooks';
import { promisify } from 'node:util';
import { CowlabError } from '@cowlab/core';
import type { CallCounts, Setting } from './schema.ts';

/*
 * The other side: QEMU's own programs. What they print decides, never how long a process lives, where QEMU tells the
 * time itself (`qemu-img bench` leaves opening and closing out).
 */

const run = promisify(execFile);

/** What a batch asks; the same numbers go to QEMU and to our loop. */
export interface Batch {
  readonly write: boolean;
  readonly requestBytes: number;
  /** From one request's offset to the next one's; at the end of the disk it goes on from the start. */
  readonly stepBytes: number;
  readonly requests: number;
  readonly depth: number;
  /** Requests between two flushes; 0 for none. */
  readonly flushEvery: number;
}

/** An image as QEMU is told of it. */
export interface Target {
  readonly format: string;
  readonly file: string;
}

const asyncIos = ['io_uring', 'native', 'threads'] as const;
const WRITEBACK = 'writeback';

/** The version of QEMU. Throws `ERR_NOT_FOUND` where it is missing. */
export function qemuVersion(): string {
  const { status, stdout } = spawnSync('qemu-img', ['--version'], { encoding: 'utf8' });
  const version = /version (\S+)/.exec(stdout ?? '')?.[1];
  if (status === 0 && version !== undefined) return version;
  throw new CowlabError(
    'ERR_NOT_FOUND',
    'bench:qemu: qemu-img is missing (Debian: apt-get install qemu-utils)',
    {
      file: 'qemu-img',
    },
  );
}

export function hasStrace(): boolean {
  return spawnSync('strace', ['--version'], { stdio: 'ignore' }).status === 0;
}

export async function qemuImg(...args: string[]): Promise<string> {
  const { stdout } = await run('qemu-img', args, { maxBuffer: 64 * 1024 * 1024 });
  return stdout;
}

/** Milliseconds that a whole command takes, start to end. */
export async function commandMs(program: string, args: readonly string[]): Promise<number> {
  const started = performance.now();
  await run(program, args, { maxBuffer: 64 * 1024 * 1024 });
  return performance.now() - started;
}

function benchArguments({ format, file }: Target, batch: Batch, aio: string): string[] {
  const numbers = ['-c', batch.requests, '-d', batch.depth, '-s', batch.requestBytes, '-S', batch.stepBytes];
  return [
    ...`bench -f ${format} -t ${WRITEBACK} -i ${aio}`.split(' '),
    ...numbers.map(String),
    ...(batch.write ? ['-w', '--pattern=165'] : []),
    ...(batch.flushEvery > 0 ? [`--flush-interval=${batch.flushEvery}`] : []),
    file,
  ];
}

/** Milliseconds between the first request and the last answer, as `qemu-img bench` prints them. */
export async function benchMs(target: Target, batch: Batch, aio: string): Promise<number> {
  const said = await qemuImg(...benchArguments(target, batch, aio));
  const seconds = /Run completed in ([\d.]+) seconds/.exec(said)?.[1];
  if (seconds === undefined) throw new Error(`qemu-img bench: ${said}`);
  // It is exact to a millisecond; what it calls none is half of one.
  return Math.max(0.5, Number(seconds) * 1000);
}

const TRIES = 3;

/** Which way of asynchronous I/O is QEMU's fastest here at a depth. Those that refuse are named with their reason. */
export async function bestSetting(target: Target, batch: Batch): Promise<Setting> {
  const tried: Setting['tried'] = [];
  for (const aio of asyncIos) {
    try {
      const times: number[] = [];
      for (let at = 0; at < TRIES; at++) times.push(await benchMs(target, batch, aio));
      tried.push({ aio, milliseconds: Math.min(...times) });
    } catch (error) {
      const { stderr = '' } = error as { stderr?: string };
      const reason = stderr.trim().split('\n').at(-1) ?? '';
      tried.push({ aio, refused: reason || String(error) });
    }
  }
  const [best] = tried
    .filter((each) => 'milliseconds' in each)
    .toSorted((a, b) => a.milliseconds - b.milliseconds);
  if (best === undefined) throw new Error(`qemu-img bench: works in no way: ${JSON.stringify(tried)}`);
  return { depth: batch.depth, aio: best.aio, tried };
}

/** System calls by what they are to a storage. */
const kinds: Readonly<Record<string, keyof CallCounts>> = {
  pread64: 'reads',
  preadv: 'reads',
  preadv2: 'reads',
  pwrite64: 'writes',
  pwritev: 'writes',
  pwritev2: 'writes',
  fallocate: 'zeroes',
  fdatasync: 'flushes',
  fsync: 'flushes',
};

/**
 * The calls of a whole `qemu-img bench` to its image, under strace. By threads: io_uring's requests are no system
 * calls of their own, and would not be seen.
 */
export async function benchCalls(target: Target, batch: Batch, log: string): Promise<CallCounts> {
  const filter = ['-f', '-y', '-s', '0', '-e', `trace=${Object.keys(kinds).join(',')}`, '-o', log];
  await run('strace', [...filter, 'qemu-img', ...benchArguments(target, batch, 'threads')]);
  const counts: CallCounts = { reads: 0, writes: 0, zeroes: 0, flushes: 0 };
  const folder = path.dirname(target.file);
  for (const line of fs.readFileSync(log, 'utf8').split('\n')) {
    // `123 pwrite64(4</folder/disk.img>, …`; a call that another thread interrupts has its second half elsewhere.
    const [, name = '', file = ''] = /^\d+ +(\w+)\(\d+<([^>]*)>/.exec(line) ?? [];
    const kind = kinds[name];
    if (kind !== undefined && path.dirname(file) === folder) counts[kind]++;
  }
  fs.rmSync(log);
  return counts;
}
