/** Where progress goes: on a terminal one line that is redrawn, elsewhere a plain line now and then. */
export interface ProgressStream {
  readonly isTTY?: boolean;
  readonly columns?: number;
  write(text: string): unknown;
}

const redrawMs = 200;
const plainMs = 15_000;

export class ProgressLine {
  readonly #stream: ProgressStream;
  readonly #name: string;
  #shown = performance.now();

  /** `name` stands before every line. */
  constructor(stream: ProgressStream, name: string) {
    this.#stream = stream;
    this.#name = name;
  }

  /** Asks for the line only when it is time to show one. */
  update(line: () => string): void {
    const terminal = this.#stream.isTTY === true;
    const now = performance.now();
    if (now - this.#shown < (terminal ? redrawMs : plainMs)) return;
    this.#shown = now;
    const text = `${this.#name}: ${line()}`;
    if (terminal) this.#stream.write(`\r\u001B[K${text.slice(0, (this.#stream.columns ?? 80) - 1)}`);
    else this.#stream.write(`${text}\n`);
  }

  /** Takes the line away; plain lines stay. */
  end(): void {
    if (this.#stream.isTTY === true) this.#stream.write('\r\u001B[K');
  }
}
