import { type Awaitable, andThen, corrupt } from '@cowlab/core';
import { compressedPlace } from './entries.ts';
import type { ImageFile } from './image-file.ts';

/*
 * Reading compressed clusters: a stream that ends somewhere in its last sector (codecs.ts; compressed-writes.ts has how
 * they are written). The last decoded cluster is kept, so that small sequential reads decode each cluster once.
 */
export class CompressedClusters {
  readonly #file: ImageFile;
  #lastOffset = -1;
  #last: Uint8Array | undefined;

  constructor(file: ImageFile) {
    this.#file = file;
  }

  get residentBytes(): number {
    return this.#last?.length ?? 0;
  }

  /** Fills `target` from byte `within` of the cluster. Throws `ERR_CORRUPT`. */
  read(hi: number, lo: number, within: number, target: Uint8Array): Awaitable<void> {
    const { offset, end } = compressedPlace(hi, lo, this.#file.header.clusterBits);
    const copy = (cluster: Uint8Array): void => target.set(cluster.subarray(within, within + target.length));
    if (this.#last !== undefined && this.#lastOffset === offset) return copy(this.#last);
    const stored = new Uint8Array(Math.min(end, this.#file.storage.size()) - offset);
    return andThen(this.#file.storage.read(offset, stored), () => {
      const cluster = this.#decode(stored, offset);
      this.#lastOffset = offset;
      this.#last = cluster;
      copy(cluster);
    });
  }

  /** Forgets the last cluster: the same place may hold another one soon. */
  reset(): void {
    this.#last = undefined;
  }

  #decode(stored: Uint8Array, offset: number): Uint8Array {
    const { geometry, codec } = this.#file;
    let cluster: Uint8Array;
    try {
      cluster = codec.decode(stored, geometry.clusterBytes);
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      throw corrupt(this.#file.name, 'l2_table.compressed_cluster', reason, { offset });
    }
    if (cluster.length === geometry.clusterBytes) return cluster;
    const problem = `decodes to ${cluster.length} bytes, a cluster has ${geometry.clusterBytes}`;
    throw corrupt(this.#file.name, 'l2_table.compressed_cluster', problem, { offset });
  }
}
