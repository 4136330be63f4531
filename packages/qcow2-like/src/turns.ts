import type { Awaitable } from '@cowlab/core';

/** One at a time, in the order of asking. What finishes without waiting costs nothing. */
export class Turns {
  #last: Promise<void> | undefined;

  /** Whether somebody's turn is under way. */
  get busy(): boolean {
    return this.#last !== undefined;
  }

  /** Runs at once when nobody else's turn is under way, else after everybody before. */
  take<T>(run: () => Awaitable<T>): Awaitable<T> {
    if (this.#last !== undefined) return this.#hold(this.#last.then(run));
    const result = run();
    return result instanceof Promise ? this.#hold(result) : result;
  }

  #hold<T>(result: Promise<T>): Promise<T> {
    const over = (): void => {
      if (this.#last === last) this.#last = undefined;
    };
    const last = result.then(over, over);
    this.#last = last;
    return result;
  }
}
