import type { Awaitable, Extent, Placement, ReadSource, Storage } from '@cowlab/core';

/*
 * What a disk is made of: one extent of the descriptor, as the driver uses it. ("Extent" is also core's word for a run
 * of bytes with one answer; so here it is a part of the disk.) All offsets are the disk's; a range that is asked about
 * lies inside the part.
 *
 *   part      map says                              a write                        zeros
 *   sparse    the grain, zeros, or the parent       in place, or into a new grain  a hole, or a table entry
 *   flat      its bytes in the file                 in place                       a hole in the file
 *   zero      zeros                                 refused                        nothing to do
 *   closed    refused (NOACCESS)                    refused                        refused
 *   stream    the grain, decoded, zeros, or parent  refused; units while new       refused
 *   guarded   what the part in it says (RDONLY)     refused                        refused
 */

/** Where bytes of a part go, and which part is to be told. */
export interface PartPlacement extends Placement {
  readonly part: Part;
}

export interface Part {
  /** First byte in the disk. */
  readonly start: number;
  readonly size: number;
  /** The file that has its bytes; undefined where there is none. */
  readonly storage: Storage | undefined;
  /**
   * What this part itself says, for as long as it says the same. Where it has nothing, `below` answers; without one it
   * is zeros that are not allocated. `owned`: the image's CID is new, so that writes may go in place.
   */
  map(offset: number, length: number, below: ReadSource | undefined, owned: boolean): Awaitable<Extent>;
  reserve(offset: number, length: number): Awaitable<PartPlacement>;
  commit(placement: PartPlacement): Awaitable<void>;
  abort(placement: PartPlacement): void;
  /**
   * Zeros for a run of one kind from `offset` on, at most up to `end`; returns where it ended. `covers`: something shows
   * through where nothing is said.
   */
  unmap(offset: number, end: number, covers: boolean): Promise<number>;
  /** So much waits for a flush that it should come before more does. */
  readonly crowded: boolean;
  /** Makes everything committed durable, in crash-safe order. */
  flush(): Awaitable<void>;
  /** The last change before a close: cuts off what was set aside and never used, or ends a stream. */
  trim(): Promise<void>;
  /** Nothing will be written any more. */
  freeze(): void;
  readonly residentBytes: number;
}
