import fs from 'node:fs';
import path from 'node:path';
import { performance } from 'node:perf_hooks';
import { type Awaitable, type Disk, FileFolder, openDisk } from '@cowlab/core';
import type { Subject } from './formats.ts';
import { createImage, fill, IMAGE_FILE, type Lab, warmUp } from './lab.ts';
import { breathe, shuffled } from './measure.ts';
import { median } from './statistics.ts';
import { patternBytes, randomOffsets, seededRandom } from './workload.ts';

/*
 * What does the data path cost? Random reads and overwrites on a fully mapped image without snapshots, page cache
 * warm, against a bare loop of readSync or writeSync on the same bytes of the same file: the host offsets are
 * looked up beforehand. The three loops take turns, in another order each time, in batches of less than a
 * millisecond, so that whatever else the machine does meets all of them; the answer is the median over all rounds
 * of the ratio within one round.
 *
 * Writes to a page cost more when it is the first since the page reached the device, and everything waits when the
 * device falls behind. So now and then, untimed, the file is flushed and all its pages that will be written are
 * written once: under the stopwatch nobody comes first.
 */

export interface DataPathSizes {
  readonly imageBytes: number;
  readonly requestBytes: number;
  /** Requests between two looks at the clock. */
  readonly batch: number;
  readonly rounds: number;
}

export interface Ratios {
  /** How many times as long as the bare loop it takes when the caller awaits what is a promise, and nothing else. */
  readonly promises: number;
  /** … when the caller awaits every call. */
  readonly every: number;
  /** Microseconds that one request of the bare loop takes. */
  readonly bareMicros: number;
}

export interface DataPathRow {
  readonly format: string;
  readonly reads: Ratios;
  readonly overwrites: Ratios;
}

/** Requests of one run: as many batches of them, then from the beginning again. */
const BATCHES = 8;

/** One batch, from the request with this index on. */
type Loop = (from: number) => Promise<void> | void;

interface Loops {
  readonly bare: Loop;
  readonly promises: Loop;
  readonly every: Loop;
}

interface Requests {
  readonly disk: Disk;
  /** The image's file, opened beside the disk. */
  readonly file: number;
  readonly guest: readonly number[];
  /** Where the guest offsets are in the file. */
  readonly host: readonly number[];
  readonly sizes: DataPathSizes;
}

function readLoops({ disk, file, guest, host, sizes: { batch, requestBytes } }: Requests): Loops {
  const target = new Uint8Array(requestBytes);
  return {
    bare: (from) => {
      for (let at = from; at < from + batch; at++) fs.readSync(file, target, 0, requestBytes, host[at]!);
    },
    promises: async (from) => {
      for (let at = from; at < from + batch; at++) {
        const pending = disk.read(guest[at]!, target);
        if (pending instanceof Promise) await pending;
      }
    },
    every: async (from) => {
      for (let at = from; at < from + batch; at++) await disk.read(guest[at]!, target);
    },
  };
}

function writeLoops({ disk, file, guest, host, sizes: { batch, requestBytes } }: Requests): Loops {
  const source = patternBytes(3, requestBytes);
  return {
    bare: (from) => {
      for (let at = from; at < from + batch; at++) fs.writeSync(file, source, 0, requestBytes, host[at]);
    },
    promises: async (from) => {
      for (let at = from; at < from + batch; at++) {
        const pending = disk.write(guest[at]!, source);
        if (pending instanceof Promise) await pending;
      }
    },
    every: async (from) => {
      for (let at = from; at < from + batch; at++) await disk.write(guest[at]!, source);
    },
  };
}

async function compareLoops(
  loops: Loops,
  { batch, rounds }: DataPathSizes,
  settle: () => Awaitable<void>,
): Promise<Ratios> {
  const names = ['bare', 'promises', 'every'] as const;
  const spent: Record<(typeof names)[number], number[]> = { bare: [], promises: [], every: [] };
  const warmUpRounds = Math.ceil(rounds / 10);
  const random = seededRandom(rounds);
  let next = 0;
  for (let round = 0; round < rounds + warmUpRounds; round++) {
    if (round % BATCHES === 0) {
      await settle();
      await breathe();
    }
    for (const name of shuffled(names, random)) {
      // Another batch than the loop before had: nobody finds the pages in the processor's cache.
      const from = (next++ % BATCHES) * batch;
      const started = performance.now();
      await loops[name](from);
      if (round >= warmUpRounds) spent[name].push(performance.now() - started);
    }
  }
  const ratio = (name: 'promises' | 'every'): number =>
    median(spent[name].map((value, index) => value / spent.bare[index]!));
  return {
    promises: ratio('promises'),
    every: ratio('every'),
    bareMicros: (median(spent.bare) * 1000) / batch,
  };
}

/** Host offsets of guest offsets; every request must lie in one piece in the image's own file. */
async function locate(disk: Disk, guest: readonly number[], requestBytes: number): Promise<number[]> {
  const host: number[] = [];
  for (const offset of guest) {
    const extent = await disk.image.map(offset, requestBytes);
    if (extent.kind !== 'data' || extent.length < requestBytes || extent.storage.name !== IMAGE_FILE) {
      throw new Error(`${disk.format}: the request at ${offset} does not lie in one piece of ${IMAGE_FILE}`);
    }
    host.push(extent.hostOffset);
  }
  return host;
}

/** Measures one format in a folder of the lab that is gone afterwards. */
export async function measureDataPath(
  lab: Lab,
  subject: Subject,
  sizes: DataPathSizes,
): Promise<DataPathRow> {
  const { imageBytes, requestBytes, batch } = sizes;
  const folder = lab.path(`data-path-${subject.name}`);
  await createImage(subject, folder, imageBytes);
  // Not counted: counting is not part of the path.
  const place = { folder: new FileFolder(folder), file: IMAGE_FILE };
  const { driver } = subject;
  const disk = await openDisk(place, { drivers: [driver], format: driver.name });
  const file = fs.openSync(path.join(folder, IMAGE_FILE), 'r+');
  try {
    await fill(disk, 0, imageBytes, () => undefined);
    await warmUp(disk);
    const guest = randomOffsets(1, batch * BATCHES, imageBytes, requestBytes);
    const host = await locate(disk, guest, requestBytes);
    const requests = { disk, file, guest, host, sizes };
    const reads = await compareLoops(readLoops(requests), sizes, () => undefined);
    const writes = writeLoops(requests);
    const overwrites = await compareLoops(writes, sizes, async () => {
      fs.fdatasyncSync(file);
      for (let at = 0; at < BATCHES; at++) await writes.bare(at * batch);
    });
    return { format: subject.name, reads, overwrites };
  } finally {
    fs.closeSync(file);
    await disk.close();
    await lab.discard(folder);
  }
}
