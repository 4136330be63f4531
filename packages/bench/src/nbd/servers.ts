import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import net from 'node:net';
import { fileURLToPath } from 'node:url';
import { setTimeout } from 'node:timers/promises';
import { CowlabError } from '@cowlab/core';

/*
 * Servers, each a process of its own with one export on a Unix socket. All of them are up at the same time, and idle
 * while another one is asked.
 */

export interface ServerSpec {
  readonly name: string;
  readonly program: string;
  readonly args: readonly string[];
  readonly socket: string;
}

export interface RunningServer {
  readonly name: string;
  readonly socket: string;
  stop(): Promise<void>;
}

const START_MS = 10_000;
const STOP_MS = 10_000;
const ASK_AGAIN_MS = 20;
/** What a server said last, in characters. */
const MOST_SAID = 2000;

/** The child is a program of its own: the compiled one, also when this file runs as a source. */
const program: string = fileURLToPath(
  new URL(import.meta.url.endsWith('.ts') ? '../../dist/child-nbd.js' : '../child-nbd.js', import.meta.url),
);

/** Whether ours can be started: where the package is not built it cannot. */
export function canServe(): boolean {
  return existsSync(program);
}

export function ourServer(format: string, file: string, socket: string): ServerSpec {
  return { name: format, program: process.execPath, args: [program, format, file, socket], socket };
}

/** As fast as it gets: io_uring, and the page cache of the host. */
export function qemuNbd(name: string, format: string, file: string, socket: string): ServerSpec {
  const how = `-f ${format} --aio=io_uring --cache=writeback --persistent --shared=16`.split(' ');
  return { name, program: 'qemu-nbd', args: [...how, `--socket=${socket}`, file], socket };
}

export function nbdkit(name: string, socket: string, ...plugin: string[]): ServerSpec {
  return { name, program: 'nbdkit', args: ['--foreground', `--unix=${socket}`, ...plugin], socket };
}

/** Starts a server and waits until it takes connections. */
export async function startServer(spec: ServerSpec): Promise<RunningServer> {
  const { name, socket } = spec;
  const child = spawn(spec.program, spec.args, { stdio: ['ignore', 'ignore', 'pipe'] });
  let said = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => (said = `${said}${text}`.slice(-MOST_SAID)));
  const abandon = (): void => void child.kill('SIGKILL');
  process.once('exit', abandon);
  const stop = async (): Promise<void> => {
    process.off('exit', abandon);
    await ended(child);
  };
  try {
    await reachable(child, name, socket);
  } catch (error) {
    await stop();
    throw new Error(`${name}: ${said}`, { cause: error });
  }
  return { name, socket, stop };
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGTERM');
  const late = AbortSignal.timeout(STOP_MS);
  late.addEventListener('abort', () => child.kill('SIGKILL'), { once: true });
  await gone;
}

async function reachable(child: ChildProcess, name: string, socket: string): Promise<void> {
  let failure: Error | undefined;
  child.once('error', (error) => (failure = error));
  for (let waited = 0; waited < START_MS; waited += ASK_AGAIN_MS) {
    if (await answers(socket)) return;
    if (failure !== undefined) throw failure;
    if (child.exitCode !== null) throw new Error(`${name} ended with status ${child.exitCode}`);
    await setTimeout(ASK_AGAIN_MS);
  }
  throw new Error(`${name} takes no connections`);
}

/** Whether the server greets. */
function answers(socket: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = net.connect(socket);
    // Whoever leaves before the greeting makes some servers complain.
    probe.once('data', () => {
      probe.end();
      resolve(true);
    });
    probe.once('error', () => resolve(false));
  });
}

const tools = [
  ['qemu-nbd', 'qemu-utils'],
  ['qemu-img', 'qemu-utils'],
  ['nbdkit', 'nbdkit'],
  ['fio', 'fio'],
] as const;

/** The versions of all programs that take part. Throws `ERR_NOT_FOUND` when one is missing. */
export function toolVersions(): Record<string, string> {
  return Object.fromEntries(
    tools.map(([tool, debian]) => {
      const { status, stdout } = spawnSync(tool, ['--version'], { encoding: 'utf8' });
      const version = /\d+\.\d[\d.]*/.exec(stdout ?? '')?.[0];
      if (status === 0 && version !== undefined) return [tool, version];
      const message = `bench:nbd: ${tool} is missing (Debian: apt-get install ${debian})`;
      throw new CowlabError('ERR_NOT_FOUND', message, { file: tool });
    }),
  );
}
