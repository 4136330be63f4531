import {
  CowlabError,
  type Hold,
  isCowlabError,
  type LockMode,
  RangeLock,
  roundDown,
  roundUp,
  type Storage,
  type StorageStatus,
} from '@cowlab/core';
import { AllocationState, Command, CommandFlag, TransmissionFlag } from '../protocol.ts';
import { changeLock } from './locks.ts';
import type { Request, StatusRun } from './request.ts';
import { Session, type SessionOptions } from './session.ts';

/*
 * An export as a storage. It is a device: its size never changes, a write past it has no space, and making it shorter
 * does nothing. What the server does not offer is made from what it does:
 *
 *   zero       WRITE_ZEROES, or zeros are written
 *   discard    TRIM, or nothing
 *   allocate   WRITE_ZEROES with NO_HOLE where the server says that there is a hole of zeros; else nothing
 *   status     BLOCK_STATUS of base:allocation, or data everywhere
 *
 * A call is cut into requests that the server takes, all under way at once. Where it has a minimum block, what does not
 * begin and end with one is read first and written whole, while nobody else changes those blocks.
 *
 * The last answer to BLOCK_STATUS is kept until a change begins or ends: whoever looks for holes asks run by run.
 */

/** Bytes of one read or write: enough to be fast, and small enough for several to be under way. */
const PIECE_BYTES = 2 * 1024 * 1024;
/** Bytes of one request that moves none. */
const SPAN_BYTES = 256 * 1024 * 1024;
const STATUS_SPAN_BYTES = 1024 * 1024 * 1024;

const ZEROS: Uint8Array = new Uint8Array(PIECE_BYTES);

/** A run of the export that the server has told of. */
interface KnownRun {
  readonly start: number;
  readonly end: number;
  readonly data: boolean;
}

export interface StorageSetup {
  readonly name: string;
  readonly readOnly: boolean;
  readonly identity: string;
  /** A server without FLUSH is taken for one that has nothing to make durable. */
  readonly withoutFlush: boolean;
}

export class NbdStorage implements Storage {
  readonly name: string;
  readonly readOnly: boolean;
  readonly fixedSize = true;
  readonly #session: Session;
  readonly #identity: string;
  readonly #size: number;
  readonly #block: number;
  readonly #pieceBytes: number;
  readonly #blocks = new RangeLock();
  #known: readonly KnownRun[] = [];
  /** Goes up when a change begins, and when it ends. */
  #version = 0;
  /** Calls under way, and who waits for their end. */
  #running = 0;
  #idle: () => void = () => undefined;
  #closing: Promise<void> | undefined;

  private constructor(session: Session, { name, readOnly, identity }: StorageSetup) {
    const { size, minBlockBytes, maxBlockBytes } = session.export;
    this.name = name;
    this.readOnly = readOnly;
    this.#session = session;
    this.#identity = identity;
    this.#block = minBlockBytes;
    // Bytes behind the last whole block cannot be reached.
    this.#size = roundDown(size, minBlockBytes);
    this.#pieceBytes = Math.max(
      minBlockBytes,
      roundDown(Math.min(PIECE_BYTES, maxBlockBytes), minBlockBytes),
    );
  }

  /**
   * Connects. Rejects with `ERR_READ_ONLY` when the export cannot be written, `ERR_UNSUPPORTED` when the server has no
   * FLUSH and writing without it was not allowed; else as the handshake does.
   */
  static async open(setup: StorageSetup, options: SessionOptions): Promise<NbdStorage> {
    const session = await Session.open(options);
    const problem = setup.readOnly ? undefined : notWritable(setup, session.export.flags);
    if (problem === undefined) return new NbdStorage(session, setup);
    await session.close();
    throw problem;
  }

  /** Connections that were lost and made again since it was opened. */
  get reconnects(): number {
    return this.#session.reconnects;
  }

  size(): number {
    return this.#size;
  }

  read(offset: number, target: Uint8Array): Promise<void> {
    return this.#call(() => this.#read(offset, target));
  }

  async #read(offset: number, target: Uint8Array): Promise<void> {
    const inside = Math.max(0, Math.min(target.length, this.#size - offset));
    if (inside < target.length) target.fill(0, inside);
    if (inside === 0) return;
    if (offset % this.#block === 0 && inside % this.#block === 0) {
      return this.#readBlocks(offset, target.subarray(0, inside));
    }
    const start = roundDown(offset, this.#block);
    const bytes = new Uint8Array(roundUp(offset + inside, this.#block) - start);
    await this.#readBlocks(start, bytes);
    target.set(bytes.subarray(offset - start, offset - start + inside));
  }

  async write(offset: number, source: Uint8Array): Promise<void> {
    this.#assertChange('write', offset, source.length);
    await this.#change(offset, source.length, async () => {
      const { start, bytes } = await this.#whole(offset, source);
      await this.#writeBlocks(start, bytes);
    });
  }

  async zero(offset: number, length: number): Promise<void> {
    this.#assertChange('zero', offset, length);
    await this.#change(offset, length, async () => {
      const start = Math.min(roundUp(offset, this.#block), offset + length);
      const end = Math.max(start, roundDown(offset + length, this.#block));
      await all([
        this.#zeroPart(offset, start - offset),
        this.#zeroBlocks(start, end - start),
        this.#zeroPart(end, offset + length - end),
      ]);
    });
  }

  async discard(offset: number, length: number): Promise<void> {
    this.#assertWritable();
    const start = roundUp(offset, this.#block);
    const end = roundDown(Math.min(offset + length, this.#size), this.#block);
    if (end <= start || !this.#offers(TransmissionFlag.sendTrim)) return;
    await this.#change(start, end - start, () => this.#spans(Command.trim, 0, start, end - start));
  }

  /** Nothing is promised where the server does not tell holes: what a write finds then is the server's affair. */
  async allocate(offset: number, length: number): Promise<void> {
    this.#assertChange('allocate', offset, length);
    if (!this.#offers(TransmissionFlag.sendWriteZeroes)) return;
    const hole = AllocationState.hole | AllocationState.zero;
    const end = roundDown(offset + length, this.#block);
    await this.#change(offset, length, async () => {
      for (let at = roundUp(offset, this.#block); at < end; ) {
        const runs = await this.#askStatus(at, Math.min(end - at, STATUS_SPAN_BYTES));
        if (runs === undefined) return;
        for (const run of runs) {
          const isHole = (run.state & hole) === hole;
          if (isHole) await this.#spans(Command.writeZeroes, CommandFlag.noHole, at, run.length);
          at += run.length;
        }
      }
    });
  }

  flush(): Promise<void> {
    return this.#call(async () => {
      if (!this.#offers(TransmissionFlag.sendFlush)) return;
      await this.#run({ command: Command.flush, flags: 0, offset: 0, length: 0 });
    });
  }

  /** A device keeps its size: shorter is as good as done, longer is `ERR_NO_SPACE`. */
  async truncate(length: number): Promise<void> {
    this.#assertChange('truncate', 0, length);
  }

  status(offset: number, length: number): Promise<StorageStatus> {
    return this.#call(() => this.#status(offset, length));
  }

  async #status(offset: number, length: number): Promise<StorageStatus> {
    if (offset >= this.#size) return { data: false, length };
    const inside = Math.min(length, this.#size - offset);
    const known = runAt(this.#known, offset);
    if (known !== undefined) return { data: known.data, length: Math.min(inside, known.end - offset) };
    const start = roundDown(offset, this.#block);
    const end = Math.min(roundUp(offset + inside, this.#block), start + STATUS_SPAN_BYTES);
    const version = this.#version;
    const runs = await this.#askStatus(start, end - start);
    const answer = merged(start, runs ?? []);
    if (version === this.#version) this.#known = answer;
    const run = runAt(answer, offset);
    return run === undefined
      ? { data: true, length: inside }
      : { data: run.data, length: Math.min(inside, run.end - offset) };
  }

  lock(mode: LockMode): void {
    this.#assertOpen();
    changeLock(this.name, this.#identity, this, mode);
  }

  /** Waits for what runs, then says goodbye to the server. */
  close(): Promise<void> {
    this.#closing ??= this.#end();
    return this.#closing;
  }

  async #end(): Promise<void> {
    changeLock(this.name, this.#identity, this, 'none');
    if (this.#running > 0) {
      await new Promise<void>((resolve) => {
        this.#idle = resolve;
      });
    }
    await this.#session.close();
  }

  #offers(flag: number): boolean {
    return (this.#session.export.flags & flag) !== 0;
  }

  #run(request: Omit<Request, 'settle'>): Promise<Request> {
    return new Promise((resolve, reject) => {
      const sent: Request = {
        ...request,
        settle: (error) => (error === undefined ? resolve(sent) : reject(error)),
      };
      this.#session.submit(sent);
    });
  }

  /** Runs a change; where the server has blocks, alone on those that it touches. */
  async #change(offset: number, length: number, run: () => Promise<void>): Promise<void> {
    if (length === 0) return;
    await this.#call(async () => {
      this.#forget();
      const hold = await this.#hold(offset, offset + length);
      try {
        await run();
      } finally {
        this.#forget();
        if (hold !== undefined) this.#blocks.release(hold);
      }
    });
  }

  /** Runs a call that a close has to wait for: it may consist of several requests, one after the other. */
  async #call<T>(run: () => Promise<T>): Promise<T> {
    this.#assertOpen();
    this.#running++;
    try {
      return await run();
    } finally {
      if (--this.#running === 0) this.#idle();
    }
  }

  #hold(start: number, end: number): Hold | Promise<Hold> | undefined {
    if (this.#block === 1) return undefined;
    return this.#blocks.acquire(roundDown(start, this.#block), roundUp(end, this.#block), true);
  }

  #forget(): void {
    this.#version++;
    this.#known = [];
  }

  /** The bytes of a write with what is around them in their first and last block. */
  async #whole(offset: number, source: Uint8Array): Promise<{ start: number; bytes: Uint8Array }> {
    const start = roundDown(offset, this.#block);
    const end = roundUp(offset + source.length, this.#block);
    if (start === offset && end === offset + source.length) return { start, bytes: source };
    const bytes = new Uint8Array(end - start);
    const last = end - this.#block;
    await all([
      this.#readBlocks(start, bytes.subarray(0, this.#block)),
      ...(last > start ? [this.#readBlocks(last, bytes.subarray(last - start))] : []),
    ]);
    bytes.set(source, offset - start);
    return { start, bytes };
  }

  #readBlocks(offset: number, target: Uint8Array): Promise<void> {
    return this.#pieces(target.length, this.#pieceBytes, (at, length) => ({
      command: Command.read,
      flags: 0,
      offset: offset + at,
      length,
      target: target.subarray(at, at + length),
    }));
  }

  #writeBlocks(offset: number, source: Uint8Array): Promise<void> {
    return this.#pieces(source.length, this.#pieceBytes, (at, length) => ({
      command: Command.write,
      flags: 0,
      offset: offset + at,
      length,
      payload: source.subarray(at, at + length),
    }));
  }

  #zeroBlocks(offset: number, length: number): Promise<void> {
    if (this.#offers(TransmissionFlag.sendWriteZeroes))
      return this.#spans(Command.writeZeroes, 0, offset, length);
    return this.#pieces(length, this.#pieceBytes, (at, bytes) => ({
      command: Command.write,
      flags: 0,
      offset: offset + at,
      length: bytes,
      payload: ZEROS.subarray(0, bytes),
    }));
  }

  /** Zeros that do not fill a block. */
  async #zeroPart(offset: number, length: number): Promise<void> {
    if (length === 0) return;
    const { start, bytes } = await this.#whole(offset, ZEROS.subarray(0, length));
    await this.#writeBlocks(start, bytes);
  }

  #spans(command: number, flags: number, offset: number, length: number): Promise<void> {
    const request = (at: number, bytes: number): Omit<Request, 'settle'> => ({
      command,
      flags,
      offset: offset + at,
      length: bytes,
    });
    return this.#pieces(length, SPAN_BYTES, request);
  }

  async #pieces(
    length: number,
    pieceBytes: number,
    request: (at: number, length: number) => Omit<Request, 'settle'>,
  ): Promise<void> {
    if (length === 0) return;
    if (length <= pieceBytes) return void (await this.#run(request(0, length)));
    const running: Promise<Request>[] = [];
    for (let at = 0; at < length; at += pieceBytes) {
      running.push(this.#run(request(at, Math.min(pieceBytes, length - at))));
    }
    await all(running);
  }

  /** Runs of states from `offset`; undefined where the server does not tell. */
  async #askStatus(offset: number, length: number): Promise<readonly StatusRun[] | undefined> {
    if (this.#session.export.allocationContext === undefined) return undefined;
    try {
      return (await this.#run({ command: Command.blockStatus, flags: 0, offset, length })).runs;
    } catch (error) {
      // A server that cannot tell here has refused the request; its data are no worse for it.
      if (isCowlabError(error) && (error.code === 'ERR_IO' || error.code === 'ERR_UNSUPPORTED'))
        return undefined;
      throw error;
    }
  }

  #assertOpen(): void {
    if (this.#closing === undefined) return;
    throw new CowlabError('ERR_CLOSED', `${this.name}: storage is closed`, { file: this.name });
  }

  #assertWritable(): void {
    this.#assertOpen();
    if (!this.readOnly) return;
    throw new CowlabError('ERR_READ_ONLY', `${this.name}: storage is open read-only`, { file: this.name });
  }

  #assertChange(field: string, offset: number, length: number): void {
    this.#assertWritable();
    if (offset + length <= this.#size) return;
    const problem = `${field} up to ${offset + length}, but the device ends at ${this.#size}`;
    throw new CowlabError('ERR_NO_SPACE', `${this.name}: ${problem}`, {
      file: this.name,
      field,
      offset,
      length,
    });
  }
}

function notWritable({ name, withoutFlush }: StorageSetup, flags: number): CowlabError | undefined {
  if ((flags & TransmissionFlag.readOnly) !== 0) {
    return new CowlabError('ERR_READ_ONLY', `${name}: the server only lets it be read`, { file: name });
  }
  if (withoutFlush || (flags & TransmissionFlag.sendFlush) !== 0) return undefined;
  const problem = 'the server has no FLUSH, so nothing that is written is ever known to be durable';
  return new CowlabError('ERR_UNSUPPORTED', `${name}: ${problem}; withoutFlush allows it`, {
    file: name,
    field: 'FLUSH',
  });
}

/** Waits for all, whatever happens to some, so that nobody writes into a target any more; the first failure counts. */
async function all(running: readonly Promise<unknown>[]): Promise<void> {
  const failed = (await Promise.allSettled(running)).find(({ status }) => status === 'rejected');
  if (failed?.status === 'rejected') throw failed.reason;
}

/** Runs that say the same are one. What reads as zeros counts as a hole: how much room it takes is the server's affair. */
function merged(offset: number, runs: readonly StatusRun[]): KnownRun[] {
  const known: KnownRun[] = [];
  let start = offset;
  for (const { length, state } of runs) {
    const data = (state & AllocationState.zero) === 0;
    const end = start + length;
    if (known.at(-1)?.data === data) known[known.length - 1] = { start: known.at(-1)!.start, end, data };
    else known.push({ start, end, data });
    start = end;
  }
  return known;
}

/** The run that an offset lies in. */
function runAt(runs: readonly KnownRun[], offset: number): KnownRun | undefined {
  let [low, high] = [0, runs.length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (runs[middle]!.end <= offset) low = middle + 1;
    else high = middle;
  }
  const run = runs[low];
  return run !== undefined && run.start <= offset ? run : undefined;
}
