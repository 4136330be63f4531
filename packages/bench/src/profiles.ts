import { type QemuSizes, qemuSizes } from './targets/sizes.ts';
import { type AxesSizes, axesSizes } from './axes/sizes.ts';

/*
 * The sizes of a benchmark run. Everything that makes a run longer or shorter is here; a scenario has no
 * numbers of its own. Times are budgets for one format at one snapshot count: who is slower does fewer
 * operations, and the result says how many.
 */

export type ProfileName = 'quick' | 'standard' | 'full';

export interface Profile {
  readonly name: string;
  /** What is compared beside the designs when nobody chooses. */
  readonly variants: readonly string[];
  /** Guest bytes of the images that everything but `large` is measured on; fully mapped. */
  readonly imageBytes: number;
  /** The values of N, ascending; the first is 0. */
  readonly snapshotCounts: readonly number[];
  /** Guest bytes of one random request. */
  readonly requestBytes: number;
  /** Overwrites between two flushes; also the operations of one round. */
  readonly flushEvery: number;
  /** Rounds of an overwrite pass: every cell does one batch in each. */
  readonly overwriteRounds: number;
  readonly readRounds: number;
  /** Reads of one cell in one round. */
  readonly readBatch: number;
  /** Milliseconds that one cell may spend in one timed scenario. */
  readonly cellBudgetMs: number;
  readonly openRounds: number;
  /** Fresh processes per cell. */
  readonly memoryRuns: number;
  /** Snapshots that are created, and deleted, under the stopwatch for each cell. */
  readonly snapshotIterations: number;
  /** Guest bytes that each snapshot holds which is deleted from the middle. */
  readonly heldBytes: number;
  /** Milliseconds for the timed creates of one cell, and for its deletes; the iteration under way is finished. */
  readonly snapshotBudgetMs: number;
  /** Guest bytes of the image that the long history happens to; fully mapped. */
  readonly historyImageBytes: number;
  /** Snapshots of the long history, and random writes before each. */
  readonly historyRounds: number;
  readonly historyWrites: number;
  readonly historyBudgetMs: number;
  /** Random reads of one block, and reads of 1 MiB in a row, after the long history and without one. */
  readonly historyReads: number;
  readonly large: readonly LargeProfile[];
  /** Fresh processes for each of the two states of a large image that are compared, in turns. */
  readonly largeMemoryRuns: number;
  /** Snapshots of a large image that nobody writes to, and milliseconds for a format to take them. */
  readonly idleSnapshots: number;
  readonly idleBudgetMs: number;
  /** On simulated devices: guest bytes, values of N, and requests of each workload. */
  readonly deviceImageBytes: number;
  readonly deviceSnapshotCounts: readonly number[];
  readonly deviceOperations: number;
  /** Bytes of the base that is copied, and how often. */
  readonly copyBytes: number;
  readonly copyRounds: number;
  /** QEMU's part, where it is asked for. */
  readonly qemu: QemuSizes;
  /** What is measured beside the goals. */
  readonly axes: AxesSizes;
}

export interface LargeProfile {
  /** Guest bytes; every unit is mapped, the data are holes. */
  readonly imageBytes: number;
  /** Which formats have one this large; all of them when left out. */
  readonly formats?: readonly string[];
  /** Snapshots it has before the stopwatch starts; at least `minSnapshots`, then as the budget allows. */
  readonly snapshots: number;
  readonly minSnapshots: number;
  readonly buildBudgetMs: number;
  readonly iterations: number;
}

const KIB = 1024;
const MIB = 1024 * KIB;
const GIB = 1024 * MIB;
const TIB = 1024 * GIB;

export const profiles: Readonly<Record<ProfileName, Profile>> = {
  quick: {
    name: 'quick',
    variants: [],
    imageBytes: 64 * MIB,
    snapshotCounts: [0, 1, 1000],
    requestBytes: 4 * KIB,
    flushEvery: 64,
    overwriteRounds: 8,
    readRounds: 12,
    readBatch: 128,
    cellBudgetMs: 400,
    openRounds: 3,
    memoryRuns: 1,
    snapshotIterations: 3,
    heldBytes: 4 * MIB,
    snapshotBudgetMs: 1000,
    historyImageBytes: 32 * MIB,
    historyRounds: 100,
    historyWrites: 4,
    historyBudgetMs: 1500,
    historyReads: 128,
    large: [{ imageBytes: TIB, snapshots: 100, minSnapshots: 3, buildBudgetMs: 800, iterations: 1 }],
    largeMemoryRuns: 1,
    idleSnapshots: 100,
    idleBudgetMs: 250,
    deviceImageBytes: 16 * MIB,
    deviceSnapshotCounts: [0, 1, 100],
    deviceOperations: 256,
    copyBytes: 8 * MIB,
    copyRounds: 2,
    qemu: qemuSizes.quick,
    axes: axesSizes.quick,
  },
  standard: {
    name: 'standard',
    variants: ['vmdk-optimised'],
    imageBytes: GIB,
    snapshotCounts: [0, 1, 1000],
    requestBytes: 4 * KIB,
    flushEvery: 64,
    overwriteRounds: 40,
    readRounds: 30,
    readBatch: 256,
    cellBudgetMs: 2000,
    openRounds: 5,
    memoryRuns: 3,
    snapshotIterations: 5,
    heldBytes: 16 * MIB,
    snapshotBudgetMs: 5000,
    historyImageBytes: 128 * MIB,
    historyRounds: 1000,
    historyWrites: 4,
    historyBudgetMs: 4000,
    historyReads: 512,
    large: [{ imageBytes: TIB, snapshots: 1000, minSnapshots: 8, buildBudgetMs: 10_000, iterations: 3 }],
    largeMemoryRuns: 3,
    idleSnapshots: 1000,
    idleBudgetMs: 5000,
    deviceImageBytes: 64 * MIB,
    deviceSnapshotCounts: [0, 1, 1000],
    deviceOperations: 1024,
    copyBytes: 64 * MIB,
    copyRounds: 3,
    qemu: qemuSizes.standard,
    axes: axesSizes.standard,
  },
  full: {
    name: 'full',
    variants: ['vmdk-optimised'],
    imageBytes: GIB,
    snapshotCounts: [0, 1, 10, 100, 1000],
    requestBytes: 4 * KIB,
    flushEvery: 64,
    overwriteRounds: 157,
    readRounds: 60,
    readBatch: 512,
    cellBudgetMs: 10_000,
    openRounds: 9,
    memoryRuns: 5,
    snapshotIterations: 9,
    heldBytes: 16 * MIB,
    snapshotBudgetMs: 10_000,
    historyImageBytes: GIB,
    historyRounds: 1000,
    historyWrites: 64,
    historyBudgetMs: 120_000,
    historyReads: 2048,
    large: [
      { imageBytes: TIB, snapshots: 1000, minSnapshots: 8, buildBudgetMs: 60_000, iterations: 15 },
      {
        imageBytes: 4 * TIB,
        formats: ['fvd'],
        snapshots: 1000,
        minSnapshots: 1000,
        buildBudgetMs: 60_000,
        iterations: 9,
      },
      {
        imageBytes: 16 * TIB,
        formats: ['fvd'],
        snapshots: 1000,
        minSnapshots: 1000,
        buildBudgetMs: 120_000,
        iterations: 9,
      },
    ],
    largeMemoryRuns: 9,
    idleSnapshots: 1000,
    idleBudgetMs: 20_000,
    deviceImageBytes: 256 * MIB,
    deviceSnapshotCounts: [0, 1, 10, 100, 1000],
    deviceOperations: 4096,
    copyBytes: GIB,
    copyRounds: 3,
    qemu: qemuSizes.full,
    axes: axesSizes.full,
  },
};
