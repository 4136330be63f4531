/*
 * The sizes of a run against QEMU; a measurement has no numbers of its own. `qemu-img bench` tells its time in whole
 * milliseconds, so that a batch has to take some tens of them to be worth a ratio.
 */

export type QemuProfileName = 'quick' | 'standard';

/** Requests of one size, in one batch. */
interface RequestProfile {
  readonly requestBytes: number;
  readonly reads: number;
  readonly overwrites: number;
  readonly allocations: number;
}

/** Snapshot operations and `check` on an image of which every cluster is mapped and no byte written. */
export interface MappedProfile {
  readonly imageBytes: number;
  /** Snapshots that it has. */
  readonly snapshots: number;
  readonly repetitions: number;
}

export interface QemuProfile {
  readonly name: string;
  readonly repetitions: number;
  readonly depths: readonly number[];
  /** Guest bytes of the image that is read and overwritten; fully mapped. */
  readonly imageBytes: number;
  /** Guest bytes of the empty image that is written into. */
  readonly emptyBytes: number;
  readonly requests: readonly RequestProfile[];
  /** 4 KiB overwrites of clusters that a snapshot holds, one a cluster. */
  readonly firstPassWrites: number;
  /** Writes between two flushes, in the first pass and where calls are counted; at least the largest depth. */
  readonly flushEvery: number;
  /** Writes whose storage calls are counted. */
  readonly countedWrites: number;
  readonly mapped: readonly MappedProfile[];
}

const KIB = 1024;
const MIB = 1024 * KIB;
const GIB = 1024 * MIB;

export const qemuProfiles: Readonly<Record<QemuProfileName, QemuProfile>> = {
  quick: {
    name: 'quick',
    repetitions: 3,
    depths: [1, 32],
    imageBytes: 64 * MIB,
    emptyBytes: GIB,
    requests: [
      { requestBytes: 4 * KIB, reads: 8192, overwrites: 8192, allocations: 2048 },
      { requestBytes: 64 * KIB, reads: 2048, overwrites: 1024, allocations: 512 },
    ],
    firstPassWrites: 256,
    flushEvery: 64,
    countedWrites: 257,
    mapped: [{ imageBytes: 8 * GIB, snapshots: 100, repetitions: 2 }],
  },
  standard: {
    name: 'standard',
    repetitions: 5,
    depths: [1, 32],
    imageBytes: 64 * MIB,
    emptyBytes: GIB,
    requests: [
      { requestBytes: 4 * KIB, reads: 32_768, overwrites: 32_768, allocations: 8192 },
      { requestBytes: 64 * KIB, reads: 8192, overwrites: 4096, allocations: 1024 },
    ],
    firstPassWrites: 512,
    flushEvery: 64,
    countedWrites: 1025,
    mapped: [
      { imageBytes: 8 * GIB, snapshots: 1000, repetitions: 5 },
      { imageBytes: 1024 * GIB, snapshots: 0, repetitions: 2 },
    ],
  },
};
