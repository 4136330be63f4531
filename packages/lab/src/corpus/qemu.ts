import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

/* QEMU's own tools. What they refuse is an error with their words. */

const run = promisify(execFile);

async function tool(folder: string, program: string, args: readonly string[]): Promise<string> {
  try {
    const { stdout, stderr } = await run(program, args, { cwd: folder, maxBuffer: 64 * 1024 * 1024 });
    return stdout + stderr;
  } catch (error) {
    const { stdout = '', stderr = '' } = error as { stdout?: string; stderr?: string };
    throw new Error(`${program} ${args.join(' ')}: ${stderr}${stdout}`, { cause: error });
  }
}

export function qemuImg(folder: string, ...args: string[]): Promise<string> {
  return tool(folder, 'qemu-img', args);
}

/** Commands one after the other; the first that fails is an error. */
export async function qemuIo(
  folder: string,
  format: string,
  file: string,
  commands: readonly string[],
): Promise<void> {
  const given = commands.flatMap((command) => ['-c', command]);
  const said = await tool(folder, 'qemu-io', ['-f', format, '-d', 'unmap', ...given, file]);
  if (/failed|error|invalid/i.test(said)) throw new Error(`qemu-io ${given.join(' ')}: ${said}`);
}
