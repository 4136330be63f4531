import path from 'node:path';
import type { Lab } from '../lab.ts';
import type { Calls, OverwriteRow, QemuSessionRow, RequestRow } from '../schema.ts';
import { distinctOffsets, randomOffsets } from '../workload.ts';
import { cloneCell, imageOf, patterns, type QemuCell } from './images.ts';
import { QemuIo } from './qemu-io.ts';
import { regionsOf } from './regions.ts';
import { type Regions, StraceLog } from './strace.ts';
import { type ClockedTimes, takeTurns } from './turns.ts';

/*
 * Reads and overwrites through `qemu-io`, each cell twice: in one session that is timed, beside all other cells by turns,
 * and in one that is counted, under strace, which does what the first one did, on an image that was the same. Reads come
 * first, then the first pass over blocks of the newest snapshot, then the same blocks again; the last write of each batch
 * is one with a flush (`write -f`).
 *
 * Every read is compared with what must be there; in the end every block that was written, and the one after it, which
 * lies in a cluster that QEMU may have copied.
 */

export interface QemuRequestSizes {
  readonly imageBytes: number;
  readonly requestBytes: number;
  readonly flushEvery: number;
  readonly overwriteRounds: number;
  readonly readRounds: number;
  readonly readBatch: number;
  readonly cellBudgetMs: number;
}

export interface QemuRequestRows {
  readonly reads: RequestRow[];
  readonly overwrites: OverwriteRow[];
  readonly sessions: QemuSessionRow[];
}

/** Requests of a run: the same for every cell. */
class Plan {
  readonly reads: readonly number[];
  readonly writes: readonly number[];
  readonly sizes: QemuRequestSizes;

  constructor(sizes: QemuRequestSizes, seed: number) {
    const { imageBytes, requestBytes, flushEvery, overwriteRounds, readRounds, readBatch } = sizes;
    this.sizes = sizes;
    this.reads = randomOffsets(seed, readBatch * readRounds, imageBytes, requestBytes);
    this.writes = distinctOffsets(seed + 1, flushEvery * overwriteRounds, imageBytes, requestBytes);
  }

  /** Reads of a range of the plan; microseconds. */
  async read(io: QemuIo, cell: QemuCell, from: number, to: number): Promise<number> {
    let micros = 0;
    for (const offset of this.reads.slice(from, to)) {
      micros += await io.read({
        offset,
        length: this.sizes.requestBytes,
        pattern: cell.patternAt(offset),
      });
    }
    return micros;
  }

  write(io: QemuIo, from: number, to: number, pattern: number): Promise<number> {
    return writeAll(io, this.writes.slice(from, to), this.sizes, pattern);
  }

  /** Few reads that make QEMU read each table of the image once; the files are in the page cache. */
  async warm(io: QemuIo, cell: QemuCell): Promise<void> {
    const { imageBytes, requestBytes: length } = this.sizes;
    for (let offset = 0; offset < imageBytes; offset += TABLE_REACH) {
      await io.read({ offset, length, pattern: cell.patternAt(offset) });
    }
  }
}

/** A grain table of VMDK, the smallest of the tables, is for 32 MiB. */
const TABLE_REACH = 16 * 2 ** 20;

/** Writes with a flush after each `flushEvery`; microseconds. */
export async function writeAll(
  io: QemuIo,
  offsets: readonly number[],
  { flushEvery, requestBytes: length }: Pick<QemuRequestSizes, 'flushEvery' | 'requestBytes'>,
  pattern: number,
): Promise<number> {
  let micros = 0;
  for (const [index, offset] of offsets.entries()) {
    const request = { offset, length, pattern };
    const last = (index + 1) % flushEvery === 0 || index === offsets.length - 1;
    micros += await (last ? io.writeThrough(request) : io.write(request));
  }
  return micros;
}

interface OpenCell {
  readonly cell: QemuCell;
  readonly io: QemuIo;
}

interface Times {
  readonly read: ClockedTimes;
  readonly first: ClockedTimes;
  readonly steady: ClockedTimes;
}

export async function measureQemuRequests(
  lab: Lab,
  cells: readonly QemuCell[],
  sizes: QemuRequestSizes,
  seed: number,
  tick: (done: number) => void,
): Promise<QemuRequestRows> {
  const plan = new Plan(sizes, seed);
  const counting: QemuCell[] = [];
  for (const cell of cells) counting.push(await cloneCell(lab, cell));
  const times = await timeSessions(plan, cells);
  const rows: QemuRequestRows = { reads: [], overwrites: [], sessions: [] };
  for (const [index, cell] of cells.entries()) {
    tick((index + 1) / (cells.length + 1));
    const own = times[index]!;
    const counted = await countSession(lab, plan, counting[index]!, own);
    const common = { format: cell.target.name, snapshots: cell.snapshots };
    const { flushEvery } = sizes;
    rows.reads.push({ ...common, ...own.read, calls: counted.read });
    for (const pass of ['first', 'steady'] as const) {
      rows.overwrites.push({ ...common, pass, flushEvery, ...own[pass], calls: counted[pass] });
    }
    const { opening, closing, compared: comparedRequests } = counted;
    rows.sessions.push({ ...common, opening, closing, comparedRequests });
  }
  return rows;
}

async function timeSessions(plan: Plan, cells: readonly QemuCell[]): Promise<Times[]> {
  const open: OpenCell[] = [];
  try {
    for (const cell of cells) open.push({ cell, io: await QemuIo.start(imageOf(cell)) });
    for (const { cell, io } of open) await plan.warm(io, cell);
    const { readBatch, readRounds, flushEvery, cellBudgetMs } = plan.sizes;
    const reads = await takeTurns(
      open.map(({ cell, io }) => ({
        rounds: readRounds,
        batch: async (round) => ({
          operations: readBatch,
          micros: await plan.read(io, cell, round * readBatch, (round + 1) * readBatch),
        }),
      })),
      cellBudgetMs,
    );
    const pass = (pattern: number, limits: readonly number[]): Promise<ClockedTimes[]> =>
      takeTurns(
        open.map(({ io }, index) => ({
          rounds: Math.ceil(limits[index]! / flushEvery),
          batch: async (round) => {
            const end = Math.min(limits[index]!, (round + 1) * flushEvery);
            const micros = await plan.write(io, round * flushEvery, end, pattern);
            return { operations: end - round * flushEvery, micros };
          },
        })),
        cellBudgetMs,
      );
    const first = await pass(
      patterns.first,
      open.map(() => plan.writes.length),
    );
    const steady = await pass(
      patterns.steady,
      first.map(({ operations }) => operations),
    );
    for (const { io } of open) await io.close();
    return cells.map((_, index) => ({ read: reads[index]!, first: first[index]!, steady: steady[index]! }));
  } finally {
    for (const { io } of open) await io.kill();
  }
}

/** The calls of a session that does so many of each, and looks at the bytes in the end. */
async function countSession(
  lab: Lab,
  plan: Plan,
  cell: QemuCell,
  { read, first, steady }: Times,
): Promise<Record<'opening' | 'read' | 'first' | 'steady' | 'closing', Calls> & { compared: number }> {
  const log = lab.path(`${path.basename(cell.folder)}.strace`);
  const io = await QemuIo.start(imageOf(cell), { log });
  try {
    const calls = new StraceLog(log, cell.folder);
    const opening = calls.next();
    await plan.warm(io, cell);
    calls.next();
    await plan.read(io, cell, 0, read.operations);
    const reading = calls.next();
    await plan.write(io, 0, first.operations, patterns.first);
    const firstPass = calls.next();
    await plan.write(io, 0, steady.operations, patterns.steady);
    const steadyPass = calls.next();
    const compared = await compareWritten(io, cell, plan, first.operations, steady.operations);
    calls.next();
    await io.close();
    const closing = calls.next();
    const regions: Regions = await regionsOf(cell.folder, cell.target.format);
    await lab.discard(cell.folder);
    return {
      opening: opening(regions),
      read: reading(regions),
      first: firstPass(regions),
      steady: steadyPass(regions),
      closing: closing(regions),
      compared: read.operations + compared,
    };
  } finally {
    await io.kill();
  }
}

async function compareWritten(
  io: QemuIo,
  cell: QemuCell,
  { writes, sizes: { requestBytes: length, imageBytes } }: Plan,
  first: number,
  steady: number,
): Promise<number> {
  const written = new Map(
    writes
      .slice(0, first)
      .map((offset, index) => [offset, index < steady ? patterns.steady : patterns.first]),
  );
  const looked = new Set<number>();
  for (const offset of written.keys()) {
    for (const at of [offset, (offset + length) % imageBytes]) {
      if (looked.has(at)) continue;
      looked.add(at);
      await io.read({ offset: at, length, pattern: written.get(at) ?? cell.patternAt(at) });
    }
  }
  return looked.size;
}
