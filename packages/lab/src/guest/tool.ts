import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** Runs a program, which must succeed, and returns what it printed. The server is in this process, so it must not block. */
export async function tool(program: string, args: readonly string[], cwd?: string): Promise<string> {
  try {
    const { stdout, stderr } = await run(program, args, { cwd, maxBuffer: 64 * 1024 * 1024 });
    return stdout + stderr;
  } catch (error) {
    const { stdout = '', stderr = '', code } = error as { stdout?: string; stderr?: string; code?: unknown };
    const why = code === 'ENOENT' ? 'is not installed' : `${stderr}${stdout}`;
    throw new Error(`${program} ${args.join(' ')}: ${why}`, { cause: error });
  }
}
