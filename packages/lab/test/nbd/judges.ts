import { type ChildProcess, execFile, spawn, spawnSync } from 'node:child_process';
import { setTimeout as wait } from 'node:timers/promises';
import { onTestFinished } from 'vitest';

/*
 * Foreign programs as judges. The server under test runs in this process, so nothing here may wait synchronously for a
 * program that talks to it, or for a file system that lies on it.
 */

/** Debian's package of each judge. */
const packages = {
  fio: 'fio',
  nbdcopy: 'libnbd-bin',
  nbdfuse: 'libnbd-bin',
  nbdinfo: 'libnbd-bin',
  nbdkit: 'nbdkit',
  nbdsh: 'python3-libnbd',
  'qemu-img': 'qemu-utils',
  'qemu-io': 'qemu-utils',
} as const;

export type Judge = keyof typeof packages;

export interface Outcome {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** nbdsh takes the first python3 of the path, and libnbd's module belongs to the system's. */
const env = { ...process.env, PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C' };

const starts = (program: string): boolean =>
  spawnSync(program, ['--version'], { stdio: 'ignore', env }).status === 0;

/** Whether the judges can be run here. Under CI=true a missing one is a failure, so its tests run and fail. */
export function hasJudges(...programs: Judge[]): boolean {
  const missing = programs.filter((program) => !starts(program));
  for (const program of missing) {
    const from = `Debian: ${packages[program]}`;
    console.warn(`${program} is not installed (${from}); the tests that need it are skipped`);
  }
  return missing.length === 0 || process.env['CI'] === 'true';
}

export interface RunOptions {
  readonly input?: string;
  readonly cwd?: string;
  /** After so many milliseconds it is killed, and that is a failure. */
  readonly timeout?: number;
}

/** Runs a program to its end, whatever that is. */
export function attempt(
  program: string,
  args: readonly string[],
  { input = '', cwd, timeout = 50_000 }: RunOptions = {},
): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    const options = { cwd, env, timeout, killSignal: 'SIGKILL', maxBuffer: 2 ** 28 } as const;
    const child = execFile(program, args, options, (error, stdout, stderr) => {
      if (error === null) return resolve({ status: 0, stdout, stderr });
      if (typeof error.code === 'number') return resolve({ status: error.code, stdout, stderr });
      const how = error.killed === true ? 'took too long' : `ended by ${error.signal ?? error.code}`;
      reject(new Error(`${program} ${args.join(' ')}: ${how}\n${stdout}${stderr}`));
    });
    // A program that does not read its input closes the pipe.
    child.stdin?.on('error', () => undefined);
    child.stdin?.end(input);
  });
}

/** Runs a program, which must succeed, and returns what it printed. */
export async function run(program: string, args: readonly string[], options?: RunOptions): Promise<string> {
  const { status, stdout, stderr } = await attempt(program, args, options);
  if (status !== 0)
    throw new Error(`${program} ${args.join(' ')}: exit status ${status}\n${stdout}${stderr}`);
  return stdout;
}

/** Starts a program that stays until the test is over, and waits until `ready`. */
export async function start(
  program: string,
  args: readonly string[],
  ready: () => Promise<boolean>,
): Promise<ChildProcess> {
  const child = spawn(program, args, { env, stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (text) => (said += String(text)));
  let ended = false;
  const end = new Promise<void>((resolve) => {
    child.on('error', (error) => (said += String(error)));
    child.on('close', () => {
      ended = true;
      resolve();
    });
  });
  onTestFinished(async () => {
    if (!ended) child.kill('SIGKILL');
    await end;
  });
  for (let tries = 0; !(await ready()); tries++) {
    if (ended || tries > 500) throw new Error(`${program} ${args.join(' ')}: is not ready\n${said}`);
    await wait(20);
  }
  return child;
}
