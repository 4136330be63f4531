import fs from 'node:fs';
import os from 'node:os';
import process from 'node:process';
import type { Environment } from './schema.ts';

/** Where a run took place: everything without which its times mean nothing. `folder` is where the images lie. */
export function describeEnvironment(folder: string, date: Date): Environment {
  const cpus = os.cpus();
  return {
    node: process.version,
    platform: os.platform(),
    arch: os.arch(),
    kernel: os.release(),
    cpu: cpus[0]?.model.trim() || 'unknown',
    cores: os.availableParallelism(),
    memoryBytes: os.totalmem(),
    fileSystem: fileSystemOf(folder),
    date: date.toISOString(),
  };
}

/** The type of the file system by the longest mount point above the folder; elsewhere than on Linux its magic number. */
export function fileSystemOf(folder: string): string {
  try {
    const mounts = fs
      .readFileSync('/proc/self/mounts', 'utf8')
      .split('\n')
      .map((line) => line.split(' '))
      .map(([, point = '', type = '']) => ({ point: point.replaceAll('\\040', ' '), type }))
      .filter(
        ({ point }) => point !== '' && `${folder}/`.startsWith(point.endsWith('/') ? point : `${point}/`),
      );
    const [first, ...rest] = mounts;
    if (first !== undefined) {
      return rest.reduce((best, next) => (next.point.length >= best.point.length ? next : best), first).type;
    }
  } catch {
    // No such file: not Linux.
  }
  return `type 0x${fs.statfsSync(folder).type.toString(16)}`;
}
