import { rename, rm, writeFile } from 'node:fs/promises';
import { fromSystemError } from '@cowlab/core';

/** The file is there, whole, while `use` runs. */
export async function withPidFile(path: string | undefined, use: () => Promise<void>): Promise<void> {
  if (path === undefined) return use();
  const made = `${path}.${process.pid}`;
  try {
    // Whoever waits for it never reads half a number.
    await writeFile(made, `${process.pid}\n`);
    await rename(made, path);
  } catch (error) {
    await rm(made, { force: true });
    throw fromSystemError(error, path, 'write');
  }
  try {
    await use();
  } finally {
    await rm(path, { force: true });
  }
}
