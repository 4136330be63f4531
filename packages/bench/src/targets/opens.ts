import { performance } from 'node:perf_hooks';
import { commandMs } from '../qemu/tools.ts';
import type { OpenRow, ProcessMemoryRow } from '../schema.ts';
import { randomOffsets } from '../workload.ts';
import { imageOf, type QemuCell } from './images.ts';
import { QemuIo } from './qemu-io.ts';
import type { QemuSizes } from './sizes.ts';

/*
 * How long until QEMU answers the first read of an image, and how much memory does its process have had by then? A fresh
 * `qemu-io` each time, in rounds over all cells. Of its time, what one takes that opens nothing is not the image's.
 */

/** Milliseconds that programs take at least to start and do nothing: taken off what they are timed with. */
export interface Starts {
  readonly qemuIoMs: number;
  readonly qemuImgMs: number;
}

const STARTS = 20;

export async function measureStarts(): Promise<Starts> {
  const [io, img]: [number[], number[]] = [[], []];
  for (let nth = 0; nth < STARTS; nth++) {
    const started = performance.now();
    const session = await QemuIo.start(undefined);
    io.push(performance.now() - started);
    await session.close();
    img.push(await commandMs('qemu-img', ['--version']));
  }
  return { qemuIoMs: Math.min(...io), qemuImgMs: Math.min(...img) };
}

export async function measureQemuOpens(
  cells: readonly QemuCell[],
  sizes: Pick<QemuSizes, 'openRounds' | 'openLimitMs' | 'imageBytes'> & { readonly requestBytes: number },
  starts: Starts,
  seed: number,
): Promise<{ readonly opens: OpenRow[]; readonly memory: ProcessMemoryRow[] }> {
  const { openRounds, openLimitMs, imageBytes, requestBytes: length } = sizes;
  const rows = cells.map(({ target, snapshots }) => ({ format: target.name, snapshots }));
  const opens = rows.map((row): OpenRow => ({ ...row, milliseconds: [] }));
  const memory = rows.map((row): ProcessMemoryRow => ({ ...row, rssBytes: [] }));
  for (const offset of randomOffsets(seed, openRounds, imageBytes, length)) {
    for (const [index, cell] of cells.entries()) {
      // Some take seconds.
      if (opens[index]!.milliseconds.reduce((sum, each) => sum + each, 0) > openLimitMs) continue;
      const started = performance.now();
      const io = await QemuIo.start(imageOf(cell));
      try {
        await io.read({ offset, length, pattern: cell.patternAt(offset) });
        opens[index]!.milliseconds.push(Math.max(0, performance.now() - started - starts.qemuIoMs));
        const most = io.mostResidentBytes();
        if (most !== undefined) memory[index]!.rssBytes.push(most);
        await io.close();
      } finally {
        await io.kill();
      }
    }
  }
  return { opens, memory: memory.filter(({ rssBytes }) => rssBytes.length > 0) };
}
