import fs from 'node:fs';
import path from 'node:path';
import { performance } from 'node:perf_hooks';
import type { Disk } from '@cowlab/core';
import { FileFolder, openDisk } from '@cowlab/core';
import { chooseSubjects, drivers, type Subject, yardstick } from './formats.ts';
import { createImage, fill, IMAGE_FILE, Lab } from './lab.ts';
import { breathe, median } from './measure.ts';
import { patternBytes, randomOffsets } from './workload.ts';

/*
 * A program: what does the data path cost? Random 4 KiB reads and overwrites on a fully mapped image without
 * snapshots, page cache warm, against a bare loop of readSync or writeSync on the same bytes of the same file:
 * the host offsets are looked up beforehand. The three loops take turns in short batches; what is printed is the
 * median over all rounds of the ratio within one round. The bars are the project's own promise.
 */

const IMAGE_BYTES = 256 * 1024 * 1024;
const REQUEST_BYTES = 4096;
const BATCH = 500;
const ROUNDS = 120;
const BARS = { promises: 1.15, every: 1.35 } as const;

/** One loop over a batch of requests, by their index. */
type Loop = (from: number) => Promise<void> | void;

interface Loops {
  readonly bare: Loop;
  /** Awaits what is a promise. */
  readonly promises: Loop;
  /** Awaits every call. */
  readonly every: Loop;
}

interface Ratios {
  readonly promises: number;
  readonly every: number;
  readonly bareMicros: number;
}

function readLoops(disk: Disk, file: number, guest: readonly number[], host: readonly number[]): Loops {
  const target = new Uint8Array(REQUEST_BYTES);
  return {
    bare: (from) => {
      for (let at = from; at < from + BATCH; at++) fs.readSync(file, target, 0, REQUEST_BYTES, host[at] ?? 0);
    },
    promises: async (from) => {
      for (let at = from; at < from + BATCH; at++) {
        const pending = disk.read(guest[at] ?? 0, target);
        if (pending instanceof Promise) await pending;
      }
    },
    every: async (from) => {
      for (let at = from; at < from + BATCH; at++) await disk.read(guest[at] ?? 0, target);
    },
  };
}

function writeLoops(disk: Disk, file: number, guest: readonly number[], host: readonly number[]): Loops {
  const source = patternBytes(3, REQUEST_BYTES);
  return {
    bare: (from) => {
      for (let at = from; at < from + BATCH; at++)
        fs.writeSync(file, source, 0, REQUEST_BYTES, host[at] ?? 0);
    },
    promises: async (from) => {
      for (let at = from; at < from + BATCH; at++) {
        const pending = disk.write(guest[at] ?? 0, source);
        if (pending instanceof Promise) await pending;
      }
    },
    every: async (from) => {
      for (let at = from; at < from + BATCH; at++) await disk.write(guest[at] ?? 0, source);
    },
  };
}

async function compareLoops(loops: Loops, rounds: number): Promise<Ratios> {
  const names = ['bare', 'promises', 'every'] as const;
  const spent: Record<(typeof names)[number], number[]> = { bare: [], promises: [], every: [] };
  const warmUp = Math.ceil(rounds / 10);
  for (let round = 0; round < rounds + warmUp; round++) {
    for (let turn = 0; turn < names.length; turn++) {
      const name = names[(turn + round) % names.length] ?? 'bare';
      const started = performance.now();
      await loops[name]((round % 8) * BATCH);
      if (round >= warmUp) spent[name].push(performance.now() - started);
    }
    if (round % 8 === 0) await breathe();
  }
  const ratio = (name: 'promises' | 'every'): number =>
    median(spent[name].map((value, index) => value / (spent.bare[index] ?? Number.NaN)));
  return {
    promises: ratio('promises'),
    every: ratio('every'),
    bareMicros: (median(spent.bare) * 1000) / BATCH,
  };
}

/** Host offsets of guest offsets; every request must lie in one piece in the image's own file. */
async function locate(disk: Disk, guest: readonly number[]): Promise<number[]> {
  const host: number[] = [];
  for (const offset of guest) {
    const extent = await disk.image.map(offset, REQUEST_BYTES);
    if (extent.kind !== 'data' || extent.length < REQUEST_BYTES || extent.storage.name !== IMAGE_FILE) {
      throw new Error(`${disk.format}: the request at ${offset} does not lie in one piece of ${IMAGE_FILE}`);
    }
    host.push(extent.hostOffset);
  }
  return host;
}

async function measureSubject(
  lab: Lab,
  subject: Subject,
): Promise<{ readonly reads: Ratios; readonly writes: Ratios }> {
  const folder = lab.path(subject.name);
  await createImage(subject, folder, IMAGE_BYTES);
  const disk = await openDisk(
    { folder: new FileFolder(folder), file: IMAGE_FILE },
    { drivers, format: subject.name },
  );
  const file = fs.openSync(path.join(folder, IMAGE_FILE), 'r+');
  try {
    await fill(disk, 0, IMAGE_BYTES, () => undefined);
    const guest = randomOffsets(1, BATCH * 8, IMAGE_BYTES, REQUEST_BYTES);
    const host = await locate(disk, guest);
    const reads = await compareLoops(readLoops(disk, file, guest, host), ROUNDS);
    const writes = await compareLoops(writeLoops(disk, file, guest, host), ROUNDS);
    return { reads, writes };
  } finally {
    fs.closeSync(file);
    await disk.close();
    await lab.discard(folder);
  }
}

function line(format: string, operation: string, { promises, every, bareMicros }: Ratios): string {
  const mark = (ratio: number, bar: number): string =>
    `${ratio.toFixed(3)}${ratio <= bar ? ' ' : ' !'}`.padStart(12);
  return (
    format.padEnd(8) +
    operation.padEnd(12) +
    bareMicros.toFixed(2).padStart(8) +
    mark(promises, BARS.promises) +
    mark(every, BARS.every)
  );
}

const lab = new Lab();
try {
  process.stdout.write(
    '4 KiB, random, page cache warm: how many times as long as a bare loop; "!" is past the bar\n',
  );
  process.stdout.write(`format  operation    bare µs  await promises   await all\n`);
  process.stdout.write(
    `bar     ${BARS.promises.toFixed(2).padStart(31)}${BARS.every.toFixed(2).padStart(12)}\n`,
  );
  for (const subject of [yardstick, ...chooseSubjects()]) {
    const { reads, writes } = await measureSubject(lab, subject);
    process.stdout.write(
      `${line(subject.name, 'read', reads)}\n${line(subject.name, 'overwrite', writes)}\n`,
    );
  }
} finally {
  lab.close();
}
