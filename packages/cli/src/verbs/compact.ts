import type { CompactReport } from '@cowlab/core';
import type { Command } from 'commander';
import { withImage } from '../images.ts';
import { compactJson } from '../json.ts';
import type { Output } from '../output.ts';
import { type JsonOptions, type Session, type SourceOptions, withJson, withSource } from '../session.ts';
import { formatSize } from '../sizes.ts';
import { underWay } from '../work.ts';

interface CompactVerbOptions extends SourceOptions, JsonOptions {
  readonly move?: boolean;
  readonly progress?: boolean;
  readonly quiet?: boolean;
}

export function addCompact(program: Command, { output }: Session): void {
  const command = program
    .command('compact')
    .description('give space back that is free at the end of an image')
    .argument('<file>', 'the image')
    .option('--move', 'move data to free places before them first, so that more of the end is free')
    .option('-p, --progress', 'show progress on stderr')
    .option('-q, --quiet', 'say nothing');
  withJson(withSource(command)).action(async (file: string, options: CompactVerbOptions) => {
    const { move = false } = options;
    await withImage(file, { ...options, writable: true }, async (disk) => {
      const report = await underWay(output, 'compact', options, (call) => disk.compact({ move, ...call }));
      if (options.json) output.json(compactJson(file, disk.format, report));
      else if (!options.quiet) print(output, report);
    });
  });
}

function print(output: Output, { bytesBefore, bytesAfter, movedBytes }: CompactReport): void {
  const change = `${formatSize(bytesBefore)} before, ${formatSize(bytesAfter)} now`;
  output.line(`Image compacted: ${change}; ${formatSize(movedBytes)} moved.`);
}
