import { CowlabError } from '@cowlab/core';
import { maxCompressedOffset } from './entries.ts';
import type { ImageFile } from './image-file.ts';
import type { Refcounts } from './refcounts.ts';

/*
 * Where compressed clusters go: byte after byte, many of them into one host cluster, and over its end into the next
 * one where that is free. A host cluster is counted once for each that has bytes in it, and is free when all of them are
 * gone; `Refcounts.filling` tells when that has happened to the one that is being filled.
 *
 *     host cluster   |   H, count 3      |   H+1, count 2    |
 *     compressed     | a ···· b ·· c ······················· d ···· ‖ the next one goes here
 *
 * Every snapshot counts again what it shares, so a host cluster takes only so many that half of a count's bits are left
 * for snapshots: 256 with 16 bits, which lets 255 snapshots share them.
 */

const mostInCluster = 65_536;

export class Packing {
  readonly #file: ImageFile;
  readonly #refcounts: Refcounts;
  readonly #most: number;
  /** Bytes of the cluster that is being filled (`Refcounts.filling`) that are taken. */
  #filled = 0;

  constructor(file: ImageFile, refcounts: Refcounts) {
    this.#file = file;
    this.#refcounts = refcounts;
    this.#most = Math.min(mostInCluster, 2 ** Math.floor(file.geometry.refcountBits / 2));
  }

  /** Takes `bytes` (fewer than a cluster has) and counts the clusters that they touch; where they start. */
  async take(bytes: number): Promise<number> {
    const { header, name } = this.#file;
    const offset = await this.#place(bytes);
    if (offset <= maxCompressedOffset(header.clusterBits)) return offset;
    this.giveBack(offset, bytes);
    const problem = `${name}: no entry can name compressed data at ${offset}; smaller clusters allow a larger file`;
    throw new CowlabError('ERR_TOO_LARGE', problem, { file: name, field: 'l2_table.entry' });
  }

  /** Gives back what was taken, where nothing refers to it. */
  giveBack(offset: number, bytes: number): void {
    const { clusterBytes } = this.#file.geometry;
    const first = Math.floor(offset / clusterBytes);
    this.#refcounts.release(first, Math.ceil((offset + bytes) / clusterBytes) - first, false);
  }

  async #place(bytes: number): Promise<number> {
    const { clusterBytes } = this.#file.geometry;
    const refcounts = this.#refcounts;
    const { filling } = refcounts;
    const from = this.#filled;
    const goesOn = filling >= 0 && (await refcounts.get(filling)) < this.#most;
    if (goesOn && from + bytes <= clusterBytes) {
      await refcounts.change({ first: filling, count: 1 }, 1);
      this.#fill(filling, from + bytes);
      return filling * clusterBytes + from;
    }
    const { first } = await refcounts.allocate(1);
    if (!goesOn || first !== filling + 1) {
      this.#fill(first, bytes);
      return first * clusterBytes;
    }
    try {
      await refcounts.change({ first: filling, count: 1 }, 1);
    } catch (error) {
      refcounts.release(first, 1, false);
      throw error;
    }
    this.#fill(first, from + bytes - clusterBytes);
    return filling * clusterBytes + from;
  }

  #fill(cluster: number, filled: number): void {
    const isFull = filled === this.#file.geometry.clusterBytes;
    this.#refcounts.filling = isFull ? -1 : cluster;
    this.#filled = filled;
  }
}
