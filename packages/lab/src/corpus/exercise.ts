import { pattern, Random } from '@cowlab/conformance';
import { type Disk, isCowlabError } from '@cowlab/core';
import type { Made } from './make.ts';
import type { Recipe } from './recipe.ts';
import { open } from './verify.ts';

/*
 * Writes to an image at random, by our driver, and does the same to the model: writes, compressed ones where the image can
 * store them, zeroes, discards, flushes, reopenings, and what the driver's capabilities have of snapshots and resize. What a driver may refuse of those
 * (snapshots past a refcount's width, another size while snapshots have the old one) is counted, and has to have changed nothing.
 */

const STEPS = 48;
const MOST_SNAPSHOTS = 3;
const TAG = 100_000;

export class Exercise {
  readonly refused: string[] = [];
  readonly #made: Made;
  readonly #random: Random;
  #disk: Disk;
  readonly #resizesBesideSnapshots: boolean;
  #named = 0;
  #tag = TAG;

  private constructor(made: Made, disk: Disk, { seed, layers }: Recipe) {
    this.#made = made;
    this.#disk = disk;
    this.#random = new Random(seed);
    // Else QEMU cannot go back to a snapshot of another size, and so cannot judge it; it counts up before it counts down.
    const { options, steps } = layers.at(-1)!;
    const counts = Number(options.refcount_bits ?? 16) >= 8;
    const hasBitmaps = steps.some((step) => step.do === 'bitmap');
    this.#resizesBesideSnapshots = options.compat !== '0.10' && counts && !hasBitmaps;
  }

  /** Opens the image for writing; rejects as that does. */
  static async begin(made: Made, recipe: Recipe): Promise<Exercise> {
    return new Exercise(made, await open(made, false), recipe);
  }

  /** Does all steps and closes the image. */
  async run(): Promise<void> {
    try {
      for (let step = 0; step < STEPS; step++) await this.#step();
    } finally {
      await this.#disk.close();
    }
  }

  async #step(): Promise<void> {
    const lot = this.#random.below(20);
    if (lot < 2 && this.#disk.compression === 'optional') return this.#writeCompressed();
    if (lot < 9) return this.#write();
    if (lot < 11) return this.#zero();
    if (lot < 13) return this.#discard();
    if (lot < 14) return this.#disk.flush();
    if (lot < 15) return this.#reopen();
    if (lot < 17) return this.#snapshot();
    if (lot < 19) return this.#pastSnapshot();
    return this.#resize();
  }

  #range(): { at: number; length: number } {
    const { size, unitBytes } = this.#disk;
    const grain = this.#random.pick([1, 512, unitBytes]);
    const at = this.#random.below(Math.ceil(size / grain)) * grain;
    const longest = this.#random.pick([5000, 64 * 1024, 300 * 1024, 3 * unitBytes]);
    const length = grain * (1 + this.#random.below(Math.max(1, Math.floor(longest / grain))));
    return { at, length: Math.min(length, size - at) };
  }

  async #write(): Promise<void> {
    const { at, length } = this.#range();
    const bytes = pattern(this.#tag++, length);
    await this.#disk.write(at, bytes);
    this.#made.model.write(at, bytes);
  }

  async #writeCompressed(): Promise<void> {
    const { size, unitBytes } = this.#disk;
    const first = this.#random.below(Math.ceil(size / unitBytes)) * unitBytes;
    const units = 1 + this.#random.below(Math.max(1, Math.floor((128 * 1024) / unitBytes)));
    const length = Math.min(units * unitBytes, size - first);
    const bytes = pattern(this.#tag++, length);
    if (this.#random.below(2) === 0) bytes.fill(1, Math.floor(length / 3));
    await this.#disk.writeCompressed(first, bytes);
    this.#made.model.write(first, bytes);
  }

  async #zero(): Promise<void> {
    const { at, length } = this.#range();
    await this.#disk.writeZeroes(at, length);
    this.#made.model.writeZeroes(at, length);
  }

  /** Our units may be smaller than QEMU's, which the model goes by: whole ones of ours read as zeros. */
  async #discard(): Promise<void> {
    const { at, length } = this.#range();
    await this.#disk.discard(at, length);
    const { unitBytes, size } = this.#disk;
    const end = at + length;
    const first = Math.ceil(at / unitBytes) * unitBytes;
    const last = end === size ? end : Math.floor(end / unitBytes) * unitBytes;
    if (last > first) this.#made.model.writeZeroes(first, last - first);
  }

  async #reopen(): Promise<void> {
    await this.#disk.close();
    this.#disk = await open(this.#made, false);
  }

  async #snapshot(): Promise<void> {
    const { model } = this.#made;
    if (this.#disk.capabilities.snapshots === 'none' || model.snapshots.size >= MOST_SNAPSHOTS) return;
    const name = `ours-${this.#named++}`;
    if (await this.#allowed(this.#disk.snapshots.create(name))) model.createSnapshot(name);
  }

  /** Deletes a snapshot or goes back to one. */
  async #pastSnapshot(): Promise<void> {
    const { model } = this.#made;
    const names = [...model.snapshots.keys()];
    if (names.length === 0) return;
    const name = this.#random.pick(names);
    if (this.#random.below(2) === 0) {
      if (await this.#allowed(this.#disk.snapshots.delete(name))) model.deleteSnapshot(name);
    } else if (await this.#allowed(this.#disk.snapshots.apply(name))) model.applySnapshot(name);
  }

  async #resize(): Promise<void> {
    const { capabilities, size } = this.#disk;
    if (capabilities.resize === 'none') return;
    if (this.#made.model.snapshots.size > 0 && !this.#resizesBesideSnapshots) return;
    const sectors = Math.floor(size / 512);
    const more = this.#random.below(2) === 0;
    const wanted =
      512 *
      (more ? sectors + this.#random.below(2048) : 1 + Math.floor(sectors / 2) + this.#random.below(sectors));
    if (wanted < size && capabilities.resize === 'grow') return;
    if (await this.#allowed(this.#disk.resize(wanted))) this.#made.model.resize(wanted);
  }

  async #allowed(operation: Promise<unknown>): Promise<boolean> {
    try {
      await operation;
      return true;
    } catch (error) {
      if (!isCowlabError(error, 'ERR_UNSUPPORTED') && !isCowlabError(error, 'ERR_SNAPSHOT_LIMIT'))
        throw error;
      this.refused.push(`${error.code}: ${error.message.replace(/^[^:]*: /, '')}`);
      return false;
    }
  }
}
