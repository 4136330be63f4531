import type { Disk } from '@cowlab/core';
import type { Command } from 'commander';
import { invalidUse } from '../errors.ts';
import { withImage } from '../images.ts';
import { snapshotJson } from '../json.ts';
import {
  type JsonOptions,
  type Session,
  type SourceOptions,
  withForceShare,
  withJson,
  withSource,
} from '../session.ts';
import { printSnapshots } from '../snapshot-table.ts';

interface SnapshotOptions extends SourceOptions, JsonOptions {
  readonly list?: boolean;
  readonly create?: string;
  readonly apply?: string;
  readonly delete?: string;
  readonly rename?: string;
  readonly as?: string;
}

export function addSnapshot(program: Command, { output }: Session): void {
  const command = program
    .command('snapshot')
    .description('list, create, apply, delete or rename snapshots; a snapshot is named by its tag or its id')
    .argument('<file>', 'the image')
    .option('-l, --list', 'list the snapshots, the default')
    .option('-c, --create <name>', 'keep the present state')
    .option('-a, --apply <name>', 'go back to a snapshot; the present state is given up')
    .option('-d, --delete <name>', 'delete a snapshot; no other state changes')
    .option('-r, --rename <name>', 'give a snapshot the name that --as says; nothing else of it changes')
    .option('--as <name>', 'with -r: the new name')
    .option('-q, --quiet', 'say nothing; changes say nothing in any case');
  withJson(withForceShare(withSource(command))).action(async (file: string, options: SnapshotOptions) => {
    const change = changeOf(options);
    if (change !== undefined && options.json) throw invalidUse('--json', 'goes with -l');
    await withImage(file, { ...options, writable: change !== undefined }, async (disk) => {
      if (change !== undefined) return change(disk);
      const snapshots = await disk.snapshots.list();
      if (options.json) output.json(snapshots.map(snapshotJson));
      else if (snapshots.length > 0) printSnapshots(output, snapshots);
    });
  });
}

/** What is to be done to the snapshots; undefined when they are to be listed. */
function changeOf(options: SnapshotOptions): ((disk: Disk) => Promise<unknown>) | undefined {
  const { list, create, apply, delete: gone, rename, as } = options;
  if ((rename === undefined) !== (as === undefined)) throw invalidUse('snapshot', '-r and --as go together');
  const changes: ((disk: Disk) => Promise<unknown>)[] = [];
  if (create !== undefined) changes.push(({ snapshots }) => snapshots.create(create));
  if (apply !== undefined) changes.push(({ snapshots }) => snapshots.apply(apply));
  if (gone !== undefined) changes.push(({ snapshots }) => snapshots.delete(gone));
  if (rename !== undefined && as !== undefined) changes.push(({ snapshots }) => snapshots.rename(rename, as));
  if (changes.length + (list ? 1 : 0) > 1) throw invalidUse('snapshot', 'only one of -l, -c, -a, -d, -r');
  return changes[0];
}
