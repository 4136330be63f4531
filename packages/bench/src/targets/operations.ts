import { execFile } from 'node:child_process';
import fs from 'node:fs/promises';
import path from 'node:path';
import { performance } from 'node:perf_hooks';
import { promisify } from 'node:util';
import type { Lab } from '../lab.ts';
import { commandMs, qemuImg } from '../qemu/tools.ts';
import type { Calls, SnapshotRow } from '../schema.ts';
import { median } from '../statistics.ts';
import { randomOffsets } from '../workload.ts';
import { linkName } from './chain.ts';
import { createEmpty, imageOf, patterns, type QemuCell, type QemuTarget } from './images.ts';
import { QemuIo } from './qemu-io.ts';
import { regionsOf } from './regions.ts';
import { StraceLog, underStrace } from './strace.ts';

/*
 * G5, G6 of QEMU: `qemu-img`, from its start to its end, less what it takes to start and do nothing. A round is: random
 * writes as a running machine does them, create; writes, apply; bytes that the newest state alone has, delete. It leaves
 * as many snapshots as there were.
 *
 *             internal                                    chain
 *   create    snapshot -c                                 create -b TOP: a new file on top
 *   apply     snapshot -a of that one                     the top file anew over the one below it
 *   delete    snapshot -d, one from the middle which      commit -d of the top file into the one below: the newest
 *             holds bytes of its own; at N = 1 the only   snapshot goes. qemu-img takes none from the middle of a
 *                                                         VMDK chain
 *
 * The first round of each cell is counted under strace, not timed: it is the warm-up. A cell that QEMU opens so slowly that
 * rounds would use up the budget has one round of create and delete alone, timed under strace, whose part is small there.
 */

export interface QemuOperationSizes {
  readonly imageBytes: number;
  readonly requestBytes: number;
  readonly flushEvery: number;
  readonly heldBytes: number;
  readonly snapshotIterations: number;
  readonly snapshotBudgetMs: number;
}

type Operation = SnapshotRow['operation'];

/** Does a command of qemu-img as an operation of that name. */
type Doing = (operation: Operation, ...args: string[]) => Promise<void>;

/** How a target has its snapshots, at a cell that changes with them. */
interface Mechanism {
  create(doing: Doing): Promise<void>;
  apply(doing: Doing): Promise<void>;
  delete(doing: Doing): Promise<void>;
  /** What stands for the disk now. */
  top(): string;
}

function internal({ folder, top, held, snapshots }: QemuCell): Mechanism {
  const file = path.join(folder, top);
  const names = snapshots === 1 ? ['s0'] : [...held];
  let made = 0;
  const newest = (): string => `timed-${made}`;
  return {
    create: async (doing) => {
      made++;
      await doing('create', 'snapshot', '-c', newest(), file);
      names.push(newest());
    },
    apply: (doing) => doing('apply', 'snapshot', '-a', newest(), file),
    delete: (doing) => doing('delete', 'snapshot', '-d', names.shift()!, file),
    top: () => top,
  };
}

function chain({ folder, top, snapshots, target: { format } }: QemuCell): Mechanism {
  const files = [top];
  let length = snapshots;
  const over = (below: string, file: string): string[] =>
    `create -q -f ${format} -b ${below} -F ${format}`.split(' ').concat(file);
  const at = (name: string): string => path.join(folder, name);
  return {
    create: async (doing) => {
      const below = files.at(-1)!;
      const name = linkName(++length);
      await doing('create', ...over(below, at(name)));
      files.push(name);
    },
    apply: async (doing) => {
      const name = files.at(-1)!;
      await fs.rm(at(name));
      await doing('apply', ...over(files.at(-2)!, at(name)));
    },
    delete: async (doing) => {
      const name = files.pop()!;
      await doing('delete', 'commit', '-q', '-d', at(name));
      await fs.rm(at(name));
      length--;
    },
    top: () => files.at(-1)!,
  };
}

const run = promisify(execFile);

/** Milliseconds of each operation, and the calls of one. */
interface Samples {
  readonly milliseconds: Record<Operation, number[]>;
  readonly calls: Partial<Record<Operation, Calls>>;
}

export async function measureQemuOperations(
  lab: Lab,
  cells: readonly QemuCell[],
  sizes: QemuOperationSizes,
  startMs: number,
  seed: number,
  tick: (done: number) => void,
): Promise<SnapshotRow[]> {
  const rows: SnapshotRow[] = [];
  for (const [index, cell] of cells.entries()) {
    if (cell.target.snapshots !== 'none') {
      rows.push(...(await measureCell(lab, cell, sizes, startMs, seed)));
    }
    tick((index + 1) / cells.length);
  }
  return rows;
}

async function measureCell(
  lab: Lab,
  cell: QemuCell,
  sizes: QemuOperationSizes,
  startMs: number,
  seed: number,
): Promise<SnapshotRow[]> {
  const mechanism = cell.target.snapshots === 'internal' ? internal(cell) : chain(cell);
  const log = lab.path('qemu-img.strace');
  const samples: Samples = { milliseconds: { create: [], apply: [], delete: [] }, calls: {} };
  const counted: Doing = async (operation, ...args) => {
    const [program, ...rest] = underStrace(log, 'qemu-img', ...args);
    await run(program!, rest);
    const calls = new StraceLog(log, cell.folder).next();
    samples.calls[operation] = calls(await regionsOf(cell.folder, cell.target.format));
  };
  const timed: Doing = async (operation, ...args) => {
    const milliseconds = await commandMs('qemu-img', args);
    samples.milliseconds[operation].push(Math.max(0, milliseconds - startMs));
  };
  if (cell.openMs * OPENINGS > sizes.snapshotBudgetMs) {
    const both: Doing = async (operation, ...args) => {
      const started = performance.now();
      await counted(operation, ...args);
      samples.milliseconds[operation].push(Math.max(0, performance.now() - started - startMs));
    };
    await shortRound(cell, mechanism, sizes, both);
    return rowsOf(cell, sizes, samples);
  }
  const began = performance.now();
  await oneRound(cell, mechanism, sizes, seed, counted);
  for (let nth = 1; nth <= sizes.snapshotIterations; nth++) {
    await oneRound(cell, mechanism, sizes, seed + nth, timed);
    if (performance.now() - began > sizes.snapshotBudgetMs) break;
  }
  return rowsOf(cell, sizes, samples);
}

/** How often a round opens the image. */
const OPENINGS = 7;

async function shortRound(
  cell: QemuCell,
  mechanism: Mechanism,
  { heldBytes }: QemuOperationSizes,
  doing: Doing,
): Promise<void> {
  await mechanism.create(doing);
  if (cell.target.snapshots === 'chain') {
    const image = imageOf({ ...cell, top: mechanism.top() });
    await writeInto(image, [{ offset: 0, length: heldBytes, pattern: patterns.merged }]);
  }
  await mechanism.delete(cell.snapshots === 0 ? untimed : doing);
}

async function oneRound(
  cell: QemuCell,
  mechanism: Mechanism,
  { imageBytes, heldBytes, requestBytes, flushEvery }: QemuOperationSizes,
  seed: number,
  doing: Doing,
): Promise<void> {
  const dirty = randomOffsets(seed, flushEvery, imageBytes, requestBytes);
  const writes = dirty.map((offset) => ({ offset, length: requestBytes, pattern: patterns.dirty }));
  const image = (): { format: string; file: string } => imageOf({ ...cell, top: mechanism.top() });
  await writeInto(image(), writes);
  await mechanism.create(doing);
  await writeInto(image(), writes.slice(0, 1));
  await mechanism.apply(doing);
  // Taking an internal snapshot away has nothing to do with what the disk holds.
  const held = { offset: 0, length: heldBytes, pattern: patterns.merged };
  if (cell.target.snapshots === 'chain') await writeInto(image(), [held]);
  await mechanism.delete(cell.snapshots === 0 ? untimed : doing);
  const io = await QemuIo.start(image());
  await io.read({
    ...writes[0]!,
    pattern:
      writes[0]!.offset < heldBytes && cell.target.snapshots === 'chain' ? patterns.merged : patterns.dirty,
  });
  await io.close();
}

/** At N = 0 there is nothing to delete but what the round has made. */
const untimed: Doing = async (_operation, ...args) => void (await qemuImg(...args));

async function writeInto(
  image: { readonly format: string; readonly file: string },
  requests: readonly { readonly offset: number; readonly length: number; readonly pattern: number }[],
): Promise<void> {
  const io = await QemuIo.start(image);
  try {
    for (const [index, request] of requests.entries()) {
      await (index === requests.length - 1 ? io.writeThrough(request) : io.write(request));
    }
    await io.close();
  } finally {
    await io.kill();
  }
}

function rowsOf(
  { target, snapshots }: QemuCell,
  { imageBytes, heldBytes, flushEvery, requestBytes }: QemuOperationSizes,
  { milliseconds, calls }: Samples,
): SnapshotRow[] {
  return (['create', 'delete', 'apply'] as const).flatMap((operation): SnapshotRow[] => {
    const samplesMs = milliseconds[operation].toSorted((a, b) => a - b);
    const counted = calls[operation];
    if (samplesMs.length === 0 || counted === undefined) return [];
    return [
      {
        operation,
        format: target.name,
        snapshots,
        imageBytes,
        heldBytes: operation === 'delete' ? heldBytes : flushEvery * requestBytes,
        samplesMs,
        medianMs: median(samplesMs),
        calls: counted,
        countedSamples: 1,
      },
    ];
  });
}

/** The same of an image whose every cluster is mapped and no byte written, without snapshots and with one. */
export async function measureQemuLarge(
  lab: Lab,
  target: QemuTarget,
  sizes: QemuOperationSizes,
  startMs: number,
  seed: number,
): Promise<SnapshotRow[]> {
  const folder = lab.path(`${target.name}-large`);
  const image = await createEmpty(target.format, folder, sizes.imageBytes, '-o', 'preallocation=metadata');
  await qemuImg('snapshot', '-c', 's0', image.file);
  const cell: QemuCell = {
    target,
    snapshots: 1,
    folder,
    top: path.basename(image.file),
    openMs: 0,
    held: [],
    patternAt: () => 0,
  };
  const rows = await measureCell(lab, cell, sizes, startMs, seed);
  await lab.discard(folder);
  return rows;
}
