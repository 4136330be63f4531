import fs from 'node:fs';
import { hostname } from 'node:os';
import path from 'node:path';
import { threadId } from 'node:worker_threads';
import type { Holder } from './file-lock.ts';
import type { LockMode } from './storage.ts';

/*
 * Locks without the system's help: a folder `.cowlab-lock-INODE` beside the file, with an empty file for every lock
 * that is held. Its name says everything: `exclusive.PID.START.NUMBER.HOST`.
 *
 *   take     make the own file, then read the folder: a live owner in the way → remove the own file, refuse.
 *            Of two who come at the same moment, each makes its file before it looks, so one sees the other
 *            (or both do, and both are refused).
 *   release  remove the own file, and the folder if it is empty.
 *
 * An owner is gone when no process has that number, or when the one that has it was started at another time. Names are
 * never used twice, so removing that of a dead owner cannot hit a live one. The start is known on Linux only;
 * elsewhere a number that was given to another process keeps a dead owner's lock. An owner on another machine counts
 * as alive. Where no folder can be made (somebody else's directory) a lock is looked for, but none is taken.
 */

const NOT_OURS: ReadonlySet<unknown> = new Set(['EACCES', 'EPERM', 'EROFS', 'ENOTSUP', 'ENOSYS']);

const host = encodeURIComponent(hostname());

let lastNumber = 0;

function codeOf(error: unknown): unknown {
  return (error as { code?: unknown } | null)?.code;
}

/** Differs for two processes that have one number after each other; '0' where that cannot be told. */
function startOf(pid: number): string {
  if (process.platform !== 'linux') return '0';
  try {
    // The program's name, in parentheses, may hold anything; 19 fields after it comes the start, in ticks since boot.
    const fields = fs.readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)?.split(' ') ?? [];
    const boot = fs.readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').slice(0, 8);
    return `${boot}-${fields[19]}`;
  } catch {
    return '0';
  }
}

function isAlive(pid: number, start: string): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    return codeOf(error) !== 'ESRCH';
  }
  return startOf(pid) === start;
}

function quietly(run: () => void): void {
  try {
    run();
  } catch {
    // It is gone already, or somebody else is in it: either is fine.
  }
}

/** The lock of one open file, as one name in the folder of its locks. */
export class LockFolder {
  readonly #directory: string;
  /** The own file's name. */
  #own: string | undefined;

  constructor(fd: number, file: string) {
    const { ino } = fs.fstatSync(fd, { bigint: true });
    this.#directory = path.join(path.dirname(fs.realpathSync(file)), `.cowlab-lock-${ino}`);
  }

  /** Who is in the way, and then nothing has changed. */
  change(mode: LockMode): Holder | undefined {
    const before = this.#own;
    const own = mode === 'none' ? undefined : this.#enter(mode);
    const holder = mode === 'none' ? undefined : this.#inTheWay(mode, [before, own]);
    this.#leave(holder === undefined ? before : own);
    if (holder === undefined) this.#own = own;
    return holder;
  }

  /** Makes a file for the lock; undefined where this process may not. */
  #enter(mode: LockMode): string | undefined {
    const name = `${mode}.${process.pid}.${startOf(process.pid)}.${threadId}-${++lastNumber}.${host}`;
    for (;;) {
      try {
        fs.mkdirSync(this.#directory, { recursive: true });
        fs.writeFileSync(path.join(this.#directory, name), '', { flag: 'wx' });
        return name;
      } catch (error) {
        if (NOT_OURS.has(codeOf(error))) return undefined;
        // Another owner left, and took the folder along.
        if (codeOf(error) !== 'ENOENT') throw error;
      }
    }
  }

  #leave(name: string | undefined): void {
    if (name === undefined) return;
    quietly(() => fs.unlinkSync(path.join(this.#directory, name)));
    quietly(() => fs.rmdirSync(this.#directory));
  }

  #inTheWay(wants: LockMode, own: readonly (string | undefined)[]): Holder | undefined {
    for (const name of this.#names()) {
      const [held, pid, start, , ...rest] = name.split('.');
      const owner = rest.join('.');
      if (own.includes(name) || (wants === 'shared' && held === 'shared')) continue;
      const elsewhere = owner !== host;
      if (!elsewhere && !isAlive(Number(pid), start ?? '')) {
        quietly(() => fs.unlinkSync(path.join(this.#directory, name)));
        continue;
      }
      const lockFile = path.join(this.#directory, name);
      const at = elsewhere ? { program: `on ${owner}` } : {};
      return { wants, writes: held === 'exclusive', pid: Number(pid), lockFile, ...at };
    }
    return undefined;
  }

  #names(): string[] {
    try {
      return fs.readdirSync(this.#directory);
    } catch {
      return [];
    }
  }
}
