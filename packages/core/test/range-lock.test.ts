import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Hold, RangeLock } from '../src/index.ts';

/** Takes what must be free. */
function take(lock: RangeLock, start: number, end: number, exclusive: boolean): Hold {
  const hold = lock.tryAcquire(start, end, exclusive);
  if (hold === undefined) throw new Error(`${start} to ${end} is not free`);
  return hold;
}

/** Asks for a range and tells in `log` when it was got. */
async function ask(
  lock: RangeLock,
  log: string[],
  name: string,
  [start, end]: readonly [number, number],
  exclusive: boolean,
): Promise<Hold> {
  const hold = await lock.acquire(start, end, exclusive);
  log.push(name);
  return hold;
}

describe('RangeLock', () => {
  it.each([
    ['two readers', false, false, [0, 10], true],
    ['a reader and a writer', false, true, [0, 10], false],
    ['a writer and a reader', true, false, [0, 10], false],
    ['two writers', true, true, [9, 20], false],
    ['two writers side by side', true, true, [10, 20], true],
  ] as const)('%s on the same bytes: %s then %s', (_, first, second, range, together) => {
    const lock = new RangeLock();
    take(lock, 0, 10, first);
    expect(lock.tryAcquire(range[0], range[1], second) !== undefined).toBe(together);
  });

  it('answers at once, without a promise, when nobody is in the way', () => {
    const lock = new RangeLock();
    expect(lock.busy).toBe(false);
    const hold = lock.acquire(0, 10, true);
    expect(hold).not.toBeInstanceOf(Promise);
    expect(lock.busy).toBe(true);
    lock.release(hold as Hold);
    expect(lock.busy).toBe(false);
  });

  it('lets nobody pass a writer who waits, not even readers who fit beside the holder', async () => {
    const lock = new RangeLock();
    const log: string[] = [];
    const reader = take(lock, 0, 10, false);
    const writer = ask(lock, log, 'writer', [0, 10], true);
    const late = ask(lock, log, 'late reader', [5, 10], false);
    const elsewhere = ask(lock, log, 'elsewhere', [10, 20], true);
    await elsewhere;
    expect(log).toEqual(['elsewhere']);
    lock.release(reader);
    lock.release(await writer);
    await late;
    expect(log).toEqual(['elsewhere', 'writer', 'late reader']);
  });

  it('is granted in the order of asking, where ranges conflict', async () => {
    const lock = new RangeLock();
    const log: string[] = [];
    const all = take(lock, 0, 100, true);
    const asked = ['a', 'b', 'c', 'd'].map(async (name) =>
      lock.release(await ask(lock, log, name, [0, 50], true)),
    );
    lock.release(all);
    await Promise.all(asked);
    expect(log).toEqual(['a', 'b', 'c', 'd']);
    expect(lock.busy).toBe(false);
  });

  it('never lets two conflicting holders in, and lets everybody in at last', async () => {
    const request = fc.record({
      start: fc.nat(30),
      length: fc.integer({ min: 1, max: 10 }),
      exclusive: fc.boolean(),
    });
    await fc.assert(
      fc.asyncProperty(
        fc.array(request, { minLength: 1, maxLength: 30 }),
        fc.infiniteStream(fc.nat(4)),
        async (requests, turns) => {
          const lock = new RangeLock();
          const inside = new Set<{ start: number; end: number; exclusive: boolean }>();
          await Promise.all(
            requests.map(async ({ start, length, exclusive }) => {
              const me = { start, end: start + length, exclusive };
              const hold = await lock.acquire(me.start, me.end, exclusive);
              for (const other of inside) {
                const overlap = me.start < other.end && other.start < me.end;
                expect(overlap && (exclusive || other.exclusive)).toBe(false);
              }
              inside.add(me);
              for (let turn = turns.next().value; turn > 0; turn--) await Promise.resolve();
              inside.delete(me);
              lock.release(hold);
            }),
          );
          expect(lock.busy).toBe(false);
        },
      ),
    );
  });
});
