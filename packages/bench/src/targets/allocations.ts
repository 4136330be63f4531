import path from 'node:path';
import type { Lab } from '../lab.ts';
import type { Target } from '../qemu/tools.ts';
import type { AllocateRow } from '../schema.ts';
import { distinctOffsets } from '../workload.ts';
import { createEmpty, patterns, type QemuTarget } from './images.ts';
import { QemuIo } from './qemu-io.ts';
import { regionsOf } from './regions.ts';
import { type QemuRequestSizes, writeAll } from './requests.ts';
import { StraceLog } from './strace.ts';
import { type ClockedTimes, takeTurns } from './turns.ts';

/*
 * G1 of QEMU: random writes into an empty image, as scenarios/allocate.ts has them, against raw through QEMU itself and,
 * for QCOW2, against the same with lazy refcounts. A chain without snapshots is one file. How much memory QEMU has refcounts
 * in is not told by it.
 */

interface Variant {
  readonly target: QemuTarget;
  readonly variant: AllocateRow['variant'];
  readonly how: string;
  readonly options: readonly string[];
}

function variantsOf(target: QemuTarget): Variant[] {
  const asIs: Variant = { target, variant: 'as is', how: 'as qemu-img makes it', options: [] };
  if (target.format !== 'qcow2') return [asIs];
  const how = 'lazy_refcounts=on: refcounts are written when the image is closed';
  return [asIs, { target, variant: 'without bookkeeping', how, options: ['-o', 'lazy_refcounts=on'] }];
}

export async function measureQemuAllocations(
  lab: Lab,
  targets: readonly QemuTarget[],
  sizes: QemuRequestSizes,
  seed: number,
): Promise<AllocateRow[]> {
  const variants = targets.flatMap(variantsOf);
  const { imageBytes, requestBytes, flushEvery, overwriteRounds } = sizes;
  const offsets = distinctOffsets(seed, flushEvery * overwriteRounds, imageBytes, requestBytes);
  const make = (index: number, session: string): Promise<Target> => {
    const { target, options } = variants[index]!;
    return createEmpty(target.format, lab.path(`qemu-allocate-${index}-${session}`), imageBytes, ...options);
  };
  const times = await timeThem(variants, offsets, sizes, (index) => make(index, 'timed'));
  const rows: AllocateRow[] = [];
  for (const [index, { target, variant, how }] of variants.entries()) {
    const image = await make(index, 'counted');
    const log = lab.path(`qemu-allocate-${index}.strace`);
    const { operations, roundMicros } = times[index]!;
    const calls = await countThem(image, log, offsets.slice(0, operations), sizes);
    rows.push({ format: target.name, snapshots: 0, variant, how, operations, roundMicros, calls });
    for (const session of ['timed', 'counted'])
      await lab.discard(lab.path(`qemu-allocate-${index}-${session}`));
  }
  return rows;
}

async function timeThem(
  variants: readonly Variant[],
  offsets: readonly number[],
  sizes: QemuRequestSizes,
  make: (index: number) => Promise<Target>,
): Promise<ClockedTimes[]> {
  const open: QemuIo[] = [];
  const { flushEvery, overwriteRounds: rounds } = sizes;
  try {
    for (const index of variants.keys()) open.push(await QemuIo.start(await make(index)));
    const parties = open.map((io) => ({
      rounds,
      batch: async (round: number) => {
        const own = offsets.slice(round * flushEvery, (round + 1) * flushEvery);
        return { operations: own.length, micros: await writeAll(io, own, sizes, patterns.first) };
      },
    }));
    const times = await takeTurns(parties, sizes.cellBudgetMs);
    for (const io of open) await io.close();
    return times;
  } finally {
    for (const io of open) await io.kill();
  }
}

async function countThem(
  image: Target,
  log: string,
  offsets: readonly number[],
  sizes: QemuRequestSizes,
): Promise<AllocateRow['calls']> {
  const folder = path.dirname(image.file);
  const io = await QemuIo.start(image, { log });
  try {
    const calls = new StraceLog(log, folder);
    calls.next();
    await writeAll(io, offsets, sizes, patterns.first);
    const written = calls.next();
    const { requestBytes: length } = sizes;
    for (const offset of offsets) await io.read({ offset, length, pattern: patterns.first });
    await io.close();
    return written(await regionsOf(folder, image.format));
  } finally {
    await io.kill();
  }
}
