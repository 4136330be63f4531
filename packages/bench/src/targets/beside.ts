import type { Measured } from '../steps.ts';
import { qemuTargets } from './images.ts';
import type { QemuMeasured } from './measure.ts';
import type { QemuSizes } from './sizes.ts';
import { judgeTrends } from './trends.ts';

/** The names that QEMU's targets have among the formats of a run. */
export const qemuFormatNames: readonly string[] = qemuTargets.map(({ name }) => name);

/** Bytes that QEMU's images take: a full file for raw, for each N of internal snapshots, for each kind of chain; twice. */
export function qemuRoom({ imageBytes, snapshotCounts }: QemuSizes): number {
  return imageBytes * 2 * (snapshotCounts.length + qemuTargets.length) * 1.2;
}

/** One list of each kind: our rows, then QEMU's. */
export function besideQemu(ours: Measured, { part, ...qemu }: QemuMeasured): Measured {
  const all: Measured = {
    ...ours,
    reads: [...ours.reads, ...qemu.reads],
    overwrites: [...ours.overwrites, ...qemu.overwrites],
    allocations: [...ours.allocations, ...qemu.allocations],
    opens: [...ours.opens, ...qemu.opens],
    processMemory: [...ours.processMemory, ...qemu.processMemory],
    snapshotOperations: [...ours.snapshotOperations, ...qemu.snapshotOperations],
    omissions: [...ours.omissions, ...qemu.omissions],
  };
  return { ...all, qemu: { ...part, trends: judgeTrends(all) } };
}
