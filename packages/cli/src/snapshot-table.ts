import type { SnapshotInfo } from '@cowlab/core';
import type { Output } from './output.ts';
import { formatSize } from './sizes.ts';

/** Snapshots as people read them; `info` and `snapshot -l` print the same table. */
export function printSnapshots(output: Output, snapshots: readonly SnapshotInfo[]): void {
  const lineage = snapshots.some(({ parent }) => parent !== undefined);
  output.table(
    [
      { title: 'ID' },
      { title: 'TAG' },
      { title: 'VIRTUAL SIZE', align: 'right' },
      { title: 'DATE (UTC)' },
      ...(lineage ? [{ title: 'PARENT' }] : []),
    ],
    snapshots.map(({ id, name, size, createdAt, parent }) => [
      id,
      name,
      formatSize(size),
      createdAt.toISOString().slice(0, 19).replace('T', ' '),
      ...(lineage ? [parent ?? '-'] : []),
    ]),
  );
}
