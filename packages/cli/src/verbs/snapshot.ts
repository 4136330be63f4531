import type { Command } from 'commander';
import { invalidUse } from '../errors.ts';
import { withImage } from '../images.ts';
import { snapshotJson } from '../json.ts';
import { type JsonOptions, type Session, type SourceOptions, withJson, withSource } from '../session.ts';
import { printSnapshots } from '../snapshot-table.ts';

interface SnapshotOptions extends SourceOptions, JsonOptions {
  readonly list?: boolean;
  readonly create?: string;
  readonly apply?: string;
  readonly delete?: string;
}

export function addSnapshot(program: Command, { output }: Session): void {
  const command = program
    .command('snapshot')
    .description('list, create, apply or delete snapshots; a snapshot is named by its tag or its id')
    .argument('<file>', 'the image')
    .option('-l, --list', 'list the snapshots, the default')
    .option('-c, --create <name>', 'keep the present state')
    .option('-a, --apply <name>', 'go back to a snapshot; the present state is given up')
    .option('-d, --delete <name>', 'delete a snapshot; no other state changes');
  withJson(withSource(command)).action(async (file: string, options: SnapshotOptions) => {
    const { create, apply } = options;
    const changes = [create, apply, options.delete].filter((name) => name !== undefined).length;
    if (changes + (options.list ? 1 : 0) > 1) throw invalidUse('snapshot', 'only one of -l, -c, -a, -d');
    if (changes > 0 && options.json) throw invalidUse('--json', 'goes with -l');
    await withImage(file, { ...options, writable: changes > 0 }, async (disk) => {
      if (create !== undefined) await disk.snapshots.create(create);
      else if (apply !== undefined) await disk.snapshots.apply(apply);
      else if (options.delete !== undefined) await disk.snapshots.delete(options.delete);
      else {
        const snapshots = await disk.snapshots.list();
        if (options.json) output.json(snapshots.map(snapshotJson));
        else if (snapshots.length > 0) printSnapshots(output, snapshots);
      }
    });
  });
}
