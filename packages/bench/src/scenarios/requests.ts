import { performance } from 'node:perf_hooks';
import type { Disk } from '@cowlab/core';
import type { Party } from '../measure.ts';
import { patternBytes } from '../workload.ts';

/** The clock is looked at after this many reads: a look costs a few per cent of a read. */
const READS_PER_LOOK = 16;

/** Reads at the given offsets, from the beginning again when they are used up. */
export function readingParty(
  disk: Disk,
  offsets: readonly number[],
  requestBytes: number,
  batch: number,
  rounds: number,
): Party {
  const target = new Uint8Array(requestBytes);
  let next = 0;
  return {
    rounds,
    async batch(_round, deadline) {
      let done = 0;
      do {
        for (let index = 0; index < READS_PER_LOOK; index++) {
          const pending = disk.read(offsets[next++ % offsets.length] ?? 0, target);
          if (pending instanceof Promise) await pending;
        }
        done += READS_PER_LOOK;
      } while (done < batch && performance.now() < deadline);
      return done;
    },
  };
}

/** The bytes of each of so many writes of a party. */
export function writtenBytes(offsetCount: number, requestBytes: number): Uint8Array {
  return patternBytes(offsetCount, requestBytes);
}

/** Writes in round r at the offsets from `r * flushEvery`, and flushes. */
export function writingParty(
  disk: Disk,
  offsets: readonly number[],
  requestBytes: number,
  flushEvery: number,
): Party {
  const source = writtenBytes(offsets.length, requestBytes);
  return {
    rounds: Math.ceil(offsets.length / flushEvery),
    async batch(round) {
      const places = offsets.slice(round * flushEvery, (round + 1) * flushEvery);
      for (const offset of places) {
        const pending = disk.write(offset, source);
        if (pending instanceof Promise) await pending;
      }
      await disk.flush();
      return places.length;
    },
  };
}
