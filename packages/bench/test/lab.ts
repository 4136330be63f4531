import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll } from 'vitest';
import type { Profile } from '../src/profiles.ts';

const KIB = 1024;
const MIB = 1024 * KIB;

/** Everything that the benchmark does, at sizes that take seconds; no budget is ever used up, so that counts repeat. */
export const tiny: Profile = {
  name: 'tiny',
  variants: [],
  imageBytes: 4 * MIB,
  snapshotCounts: [0, 1, 3],
  requestBytes: 4 * KIB,
  flushEvery: 8,
  overwriteRounds: 3,
  readRounds: 2,
  readBatch: 32,
  cellBudgetMs: 1e9,
  openRounds: 2,
  memoryRuns: 1,
  snapshotIterations: 2,
  heldBytes: 256 * KIB,
  snapshotBudgetMs: 1e9,
  historyImageBytes: 2 * MIB,
  historyRounds: 4,
  historyWrites: 2,
  historyBudgetMs: 1e9,
  historyReads: 32,
  large: [{ imageBytes: 256 * MIB, snapshots: 4, minSnapshots: 4, buildBudgetMs: 1e9, iterations: 2 }],
  largeMemoryRuns: 1,
  idleSnapshots: 3,
  idleBudgetMs: 1e9,
  deviceImageBytes: 1 * MIB,
  deviceSnapshotCounts: [0, 1, 3],
  deviceOperations: 16,
  copyBytes: 1 * MIB,
  copyRounds: 2,
  qemu: {
    imageBytes: 4 * MIB,
    snapshotCounts: [0, 1, 3],
    overwriteRounds: 2,
    readRounds: 2,
    readBatch: 16,
    cellBudgetMs: 1e9,
    openRounds: 1,
    openLimitMs: 60_000,
    snapshotIterations: 1,
    heldBytes: 256 * KIB,
    snapshotBudgetMs: 1e9,
    large: [{ imageBytes: 256 * MIB, iterations: 1 }],
  },
  axes: {
    ablation: { imageBytes: 4 * MIB, rounds: 2, iterations: 2 },
    service: { imageBytes: 4 * MIB, snapshots: 3, writes: 4, rounds: 2, reads: 32 },
    axes: { imageBytes: 2 * MIB, operations: 32, bytes: 2 * MIB, axes: ['pattern'] },
  },
};

/** The same, with all axes of a workload. */
export const tinyOnAllAxes: Profile = {
  ...tiny,
  axes: { ...tiny.axes, axes: { imageBytes: 2 * MIB, operations: 32, bytes: 2 * MIB } },
};

/** A scratch folder for all tests of the file that calls this; the function makes paths in it. */
export function scratch(): (name: string) => string {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'cowlab-bench-test-'));
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));
  return (name) => join(folder, name);
}
