import { createRequire } from 'node:module';

/*
 * System calls that Node does not have, through koffi where its prebuilt binary is installed (an optional
 * dependency, Linux only here). Everything has a plain fallback at its caller: `native` is then undefined.
 */

export interface NativeCalls {
  /** Gives the range's blocks back; it reads as zeros. False when the file system cannot. */
  punchHole(fd: number, offset: number, length: number): boolean;
  /** Takes blocks for the range; grows the file where it reaches past the end. 0, or the error's number. */
  allocate(fd: number, offset: number, length: number): number;
  /** The next offset at or after `offset` that may hold data, or undefined when there is only hole up to the end. */
  seekData(fd: number, offset: number): number | undefined;
  /** The next offset at or after `offset` that is a hole; the end of the file counts as one. */
  seekHole(fd: number, offset: number): number;
  /** Sends what was written in the range on its way to the device, and waits for nothing; undefined where there is no such call. */
  readonly startWriting: ((fd: number, offset: number, length: number) => void) | undefined;
  /** Locks of byte ranges; undefined where structures have another shape, or the kernel has none. */
  readonly rangeLocks: RangeLocks | undefined;
}

/** Locks that belong to an open file, not to a process: gone when its last descriptor is closed, however that happens. */
export interface RangeLocks {
  /** Takes shared locks on bytes, or drops them; 0, or the error's number. */
  set(fd: number, kind: 'shared' | 'none', offset: number, length: number): number;
  /** Whether an exclusive lock on the byte would meet a lock of another open file. */
  isTaken(fd: number, offset: number): boolean;
}

const FALLOC_FL_KEEP_SIZE = 1;
const FALLOC_FL_PUNCH_HOLE = 2;
const SEEK_DATA = 3;
const SEEK_HOLE = 4;
const SYNC_FILE_RANGE_WRITE = 2;
const F_OFD_GETLK = 36;
const F_OFD_SETLK = 37;
const LOCK_KINDS = { shared: 0, exclusive: 1, none: 2 };
/** Bytes of `struct flock` where `off_t` has 64 bits: type and whence (16 bits), start and length at 8 and 16, pid. */
const FLOCK_BYTES = 32;

/** koffi gives 64-bit results as a number where it fits, else as a bigint. */
type Call = (...args: number[]) => number | bigint;
type FcntlCall = (fd: number, command: number, type: 'void *', argument: Uint8Array) => number;

interface Library {
  func(prototype: string): unknown;
}

interface Koffi {
  load(name: string | null): Library;
  errno(): number;
}

function loadRangeLocks(fcntl: FcntlCall, errno: () => number): RangeLocks | undefined {
  if (!['x64', 'arm64', 'riscv64', 'loong64', 'ppc64', 's390x'].includes(process.arch)) return undefined;
  const shorts = new Int16Array(FLOCK_BYTES / 2);
  const longs = new BigInt64Array(shorts.buffer);
  const bytes = new Uint8Array(shorts.buffer);
  const ask = (
    fd: number,
    command: number,
    kind: keyof typeof LOCK_KINDS,
    offset: number,
    length: number,
  ) => {
    longs.fill(0n);
    shorts[0] = LOCK_KINDS[kind];
    longs[1] = BigInt(offset);
    longs[2] = BigInt(length);
    return fcntl(fd, command, 'void *', bytes) === 0 ? 0 : errno();
  };
  return {
    set: (fd, kind, offset, length) => ask(fd, F_OFD_SETLK, kind, offset, length),
    isTaken: (fd, offset) =>
      ask(fd, F_OFD_GETLK, 'exclusive', offset, 1) === 0 && shorts[0] !== LOCK_KINDS.none,
  };
}

/** Of Linux alone, and not of every C library there. */
function loadStartWriting(libc: Library): NativeCalls['startWriting'] {
  try {
    const prototype = 'int sync_file_range(int fd, int64_t offset, int64_t length, unsigned int flags)';
    const syncFileRange = libc.func(prototype) as Call;
    // What comes of it is the flush's to tell.
    return (fd, offset, length) => void syncFileRange(fd, offset, length, SYNC_FILE_RANGE_WRITE);
  } catch {
    return undefined;
  }
}

function load(): NativeCalls | undefined {
  if (process.platform !== 'linux' || process.env.COWLAB_NATIVE === 'off') return undefined;
  try {
    const koffi = createRequire(import.meta.url)('koffi') as Koffi;
    const libc = koffi.load(null);
    const fallocate = libc.func('int fallocate64(int fd, int mode, int64_t offset, int64_t length)') as Call;
    const lseek = libc.func('int64_t lseek64(int fd, int64_t offset, int whence)') as Call;
    const fcntl = libc.func('int fcntl(int fd, int cmd, ...)') as FcntlCall;
    return {
      punchHole: (fd, offset, length) =>
        fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length) === 0,
      allocate: (fd, offset, length) => (fallocate(fd, 0, offset, length) === 0 ? 0 : koffi.errno()),
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
      startWriting: loadStartWriting(libc),
      rangeLocks: loadRangeLocks(fcntl, () => koffi.errno()),
    };
  } catch {
    return undefined;
  }
}

export const native: NativeCalls | undefined = load();
