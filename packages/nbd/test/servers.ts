import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll } from 'vitest';

/** Other people's servers, and a folder for their sockets; everything ends with the file's tests. */
export interface Servers {
  /** A path in the folder. */
  readonly path: (name: string) => string;
  /** Starts a server in the foreground and waits until it listens at the socket; its process, and a way to kill it. */
  start(program: string, socket: string, args: readonly string[]): Promise<Running>;
  /** A file of so many bytes, sparse. */
  file(name: string, bytes: number): Promise<string>;
}

interface Running {
  readonly uri: string;
  /** Kills it, and waits until it is gone. */
  kill(signal?: NodeJS.Signals): Promise<void>;
}

export async function servers(): Promise<Servers> {
  const folder = await mkdtemp(join(tmpdir(), 'cowlab-nbd-'));
  const running: Running[] = [];
  const path = (name: string): string => join(folder, name);
  afterAll(async () => {
    for (const each of running) await each.kill();
    await rm(folder, { recursive: true, force: true });
  });
  return {
    path,
    async start(program, socket, args) {
      const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'pipe'] });
      let said = '';
      child.stderr.on('data', (text: Buffer) => (said += text.toString()));
      const server = { uri: `nbd+unix:///?socket=${encodeURIComponent(socket)}`, kill: killer(child) };
      running.push(server);
      while (!(await listens(socket))) {
        if (child.exitCode !== null) throw new Error(`${program} ended at once: ${said}`);
        await delay(5);
      }
      return server;
    },
    async file(name, bytes) {
      await writeFile(path(name), '');
      await truncate(path(name), bytes);
      return path(name);
    },
  };
}

/** A socket is there a moment before somebody listens at it. */
function listens(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = net.connect({ path });
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}

function killer(child: ChildProcess): (signal?: NodeJS.Signals) => Promise<void> {
  return async (signal = 'SIGKILL') => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const gone = once(child, 'exit');
    child.kill(signal);
    await gone;
  };
}

const packages = { nbdkit: 'nbdkit', 'qemu-nbd': 'qemu-utils' } as const;

/** Whether a server can be run here. Under CI=true a missing one is a failure, so its tests run and fail. */
export function hasServer(program: keyof typeof packages): boolean {
  const found = spawnSync(program, ['--version'], { stdio: 'ignore' }).status === 0;
  if (!found)
    console.warn(`${program} is not installed (Debian: ${packages[program]}); its tests are skipped`);
  return found || process.env.CI === 'true';
}

/** The code of a call that fails, at once or later; what came of one that does not. */
export async function codeOf(call: () => unknown): Promise<unknown> {
  try {
    return await call();
  } catch (error) {
    return (error as { code?: unknown }).code ?? error;
  }
}
