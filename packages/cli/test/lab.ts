import { spawnSync } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach } from 'vitest';
import { main } from '../src/index.ts';

export interface Outcome {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface Surroundings {
  readonly terminal?: boolean;
  readonly env?: Readonly<Record<string, string>>;
}

/** Runs the command in this process and catches what it says. */
export async function cowlabIn(surroundings: Surroundings, ...argv: string[]): Promise<Outcome> {
  const said = { stdout: '', stderr: '' };
  const stream = (name: keyof typeof said) => ({
    isTTY: surroundings.terminal ?? false,
    write: (text: string) => {
      said[name] += text;
      return true;
    },
  });
  const io = { stdout: stream('stdout'), stderr: stream('stderr'), env: surroundings.env ?? {} };
  const status = await main(argv, io);
  return { status, ...said };
}

export function cowlab(...argv: string[]): Promise<Outcome> {
  return cowlabIn({}, ...argv);
}

/** Runs the command, which must succeed, and returns what it printed. */
export async function mustRun(...argv: string[]): Promise<string> {
  const { status, stdout, stderr } = await cowlab(...argv);
  if (status !== 0) throw new Error(`cowlab ${argv.join(' ')}: status ${status}: ${stderr}`);
  return stdout;
}

/** A scratch folder for each test of the file that calls this; the function makes paths in it. */
export function scratch(): (name: string) => string {
  let folder: string;
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'cowlab-cli-'));
  });
  afterEach(() => rm(folder, { recursive: true, force: true }));
  return (name) => join(folder, name);
}

/** Whether a judge can be run here. Under CI=true a missing one is a failure, so its tests run and fail. */
export function hasJudge(program: 'qemu-img' | 'qemu-io'): boolean {
  const found = spawnSync(program, ['--version'], { stdio: 'ignore' }).status === 0;
  if (!found)
    console.warn(`${program} is not installed (Debian: qemu-utils); the tests that need it are skipped`);
  return found || process.env.CI === 'true';
}

export function judge(program: 'qemu-img' | 'qemu-io', ...argv: string[]): Outcome {
  const { status, stdout, stderr, error } = spawnSync(program, argv, { encoding: 'utf8' });
  if (error !== undefined) throw error;
  return { status: status ?? -1, stdout, stderr };
}
