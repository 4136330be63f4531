import fs from 'node:fs';
import path from 'node:path';
import type { Calls } from '../schema.ts';

/*
 * What a program asks of the files in a folder, by strace. The program uses threads for its I/O (`-i threads`): io_uring's
 * requests are no system calls of their own. strace writes a line when a call has ended, so a log that is read while the
 * program waits for its next command has everything that the commands before asked for.
 */

export type Purpose = keyof Calls['purposes'];

/** What the byte at an offset of a file is for. */
export type Regions = (file: string, offset: number) => Purpose;

const kinds = {
  pread64: 'read',
  preadv: 'read',
  preadv2: 'read',
  pwrite64: 'write',
  pwritev: 'write',
  pwritev2: 'write',
  fallocate: 'zero',
  fdatasync: 'flush',
  fsync: 'flush',
  openat: 'open',
} as const;

/** A command, and strace before it. */
export function underStrace(log: string, ...command: string[]): string[] {
  const names = Object.keys(kinds).join(',');
  return ['strace', '-f', '-y', '-s', '0', '--seccomp-bpf', '-e', `trace=${names}`, '-o', log, ...command];
}

/** One call to a file of the folder. */
interface Traced {
  readonly kind: (typeof kinds)[keyof typeof kinds];
  readonly file: string;
  readonly offset: number;
  readonly length: number;
  readonly punches: boolean;
}

/** Log lines, with those that another thread's line cut in two put together. */
function* whole(text: string): Iterable<string> {
  const begun = new Map<string, string>();
  for (const line of text.split('\n')) {
    const [, thread = '', rest = ''] = /^(\d+) +(.*)$/.exec(line) ?? [];
    const cut = / <unfinished \.\.\.>$/.exec(rest);
    if (cut !== null) {
      begun.set(thread, rest.slice(0, cut.index));
      continue;
    }
    const [resumed = ''] = /^<\.\.\. \w+ resumed>/.exec(rest) ?? [];
    yield resumed === '' ? rest : `${begun.get(thread) ?? ''}${rest.slice(resumed.length)}`;
  }
}

function parse(line: string): Traced | undefined {
  // `pwrite64(4</folder/disk.img>, ""..., 65536, 327680) = 65536`, `openat(AT_FDCWD</at>, ""..., O_RDWR) = 4</folder/disk.img>`
  const [, name = '', inside = '', result = '', opened = ''] =
    /^(\w+)\((.*)\) += (-?\d+)(?:<(.*)>)?$/.exec(line) ?? [];
  const kind = kinds[name as keyof typeof kinds];
  if (kind === undefined || result.startsWith('-')) return undefined;
  const file = kind === 'open' ? opened : (/^\d+<([^>]*)>/.exec(inside)?.[1] ?? '');
  const words = inside.split(', ');
  const numbers = words.map(Number).filter(Number.isSafeInteger);
  const [last = 0] = numbers.slice(-1);
  const [offset, length] = kind === 'zero' ? [numbers.at(-2) ?? 0, last] : [last, Number(result)];
  return { kind, file, offset, length, punches: inside.includes('PUNCH_HOLE') };
}

function noCalls(): Calls {
  const none = (): Calls['purposes']['data'] => ({
    reads: 0,
    readBytes: 0,
    writes: 0,
    writtenBytes: 0,
    zeroes: 0,
    discards: 0,
  });
  const purposes = {
    data: none(),
    header: none(),
    mapping: none(),
    journal: none(),
    refcount: none(),
    snapshot: none(),
  };
  return { calls: 0, bytes: 0, flushes: 0, folderCalls: 0, purposes };
}

/** Piece by piece, what the log has got since it was last read. */
export class StraceLog {
  readonly #file: string;
  readonly #folder: string;
  #read = 0;

  constructor(file: string, folder: string) {
    this.#file = file;
    this.#folder = fs.realpathSync(folder);
  }

  /** The calls since the last time; which parts of the files they are to is said later, when the image is at rest. */
  next(): (regions: Regions) => Calls {
    const text = fs.readFileSync(this.#file, 'utf8');
    const end = text.lastIndexOf('\n') + 1;
    const piece = text.slice(this.#read, end);
    this.#read = end;
    const traced = [...whole(piece)]
      .map(parse)
      .filter((call) => call !== undefined)
      .filter(({ file }) => path.dirname(file) === this.#folder);
    return (regions) => callsOf(traced, regions);
  }
}

function callsOf(traced: readonly Traced[], regions: Regions): Calls {
  const calls = noCalls();
  for (const { kind, file, offset, length, punches } of traced) {
    if (kind === 'open') {
      calls.folderCalls++;
      continue;
    }
    calls.calls++;
    if (kind === 'flush') {
      calls.flushes++;
      continue;
    }
    const purpose = calls.purposes[regions(path.basename(file), offset)];
    if (kind === 'zero') purpose[punches ? 'discards' : 'zeroes']++;
    else if (kind === 'read') {
      purpose.reads++;
      purpose.readBytes += length;
      calls.bytes += length;
    } else {
      purpose.writes++;
      purpose.writtenBytes += length;
      calls.bytes += length;
    }
  }
  return calls;
}
