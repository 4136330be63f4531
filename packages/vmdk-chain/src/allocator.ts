import { CowlabError, roundUp, type Storage } from '@cowlab/core';
import { MAX_SECTORS, SECTOR, type SparseHeader } from './layout.ts';

/*
 * Where new grains go: behind everything else in the file, as VMware and QEMU do (on a device: behind everything in use,
 * see device-end.ts). The format has no free map,
 * so nothing is ever freed on disk: a grain once mapped stays mapped (see `unmap` in image.ts). Only grains that
 * were set aside and never committed come back: the last ones by stepping back, others through a short list.
 */

export interface Grains {
  /** First sector. */
  readonly sector: number;
  readonly count: number;
  /** Nothing was ever written there: it reads as zeros. */
  readonly fresh: boolean;
}

export class GrainAllocator {
  readonly #storage: Storage;
  readonly #file: string;
  readonly #header: SparseHeader;
  readonly #grainSectors: number;
  readonly #isDevice: boolean;
  /** Sectors returned out of order, one grain each. */
  readonly #returned: number[] = [];
  #next: number;
  /** Nothing from here on was ever handed out. */
  #untouched: number;

  /** `end` is the first sector behind what is in use, for a device; nothing there is known to be zeros. */
  constructor(file: string, storage: Storage, header: SparseHeader, end?: number) {
    this.#file = file;
    this.#storage = storage;
    this.#header = header;
    this.#grainSectors = header.grainBytes / SECTOR;
    this.#isDevice = end !== undefined;
    this.#next = end ?? this.#endOf(storage.size());
    this.#untouched = this.#isDevice ? Infinity : this.#next;
  }

  /** The file has become shorter, and nothing behind its end is in use. */
  restart(): void {
    this.#returned.length = 0;
    this.#next = this.#endOf(this.#isDevice ? this.#header.overheadBytes : this.#storage.size());
    this.#untouched = this.#isDevice ? Infinity : this.#next;
  }

  /**
   * The last grain may be there in part only. Grains lie in step with the file's start or, by others' hand, with the
   * end of its metadata; behind the later of the two ends nothing is in use.
   */
  #endOf(size: number): number {
    const { grainBytes, overheadBytes } = this.#header;
    const grains = Math.max(0, size - overheadBytes);
    return Math.max(roundUp(size, grainBytes), overheadBytes + roundUp(grains, grainBytes)) / SECTOR;
  }

  /** First sector that the next new grain may have. */
  get next(): number {
    return this.#next;
  }

  /** Up to `count` grains that lie together. Throws `ERR_NO_SPACE` past sector 2^32. */
  take(count: number): Grains {
    const returned = this.#returned.pop();
    if (returned !== undefined) return { sector: returned, count: 1, fresh: false };
    const sector = this.#next;
    const end = sector + count * this.#grainSectors;
    if (end > MAX_SECTORS) {
      throw new CowlabError(
        'ERR_NO_SPACE',
        `${this.#file}: extent is full: no sector past 2^32 can be named`,
        {
          file: this.#file,
          field: 'grain table entry',
        },
      );
    }
    const fresh = sector >= this.#untouched;
    this.#next = end;
    this.#untouched = Math.max(this.#untouched, end);
    return { sector, count, fresh };
  }

  giveBack(sector: number, count: number): void {
    if (sector + count * this.#grainSectors === this.#next) {
      this.#next = sector;
      this.#stepOverReturned();
      return;
    }
    for (let i = 0; i < count; i++) this.#returned.push(sector + i * this.#grainSectors);
  }

  /** Grains that came back earlier and are the last ones now need no list. */
  #stepOverReturned(): void {
    for (;;) {
      const at = this.#returned.indexOf(this.#next - this.#grainSectors);
      if (at === -1) return;
      this.#returned.splice(at, 1);
      this.#next -= this.#grainSectors;
    }
  }

  /** Cuts off what a failed write has left behind the last grain. */
  async trim(): Promise<void> {
    const end = this.#next * SECTOR;
    if (!this.#isDevice && this.#next < this.#untouched && this.#storage.size() > end)
      await this.#storage.truncate(end);
  }
}
