import { andThen, type Awaitable, fromSystemError, type Purpose } from '@cowlab/core';
import { InterceptedFolder, type StorageCall } from './intercepted-folder.ts';

/** `short`: the first half of a write arrives, in whole sectors, then there is no space. */
export type FaultKind = 'EIO' | 'ENOSPC' | 'short';

/** Which calls fail, and how. */
export interface Fault {
  readonly kind: FaultKind;
  /** The calls that count: one method, or several. */
  readonly methods: readonly StorageCall['method'][];
  /** The first matching call that fails; 1 is the next one. */
  readonly nth: number;
  /** Every later matching call fails, too, until `disarm`. */
  readonly lasting?: boolean;
  /** Only calls made for this purpose count. */
  readonly purpose?: Purpose;
}

const sectorBytes = 512;

/** A folder whose calls fail when they are told to; errors are those of a real file system. */
export class FaultFolder extends InterceptedFolder {
  #fault: Fault | undefined;
  #matching = 0;
  #fired = 0;

  /** Counting starts anew; a fault armed before is forgotten. */
  arm(fault: Fault): void {
    this.#fault = fault;
    this.#matching = 0;
    this.#fired = 0;
  }

  disarm(): void {
    this.#fault = undefined;
  }

  /** How many calls have failed since `arm`. */
  get fired(): number {
    return this.#fired;
  }

  override intercept<T>(call: StorageCall, run: () => Awaitable<T>): Awaitable<T> {
    const fault = this.#fault;
    if (fault === undefined || !this.#strikes(fault, call)) return run();
    this.#fired += 1;
    const systemCode = fault.kind === 'EIO' ? 'EIO' : 'ENOSPC';
    const fail = (): never => {
      const error = Object.assign(new Error(`${systemCode}: injected fault`), { code: systemCode });
      throw fromSystemError(error, call.file, call.method);
    };
    if (fault.kind !== 'short' || call.writePart === undefined) return fail();
    const half = Math.floor(call.length / 2 / sectorBytes) * sectorBytes;
    return andThen(call.writePart(half), fail);
  }

  #strikes(fault: Fault, call: StorageCall): boolean {
    if (!fault.methods.includes(call.method)) return false;
    if (fault.purpose !== undefined && fault.purpose !== call.purpose) return false;
    this.#matching += 1;
    return fault.lasting === true ? this.#matching >= fault.nth : this.#matching === fault.nth;
  }
}
