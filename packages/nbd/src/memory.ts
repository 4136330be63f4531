/*
 * How much memory the clients of one server may hold, all together.
 *
 * Every request owes bytes from the moment it is taken up until its reply has left for the kernel: what it reads or
 * carries, and a little for the reply itself. A connection always has an allowance of its own, so that a few small
 * requests never wait for anybody. What goes beyond it comes out of one pot for all connections:
 *
 *   held ≤ allowance                      go on
 *   held + wanted > most per connection   wait until this connection's own replies have left
 *   excess of all + wanted > pot          wait in line; who comes later waits behind
 *
 * A connection that waits reads nothing from its socket, so the client is held up by TCP. One that holds a part of the
 * pot while others wait for it, and whose client neither takes its replies nor sends the rest of a write, is ended.
 */

/** Bytes that each connection may hold whatever the others do. */
const ALLOWANCE_BYTES: number = 1024 * 1024;
/** The largest request, and some others beside it. */
const MOST_PER_CONNECTION_BYTES = 48 * 1024 * 1024;

interface Waiter {
  readonly account: MemoryAccount;
  readonly bytes: number;
  readonly resume: () => void;
}

export class MemoryBudget {
  readonly #limitBytes: number;
  readonly #stallMs: number;
  readonly #accounts = new Set<MemoryAccount>();
  #waiters: Waiter[] = [];
  #watch: NodeJS.Timeout | undefined;
  #excess = 0;

  /** `stallMs`: how long a client may stand still while others wait for what it holds. */
  constructor(limitBytes: number, stallMs: number) {
    this.#limitBytes = limitBytes;
    this.#stallMs = stallMs;
  }

  /** Bytes held by all connections together. */
  get heldBytes(): number {
    let sum = 0;
    for (const { held } of this.#accounts) sum += held;
    return sum;
  }

  /** `evict` is asked when the account holds up others; it ends the connection when that is its client's fault. */
  open(evict: () => void): MemoryAccount {
    const account = new MemoryAccount(this, evict);
    this.#accounts.add(account);
    return account;
  }

  close(account: MemoryAccount): void {
    this.#accounts.delete(account);
    this.#waiters = this.#waiters.filter((waiter) => waiter.account !== account);
    this.#excess -= Math.max(0, account.held - ALLOWANCE_BYTES);
    account.held = 0;
    this.pump();
  }

  /** Whether nobody is in line and the pot has so much left. */
  mayTake(account: MemoryAccount, bytes: number): boolean {
    return this.#fits(account, bytes) && !this.#hasLine();
  }

  /** Those who wait for their own replies to leave are not in anybody's way. */
  #hasLine(): boolean {
    return this.#waiters.some((waiter) => !waiter.account.isFull(waiter.bytes));
  }

  wait(account: MemoryAccount, bytes: number, resume: () => void): void {
    this.#waiters.push({ account, bytes, resume });
    if (this.#watch !== undefined) return;
    for (const each of this.#accounts) each.stoodStill();
    this.#watch = setInterval(() => this.#endWhoStandsStill(), this.#stallMs);
    this.#watch.unref();
  }

  changed(before: number, after: number): void {
    this.#excess += Math.max(0, after - ALLOWANCE_BYTES) - Math.max(0, before - ALLOWANCE_BYTES);
  }

  /** Serves those in line, as far as there is room. One whose own replies are in its way holds up nobody else. */
  pump(): void {
    if (this.#watch === undefined) return;
    let blocked = false;
    const ready: Waiter[] = [];
    this.#waiters = this.#waiters.filter((waiter) => {
      const { account, bytes } = waiter;
      if (blocked || account.isFull(bytes)) return true;
      if (!this.#fits(account, bytes)) {
        blocked = true;
        return true;
      }
      account.add(bytes);
      ready.push(waiter);
      return false;
    });
    if (this.#waiters.length === 0) {
      clearInterval(this.#watch);
      this.#watch = undefined;
    }
    for (const { resume } of ready) resume();
  }

  #fits(account: MemoryAccount, bytes: number): boolean {
    if (account.isFull(bytes)) return false;
    const more =
      Math.max(0, account.held + bytes - ALLOWANCE_BYTES) - Math.max(0, account.held - ALLOWANCE_BYTES);
    return more === 0 || this.#excess + more <= this.#limitBytes;
  }

  #endWhoStandsStill(): void {
    const othersWait = this.#hasLine();
    for (const account of this.#accounts) {
      if (account.stoodStill() && othersWait && account.held > ALLOWANCE_BYTES) account.evict();
    }
  }
}

/** What one connection holds. */
export class MemoryAccount {
  held = 0;
  readonly evict: () => void;
  readonly #budget: MemoryBudget;
  #moves = 0;
  #movesSeen = 0;

  constructor(budget: MemoryBudget, evict: () => void) {
    this.#budget = budget;
    this.evict = evict;
  }

  /** Takes the bytes at once, or nothing. */
  tryTake(bytes: number): boolean {
    if (this.held + bytes > ALLOWANCE_BYTES && !this.#budget.mayTake(this, bytes)) return false;
    this.add(bytes);
    return true;
  }

  /** Calls `resume` once the bytes have been taken. */
  wait(bytes: number, resume: () => void): void {
    this.#budget.wait(this, bytes, resume);
  }

  give(bytes: number): void {
    const before = this.held;
    if (before === 0) return;
    this.held -= bytes;
    this.#moves++;
    this.#budget.changed(before, this.held);
    this.#budget.pump();
  }

  /** The client did something: it does not stand still. */
  moved(): void {
    this.#moves++;
  }

  add(bytes: number): void {
    const before = this.held;
    this.held += bytes;
    this.#budget.changed(before, this.held);
  }

  isFull(bytes: number): boolean {
    return this.held > 0 && this.held + bytes > MOST_PER_CONNECTION_BYTES;
  }

  /** Whether nothing has moved since this was asked last. */
  stoodStill(): boolean {
    const still = this.#moves === this.#movesSeen;
    this.#movesSeen = this.#moves;
    return still;
  }

  close(): void {
    this.#budget.close(this);
  }
}
