import { performance } from 'node:perf_hooks';
import { type Disk, openDisk } from '@cowlab/core';
import { drivers } from '../formats.ts';
import type { Lab } from '../lab.ts';
import { shuffled } from '../measure.ts';
import { patternBytes, seededRandom } from '../workload.ts';
import { emptyGround, filledGround, firstPassGround, type Ground } from './grounds.ts';
import { barOf, judged, ratioOf } from './judge.ts';
import type { QemuProfile } from './profiles.ts';
import type { Setting, SpeedRow } from './schema.ts';
import { type Batch, benchMs, type Target } from './tools.ts';

/*
 * How fast are reads, overwrites and allocating writes beside QEMU's? The same requests to the same image, in batches,
 * by turns: ours in this process, QEMU's by `qemu-img bench`, each with the image opened anew and its metadata not yet
 * read; opening and closing are outside of both times. In each repetition every cell has its two batches, in an order
 * drawn by lot, and their ratio is the repetition's. Before the first one each cell runs ours once for nothing: QEMU
 * was compiled long ago.
 *
 * At depth 32 ours does its requests one after the other. So does the data path of any caller: it is synchronous.
 */

const MIB = 1024 * 1024;
const CLUSTER = 64 * 1024;

export type Shape = Pick<
  SpeedRow,
  'format' | 'operation' | 'pattern' | 'requestBytes' | 'stepBytes' | 'depth' | 'requests' | 'flushEvery'
>;

interface Cell {
  readonly shape: Shape;
  readonly ground: Ground;
  readonly qemuMs: number[];
  readonly oursMs: number[];
}

/** Past a cluster each time, and in step with no power of two: a disk is gone over once before an offset comes again. */
function strideOf(operation: SpeedRow['operation'], requestBytes: number): number {
  return MIB + (operation === 'read' || operation === 'overwrite' ? requestBytes : CLUSTER);
}

export function stepOf({
  operation,
  pattern,
  requestBytes,
}: Pick<Shape, 'operation' | 'pattern' | 'requestBytes'>): number {
  return pattern === 'sequential' ? requestBytes : strideOf(operation, requestBytes);
}

export function batchOf({ operation, requestBytes, stepBytes, requests, depth, flushEvery }: Shape): Batch {
  return { write: operation !== 'read', requestBytes, stepBytes, requests, depth, flushEvery };
}

/** Does a batch's requests one after the other, waiting only for what is not done when the call returns. */
export async function runBatch(disk: Disk, batch: Batch): Promise<void> {
  const { write, requestBytes, stepBytes, requests, flushEvery } = batch;
  const buffers = Array.from({ length: batch.depth }, (_, at) => patternBytes(at + 1, requestBytes));
  const { size } = disk;
  let offset = 0;
  for (let at = 0; at < requests; at++) {
    const bytes = buffers[at % buffers.length]!;
    const pending = write ? disk.write(offset, bytes) : disk.read(offset, bytes);
    if (pending instanceof Promise) await pending;
    offset = (offset + stepBytes) % size;
    if (flushEvery > 0 && (at + 1) % flushEvery === 0) {
      const flushed = disk.flush();
      if (flushed instanceof Promise) await flushed;
    }
  }
}

async function oursMs({ format, file }: Target, batch: Batch): Promise<number> {
  const disk = await openDisk(file, { drivers, format, readOnly: !batch.write });
  try {
    const started = performance.now();
    await runBatch(disk, batch);
    return performance.now() - started;
  } finally {
    await disk.close();
  }
}

const patterns = ['sequential', 'strided'] as const;

/** Reads, overwrites and allocating writes of one format. */
async function plainCells(lab: Lab, format: string, profile: QemuProfile): Promise<Cell[]> {
  const filled = await filledGround(lab, format, `${format}-filled`, profile.imageBytes);
  const empty = emptyGround(lab, format, `${format}-empty`, profile.emptyBytes);
  const cells: Cell[] = [];
  for (const { requestBytes, reads, overwrites, allocations } of profile.requests) {
    const kinds = [
      ['read', reads, filled],
      ['overwrite', overwrites, filled],
      ['allocate', allocations, empty],
    ] as const;
    for (const [operation, requests, ground] of kinds) {
      for (const pattern of patterns) {
        for (const depth of profile.depths) {
          const stepBytes = stepOf({ operation, pattern, requestBytes });
          const shape = {
            format,
            operation,
            pattern,
            requestBytes,
            stepBytes,
            depth,
            requests,
            flushEvery: 0,
          };
          cells.push({ shape, ground, qemuMs: [], oursMs: [] });
        }
      }
    }
  }
  return cells;
}

async function firstPassCells(lab: Lab, format: string, profile: QemuProfile): Promise<Cell[]> {
  const ground = await firstPassGround(lab, format, `${format}-first-pass`, profile.imageBytes);
  const common = { format, operation: 'first pass', pattern: 'strided', requestBytes: 4096 } as const;
  const rest = { requests: profile.firstPassWrites, flushEvery: profile.flushEvery };
  return profile.depths.map((depth) => ({
    shape: { ...common, stepBytes: stepOf(common), depth, ...rest },
    ground,
    qemuMs: [],
    oursMs: [],
  }));
}

export async function measureSpeeds(
  lab: Lab,
  formats: readonly string[],
  profile: QemuProfile,
  settings: readonly Setting[],
  tick: (done: number) => void,
): Promise<SpeedRow[]> {
  const cells: Cell[] = [];
  for (const format of formats) {
    cells.push(...(await plainCells(lab, format, profile)));
    if (format !== 'raw') cells.push(...(await firstPassCells(lab, format, profile)));
  }
  for (const { shape, ground } of cells) {
    await ground.prepare();
    await oursMs(ground, batchOf(shape));
  }
  const random = seededRandom(profile.repetitions);
  for (let repetition = 0; repetition < profile.repetitions; repetition++) {
    for (const [at, cell] of shuffled(cells, random).entries()) {
      await measureOnce(cell, settings, random);
      tick((repetition + at / cells.length) / profile.repetitions);
    }
  }
  return cells.map(({ shape, qemuMs, oursMs: ours }) => ({
    ...shape,
    qemuMs,
    oursMs: ours,
    ...judged(ratioOf(qemuMs, ours), barOf(shape)),
  }));
}

async function measureOnce(cell: Cell, settings: readonly Setting[], random: () => number): Promise<void> {
  const { shape, ground } = cell;
  const batch = batchOf(shape);
  const aio = settings.find(({ depth }) => depth === shape.depth)?.aio ?? 'threads';
  const parties = {
    qemu: async () => void cell.qemuMs.push(await benchMs(ground, batch, aio)),
    ours: async () => void cell.oursMs.push(await oursMs(ground, batch)),
  };
  for (const name of shuffled(['qemu', 'ours'] as const, random)) {
    await ground.prepare();
    await parties[name]();
  }
}
