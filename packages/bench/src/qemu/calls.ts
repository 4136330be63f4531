import path from 'node:path';
import { CountingFolder, FileFolder, openDisk, totalCounts } from '@cowlab/core';
import { drivers } from '../formats.ts';
import type { Lab } from '../lab.ts';
import { emptyGround, filledGround, firstPassGround, type Ground } from './grounds.ts';
import { sumOf } from './judge.ts';
import type { QemuProfile } from './profiles.ts';
import type { CallCounts, CallRow } from './schema.ts';
import { batchOf, runBatch, type Shape, stepOf } from './speeds.ts';
import { benchCalls, type Batch, type Target } from './tools.ts';

/*
 * How many storage calls and flushes does a guest write cost, beside QEMU? QEMU's are its system calls to the image,
 * seen by strace; ours are counted where the driver calls its storage. Each side does a session of many writes with a
 * flush now and then, and one of a single write; what the first has more is what the writes cost.
 */

async function oursCalls({ format, file }: Target, batch: Batch): Promise<CallCounts> {
  const folder = new CountingFolder(new FileFolder(path.dirname(file)));
  const disk = await openDisk({ folder, file: path.basename(file) }, { drivers, format });
  await runBatch(disk, batch);
  await disk.close();
  const { counts } = folder;
  const { reads, writes, zeroes, discards } = totalCounts(counts);
  return { reads, writes, zeroes: zeroes + discards, flushes: counts.flushes };
}

type Counter = (batch: Batch) => Promise<CallCounts>;

async function pastTheFirst(ground: Ground, batch: Batch, count: Counter): Promise<CallCounts> {
  await ground.prepare();
  const all = await count(batch);
  await ground.prepare();
  const one = await count({ ...batch, requests: 1 });
  return {
    reads: Math.max(0, all.reads - one.reads),
    writes: Math.max(0, all.writes - one.writes),
    zeroes: Math.max(0, all.zeroes - one.zeroes),
    flushes: Math.max(0, all.flushes - one.flushes),
  };
}

const KIB = 1024;
const cases = [
  ['overwrite', 'strided', 4 * KIB],
  ['allocate', 'sequential', 4 * KIB],
  ['allocate', 'strided', 4 * KIB],
  ['allocate', 'sequential', 64 * KIB],
  ['allocate', 'strided', 64 * KIB],
  ['first pass', 'strided', 4 * KIB],
] as const;

export async function countCalls(
  lab: Lab,
  formats: readonly string[],
  profile: QemuProfile,
  tick: (done: number) => void,
): Promise<CallRow[]> {
  const rows: CallRow[] = [];
  for (const [at, format] of formats.entries()) {
    rows.push(...(await countFormat(lab, format, profile)));
    tick((at + 1) / formats.length);
  }
  return rows;
}

async function countFormat(lab: Lab, format: string, profile: QemuProfile): Promise<CallRow[]> {
  const { countedWrites, firstPassWrites, flushEvery, imageBytes, emptyBytes } = profile;
  const isRaw = format === 'raw';
  const grounds = {
    overwrite: await filledGround(lab, format, `${format}-counted`, imageBytes),
    allocate: emptyGround(lab, format, `${format}-counted-empty`, emptyBytes),
    'first pass': isRaw
      ? undefined
      : await firstPassGround(lab, format, `${format}-counted-first`, imageBytes),
  };
  const rows: CallRow[] = [];
  for (const [operation, pattern, requestBytes] of cases) {
    const ground = grounds[operation];
    if (ground === undefined) continue;
    const requests = operation === 'first pass' ? firstPassWrites + 1 : countedWrites;
    const stepBytes = stepOf({ operation, pattern, requestBytes });
    const shape = { format, operation, pattern, requestBytes, stepBytes, depth: 1, requests, flushEvery };
    rows.push(await countOne(lab, ground, shape));
  }
  return rows;
}

async function countOne(
  lab: Lab,
  ground: Ground,
  shape: Shape & Pick<CallRow, 'operation'>,
): Promise<CallRow> {
  const { format, operation, pattern, requestBytes, flushEvery, requests } = shape;
  const batch = batchOf(shape);
  const qemu = await pastTheFirst(ground, batch, (each) => benchCalls(ground, each, lab.path('strace.log')));
  const ours = await pastTheFirst(ground, batch, (each) => oursCalls(ground, each));
  const met = sumOf(ours) <= sumOf(qemu) && ours.flushes <= qemu.flushes;
  return { format, operation, pattern, requestBytes, writes: requests - 1, flushEvery, qemu, ours, met };
}
