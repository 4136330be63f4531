import fs from 'node:fs';
import path from 'node:path';

/*
 * What a run has measured so far, beside where its results will be: a run that is interrupted goes on from there when it
 * is asked for again, with the same profile, formats and seed. Whole steps only; what was under way is measured anew.
 */

const UNFINISHED_FILE = 'unfinished.json';

interface Kept {
  readonly key: string;
  readonly steps: Record<string, unknown>;
}

export class Unfinished {
  readonly #file: string | undefined;
  readonly #kept: Kept;

  private constructor(file: string | undefined, kept: Kept) {
    this.#file = file;
    this.#kept = kept;
  }

  /** Goes on from what the folder has, when it is of the same run; without a folder nothing is kept. */
  static in(folder: string | undefined, run: unknown): Unfinished {
    const key = JSON.stringify(run);
    if (folder === undefined) return new Unfinished(undefined, { key, steps: {} });
    const file = path.join(folder, UNFINISHED_FILE);
    const before = readKept(file);
    return new Unfinished(file, before?.key === key ? before : { key, steps: {} });
  }

  has(step: string): boolean {
    return Object.hasOwn(this.#kept.steps, step);
  }

  /** The result of a step: the one that is kept, or a new one, which is kept from now on. */
  async step<T>(name: string, measure: () => Promise<T>): Promise<T> {
    if (this.has(name)) return this.#kept.steps[name] as T;
    const result = await measure();
    this.#kept.steps[name] = result;
    if (this.#file !== undefined) {
      // By a rename, so that an interruption leaves the old file or the new one.
      fs.writeFileSync(`${this.#file}.new`, JSON.stringify(this.#kept));
      fs.renameSync(`${this.#file}.new`, this.#file);
    }
    return result;
  }

  /** The run is complete: there is nothing to go on with. */
  forget(): void {
    if (this.#file !== undefined) fs.rmSync(this.#file, { force: true });
  }
}

/** What cannot be read, or is something else, is no beginning of a run. */
function readKept(file: string): Kept | undefined {
  try {
    const kept = JSON.parse(fs.readFileSync(file, 'utf8')) as Partial<Kept>;
    return typeof kept.key === 'string' && kept.steps !== undefined
      ? { key: kept.key, steps: kept.steps }
      : undefined;
  } catch {
    return undefined;
  }
}
