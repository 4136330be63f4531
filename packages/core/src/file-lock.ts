import fs from 'node:fs';
import { CowlabError, fromSystemError } from './errors.ts';
import { LockFolder } from './lock-folder.ts';
import { native, type RangeLocks } from './native.ts';
import type { LockMode } from './storage.ts';

/*
 * Who may have a file open beside whom, in the way of QEMU, so that each respects the other. QEMU gives every kind of
 * use (a "permission") a bit: 0 consistent reading, 1 writing, 3 resizing (2 is writing that changes no content, which
 * everybody allows). Who uses a file holds a shared lock on byte 100 + bit for each use of his own, and on byte
 * 200 + bit for each use that he does not allow others. He takes his locks first, and then looks whether an exclusive
 * one would be possible on the opposite byte of each: 200 + bit for what he wants to do, 100 + bit for what nobody else
 * may. Of two who come at the same moment at least one sees the other.
 *
 *              uses        does not allow    locks                     looks at
 *   shared     read        write, resize     100, 201, 203             200, 101, 103
 *   exclusive  + write,    write, resize     100, 101, 103, 201, 203   200, 201, 203, 101, 103
 *              resize
 *
 * The locks are those of an open file description: two of one process meet as two processes do, and nothing is left
 * of them when the process is killed. Where there are none (see native.ts), or the file system has none, a folder of
 * owners takes their place (lock-folder.ts): honoured by cowlab alone.
 */

/** Who stands in the way of a lock. */
export interface Holder {
  readonly wants: LockMode;
  /** Has the file open for writing; else for reading. */
  readonly writes: boolean;
  readonly pid?: number;
  /** The program's name, or the other machine's. */
  readonly program?: string;
  /** What to remove when the holder is known to be gone. */
  readonly lockFile?: string;
}

/** `ERR_LOCKED`, with what is known of the holder. */
export function lockedBy(file: string, holder: Holder): CowlabError {
  const { pid, program, writes, lockFile } = holder;
  const named = program === undefined ? `process ${pid}` : `process ${pid} (${program})`;
  const who = pid === undefined ? 'another process' : pid === process.pid ? 'this process' : named;
  const found = `${who} has it open for ${writes ? 'writing' : 'reading'}`;
  const where = lockFile === undefined ? '' : ` (${lockFile})`;
  return new CowlabError('ERR_LOCKED', `${file}: locked: ${found}${where}`, {
    file,
    field: 'lock',
    value: holder.wants,
    ...(pid !== undefined && { pid }),
    ...(lockFile !== undefined && { lockFile }),
  });
}

const READ = 0;
const WRITE = 1;
const RESIZE = 3;
const USED = 100;
const UNSHARED = 200;

interface Wish {
  readonly locks: readonly number[];
  readonly looksAt: readonly number[];
}

const writers: readonly number[] = [USED + WRITE, USED + RESIZE];
const refusals: readonly number[] = [UNSHARED + WRITE, UNSHARED + RESIZE];

const wishes: Readonly<Record<LockMode, Wish>> = {
  none: { locks: [], looksAt: [] },
  shared: { locks: [USED + READ, ...refusals], looksAt: [UNSHARED + READ, ...writers] },
  exclusive: {
    locks: [USED + READ, ...writers, ...refusals],
    looksAt: [UNSHARED + READ, ...writers, ...refusals],
  },
};

/** The numbers of EACCES and EAGAIN on Linux: another program has an exclusive lock on one of our bytes. */
const REFUSED: ReadonlySet<number> = new Set([13, 11]);

/** The lock of one open file. */
export class FileLock {
  readonly #file: string;
  readonly #fd: number;
  readonly #path: string;
  readonly #ranges: RangeLocks | undefined = native?.rangeLocks;
  #folder: LockFolder | undefined;
  #mode: LockMode = 'none';

  /** `file` is for messages; `path` is where the file is now. */
  constructor(file: string, fd: number, path: string) {
    this.#file = file;
    this.#fd = fd;
    this.#path = path;
  }

  /** Throws `ERR_LOCKED`; the lock is what it was then. */
  change(mode: LockMode): void {
    const holder = this.#change(mode);
    if (holder !== undefined) throw lockedBy(this.#file, holder);
    this.#mode = mode;
  }

  /** Range locks go with the descriptor, which the caller closes. */
  release(): void {
    this.#folder?.change('none');
  }

  #change(mode: LockMode): Holder | undefined {
    if (this.#ranges === undefined || this.#folder !== undefined) return this.#inFolder(mode);
    const before = wishes[this.#mode].locks;
    const { locks, looksAt } = wishes[mode];
    const added = locks.filter((byte) => !before.includes(byte));
    for (const byte of added) {
      const problem = this.#ranges.set(this.#fd, 'shared', byte, 1);
      if (problem === 0) continue;
      this.#drop(added);
      return REFUSED.has(problem) ? this.#holder(mode, byte) : this.#inFolder(mode);
    }
    const taken = looksAt.find((byte) => this.#ranges?.isTaken(this.#fd, byte));
    this.#drop(taken === undefined ? before.filter((byte) => !locks.includes(byte)) : added);
    return taken === undefined ? undefined : this.#holder(mode, taken);
  }

  #drop(bytes: readonly number[]): void {
    for (const byte of bytes) this.#ranges?.set(this.#fd, 'none', byte, 1);
  }

  #inFolder(mode: LockMode): Holder | undefined {
    try {
      this.#folder ??= new LockFolder(this.#fd, this.#path);
      return this.#folder.change(mode);
    } catch (error) {
      throw fromSystemError(error, this.#file, 'lock');
    }
  }

  #holder(wants: LockMode, byte: number): Holder {
    return { wants, writes: writers.includes(byte), ...ownerOf(this.#fd, byte) };
  }
}

/**
 * The process that has a lock on that byte: an open file's lock does not tell, but Linux lists the locks of each
 * descriptor of the processes that we may look at.
 */
function ownerOf(own: number, byte: number): { pid: number; program: string } | undefined {
  try {
    const { dev, ino } = fs.fstatSync(own);
    for (const pid of fs.readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
      for (const fd of namesIn(`/proc/${pid}/fdinfo`)) {
        if (Number(pid) === process.pid && Number(fd) === own) continue;
        if (!locksByte(textOf(`/proc/${pid}/fdinfo/${fd}`), ino, byte)) continue;
        const file = fs.statSync(`/proc/${pid}/fd/${fd}`);
        if (file.dev !== dev || file.ino !== ino) continue;
        return { pid: Number(pid), program: textOf(`/proc/${pid}/comm`).trim() };
      }
    }
  } catch {
    // Who it is is for the message only.
  }
  return undefined;
}

/** Lines such as `lock: 1: OFDLCK  ADVISORY  READ -1 fe:00:2146433 100 101`. */
function locksByte(fdinfo: string, ino: number, byte: number): boolean {
  return [...fdinfo.matchAll(/^lock:.*:(\d+) (\d+) (\d+|EOF)$/gm)].some(([, file, first, last]) => {
    const end = last === 'EOF' ? Number.POSITIVE_INFINITY : Number(last);
    return Number(file) === ino && Number(first) <= byte && byte <= end;
  });
}

function namesIn(directory: string): string[] {
  try {
    return fs.readdirSync(directory);
  } catch {
    return [];
  }
}

function textOf(file: string): string {
  try {
    return fs.readFileSync(file, 'utf8');
  } catch {
    return '';
  }
}
