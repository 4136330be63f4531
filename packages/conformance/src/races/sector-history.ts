/*
 * Whether what was seen of one sector can be: is there an order of its writes and reads, one after the other, in which
 * each takes effect at some moment between its call and its return, and each read sees the write before it? It is Wing
 * and Gong's search, with Lowe's memory of what was tried; what needs no choice is taken without one:
 *
 *     a read that may go and sees the present value     goes at once: it changes nothing
 *     a write whose value no read is left for           goes before any other write, which hides it
 *     a value written once, with reads left for it      must not be overwritten: a dead end
 *     a value written once, all of whose reads may go   goes at once with them, when nobody needs the present value:
 *                                                       they could not be better off later
 *
 * So there is a choice only where a value was written more than once: zeros, and what a snapshot brings back.
 */

export interface SectorEvent {
  readonly kind: 'write' | 'read';
  readonly value: number;
  /** Moments of one clock. */
  readonly called: number;
  readonly returned: number;
}

interface State {
  readonly done: Uint8Array;
  readonly value: number;
}

export function isExplained(events: readonly SectorEvent[], initial: number): boolean {
  const search = new Search(events, initial);
  return search.run(initial);
}

class Search {
  readonly #events: readonly SectorEvent[];
  readonly #writesOf = new Map<number, number>();

  constructor(events: readonly SectorEvent[], initial: number) {
    this.#events = events.toSorted((a, b) => a.called - b.called);
    this.#writesOf.set(initial, 1);
    for (const { kind, value } of events)
      if (kind === 'write') this.#writesOf.set(value, (this.#writesOf.get(value) ?? 0) + 1);
  }

  run(initial: number): boolean {
    const known = new Set<string>();
    const stack: State[] = [{ done: new Uint8Array(this.#events.length), value: initial }];
    for (let state = stack.pop(); state !== undefined; state = stack.pop()) {
      this.#takeReads(state);
      const key = `${state.value}:${Buffer.from(state.done).toString('latin1')}`;
      if (known.has(key)) continue;
      known.add(key);
      if (!state.done.includes(0)) return true;
      stack.push(...this.#next(state));
    }
    return false;
  }

  /** Where it can go on from here; `state.done` may change. */
  #next({ done, value }: State): State[] {
    const isNeeded = this.#hasReadsLeft(done, value);
    if (isNeeded && this.#writesOf.get(value) === 1) return [];
    const writes = this.#mayGo(done).filter((index) => this.#events[index]?.kind === 'write');
    const hidden = writes.filter((index) => !this.#hasReadsLeft(done, this.#events[index]!.value));
    const choices = writes.filter((index) => !hidden.includes(index));
    const after = done.slice();
    for (const index of hidden) after[index] = 1;
    if (!isNeeded && hidden.length > 0) return [{ done: after, value: this.#events[hidden.at(-1)!]!.value }];
    const states: State[] = hidden.length > 0 ? [{ done: after, value: -1 }] : [];
    for (const index of choices) {
      const state = { done: after.slice(), value: this.#events[index]!.value };
      state.done[index] = 1;
      this.#takeReads(state);
      const isWhole = !this.#hasReadsLeft(state.done, state.value);
      if (this.#writesOf.get(state.value) !== 1) states.push(state);
      else if (isWhole && !isNeeded) return [state];
      else if (isWhole) states.push(state);
    }
    return states;
  }

  #hasReadsLeft(done: Uint8Array, value: number): boolean {
    return this.#events.some((event, index) => {
      return done[index] === 0 && event.kind === 'read' && event.value === value;
    });
  }

  #takeReads({ done, value }: State): void {
    for (;;) {
      const reads = this.#mayGo(done).filter((index) => {
        const event = this.#events[index]!;
        return event.kind === 'read' && event.value === value;
      });
      if (reads.length === 0) return;
      for (const index of reads) done[index] = 1;
    }
  }

  /** The events left that no other one left has to precede. */
  #mayGo(done: Uint8Array): number[] {
    let first = Number.POSITIVE_INFINITY;
    for (const [index, event] of this.#events.entries()) {
      if (event.called > first) break;
      if (done[index] === 0) first = Math.min(first, event.returned);
    }
    const indices: number[] = [];
    for (const [index, event] of this.#events.entries()) {
      if (event.called > first) break;
      if (done[index] === 0) indices.push(index);
    }
    return indices;
  }
}
