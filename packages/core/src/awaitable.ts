/**
 * A value, or a promise of one. A call that has nothing to wait for returns the value itself, and its
 * caller stays synchronous: on a warm page cache a promise costs as much as the read it stands for.
 */
export type Awaitable<T> = T | Promise<T>;

/** Runs `next` at once when `value` is there, or when it arrives. */
export function andThen<T, R>(value: Awaitable<T>, next: (value: T) => Awaitable<R>): Awaitable<R> {
  return value instanceof Promise ? value.then(next) : next(value);
}
