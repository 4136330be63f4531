import { styleText } from 'node:util';
import type { Progress } from '@cowlab/core';
import { formatSize } from './sizes.ts';

/** What the command needs of a stream; `process.stdout` is one. */
export interface OutputStream {
  readonly isTTY?: boolean;
  write(text: string): unknown;
}

/** Where a command's words go, and what its environment says. `process` is one. */
export interface CliIo {
  readonly stdout: OutputStream;
  readonly stderr: OutputStream;
  readonly env: Readonly<Record<string, string | undefined>>;
}

export type Style = 'bold' | 'dim' | 'red' | 'green' | 'yellow';

export interface Column {
  readonly title: string;
  readonly align?: 'left' | 'right';
}

const REDRAW_MS = 100;
const PLAIN_LINE_MS = 5000;

/** Answers on stdout; failures and progress on stderr. */
export class Output {
  readonly io: CliIo;

  constructor(io: CliIo) {
    this.io = io;
  }

  line(text = ''): void {
    this.io.stdout.write(`${text}\n`);
  }

  json(value: unknown): void {
    this.line(JSON.stringify(value, undefined, 2));
  }

  /** A table under its titles, two blanks between columns. */
  table(columns: readonly Column[], rows: readonly (readonly string[])[]): void {
    const widths = columns.map(({ title }, index) =>
      rows.reduce((width, row) => Math.max(width, row[index]?.length ?? 0), title.length),
    );
    const format = (cells: readonly string[]): string =>
      cells
        .map((cell, index) =>
          columns[index]?.align === 'right'
            ? cell.padStart(widths[index] ?? 0)
            : cell.padEnd(widths[index] ?? 0),
        )
        .join('  ')
        .trimEnd();
    this.line(this.styled('bold', format(columns.map(({ title }) => title))));
    for (const row of rows) this.line(format(row));
  }

  /** A colour or weight for stdout; plain text where nobody can see it. */
  styled(style: Style, text: string): string {
    return this.#style(this.io.stdout, style, text);
  }

  /** A line beside the answer, on stderr. */
  aside(text: string): void {
    this.io.stderr.write(`${text}\n`);
  }

  /** The one line of a failure. */
  failure(text: string): void {
    this.io.stderr.write(`${this.#style(this.io.stderr, 'red', 'cowlab:')} ${text}\n`);
  }

  /** Something worth knowing that is no failure. */
  warning(text: string): void {
    this.io.stderr.write(`${this.#style(this.io.stderr, 'yellow', 'cowlab:')} ${text}\n`);
  }

  /** A progress line under the given name; {@link ProgressLine.end} must be called, also after a failure. */
  progress(label: string): ProgressLine {
    return new ProgressLine(this.io.stderr, label);
  }

  #style(stream: OutputStream, style: Style, text: string): string {
    return seesColour(stream, this.io.env) ? styleText(style, text, { validateStream: false }) : text;
  }
}

/** no-color.org, then FORCE_COLOR as Node reads it, then whether anybody looks. */
function seesColour(stream: OutputStream, env: CliIo['env']): boolean {
  if (env.NO_COLOR !== undefined && env.NO_COLOR !== '') return false;
  if (env.FORCE_COLOR !== undefined && env.FORCE_COLOR !== '') return env.FORCE_COLOR !== '0';
  return stream.isTTY === true && env.TERM !== 'dumb';
}

/** Progress of one long piece of work: redrawn in place on a terminal, else a plain line now and then. */
export class ProgressLine {
  readonly #stream: OutputStream;
  readonly #label: string;
  #shownAt: number;
  #last: Progress | undefined;

  constructor(stream: OutputStream, label: string) {
    this.#stream = stream;
    this.#label = label;
    this.#shownAt = stream.isTTY === true ? 0 : performance.now();
  }

  update(progress: Progress): void {
    this.#last = progress;
    const now = performance.now();
    if (now - this.#shownAt < (this.#stream.isTTY === true ? REDRAW_MS : PLAIN_LINE_MS)) return;
    this.#shownAt = now;
    this.#show(progress);
  }

  /** Shows where the work stands for the last time, and leaves the line. */
  end(): void {
    if (this.#last !== undefined) this.#show(this.#last);
    if (this.#stream.isTTY === true && this.#last !== undefined) this.#stream.write('\n');
  }

  #show({ done, total }: Progress): void {
    const percent = total === 0 ? 100 : Math.floor((100 * done) / total);
    const text = `${this.#label}: ${percent} % (${formatSize(done)} of ${formatSize(total)})`;
    this.#stream.write(this.#stream.isTTY === true ? `\r${text}\x1b[K` : `${text}\n`);
  }
}
