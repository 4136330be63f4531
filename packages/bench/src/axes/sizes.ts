/*
 * The sizes of what a run measures beside the goals: FVD without a part of it, what users ask, the axes of a workload.
 * Nothing here is cut short by a budget of time: every format is asked for the same, and counts are alike in every run.
 */

export interface AxesSizes {
  readonly ablation: AblationSizes;
  readonly service: ServiceSizes;
  /** Left out where there is no time for it. */
  readonly axes?: WorkloadSizes;
}

interface AblationSizes {
  readonly imageBytes: number;
  /** Of writes, each with a flush behind it. */
  readonly rounds: number;
  /** Snapshots that are created, and deleted, under the stopwatch on the smallest of the large images. */
  readonly iterations: number;
}

interface ServiceSizes {
  readonly imageBytes: number;
  /** And random writes before each. */
  readonly snapshots: number;
  readonly writes: number;
  /** How often each question is asked, and reads of each state. */
  readonly rounds: number;
  readonly reads: number;
}

interface WorkloadSizes {
  readonly imageBytes: number;
  /** Requests of a setting; fewer where they would come to more than so many bytes. */
  readonly operations: number;
  readonly bytes: number;
  /** Which axes; without a choice all of them. */
  readonly axes?: readonly string[];
}

const MIB = 1024 * 1024;

export const axesSizes: Readonly<Record<'quick' | 'standard' | 'full', AxesSizes>> = {
  quick: {
    ablation: { imageBytes: 64 * MIB, rounds: 4, iterations: 3 },
    service: { imageBytes: 16 * MIB, snapshots: 20, writes: 16, rounds: 3, reads: 256 },
  },
  standard: {
    ablation: { imageBytes: 256 * MIB, rounds: 16, iterations: 5 },
    service: { imageBytes: 64 * MIB, snapshots: 100, writes: 64, rounds: 5, reads: 2048 },
    axes: {
      imageBytes: 64 * MIB,
      operations: 1024,
      bytes: 32 * MIB,
      axes: ['pattern', 'request size', 'queue depth'],
    },
  },
  full: {
    ablation: { imageBytes: 1024 * MIB, rounds: 64, iterations: 9 },
    service: { imageBytes: 256 * MIB, snapshots: 1000, writes: 64, rounds: 9, reads: 8192 },
    axes: { imageBytes: 256 * MIB, operations: 4096, bytes: 128 * MIB },
  },
};
