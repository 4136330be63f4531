import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Awaitable, StorageFolder } from '@cowlab/core';
import { InterceptedFolder, type StorageCall } from './intercepted-folder.ts';
import { Random } from './random.ts';

/**
 * A folder where every call takes a while: a seeded number of turns of the event loop, so that requests
 * which are under way together overtake each other, in the same way for the same seed.
 */
export class DelayedFolder extends InterceptedFolder {
  readonly #random: Random;
  readonly #maxTurns: number;

  constructor(inner: StorageFolder, seed: number, maxTurns = 4) {
    super(inner);
    this.#random = new Random(seed);
    this.#maxTurns = maxTurns;
  }

  override async intercept<T>(_call: StorageCall, run: () => Awaitable<T>): Promise<T> {
    const turns = this.#random.below(this.#maxTurns + 1);
    for (let turn = 0; turn < turns; turn++) await nextTurn();
    const result = await run();
    // The answer takes its time, too: a caller that forgets to wait for it is found out.
    if (turns % 2 === 1) await nextTurn();
    return result;
  }
}
