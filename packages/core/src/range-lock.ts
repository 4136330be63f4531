/*
 * A fair lock on byte ranges of one disk. Shared holders (readers) may overlap each other; an exclusive holder
 * overlaps nobody. Who comes later and conflicts with somebody who waits, waits behind him, so nobody starves.
 *
 * It costs nothing while nobody waits: a request that finishes in the same turn of the event loop never enters
 * the lock, since nothing else can run meanwhile. Only one that returns a promise takes a hold, then.
 */

export interface Hold {
  readonly start: number;
  readonly end: number;
  readonly exclusive: boolean;
}

interface Waiter {
  readonly hold: Hold;
  readonly grant: (hold: Hold) => void;
}

function conflict(a: Hold, b: Hold): boolean {
  return (a.exclusive || b.exclusive) && a.start < b.end && b.start < a.end;
}

export class RangeLock {
  readonly #held = new Set<Hold>();
  #waiting: Waiter[] = [];

  /** Whether somebody holds or waits for anything. */
  get busy(): boolean {
    return this.#held.size > 0;
  }

  /** Takes the range at once, or returns undefined when somebody before is in the way. */
  tryAcquire(start: number, end: number, exclusive: boolean): Hold | undefined {
    const hold: Hold = { start, end, exclusive };
    for (const other of this.#held) if (conflict(hold, other)) return undefined;
    for (const waiter of this.#waiting) if (conflict(hold, waiter.hold)) return undefined;
    this.#held.add(hold);
    return hold;
  }

  /** Takes the range as soon as everybody before who is in the way is done. */
  acquire(start: number, end: number, exclusive: boolean): Hold | Promise<Hold> {
    const hold = this.tryAcquire(start, end, exclusive);
    if (hold !== undefined) return hold;
    return new Promise((grant) => this.#waiting.push({ hold: { start, end, exclusive }, grant }));
  }

  release(hold: Hold): void {
    this.#held.delete(hold);
    if (this.#waiting.length === 0) return;
    const still: Waiter[] = [];
    for (const waiter of this.#waiting) {
      if (this.#mayGo(waiter.hold, still)) {
        this.#held.add(waiter.hold);
        waiter.grant(waiter.hold);
      } else {
        still.push(waiter);
      }
    }
    this.#waiting = still;
  }

  #mayGo(hold: Hold, before: readonly Waiter[]): boolean {
    for (const other of this.#held) if (conflict(hold, other)) return false;
    return !before.some((waiter) => conflict(hold, waiter.hold));
  }
}
