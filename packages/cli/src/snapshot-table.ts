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
    treeOf(snapshots).map(({ branch, snapshot: { id, name, size, createdAt, parent } }) => [
      id,
      branch + name,
      formatSize(size),
      createdAt.toISOString().slice(0, 19).replace('T', ' '),
      ...(lineage ? [parent ?? '-'] : []),
    ]),
  );
}

interface TreeLine {
  /** What stands in front of the name, to show the branch. */
  readonly branch: string;
  readonly snapshot: SnapshotInfo;
}

/** Branches of branches are told apart so far; more would leave no room for names. */
const MAX_INDENT = 60;

/**
 * The snapshots as a tree: each below the one it grew from. The newest line of descent goes straight down, however long
 * it is; others branch off to the right, before the line goes on:
 *
 *     base
 *     ├─ experiment
 *     │  experiment, second day
 *     today
 *
 * Without parents: in the order they have. A parent that is not there, or that is its own descendant, counts as none.
 */
function treeOf(snapshots: readonly SnapshotInfo[]): TreeLine[] {
  const children = new Map<string | null, SnapshotInfo[]>([[null, []]]);
  for (const { id } of snapshots) children.set(id, []);
  for (const snapshot of snapshots) {
    const { parent } = snapshot;
    if (parent !== undefined) (children.get(parent) ?? children.get(null))?.push(snapshot);
  }
  const lines: TreeLine[] = [];
  const pending: (TreeLine & { readonly indent: string })[] = [];
  const branchOff = (from: string | null, indent: string): void => {
    const all = children.get(from) ?? [];
    const deep = indent.length >= MAX_INDENT;
    for (const snapshot of all.toReversed()) {
      const isSide = snapshot !== all.at(-1) && !deep;
      const [branch, below] = isSide ? [`${indent}├─ `, `${indent}│  `] : [indent, indent];
      pending.push({ snapshot, branch, indent: below });
    }
  };
  branchOff(null, '');
  for (let line = pending.pop(); line !== undefined; line = pending.pop()) {
    lines.push(line);
    branchOff(line.snapshot.id, line.indent);
  }
  const told = new Set(lines.map(({ snapshot }) => snapshot));
  const others = snapshots.filter((snapshot) => !told.has(snapshot));
  return [...lines, ...others.map((snapshot) => ({ branch: '', snapshot }))];
}
