import type { DiffExtent } from '@cowlab/core';
import type { Command } from 'commander';
import { withImage } from '../images.ts';
import type { DiffEntryJson } from '../json.ts';
import { hex, printExtents } from '../listing.ts';
import {
  type JsonOptions,
  type Session,
  type SourceOptions,
  withForceShare,
  withJson,
  withSource,
} from '../session.ts';

interface DiffOptions extends SourceOptions, JsonOptions {
  readonly from: string;
  readonly to?: string;
}

const TITLES = ['Offset', 'Length'];

export function addDiff(program: Command, { output }: Session): void {
  const command = program
    .command('diff')
    .description('say which parts of a disk may have changed between two states, without reading its data')
    .argument('<file>', 'the image')
    .requiredOption('--from <name>', 'the snapshot to start from')
    .option('--to <name>', 'the snapshot to compare it with, instead of the present state');
  withJson(withForceShare(withSource(command))).action(async (file: string, options: DiffOptions) => {
    await withImage(file, options, async (disk) => {
      const entries = entriesOf(disk.snapshots.diff(options.from, options.to));
      await printExtents(output, entries, options, {
        titles: TITLES,
        cellsOf: ({ start, length }) => [hex(start), hex(length)],
      });
    });
  });
}

async function* entriesOf(extents: AsyncIterable<DiffExtent>): AsyncGenerator<DiffEntryJson> {
  for await (const { offset, length } of extents) yield { start: offset, length };
}
