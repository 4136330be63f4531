import fs from 'node:fs';
import { getSystemErrorName, promisify } from 'node:util';
import type { Awaitable } from './awaitable.ts';
import { CowlabError, fromSystemError } from './errors.ts';
import { FileLock } from './file-lock.ts';
import { native } from './native.ts';
import type { LockMode, Storage, StorageStatus } from './storage.ts';

/*
 * A file as a storage. Ways of doing I/O, chosen when it is opened:
 *   sync      system calls on this thread. With a warm page cache a 4 KiB read takes 2-3 µs; the default.
 *   threads   Node's thread pool: 25 times the latency, but the event loop goes on. For slow media.
 *   streamed  as sync, and long runs that were written are on their way to the device before anybody flushes. For
 *             files that are written once, from start to end: the device works beside the one who fills them.
 * They share everything but the three calls that move bytes or wait for the device.
 */

export type FileIo = 'sync' | 'threads' | 'streamed';

const ZEROS: Uint8Array = new Uint8Array(1024 * 1024);

/** Most bytes of one system call: Node takes the length as a signed 32-bit number, and a larger one as another. */
const MAX_CALL_BYTES = 1024 * 1024 * 1024;

function callBytes(left: number): number {
  return left > MAX_CALL_BYTES ? MAX_CALL_BYTES : left;
}

/** EINTR, and on Linux EOPNOTSUPP: the file system has no such call. */
const INTERRUPTED = 4;
const NOT_SUPPORTED = 95;

const readAsync = promisify(fs.read);
const writeAsync = promisify(fs.write);
const datasyncAsync = promisify(fs.fdatasync);

const NO_RUN = { start: 0, end: 0 };

export class FileStorage implements Storage {
  readonly name: string;
  readonly readOnly: boolean;
  /** Below zero once closed: the number may belong to another file then, and nothing may reach that. */
  protected fd: number;
  readonly #path: string;
  #lock: FileLock | undefined;
  #size: number;
  #open = true;
  /**
   * The run of data that was found last. The kernel looks for its end however far that is, and whoever asks for the
   * status of a disk asks piece by piece. What is made a hole here forgets it; another process that makes one leaves it
   * standing, and data that might be a hole are never wrong.
   */
  #run = NO_RUN;

  constructor(name: string, fd: number, readOnly: boolean, path: string) {
    this.name = name;
    this.#path = path;
    this.fd = fd;
    this.readOnly = readOnly;
    this.#size = fs.fstatSync(fd).size;
  }

  size(): number {
    return this.#size;
  }

  read(offset: number, target: Uint8Array): Awaitable<void> {
    this.#readAll(offset, target);
  }

  #readAll(offset: number, target: Uint8Array): void {
    try {
      let done = fs.readSync(this.fd, target, 0, callBytes(target.length), offset);
      while (done < target.length) {
        const part = fs.readSync(this.fd, target, done, callBytes(target.length - done), offset + done);
        if (part === 0) return void target.fill(0, done);
        done += part;
      }
    } catch (error) {
      throw this.failure(error, 'read');
    }
  }

  write(offset: number, source: Uint8Array): Awaitable<void> {
    this.assertWritable();
    this.#writeAll(offset, source);
    this.#size = Math.max(this.#size, offset + source.length);
  }

  zero(offset: number, length: number): Awaitable<void> {
    this.assertWritable();
    const end = offset + length;
    // What lies past the end reads as zeros once the file has grown over it.
    const inside = Math.min(length, Math.max(0, this.#size - offset));
    if (end > this.#size) this.truncate(end);
    this.#run = NO_RUN;
    if (inside === 0 || native?.punchHole(this.fd, offset, inside)) return;
    this.#writeZeros(offset, inside);
  }

  discard(offset: number, length: number): Awaitable<void> {
    this.assertWritable();
    const inside = Math.min(length, this.#size - offset);
    this.#run = NO_RUN;
    if (inside > 0) native?.punchHole(this.fd, offset, inside);
  }

  /** Where the file system has no call for it, what is there is written again, and zeros past the end. */
  allocate(offset: number, length: number): Awaitable<void> {
    this.assertWritable();
    if (length === 0) return;
    let number = INTERRUPTED;
    while (number === INTERRUPTED) number = native?.allocate(this.fd, offset, length) ?? NOT_SUPPORTED;
    if (number === NOT_SUPPORTED) this.#writeAgain(offset, length);
    this.#measure();
    if (number === 0 || number === NOT_SUPPORTED) return;
    const code = getSystemErrorName(-number);
    throw this.failure(Object.assign(new Error(code), { code }), 'fallocate');
  }

  flush(): Awaitable<void> {
    this.#assertOpen();
    try {
      fs.fdatasyncSync(this.fd);
    } catch (error) {
      throw this.failure(error, 'fdatasync');
    }
  }

  truncate(length: number): void {
    this.assertWritable();
    this.#run = NO_RUN;
    try {
      fs.ftruncateSync(this.fd, length);
    } catch (error) {
      throw this.failure(error, 'ftruncate');
    }
    this.#size = length;
  }

  status(offset: number, length: number): StorageStatus {
    this.#assertOpen();
    if (offset >= this.#size) return { data: false, length };
    if (native === undefined) return { data: true, length: Math.min(length, this.#size - offset) };
    const { start, end } = this.#run;
    if (offset >= start && offset < end) return { data: true, length: Math.min(length, end - offset) };
    const data = native.seekData(this.fd, offset);
    if (data === undefined) return { data: false, length };
    if (data > offset) return { data: false, length: Math.min(length, data - offset) };
    this.#run = { start: offset, end: Math.max(offset + 1, native.seekHole(this.fd, offset)) };
    return { data: true, length: Math.min(length, this.#run.end - offset) };
  }

  lock(mode: LockMode): void {
    this.#assertOpen();
    if (mode === 'none' && this.#lock === undefined) return;
    this.#lock ??= new FileLock(this.name, this.fd, this.#path);
    this.#lock.change(mode);
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#lock?.release();
    const { fd } = this;
    this.fd = -1;
    try {
      fs.closeSync(fd);
    } catch (error) {
      throw fromSystemError(error, this.name, 'close');
    }
  }

  #writeAgain(offset: number, length: number): void {
    const piece = new Uint8Array(Math.min(ZEROS.length, length));
    for (let done = 0; done < length; done += piece.length) {
      const part = piece.subarray(0, Math.min(piece.length, length - done));
      this.#readAll(offset + done, part);
      this.#writeAll(offset + done, part);
    }
  }

  #writeZeros(offset: number, length: number): void {
    for (let done = 0; done < length; done += ZEROS.length) {
      const part = ZEROS.subarray(0, Math.min(ZEROS.length, length - done));
      this.#writeAll(offset + done, part);
    }
  }

  #writeAll(offset: number, source: Uint8Array): void {
    try {
      let done = fs.writeSync(this.fd, source, 0, callBytes(source.length), offset);
      while (done < source.length) {
        done += fs.writeSync(this.fd, source, done, callBytes(source.length - done), offset + done);
      }
    } catch (error) {
      this.#measure();
      throw this.failure(error, 'write');
    }
  }

  /** A write that failed half-way may have grown the file: who takes what lies past the end for zeros must know. */
  #measure(): void {
    try {
      this.#size = fs.fstatSync(this.fd).size;
    } catch {
      // The failure of the write is the one to report.
    }
  }

  protected failure(error: unknown, call: string): CowlabError {
    return this.#open ? fromSystemError(error, this.name, call) : this.#closed();
  }

  protected assertWritable(): void {
    this.#assertOpen();
    if (this.readOnly) {
      throw new CowlabError('ERR_READ_ONLY', `${this.name}: storage is open read-only`, { file: this.name });
    }
  }

  #assertOpen(): void {
    if (!this.#open) throw this.#closed();
  }

  #closed(): CowlabError {
    return new CowlabError('ERR_CLOSED', `${this.name}: storage is closed`, { file: this.name });
  }
}

/** The same file through Node's thread pool. */
export class ThreadedFileStorage extends FileStorage {
  override async read(offset: number, target: Uint8Array): Promise<void> {
    try {
      let done = 0;
      while (done < target.length) {
        const wanted = callBytes(target.length - done);
        const { bytesRead } = await readAsync(this.fd, target, done, wanted, offset + done);
        if (bytesRead === 0) return void target.fill(0, done);
        done += bytesRead;
      }
    } catch (error) {
      throw this.failure(error, 'read');
    }
  }

  override async write(offset: number, source: Uint8Array): Promise<void> {
    this.assertWritable();
    // The file grows before its bytes are on their way: a `zero` beside them would see a length that is
    // about to change, and cut them off while it makes the file as long as it needs.
    if (offset + source.length > this.size()) this.truncate(offset + source.length);
    try {
      let done = 0;
      while (done < source.length) {
        const wanted = callBytes(source.length - done);
        const { bytesWritten } = await writeAsync(this.fd, source, done, wanted, offset + done);
        done += bytesWritten;
      }
    } catch (error) {
      throw this.failure(error, 'write');
    }
  }

  override async flush(): Promise<void> {
    try {
      await datasyncAsync(this.fd);
    } catch (error) {
      throw this.failure(error, 'fdatasync');
    }
  }
}

/** A run is sent when it is so long, or when it is at least so long and the next write is elsewhere. */
const RUN_BYTES: number = 4 * 1024 * 1024;
const LEAST_RUN_BYTES: number = 256 * 1024;

/** The same file for one who writes it from start to end. */
export class StreamedFileStorage extends FileStorage {
  /** The run of bytes that were written one behind the other, and not sent. */
  #start = 0;
  #end = 0;

  override write(offset: number, source: Uint8Array): Awaitable<void> {
    const pending = super.write(offset, source);
    if (offset !== this.#end) {
      this.#send(LEAST_RUN_BYTES);
      this.#start = offset;
    }
    this.#end = offset + source.length;
    this.#send(RUN_BYTES);
    return pending;
  }

  #send(leastBytes: number): void {
    const length = this.#end - this.#start;
    if (length < leastBytes) return;
    native?.startWriting?.(this.fd, this.#start, length);
    this.#start = this.#end;
  }
}
