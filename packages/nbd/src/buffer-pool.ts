/*
 * Buffers that go round: a fresh one of a mebibyte costs a page fault for each of its pages, which is as much as
 * the read it is for. Kept by size class, up to a limit in all; what is beyond it is left to the collector.
 */

const SMALLEST_BYTES = 64 * 1024;
/** Room beside a power of two, for the header in front of the data. */
const HEADER_ROOM = 4096;

export class BufferPool {
  readonly #idle = new Map<number, Buffer[]>();
  readonly #mostIdleBytes: number;
  #idleBytes = 0;

  constructor(mostIdleBytes: number) {
    this.#mostIdleBytes = mostIdleBytes;
  }

  /** A buffer of at least so many bytes, with anything in it. */
  take(bytes: number): Buffer {
    const size = sizeClass(bytes);
    const buffer = this.#idle.get(size)?.pop();
    if (buffer === undefined) return Buffer.allocUnsafeSlow(size);
    this.#idleBytes -= size;
    return buffer;
  }

  /** Nobody may use the buffer any more. */
  give(buffer: Buffer): void {
    const size = buffer.length;
    if (this.#idleBytes + size > this.#mostIdleBytes) return;
    const idle = this.#idle.get(size);
    if (idle === undefined) this.#idle.set(size, [buffer]);
    else idle.push(buffer);
    this.#idleBytes += size;
  }
}

function sizeClass(bytes: number): number {
  let size = SMALLEST_BYTES;
  while (size + HEADER_ROOM < bytes) size *= 2;
  return size + HEADER_ROOM;
}
