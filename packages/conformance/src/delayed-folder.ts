import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Awaitable, StorageFolder } from '@cowlab/core';
import { InterceptedFolder, type StorageCall } from './intercepted-folder.ts';
import { Random } from './random.ts';

/*
 * A folder with a scheduler. Each call waits twice: before it happens, and before its caller hears of that. Whenever
 * nothing else can go on, one of those that wait is let go, by the seed, so that calls under way together overtake each
 * other, flushes and changes of names too, in the same way for the same seed. The seed also chooses whom the scheduler
 * favours: nobody, those who came last (a call may then wait for very long), or those who came first.
 */
export class DelayedFolder extends InterceptedFolder {
  readonly #random: Random;
  readonly #favours: 'nobody' | 'last' | 'first';
  readonly #waiting: (() => void)[] = [];
  #runs = false;

  constructor(inner: StorageFolder, seed: number) {
    super(inner);
    this.#random = new Random(seed);
    this.#favours = this.#random.pick(['nobody', 'last', 'first'] as const);
  }

  override async intercept<T>(_call: StorageCall, run: () => Awaitable<T>): Promise<T> {
    await this.#wait();
    const result = await run();
    await this.#wait();
    return result;
  }

  #wait(): Promise<void> {
    return new Promise((go) => {
      this.#waiting.push(go);
      if (!this.#runs) void this.#schedule();
    });
  }

  async #schedule(): Promise<void> {
    this.#runs = true;
    while (this.#waiting.length > 0) {
      await nextTurn();
      const [go] = this.#waiting.splice(this.#choose(), 1);
      go?.();
    }
    this.#runs = false;
  }

  #choose(): number {
    const count = this.#waiting.length;
    if (this.#favours === 'nobody' || this.#random.below(4) === 0) return this.#random.below(count);
    return this.#favours === 'first' ? 0 : count - 1;
  }
}
