import { type ChildProcessWithoutNullStreams, spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { CowlabError } from '@cowlab/core';
import type { Target } from '../qemu/tools.ts';
import { underStrace } from './strace.ts';

/*
 * One `qemu-io` with an image open, spoken to over its pipes, a command at a time. Each answer tells how long the request
 * took inside the program (its last number is requests a second, to a hundredth of a nanosecond): the pipes, the start of
 * the process and strace's part in it stay out. A read names the bytes that it must find.
 */

const PROMPT = 'qemu-io> ';

/** Debian's package of each program that is asked for. */
const packages = { 'qemu-img': 'qemu-utils', 'qemu-io': 'qemu-utils', strace: 'strace' } as const;

/** Throws `ERR_NOT_FOUND` that names the first program which is not here, `ERR_UNSUPPORTED` where tracing is not allowed. */
export function assertTools(): void {
  for (const [program, name] of Object.entries(packages)) {
    if (spawnSync(program, ['--version'], { stdio: 'ignore' }).status === 0) continue;
    throw new CowlabError(
      'ERR_NOT_FOUND',
      `bench: --with-qemu: ${program} is missing (Debian: apt-get install ${name})`,
      { file: program },
    );
  }
  const [program, ...rest] = underStrace('/dev/null', 'qemu-img', '--version');
  const { status, stderr } = spawnSync(program!, rest, { encoding: 'utf8' });
  if (status === 0) return;
  const reason = stderr.trim().split('\n')[0] ?? '';
  throw new CowlabError('ERR_UNSUPPORTED', `bench: --with-qemu: strace cannot trace here: ${reason}`, {
    file: 'strace',
    field: 'with-qemu',
    problem: reason,
  });
}

/** The bytes of one request: the same one all over. */
export interface Request {
  readonly offset: number;
  readonly length: number;
  readonly pattern: number;
}

export interface QemuIoOptions {
  /** Where strace writes what the program asks of its files; without it there is no strace. */
  readonly log?: string;
  /** Milliseconds to open the image. */
  readonly limitMs?: number;
}

export class QemuIo {
  readonly #process: ChildProcessWithoutNullStreams;
  readonly #what: string;
  #said = '';
  #complaints = '';
  #answered: ((answer: string | undefined) => void) | undefined;

  private constructor(image: Target | undefined, { log }: QemuIoOptions) {
    const own =
      image === undefined ? [] : ['-t', 'writeback', '-i', 'threads', '-f', image.format, image.file];
    const [program, ...rest] = log === undefined ? ['qemu-io', ...own] : underStrace(log, 'qemu-io', ...own);
    this.#what = `qemu-io ${image?.file ?? ''}`;
    this.#process = spawn(program!, rest);
    this.#process.stdout.on('data', (text: Buffer) => {
      this.#said += text.toString();
      if (this.#said.endsWith(PROMPT)) this.#answer(this.#said.slice(0, -PROMPT.length));
    });
    this.#process.stderr.on('data', (text: Buffer) => void (this.#complaints += text.toString()));
    this.#process.on('close', () => this.#answer(undefined));
    // A process that is gone says so by its end.
    this.#process.stdin.on('error', () => undefined);
  }

  /** Starts the program, with an image or without, and waits until it is ready. */
  static async start(image: Target | undefined, options: QemuIoOptions = {}): Promise<QemuIo> {
    const session = new QemuIo(image, options);
    await session.#next(options.limitMs);
    return session;
  }

  /** Microseconds that a request took, as the program tells them. */
  read(request: Request): Promise<number> {
    return this.#timed(`read ${wordsOf(request)}`, request);
  }

  write(request: Request): Promise<number> {
    return this.#timed(`write ${wordsOf(request)}`, request);
  }

  /** A write and a flush of everything, in one time. */
  writeThrough(request: Request): Promise<number> {
    return this.#timed(`write -f ${wordsOf(request)}`, request);
  }

  /** The most memory that the process has had at once; undefined where the system does not tell. */
  mostResidentBytes(): number | undefined {
    try {
      const status = fs.readFileSync(`/proc/${this.#process.pid}/status`, 'utf8');
      const kilobytes = /^VmHWM:\s*(\d+) kB$/m.exec(status)?.[1];
      return kilobytes === undefined ? undefined : Number(kilobytes) * 1024;
    } catch {
      return undefined;
    }
  }

  async close(): Promise<void> {
    const ended = this.#process.exitCode === null ? this.#end() : undefined;
    this.#process.stdin.end('quit\n');
    await ended;
  }

  /** For who has no more use for it. */
  async kill(): Promise<void> {
    if (this.#process.exitCode !== null || this.#process.signalCode !== null) return;
    const ended = this.#end();
    this.#process.kill('SIGKILL');
    await ended;
  }

  #end(): Promise<void> {
    return new Promise((resolve) => void this.#process.once('close', () => resolve()));
  }

  async #timed(command: string, { offset }: Request): Promise<number> {
    const answered = this.#next();
    this.#process.stdin.write(`${command}\n`);
    const answer = await answered;
    const each = /and ([\d.]+) ops\/sec/.exec(answer)?.[1];
    if (answer.includes('verification failed') || each === undefined) {
      const said = `${answer} ${this.#complaints}`.trim().split('\n')[0] ?? '';
      throw new CowlabError('ERR_CORRUPT', `bench: ${this.#what}: ${command}: ${said}`, { offset });
    }
    return 1e6 / Number(each);
  }

  #answer(answer: string | undefined): void {
    this.#said = '';
    this.#answered?.(answer);
  }

  async #next(limitMs?: number): Promise<string> {
    let timer: NodeJS.Timeout | undefined;
    const answer = await new Promise<string | undefined>((resolve) => {
      this.#answered = resolve;
      if (limitMs !== undefined) timer = setTimeout(() => resolve(undefined), limitMs);
    });
    clearTimeout(timer);
    this.#answered = undefined;
    if (answer !== undefined) return answer;
    const running = this.#process.exitCode === null && this.#process.signalCode === null;
    await this.kill();
    if (running && this.#complaints === '') throw new OpenTooSlow();
    throw new CowlabError('ERR_IO', `bench: ${this.#what}: ${this.#complaints.trim()}`, {});
  }
}

/** The image was not open when the time for it was over. */
export class OpenTooSlow extends Error {}

function wordsOf({ offset, length, pattern }: Request): string {
  return `-P ${pattern} ${offset} ${length}`;
}
