import { setTimeout as delay } from 'node:timers/promises';
import { CowlabError, isCowlabError } from '@cowlab/core';
import { Command } from '../protocol.ts';
import { Connection, type ConnectionOwner } from './connection.ts';
import { type Negotiated, negotiate, type Wish } from './handshake.ts';
import { fieldOf, isChange, movedBytes, type Request } from './request.ts';
import type { NbdAddress } from './uri.ts';
import { Wire } from './wire.ts';

/*
 * Requests to one export, over one connection after another.
 *
 *   queue      what was not sent; waits for a connection, and for room among what is in flight
 *   in flight  what was sent and has no answer
 *
 * When a connection is lost:
 *
 *   was not sent            waits, and is sent over the next connection
 *   read, status in flight  goes to the end of the queue: asking twice changes nothing
 *   change in flight        rejects, `maybeDone`: it is never sent again
 *   flush in flight         like a read when everything that was answered is flushed already; else it rejects
 *   answered, not flushed   is uncertain: the server's memory may be gone. One flush, that which was in flight or the
 *                           next one, rejects for it, as fsync does
 *
 * A next connection is made when something is to be sent, again and again for a time, which begins anew with an answer. The
 * export has to be what it was.
 */

export interface SessionOptions extends Wish {
  readonly address: NbdAddress;
  /** Most bytes of reads and writes in flight; one request may go alone that is larger. */
  readonly maxInFlightBytes: number;
  readonly maxInFlightRequests: number;
  /** For a connection and its handshake, ms. */
  readonly connectTimeoutMs: number;
  /** For all tries to connect again after a loss together, ms; 0 for none. */
  readonly reconnectTimeoutMs: number;
  /** For a server that says nothing while requests are in flight, ms; 0 for ever. */
  readonly replyTimeoutMs: number;
  readonly signal: AbortSignal | undefined;
}

/** A time without a connection that answers. */
interface Outage {
  /** When to give up, by `performance.now()`. */
  readonly end: number;
  /** Before the next try, ms. */
  pause: number;
  cause: unknown;
}

const FIRST_PAUSE_MS = 20;
const LONGEST_PAUSE_MS = 1000;

/** What another try may mend. */
const TRANSIENT: ReadonlySet<string> = new Set([
  'ERR_CONNECTION_LOST',
  'ERR_IO',
  'ERR_NOT_FOUND',
  'ERR_READ_ONLY',
]);

export class Session implements ConnectionOwner {
  readonly #options: SessionOptions;
  readonly export: Negotiated;
  #connection: Connection | undefined;
  #isConnecting = false;
  /** Since an answer came last: a server that takes connections and drops them is as good as none. */
  #outage: Outage | undefined;
  #queue: Request[] = [];
  #inFlight = 0;
  #inFlightBytes = 0;
  /** Why nothing works any more. */
  #fatal: CowlabError | undefined;
  /** Changes that were answered, and how many of them a flush has covered. */
  #changes = 0;
  #flushedChanges = 0;
  readonly #flushes: Map<Request, number> = new Map();
  /** Why the next flush rejects. */
  #uncertain: CowlabError | undefined;
  readonly #abort = (): void => this.#die(this.#aborted());
  /** Connections that were lost and made again. */
  reconnects = 0;

  private constructor(options: SessionOptions, negotiated: Negotiated, wire: Wire) {
    this.#options = options;
    this.export = negotiated;
    this.#connection = this.#adopt(wire, negotiated);
    options.signal?.addEventListener('abort', this.#abort, { once: true });
  }

  /** Connects once. Rejects as {@link negotiate} does, with `ERR_IO`, and `ERR_ABORTED`. */
  static async open(options: SessionOptions): Promise<Session> {
    const { wire, negotiated } = await connect(options, options.connectTimeoutMs);
    return new Session(options, negotiated, wire);
  }

  /** Sends a request when there is room for it; it is settled sooner or later. */
  submit(request: Request): void {
    if (this.#fatal !== undefined) return request.settle(this.#fatal);
    this.#queue.push(request);
    this.#pump();
  }

  /** Says goodbye, and ends the connection. Nothing is under way. */
  async close(): Promise<void> {
    this.#options.signal?.removeEventListener('abort', this.#abort);
    const { file } = this.#options;
    this.#fatal ??= new CowlabError('ERR_CLOSED', `${file}: storage is closed`, { file });
    await this.#connection?.close();
    this.#connection = undefined;
  }

  answered(request: Request, ok: boolean): void {
    this.#outage = undefined;
    this.#land(request);
    if (isChange(request)) this.#changes++;
    const covered = this.#flushes.get(request);
    this.#flushes.delete(request);
    if (covered !== undefined && ok) this.#flushedChanges = Math.max(this.#flushedChanges, covered);
    this.#pump();
  }

  lost(reason: CowlabError, unanswered: readonly Request[]): void {
    this.#connection = undefined;
    for (const request of unanswered) this.#land(request);
    if (reason.code !== 'ERR_CONNECTION_LOST') this.#fatal ??= reason;
    const hasUnflushed = this.#changes > this.#flushedChanges;
    if (hasUnflushed) this.#uncertain = reason;
    const again: Request[] = [];
    for (const request of unanswered) {
      const covered = this.#flushes.get(request);
      this.#flushes.delete(request);
      if (this.#fatal !== undefined) request.settle(this.#fatal);
      else if (isChange(request)) request.settle(this.#lostChange(request, reason, true));
      else if (covered !== undefined && hasUnflushed) {
        if (covered === this.#changes) this.#uncertain = undefined;
        request.settle(this.#lostFlush(reason));
      } else if (this.#isTooLate(request)) request.settle(reason);
      else again.push(request);
    }
    this.#flushedChanges = this.#changes;
    this.#queue.push(...again);
    if (this.#fatal !== undefined) this.#rejectQueue(() => this.#fatal!);
    this.#pump();
  }

  /** A request that servers die of is not asked for ever, however well others fare. */
  #isTooLate(request: Request): boolean {
    delete request.runs;
    request.lostAt ??= performance.now();
    return performance.now() - request.lostAt > this.#options.reconnectTimeoutMs;
  }

  #adopt(wire: Wire, negotiated: Negotiated): Connection {
    const { file, replyTimeoutMs } = this.#options;
    return new Connection(file, wire, negotiated, this, replyTimeoutMs);
  }

  #land(request: Request): void {
    this.#inFlight--;
    this.#inFlightBytes -= movedBytes(request);
  }

  #pump(): void {
    if (this.#queue.length === 0) return;
    if (this.#connection === undefined) return this.#reconnect();
    const { maxInFlightBytes, maxInFlightRequests } = this.#options;
    let next = 0;
    while (next < this.#queue.length && this.#connection !== undefined) {
      const request = this.#queue[next]!;
      const bytes = movedBytes(request);
      const isFull = this.#inFlight >= maxInFlightRequests || this.#inFlightBytes + bytes > maxInFlightBytes;
      if (isFull && this.#inFlight > 0) break;
      next++;
      if (request.command === Command.flush && this.#failsFlush(request)) continue;
      this.#inFlight++;
      this.#inFlightBytes += bytes;
      this.#connection.send(request);
    }
    this.#queue.splice(0, next);
  }

  /** A flush promises for what was answered when it is sent; one that cannot is told so, once. */
  #failsFlush(request: Request): boolean {
    const reason = this.#uncertain;
    this.#uncertain = undefined;
    if (reason === undefined) {
      this.#flushes.set(request, this.#changes);
      return false;
    }
    request.settle(this.#lostFlush(reason));
    return true;
  }

  #reconnect(): void {
    if (this.#isConnecting) return;
    this.#isConnecting = true;
    void this.#tryAgain().finally(() => {
      this.#isConnecting = false;
      this.#pump();
    });
  }

  async #tryAgain(): Promise<void> {
    const { reconnectTimeoutMs, connectTimeoutMs } = this.#options;
    const outage = (this.#outage ??= {
      end: performance.now() + reconnectTimeoutMs,
      pause: 0,
      cause: undefined,
    });
    for (;;) {
      if (outage.pause > 0) await delay(Math.min(outage.pause, Math.max(0, outage.end - performance.now())));
      outage.pause = Math.min(LONGEST_PAUSE_MS, Math.max(FIRST_PAUSE_MS, 2 * outage.pause));
      const left = outage.end - performance.now();
      if (left <= 0 || this.#fatal !== undefined) return this.#giveUp(outage.cause);
      try {
        const { wire, negotiated } = await connect(this.#options, Math.min(left, connectTimeoutMs));
        return this.#resume(wire, negotiated);
      } catch (error) {
        if (!isCowlabError(error) || !TRANSIENT.has(error.code)) return this.#giveUp(error);
        outage.cause = error;
      }
    }
  }

  #resume(wire: Wire, negotiated: Negotiated): void {
    const changed = changeOf(this.export, negotiated);
    if (this.#fatal !== undefined || changed !== undefined) wire.destroy();
    if (this.#fatal !== undefined) return this.#giveUp(undefined);
    if (changed !== undefined) {
      const [before, now] = [String(this.export[changed]), String(negotiated[changed])];
      const { file } = this.#options;
      const message = `${file}: export: it came back as another one: ${changed} was ${before} and is ${now}`;
      return this.#die(
        new CowlabError('ERR_CONNECTION_LOST', message, { file, field: 'export', value: now }),
      );
    }
    this.reconnects++;
    this.#connection = this.#adopt(wire, negotiated);
  }

  /** What waits is rejected; who comes later may try again. */
  #giveUp(cause: unknown): void {
    this.#outage = undefined;
    const { file, reconnectTimeoutMs } = this.#options;
    const why = cause instanceof Error ? `: ${cause.message}` : '';
    const message = `${file}: connection lost, and not to be had again within ${reconnectTimeoutMs} ms${why}`;
    const data = { file, field: 'connection' };
    const reason = this.#fatal ?? new CowlabError('ERR_CONNECTION_LOST', message, data, cause);
    this.#rejectQueue((request) =>
      isChange(request) && this.#fatal === undefined ? this.#lostChange(request, reason, false) : reason,
    );
  }

  #rejectQueue(reasonOf: (request: Request) => CowlabError): void {
    for (const request of this.#queue.splice(0)) request.settle(reasonOf(request));
  }

  #die(reason: CowlabError): void {
    this.#fatal ??= reason;
    if (this.#connection !== undefined) this.#connection.fail(this.#fatal);
    else this.#rejectQueue(() => this.#fatal!);
  }

  #aborted(): CowlabError {
    return abortedError(this.#options);
  }

  #lostChange(request: Request, cause: CowlabError, maybeDone: boolean): CowlabError {
    const { file } = this.#options;
    const { offset, length } = request;
    const field = fieldOf(request);
    const problem = maybeDone ? 'may have been done, in part or wholly' : 'was not sent';
    const message = `${file}: connection lost: ${field} of ${length} bytes at ${offset} ${problem}`;
    const data = { file, field, offset, length, maybeDone };
    return new CowlabError('ERR_CONNECTION_LOST', message, data, cause);
  }

  #lostFlush(cause: CowlabError): CowlabError {
    const { file } = this.#options;
    const message = `${file}: connection lost: what was written since the last flush may be lost, too`;
    return new CowlabError('ERR_CONNECTION_LOST', message, { file, field: 'flush' }, cause);
  }
}

/** What an export, or the way of talking of it, differs in; a context may have another id. */
function changeOf(before: Negotiated, now: Negotiated): keyof Negotiated | undefined {
  return (Object.keys(before) as (keyof Negotiated)[]).find((key) =>
    key === 'allocationContext' && now[key] !== undefined && before[key] !== undefined
      ? false
      : now[key] !== before[key],
  );
}

function abortedError({ file, signal }: SessionOptions): CowlabError {
  return new CowlabError('ERR_ABORTED', `${file}: aborted`, { file }, signal?.reason);
}

/** A connection that has gone through its handshake, within a time. */
async function connect(
  options: SessionOptions,
  timeoutMs: number,
): Promise<{ wire: Wire; negotiated: Negotiated }> {
  const { file, address, signal } = options;
  if (signal?.aborted === true) throw abortedError(options);
  const stopper = new AbortController();
  const late = new CowlabError(
    'ERR_CONNECTION_LOST',
    `${file}: no connection within ${Math.ceil(timeoutMs)} ms`,
    {
      file,
      field: 'open',
    },
  );
  // What has arrived while this process had no time is read first.
  const timer = setTimeout(() => setImmediate(() => stopper.abort(late)), timeoutMs);
  const onAbort = (): void => stopper.abort(abortedError(options));
  signal?.addEventListener('abort', onAbort, { once: true });
  let wire: Wire | undefined;
  try {
    wire = await Wire.connect(file, address, options.tls === undefined, stopper.signal);
    const negotiated = await negotiate(wire, options);
    stopper.signal.throwIfAborted();
    return { wire, negotiated };
  } catch (error) {
    wire?.destroy();
    throw stopper.signal.aborted ? stopper.signal.reason : error;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', onAbort);
  }
}
