/*
 * Whether what was seen of one sector can be: is there an order of its writes and reads, one after the other, in which
 * each takes effect at some moment between its call and its return, and each read sees the write before it? (Wing and
 * Gong's search, with Lowe's memory of what was tried: the set of those done, and the value.)
 *
 * A read that may go and sees the present value goes at once, since it changes nothing; only among writes is there a
 * choice.
 */

export interface SectorEvent {
  readonly kind: 'write' | 'read';
  /** Unique for a write; 0 for zeros, which any number of requests may write. */
  readonly value: number;
  /** Moments of one clock. */
  readonly called: number;
  readonly returned: number;
}

export function isExplained(events: readonly SectorEvent[], initial: number): boolean {
  const sorted = events.toSorted((a, b) => a.called - b.called);
  const known = new Set<string>();
  const stack: { done: Uint8Array; value: number }[] = [
    { done: new Uint8Array(sorted.length), value: initial },
  ];
  for (let state = stack.pop(); state !== undefined; state = stack.pop()) {
    const { done, value } = state;
    takeReads(sorted, done, value);
    const key = `${value}:${Buffer.from(done).toString('latin1')}`;
    if (known.has(key)) continue;
    known.add(key);
    const next = mayGo(sorted, done);
    if (next.length === 0) return true;
    for (const index of next) {
      const event = sorted[index]!;
      if (event.kind === 'read') continue;
      const then = done.slice();
      then[index] = 1;
      stack.push({ done: then, value: event.value });
    }
  }
  return false;
}

/** The events that nobody left has to precede. */
function mayGo(events: readonly SectorEvent[], done: Uint8Array): number[] {
  let first = Number.POSITIVE_INFINITY;
  for (const [index, event] of events.entries()) {
    if (event.called > first) break;
    if (done[index] === 0) first = Math.min(first, event.returned);
  }
  const indices: number[] = [];
  for (const [index, event] of events.entries()) {
    if (event.called > first) break;
    if (done[index] === 0) indices.push(index);
  }
  return indices;
}

function takeReads(events: readonly SectorEvent[], done: Uint8Array, value: number): void {
  for (;;) {
    const reads = mayGo(events, done).filter(
      (index) => events[index]?.kind === 'read' && events[index].value === value,
    );
    if (reads.length === 0) return;
    for (const index of reads) done[index] = 1;
  }
}
