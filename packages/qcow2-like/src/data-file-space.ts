import { type Awaitable, andThen, type Storage } from '@cowlab/core';
import type { Metadata } from './metadata.ts';
import type { ClusterRun } from './refcounts.ts';
import type { PlacedRun } from './reservations.ts';
import type { Table } from './table-cache.ts';

/*
 * The external data file as a place for writes and zeros, whatever the L2 entries are like (data-file.ts):
 *
 *   a write            goes to the guest offset, nothing is counted, and nothing is written past the end of the disk
 *   a raw data file    takes zeros itself; no entry changes. Every cluster has its entry: one that another program left
 *                      without gets it before it is written to, and so does what a disk grows by
 */

/** Gives every cluster of an L2 table, up to `end` on the disk, an entry that shows it, and zeros where it had none. */
type MapAll = (table: Table, end: number) => Promise<void>;

interface GuestRun {
  readonly guestOffset: number;
  readonly length: number;
  /** Bytes around it that are filled in. */
  readonly head: number;
  readonly tail: number;
}

export class DataFileSpace {
  readonly #metadata: Metadata;
  readonly #mapAll: MapAll;

  constructor(metadata: Metadata, mapAll: MapAll) {
    this.#metadata = metadata;
    this.#mapAll = mapAll;
  }

  get isRaw(): boolean {
    return this.#metadata.file.hasRawDataFile;
  }

  /** What lies there may be anything, so what is around the new bytes has to be filled in, unless it is a hole. */
  place(run: ClusterRun, { guestOffset, length, head, tail }: GuestRun): Awaitable<PlacedRun> {
    const { dataStorage: storage } = this.#metadata.file;
    const place = (fresh: boolean): PlacedRun => ({
      storage,
      guestOffset,
      length,
      hostOffset: guestOffset,
      head,
      tail,
      fresh,
      run,
      kept: true,
    });
    if (head + tail === 0) return place(false);
    const bytes = head + length + tail;
    return andThen(storage.status(guestOffset - head, bytes), ({ data, length: known }) =>
      place(!data && known >= bytes),
    );
  }

  /** Zeros in a raw data file. */
  zero(offset: number, length: number): Awaitable<void> {
    this.#metadata.assertUsable();
    return this.#metadata.file.dataStorage.zero(offset, length);
  }

  /** What lies between becomes a part of the disk of a raw data file, which grows. */
  async include(from: number, to: number): Promise<void> {
    const { l2SpanBytes } = this.#metadata.file.geometry;
    for (let l1Index = Math.floor(from / l2SpanBytes); l1Index * l2SpanBytes < to; l1Index += 1) {
      await this.#metadata.turns.take(async () => {
        await this.#metadata.withOwnTable(l1Index, (table) => this.#mapAll(table, to));
        await this.#metadata.settle();
      });
    }
  }

  /** Every entry of a table that shows nothing gets one, durably, before one of them is written to. */
  async mapFirst(table: Table): Promise<void> {
    await this.#mapAll(table, this.#metadata.file.header.size);
    await this.#metadata.writeBack();
  }
}

/** Zeros, but none past the end, where they are anyway. */
export async function zeroInside(storage: Storage, offset: number, length: number): Promise<void> {
  const inside = Math.min(length, storage.size() - offset);
  if (inside > 0) await storage.zero(offset, inside);
}
