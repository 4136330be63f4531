import type { Awaitable, GuestRange } from '@cowlab/core';
import { setCompressedEntry } from './entries.ts';
import type { Metadata } from './metadata.ts';
import { Packing } from './packing.ts';
import type { Reservations } from './reservations.ts';
import { setBitmap } from './subclusters.ts';
import type { Table } from './table-cache.ts';

/*
 * Writing compressed clusters:
 *
 *     encode, several at once → take space (counts, in memory) → one write where they lie together → L2 entries
 *
 * That is the order of any other write: bytes before the entry that names them, and a flush writes counts before
 * tables (image.ts). A host cluster that already holds compressed bytes gets more of them behind those, which stay
 * as they are; so the sector where old and new meet is the same before and after in all that a flush has promised.
 * Clusters that do not get smaller are left to core, which writes them like any others. So are parts of clusters: where
 * L2 entries are extended, the unit is a subcluster, but what is compressed is a cluster.
 */

/** What is encoded at once: enough for every thread of the pool. */
const batchBytes = 2 * 1024 * 1024;
const batchClusters = 64;

/** One cluster's compressed bytes, and its number in the disk. */
interface Encoded {
  readonly cluster: number;
  readonly bytes: Uint8Array;
}

interface Placed extends Encoded {
  readonly hostOffset: number;
}

export class CompressedWrites {
  readonly #metadata: Metadata;
  readonly #reservations: Reservations;
  readonly #packing: Packing;
  readonly #clusterBytes: number;

  constructor(metadata: Metadata, reservations: Reservations) {
    this.#metadata = metadata;
    this.#reservations = reservations;
    this.#packing = new Packing(metadata.file, metadata.refcounts);
    this.#clusterBytes = metadata.file.geometry.clusterBytes;
  }

  /** Stores what gets smaller of `source`, which is whole units or reaches the end of the disk; returns the rest. */
  async write(offset: number, source: Uint8Array): Promise<GuestRange[]> {
    const end = offset + source.length;
    const from = Math.min(end, Math.ceil(offset / this.#clusterBytes) * this.#clusterBytes);
    const to = end === this.#metadata.file.header.size ? end : end - (end % this.#clusterBytes);
    if (from >= to) return [{ offset, length: source.length }];
    const left = await this.#writeClusters(from, source.subarray(from - offset, to - offset));
    if (offset < from) left.unshift({ offset, length: from - offset });
    if (to < end) left.push({ offset: to, length: end - to });
    return left;
  }

  async #writeClusters(offset: number, source: Uint8Array): Promise<GuestRange[]> {
    const { l2SpanBytes } = this.#metadata.file.geometry;
    const step = Math.min(batchBytes, batchClusters * this.#clusterBytes);
    const left: GuestRange[] = [];
    for (let at = 0; at < source.length; ) {
      const inTable = l2SpanBytes - ((offset + at) % l2SpanBytes);
      const part = source.subarray(at, at + Math.min(step, inTable));
      const encoded = await this.#encode(offset + at, part, left);
      if (encoded.length > 0) await this.#store(Math.floor((offset + at) / l2SpanBytes), encoded);
      at += part.length;
    }
    return left;
  }

  async #encode(offset: number, source: Uint8Array, left: GuestRange[]): Promise<Encoded[]> {
    const starts = Array.from(
      { length: Math.ceil(source.length / this.#clusterBytes) },
      (_, nth) => nth * this.#clusterBytes,
    );
    const forms = await Promise.all(
      starts.map((start) => this.#metadata.file.codec.encode(this.#whole(source, start))),
    );
    return forms.flatMap((bytes, nth) => {
      const start = starts[nth] as number;
      if (bytes.length < this.#clusterBytes) return { cluster: (offset + start) / this.#clusterBytes, bytes };
      const length = Math.min(this.#clusterBytes, source.length - start);
      left.push({ offset: offset + start, length });
      return [];
    });
  }

  /** A cluster of `source`; zeros follow the end of the disk. */
  #whole(source: Uint8Array, start: number): Uint8Array {
    const cluster = source.subarray(start, start + this.#clusterBytes);
    if (cluster.length === this.#clusterBytes) return cluster;
    const whole = new Uint8Array(this.#clusterBytes);
    whole.set(cluster);
    return whole;
  }

  async #store(l1Index: number, encoded: readonly Encoded[]): Promise<void> {
    const placed: Placed[] = [];
    let isEntered = false;
    try {
      await this.#inTable(l1Index, (table) => {
        for (const { cluster } of encoded)
          this.#reservations.requireSound(table.view, this.#indexIn(table, cluster));
        return this.#take(encoded, placed);
      });
      await this.#writeBytes(placed);
      await this.#inTable(l1Index, (table) => {
        isEntered = true;
        return this.#enter(table, placed);
      });
    } catch (error) {
      if (!isEntered)
        for (const { hostOffset, bytes } of placed) this.#packing.giveBack(hostOffset, bytes.length);
      throw error;
    }
  }

  #inTable(l1Index: number, use: (table: Table) => Awaitable<void>): Awaitable<void> {
    const metadata = this.#metadata;
    return metadata.turns.take(() => {
      metadata.assertUsable();
      return metadata.withOwnTable(l1Index, use);
    });
  }

  async #take(encoded: readonly Encoded[], placed: Placed[]): Promise<void> {
    for (const { cluster, bytes } of encoded)
      placed.push({ cluster, bytes, hostOffset: await this.#packing.take(bytes.length) });
  }

  /** What lies together is written together. */
  async #writeBytes(placed: readonly Placed[]): Promise<void> {
    const { storage, guard } = this.#metadata.file;
    for (let at = 0; at < placed.length; ) {
      const { hostOffset } = placed[at] as Placed;
      const parts: Uint8Array[] = [];
      let end = hostOffset;
      while (placed[at]?.hostOffset === end) {
        const { bytes } = placed[at] as Placed;
        parts.push(bytes);
        end += bytes.length;
        at += 1;
      }
      guard?.assertFree(hostOffset, end - hostOffset);
      await storage.write(hostOffset, parts.length === 1 ? (parts[0] as Uint8Array) : Buffer.concat(parts));
    }
  }

  #enter(table: Table, placed: readonly Placed[]): Awaitable<void> {
    const { mapping, file } = this.#metadata;
    const { l2EntryBytes } = file.geometry;
    for (const { cluster, hostOffset: offset, bytes } of placed) {
      const at = this.#indexIn(table, cluster) * l2EntryBytes;
      const { view } = table;
      this.#metadata.releaseEntry(view.getUint32(at), view.getUint32(at + 4), false);
      setCompressedEntry(view, at, { offset, bytes: bytes.length }, file.header.clusterBits);
      if (file.header.extendedL2) setBitmap(view, at, 0, 0);
      mapping.tables.markDirty(table, at, at + l2EntryBytes);
    }
    return this.#metadata.settle();
  }

  /** The number of a cluster's entry in its table. */
  #indexIn(table: Table, cluster: number): number {
    return cluster - table.index * this.#metadata.file.geometry.l2EntryCount;
  }
}
