import { createRequire } from 'node:module';

/*
 * System calls that Node does not have, through koffi where its prebuilt binary is installed (an optional
 * dependency, Linux only here). Everything has a plain fallback at its caller: `native` is then undefined.
 */

export interface NativeCalls {
  /** Gives the range's blocks back; it reads as zeros. False when the file system cannot. */
  punchHole(fd: number, offset: number, length: number): boolean;
  /** The next offset at or after `offset` that may hold data, or undefined when there is only hole up to the end. */
  seekData(fd: number, offset: number): number | undefined;
  /** The next offset at or after `offset` that is a hole; the end of the file counts as one. */
  seekHole(fd: number, offset: number): number;
}

const FALLOC_FL_KEEP_SIZE = 1;
const FALLOC_FL_PUNCH_HOLE = 2;
const SEEK_DATA = 3;
const SEEK_HOLE = 4;

/** koffi gives 64-bit results as a number where it fits, else as a bigint. */
type Call = (...args: number[]) => number | bigint;

function load(): NativeCalls | undefined {
  if (process.platform !== 'linux' || process.env.COWLAB_NATIVE === 'off') return undefined;
  try {
    const koffi = createRequire(import.meta.url)('koffi') as {
      load(name: string | null): { func(prototype: string): Call };
    };
    const libc = koffi.load(null);
    const fallocate = libc.func('int fallocate64(int fd, int mode, int64_t offset, int64_t length)');
    const lseek = libc.func('int64_t lseek64(int fd, int64_t offset, int whence)');
    return {
      punchHole: (fd, offset, length) =>
        fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length) === 0,
      seekData: (fd, offset) => {
        const at = Number(lseek(fd, offset, SEEK_DATA));
        if (at >= 0) return at;
        // "No data from here on" and "this file system cannot tell" both fail; only the first knows of a hole here.
        return Number(lseek(fd, offset, SEEK_HOLE)) === offset ? undefined : offset;
      },
      seekHole: (fd, offset) => {
        const at = Number(lseek(fd, offset, SEEK_HOLE));
        return at < 0 ? offset : at;
      },
    };
  } catch {
    return undefined;
  }
}

export const native: NativeCalls | undefined = load();
