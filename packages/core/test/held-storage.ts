import { setImmediate as nextTurn } from 'node:timers/promises';
import {
  type Awaitable,
  type LockMode,
  MemoryStorage,
  type Storage,
  type StorageStatus,
} from '../src/index.ts';

type Call = 'read' | 'write' | 'zero' | 'flush';

interface Held {
  readonly name: string;
  readonly go: (failure?: Error) => void;
}

/** A memory storage whose calls wait until the test lets them go, one by one, in the order it likes. */
export class HeldStorage implements Storage {
  readonly name = 'held';
  readonly readOnly = false;
  readonly inner: MemoryStorage = new MemoryStorage();
  #held: Held[] = [];

  /** The calls that wait, once everything that can happen without them has happened: `write 0+4096`. */
  async waiting(): Promise<string[]> {
    for (let turn = 0; turn < 3; turn++) await nextTurn();
    return this.#held.map(({ name }) => name);
  }

  /** Lets the first waiting call of that name go, or fail. */
  async go(name: string, failure?: Error): Promise<void> {
    const waiting = await this.waiting();
    const index = waiting.indexOf(name);
    if (index < 0) throw new Error(`no ${name} waits; there are: ${waiting.join(', ')}`);
    const [held] = this.#held.splice(index, 1);
    held?.go(failure);
  }

  /** Lets everything go until nothing comes any more. */
  async goAll(): Promise<void> {
    while ((await this.waiting()).length > 0) {
      for (const { go } of this.#held.splice(0)) go();
    }
  }

  size(): number {
    return this.inner.size();
  }

  read(offset: number, target: Uint8Array): Promise<void> {
    return this.#hold('read', offset, target.length, () => this.inner.read(offset, target));
  }

  write(offset: number, source: Uint8Array): Promise<void> {
    return this.#hold('write', offset, source.length, () => this.inner.write(offset, source));
  }

  zero(offset: number, length: number): Promise<void> {
    return this.#hold('zero', offset, length, () => this.inner.zero(offset, length));
  }

  discard(offset: number, length: number): void {
    this.inner.discard(offset, length);
  }

  allocate(offset: number, length: number): void {
    this.inner.allocate(offset, length);
  }

  flush(): Promise<void> {
    return this.#hold('flush', 0, 0, () => this.inner.flush());
  }

  truncate(length: number): void {
    this.inner.truncate(length);
  }

  status(offset: number, length: number): StorageStatus {
    return this.inner.status(offset, length);
  }

  lock(mode: LockMode): void {
    this.inner.lock(mode);
  }

  close(): void {
    this.inner.close();
  }

  async #hold(call: Call, offset: number, length: number, run: () => Awaitable<void>): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      const name = call === 'flush' ? call : `${call} ${offset}+${length}`;
      this.#held.push({ name, go: (failure) => (failure === undefined ? resolve() : reject(failure)) });
    });
    await run();
  }
}
