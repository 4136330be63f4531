import { setImmediate } from 'node:timers/promises';
import type { Awaitable } from './awaitable.ts';
import type { Storage } from './storage.ts';

/** How space is taken before there is something to put there: `falloc` reserves it, `full` writes zeros. */
export type Preallocation = 'falloc' | 'full';

const ZEROS: Uint8Array = new Uint8Array(1024 * 1024);
/** Bytes after which others have their turn. */
const pieceBytes = 64 * ZEROS.length;

async function writeZeros(storage: Storage, offset: number, length: number): Promise<void> {
  for (let done = 0; done < length; done += ZEROS.length) {
    await storage.write(offset + done, ZEROS.subarray(0, Math.min(ZEROS.length, length - done)));
  }
}

const takers: Readonly<
  Record<Preallocation, (storage: Storage, offset: number, length: number) => Awaitable<void>>
> = {
  falloc: (storage, offset, length) => storage.allocate(offset, length),
  full: writeZeros,
};

/** Takes the space of a range that reads as zeros, and grows the storage where it reaches past the end. */
export async function preallocate(
  storage: Storage,
  how: Preallocation,
  offset: number,
  length: number,
): Promise<void> {
  for (let done = 0; done < length; done += pieceBytes) {
    await takers[how](storage, offset + done, Math.min(pieceBytes, length - done));
    await setImmediate();
  }
}
