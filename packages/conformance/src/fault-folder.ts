import { andThen, type Awaitable, fromSystemError, type Purpose } from '@cowlab/core';
import { InterceptedFolder, type StorageCall } from './intercepted-folder.ts';

/**
 * `short`: the first half of a write arrives, up to the end of a sector, then there is no space. The last two succeed, as far
 * as the caller can see: a `lost` write never arrives, a `misdirected` one arrives some sectors beside its place.
 */
export type FaultKind = 'EIO' | 'ENOSPC' | 'short' | 'lost' | 'misdirected';

/** Which calls fail, and how. */
export interface Fault {
  readonly kind: FaultKind;
  /** The calls that count: one method, or several. */
  readonly methods: readonly StorageCall['method'][];
  /** The first matching call that fails; 1 is the next one. */
  readonly nth: number;
  /** Every later matching call fails, too, until `disarm`. */
  readonly lasting?: boolean;
  /** A second call fails, so many matching calls after the first: often one that was made because the first failed. */
  readonly second?: number;
  /** Only calls made for this purpose, or one of these, count. */
  readonly purpose?: Purpose | readonly Purpose[];
  /** How far beside its place a misdirected write arrives, when that is in the file; on the other side, when that is. */
  readonly shiftSectors?: number;
}

const sectorBytes = 512;

/** A folder whose calls fail when they are told to; errors are those of a real file system. */
export class FaultFolder extends InterceptedFolder {
  #fault: Fault | undefined;
  #matching = 0;
  #struck: StorageCall[] = [];

  /** Counting starts anew; a fault armed before is forgotten. */
  arm(fault: Fault): void {
    this.#fault = fault;
    this.#matching = 0;
    this.#struck = [];
  }

  disarm(): void {
    this.#fault = undefined;
  }

  /** How many calls have matched since `arm`, whether they failed or not. */
  get matching(): number {
    return this.#matching;
  }

  /** How many calls have failed since `arm`. */
  get fired(): number {
    return this.#struck.length;
  }

  /** The calls that have failed since `arm`; a write's `source` is a copy. */
  get struck(): readonly StorageCall[] {
    return this.#struck;
  }

  /** Runs with no call counted and none failing; then the fault is armed as before. */
  async suspended<T>(run: () => Promise<T>): Promise<T> {
    const fault = this.#fault;
    this.#fault = undefined;
    try {
      return await run();
    } finally {
      this.#fault = fault;
    }
  }

  override intercept<T>(call: StorageCall, run: () => Awaitable<T>): Awaitable<T> {
    const fault = this.#fault;
    if (fault === undefined || !this.#strikes(fault, call)) return run();
    this.#struck.push(call.source === undefined ? call : { ...call, source: call.source.slice() });
    if (fault.kind === 'lost') return undefined as T;
    if (fault.kind === 'misdirected') return writeBeside(call, fault.shiftSectors ?? 1) as Awaitable<T>;
    const systemCode = fault.kind === 'EIO' ? 'EIO' : 'ENOSPC';
    const fail = (): never => {
      const error = Object.assign(new Error(`${systemCode}: injected fault`), { code: systemCode });
      throw fromSystemError(error, call.file, call.method);
    };
    if (fault.kind !== 'short' || call.writePart === undefined) return fail();
    const middle = Math.floor((call.offset + call.length / 2) / sectorBytes) * sectorBytes;
    return andThen(call.writePart(Math.max(0, middle - call.offset)), fail);
  }

  #strikes(fault: Fault, call: StorageCall): boolean {
    if (!fault.methods.includes(call.method)) return false;
    if (fault.purpose !== undefined && ![fault.purpose].flat().includes(call.purpose)) return false;
    this.#matching += 1;
    if (fault.lasting === true) return this.#matching >= fault.nth;
    return this.#matching === fault.nth || this.#matching === fault.nth + (fault.second ?? 0);
  }
}

/** The write arrives so many sectors on or, where the file does not reach, so many before; else not at all. */
function writeBeside({ storage, source, offset }: StorageCall, sectors: number): Awaitable<void> {
  if (storage === undefined || source === undefined) return;
  const places = [offset + sectors * sectorBytes, offset - sectors * sectorBytes];
  const place = places.find((at) => at >= 0 && at + source.length <= storage.size());
  if (place !== undefined) return storage.write(place, source);
}
