import type { JudgeSpec } from '@cowlab/conformance';

/** QEMU, and where it finds the state of a snapshot. */
export const judge: JudgeSpec = {
  format: 'vmdk',
  snapshotFile: (file, { id }) => `${file}-${id.padStart(6, '0')}.vmdk`,
};
