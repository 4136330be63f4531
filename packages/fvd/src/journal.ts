import type { Storage } from '@cowlab/core';
import {
  assertNotAhead,
  decodeJournalSector,
  encodeJournal,
  type JournalRun,
  type Region,
  RUNS_PER_SECTOR,
  SECTOR_BYTES,
} from './layout.ts';

/*
 * The journal holds the mapping changes since the last superblock. It starts anew with each: its epoch is the
 * superblock's generation, so records of an earlier epoch mean nothing. One guest flush appends one sequential
 * piece. Sectors are numbered, and each carries the checksum of the one before: what a failed or torn append left
 * behind can never follow a later one. Replay ends at the first sector that does not fit.
 */
export class Journal {
  readonly #storage: Storage;
  readonly #region: Region;
  #epoch: number;
  #index = 0;
  #link = 0;

  constructor(storage: Storage, region: Region, epoch: number) {
    this.#storage = storage;
    this.#region = region;
    this.#epoch = epoch;
  }

  get isEmpty(): boolean {
    return this.#index === 0;
  }

  hasRoomFor(runs: number): boolean {
    const sectors = this.#index + Math.ceil(runs / RUNS_PER_SECTOR);
    return sectors * SECTOR_BYTES <= this.#region.bytes;
  }

  /**
   * Appends `runs` and makes them durable. Call `hasRoomFor` first. When the write or the flush fails, nobody knows
   * how much arrived; the journal stays where it was, and the next append goes over it.
   */
  async append(runs: readonly JournalRun[]): Promise<void> {
    const { bytes, link } = encodeJournal(runs, this.#epoch, this.#index, this.#link);
    await this.#storage.write(this.#region.offset + this.#index * SECTOR_BYTES, bytes, 'journal');
    await this.#storage.flush();
    this.#index += bytes.length / SECTOR_BYTES;
    this.#link = link;
  }

  /** A new superblock is durable: everything journaled so far is in it. */
  restart(epoch: number): void {
    this.#epoch = epoch;
    this.#index = 0;
    this.#link = 0;
  }

  /** Every run of this epoch, in order. The journal then stands after the last valid sector. */
  async replay(apply: (run: JournalRun) => void): Promise<void> {
    const readable = Math.min(this.#region.bytes, Math.max(0, this.#storage.size() - this.#region.offset));
    const first = new Uint8Array(SECTOR_BYTES);
    await this.#storage.read(this.#region.offset, first, 'journal');
    assertNotAhead(first, this.#epoch, this.#storage.name);
    // After a clean close there is nothing: one sector tells.
    if (decodeJournalSector(first, this.#epoch, 0, 0, this.#storage.name) === undefined) return;
    const bytes = new Uint8Array(readable - (readable % SECTOR_BYTES));
    await this.#storage.read(this.#region.offset, bytes, 'journal');
    for (let at = 0; at < bytes.length; at += SECTOR_BYTES) {
      const sector = bytes.subarray(at, at + SECTOR_BYTES);
      const decoded = decodeJournalSector(sector, this.#epoch, this.#index, this.#link, this.#storage.name);
      if (decoded === undefined) return;
      for (const run of decoded.runs) apply(run);
      this.#index++;
      this.#link = decoded.link;
    }
  }
}
