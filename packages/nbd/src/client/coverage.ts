/*
 * Which bytes of a read have arrived. A server may send them in any order, in as many chunks as it likes, but each once.
 * Nearly always they come in order, and then this is one number.
 */

/** A read in more scattered pieces than these is answered by nobody who means it. */
const MAX_PIECES = 4096;

export class Coverage {
  readonly #length: number;
  /** Everything before has arrived. */
  #end = 0;
  /** Starts and ends of what has arrived behind that, in rising order. */
  readonly #pieces: [start: number, end: number][] = [];

  constructor(length: number) {
    this.#length = length;
  }

  get isWhole(): boolean {
    return this.#end === this.#length;
  }

  /** Notes that a range arrives; what is wrong with that, or undefined. */
  add(start: number, length: number): string | undefined {
    const end = start + length;
    if (start < 0 || end > this.#length) return 'lies outside the request';
    if (length === 0) return 'is empty';
    if (start < this.#end) return 'has bytes that came before';
    const next = this.#pieces.findIndex(([other]) => other >= start);
    const at = next < 0 ? this.#pieces.length : next;
    const before = this.#pieces[at - 1];
    const after = this.#pieces[at];
    if ((before !== undefined && before[1] > start) || (after !== undefined && after[0] < end)) {
      return 'has bytes that came before';
    }
    if (start === this.#end) this.#end = end;
    else if (before !== undefined && before[1] === start) before[1] = end;
    else this.#pieces.splice(at, 0, [start, end]);
    while (this.#pieces[0]?.[0] === this.#end) this.#end = this.#pieces.shift()![1];
    return this.#pieces.length > MAX_PIECES ? 'is one of too many that do not lie together' : undefined;
  }
}
