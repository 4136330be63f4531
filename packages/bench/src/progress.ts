/*
 * Progress for people: on a terminal one line that is redrawn, elsewhere a plain line for each step and one every
 * few seconds within it. It goes to stderr, so that stdout holds the report alone.
 */

export interface BenchProgress {
  /** What is going on: `reads and overwrites`. */
  readonly step: string;
  /** How much of the run is done, 0 … 1, counted in steps of unequal length. */
  readonly done: number;
}

export interface ProgressStream {
  readonly isTTY?: boolean;
  readonly columns?: number;
  write(text: string): unknown;
}

const REDRAW_MS = 100;
const PLAIN_MS = 10_000;

/** Before so much is done, nobody can tell how long the rest takes. */
const TELLS_FROM = 0.15;

/** As if the rest took as long as what is done: steps differ, so the seconds are round ones. */
function left(seconds: number, done: number): string {
  if (done < TELLS_FROM) return '';
  const rest = (seconds * (1 - done)) / done;
  return `, about ${Math.ceil(rest / 10) * 10} s left,`;
}

export class ProgressLine {
  readonly #stream: ProgressStream;
  readonly #now: () => number;
  readonly #started: number;
  #shown = -Infinity;
  #step = '';

  constructor(stream: ProgressStream, now: () => number = () => performance.now()) {
    this.#stream = stream;
    this.#now = now;
    this.#started = now();
  }

  update({ step, done }: BenchProgress): void {
    const now = this.#now();
    const terminal = this.#stream.isTTY === true;
    if (step === this.#step && now - this.#shown < (terminal ? REDRAW_MS : PLAIN_MS)) return;
    this.#shown = now;
    this.#step = step;
    const seconds = Math.round((now - this.#started) / 1000);
    const line = `bench: ${String(Math.round(done * 100)).padStart(3)} % ${seconds} s${left(seconds, done)}  ${step}`;
    if (terminal) this.#stream.write(`\r\x1b[K${line.slice(0, (this.#stream.columns ?? 80) - 1)}`);
    else this.#stream.write(`${line}\n`);
  }

  /** Takes the line away; plain lines stay. */
  end(): void {
    if (this.#stream.isTTY === true) this.#stream.write('\r\x1b[K');
  }
}
