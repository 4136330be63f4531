/*
 * The sizes of QEMU's part of a run (`--with-qemu`). Its images are smaller than ours, and take as many writes for their
 * size: what is compared with ours is how numbers go with N, never the numbers. N goes as far as the budgets allow; chains
 * of files that QEMU opens take it seconds from some hundreds on, by the square of their length.
 */

export interface QemuSizes {
  /** Guest bytes; fully mapped. */
  readonly imageBytes: number;
  /** The values of N, ascending; the first is 0. */
  readonly snapshotCounts: readonly number[];
  readonly overwriteRounds: number;
  readonly readRounds: number;
  readonly readBatch: number;
  /** Milliseconds, as QEMU tells them, that one cell may spend on reads, on a pass, or on allocations. */
  readonly cellBudgetMs: number;
  readonly openRounds: number;
  /** Milliseconds that QEMU may take to open an image: where it takes longer, N ends. Also for all rounds of opening one. */
  readonly openLimitMs: number;
  readonly snapshotIterations: number;
  /** Guest bytes that each snapshot holds which is deleted. */
  readonly heldBytes: number;
  /** Milliseconds for the snapshot operations of one cell; the round under way is finished. */
  readonly snapshotBudgetMs: number;
  /** Guest bytes of a QCOW2 image of which every cluster is mapped and no byte written, and rounds on it. */
  readonly large: readonly { readonly imageBytes: number; readonly iterations: number }[];
}

const KIB = 1024;
const MIB = 1024 * KIB;
const GIB = 1024 * MIB;

export const qemuSizes: Readonly<Record<'quick' | 'standard' | 'full', QemuSizes>> = {
  quick: {
    imageBytes: 32 * MIB,
    snapshotCounts: [0, 1, 10, 100],
    overwriteRounds: 4,
    readRounds: 4,
    readBatch: 64,
    cellBudgetMs: 500,
    openRounds: 3,
    openLimitMs: 1000,
    snapshotIterations: 2,
    heldBytes: 2 * MIB,
    snapshotBudgetMs: 1000,
    large: [{ imageBytes: 64 * GIB, iterations: 1 }],
  },
  standard: {
    imageBytes: 256 * MIB,
    snapshotCounts: [0, 1, 10, 100, 1000],
    overwriteRounds: 10,
    readRounds: 10,
    readBatch: 128,
    cellBudgetMs: 2000,
    openRounds: 5,
    openLimitMs: 4000,
    snapshotIterations: 3,
    heldBytes: 4 * MIB,
    snapshotBudgetMs: 3000,
    large: [{ imageBytes: 1024 * GIB, iterations: 1 }],
  },
  full: {
    imageBytes: GIB,
    snapshotCounts: [0, 1, 10, 100, 1000],
    overwriteRounds: 40,
    readRounds: 30,
    readBatch: 256,
    cellBudgetMs: 20_000,
    openRounds: 5,
    openLimitMs: 60_000,
    snapshotIterations: 5,
    heldBytes: 16 * MIB,
    snapshotBudgetMs: 20_000,
    large: [{ imageBytes: 1024 * GIB, iterations: 3 }],
  },
};
