import { type ChildProcess, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { CliIo, Output } from './output.ts';

/*
 * `--fork`: a Node process cannot go on in a child of its own, so another process is started with the same arguments. It tells
 * this one by its channel when it is ready, and has no part in our streams from then on.
 */

const MARK = 'COWLAB_STARTED_BY';

/** Runs the command in another process; resolves with 0 when that is ready, or with the status that it has ended with. */
export async function runInSecondProcess(
  output: Output,
  argv: readonly string[],
  quiet: boolean,
): Promise<number> {
  const child = spawn(process.execPath, [fileURLToPath(new URL('cowlab.js', import.meta.url)), ...argv], {
    detached: true,
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    env: { ...output.io.env, [MARK]: String(process.pid) },
  });
  child.stderr?.on('data', (text: Buffer) => output.io.stderr.write(text.toString()));
  const line = await readiness(child);
  if (typeof line === 'number') return line;
  if (!quiet) output.line(line);
  child.stderr?.destroy();
  child.unref();
  return 0;
}

function readiness(child: ChildProcess): Promise<string | number> {
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('message', (line) => resolve(typeof line === 'string' ? line : ''));
    child.once('close', (status) => resolve(status ?? 1));
  });
}

/** For the process that was started: it is ready, and says this. */
export function tellStarter(env: CliIo['env'], line: string): void {
  if (env[MARK] === undefined || process.send === undefined) return;
  process.send(line, () => process.disconnect());
}
