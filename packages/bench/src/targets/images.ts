import fs from 'node:fs/promises';
import path from 'node:path';
import { performance } from 'node:perf_hooks';
import { type Disk, isCowlabError, openDisk } from '@cowlab/core';
import { drivers } from '../formats.ts';
import { copyFolder, FILL_BYTES, heldOffset, type Lab } from '../lab.ts';
import { breathe } from '../measure.ts';
import { qemuImg, type Target } from '../qemu/tools.ts';
import { growChain, linkName } from './chain.ts';
import { OpenTooSlow, QemuIo, type Request } from './qemu-io.ts';
import type { QemuSizes } from './sizes.ts';

/*
 * QEMU's images. A cell is one target at one N, a folder of its own, as ours are (lab.ts): fully mapped, and nothing
 * written between the snapshots but what those hold that are deleted.
 *
 *   raw         the yardstick
 *   internal    a QCOW2 image with N snapshots in it
 *   chain       a full file and N empty ones over it; N = 0 is the full file itself
 *
 * QEMU makes the files. Filling them and taking hundreds of snapshots is done by our drivers, which takes a second where
 * the commands take a minute; what they hold is the same, and every read of QEMU's is compared with it. Each byte of a
 * request is the same one, because that is what `qemu-io` can compare.
 */

export interface QemuTarget {
  readonly name: string;
  readonly format: 'raw' | 'qcow2' | 'vmdk';
  readonly snapshots: 'none' | 'internal' | 'chain';
}

export const qemuYardstick: QemuTarget = { name: 'qemu-raw', format: 'raw', snapshots: 'none' };

export const qemuTargets: readonly QemuTarget[] = [
  { name: 'qemu-qcow2', format: 'qcow2', snapshots: 'internal' },
  { name: 'qemu-qcow2-chain', format: 'qcow2', snapshots: 'chain' },
  { name: 'qemu-vmdk-chain', format: 'vmdk', snapshots: 'chain' },
];

export interface QemuCell {
  readonly target: QemuTarget;
  readonly snapshots: number;
  readonly folder: string;
  /** What stands for the disk: the file on top. */
  readonly top: string;
  /** Milliseconds that QEMU took to open it. */
  readonly openMs: number;
  /** Names of internal snapshots in the middle that hold bytes of their own. */
  readonly held: readonly string[];
  /** The byte that every byte at an offset is. */
  patternAt(offset: number): number;
}

export const patterns = { base: 17, held: 34, first: 51, steady: 68, dirty: 85, merged: 102 } as const;

const BASE_FILE = 'disk.img';

export function imageOf({ target, folder, top }: Pick<QemuCell, 'target' | 'folder' | 'top'>): Target {
  return { format: target.format, file: path.join(folder, top) };
}

async function withDisk({ format, file }: Target, work: (disk: Disk) => Promise<void>): Promise<void> {
  const disk = await openDisk(file, { drivers, format });
  await work(disk);
  await disk.close();
}

async function fillWith(disk: Disk, { offset, length, pattern }: Request): Promise<void> {
  const piece = new Uint8Array(FILL_BYTES).fill(pattern);
  for (let done = 0; done < length; done += FILL_BYTES) {
    await disk.write(offset + done, piece.subarray(0, Math.min(FILL_BYTES, length - done)));
    if (done % (64 * FILL_BYTES) === 0) await breathe();
  }
  await disk.flush();
}

export async function createEmpty(
  format: string,
  folder: string,
  bytes: number,
  ...options: string[]
): Promise<Target> {
  const file = path.join(folder, BASE_FILE);
  await fs.mkdir(folder, { recursive: true });
  await qemuImg('create', '-q', '-f', format, ...options, file, String(bytes));
  return { format, file };
}

type MadeCell = Omit<QemuCell, 'openMs'>;

/** Cells of one target by rising N, until QEMU takes too long to open one. */
export class QemuCells {
  readonly cells: QemuCell[] = [];
  /** Why there are none for larger N. */
  ended: string | undefined;
  readonly #lab: Lab;
  readonly #target: QemuTarget;
  readonly #sizes: QemuSizes;

  private constructor(lab: Lab, target: QemuTarget, sizes: QemuSizes) {
    this.#lab = lab;
    this.#target = target;
    this.#sizes = sizes;
  }

  static async make(lab: Lab, target: QemuTarget, sizes: QemuSizes): Promise<QemuCells> {
    const all = new QemuCells(lab, target, sizes);
    const filled = lab.path(`${target.name}-filled`);
    const base = await createEmpty(target.format, filled, sizes.imageBytes);
    const everything = { offset: 0, length: sizes.imageBytes, pattern: patterns.base };
    await withDisk(base, (disk) => fillWith(disk, everything));
    for (const snapshots of target.snapshots === 'none' ? [0] : sizes.snapshotCounts) {
      if (!(await all.#add(filled, snapshots))) break;
    }
    await lab.discard(filled);
    return all;
  }

  async #add(filled: string, snapshots: number): Promise<boolean> {
    const { name, snapshots: kind } = this.#target;
    const folder = this.#lab.path(`${name}-${snapshots}`);
    const made =
      kind === 'chain' && snapshots > 0
        ? await this.#chain(filled, folder, snapshots)
        : await this.#whole(filled, folder, snapshots);
    const { openLimitMs } = this.#sizes;
    const started = performance.now();
    try {
      const io = await QemuIo.start(imageOf(made), { limitMs: openLimitMs });
      this.cells.push({ ...made, openMs: performance.now() - started });
      await io.close();
    } catch (error) {
      // One that has no snapshots, or one, must open: then something else is wrong.
      const slow = error instanceof OpenTooSlow;
      if (!slow && (snapshots <= 1 || !isCowlabError(error, 'ERR_IO'))) throw error;
      const before = this.cells.at(-1)?.snapshots ?? 0;
      const seconds = ((performance.now() - started) / 1000).toFixed(0);
      this.ended = slow
        ? `budget ended at N=${before}: QEMU had not opened N=${snapshots} after ${seconds} s`
        : `ended at N=${before}: QEMU does not open N=${snapshots}: ${error.message.replaceAll(/\s+/g, ' ')}`;
      await this.#lab.discard(folder);
      return false;
    }
    return true;
  }

  async #whole(filled: string, folder: string, snapshots: number): Promise<MadeCell> {
    const target = this.#target;
    await copyFolder(filled, folder);
    const cell = { target, snapshots, folder, top: BASE_FILE };
    const { imageBytes, heldBytes, snapshotIterations } = this.#sizes;
    // The only snapshot holds nothing alone but what is overwritten later.
    const count = snapshots === 1 ? 0 : Math.min(snapshots, snapshotIterations + 1);
    const held = snapshots === 0 ? [] : await takeHolding(imageOf(cell), snapshots, count, this.#sizes);
    const places = held.map((_, index) => heldOffset(index, imageBytes, { heldBytes }));
    const isHeld = (offset: number): boolean =>
      places.some((place) => offset >= place && offset < place + heldBytes);
    return {
      ...cell,
      held,
      patternAt: (offset) => (isHeld(offset) ? patterns.held : patterns.base),
    };
  }

  /** The full file is shared by all chains: nobody writes to it. */
  async #chain(filled: string, folder: string, snapshots: number): Promise<MadeCell> {
    const target = this.#target;
    await fs.mkdir(folder);
    const [from, to] = [path.join(filled, BASE_FILE), path.join(folder, BASE_FILE)];
    await fs.link(from, to);
    await growChain(folder, target.format, BASE_FILE, this.#sizes.imageBytes, snapshots);
    return {
      target,
      snapshots,
      folder,
      top: linkName(snapshots),
      held: [],
      patternAt: () => patterns.base,
    };
  }
}

/** Takes snapshots; before some in the middle, writes what only they will hold. Returns the names of those. */
async function takeHolding(
  image: Target,
  snapshots: number,
  count: number,
  { imageBytes, heldBytes }: QemuSizes,
): Promise<string[]> {
  const first = Math.max(1, Math.floor((snapshots - count) / 2));
  const held: string[] = [];
  await withDisk(image, async (disk) => {
    for (let index = 0; index < snapshots; index++) {
      if (index >= first && index < first + count) {
        const offset = heldOffset(held.length, imageBytes, { heldBytes });
        await fillWith(disk, { offset, length: heldBytes, pattern: patterns.held });
        held.push(`s${index}`);
      }
      await disk.snapshots.create(`s${index}`);
      if (index % 16 === 0) await breathe();
    }
  });
  return held;
}

/** The same image once more, for a session that is counted: the files that are written copied, those below shared. */
export async function cloneCell(lab: Lab, cell: QemuCell): Promise<QemuCell> {
  const folder = lab.path(`${path.basename(cell.folder)}-counted`);
  await fs.mkdir(folder);
  for (const name of await fs.readdir(cell.folder)) {
    const [from, to] = [path.join(cell.folder, name), path.join(folder, name)];
    await (name === cell.top ? fs.copyFile(from, to) : fs.link(from, to));
  }
  return { ...cell, folder };
}
