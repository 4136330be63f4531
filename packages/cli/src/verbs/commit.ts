import path from 'node:path';
import { commitDisk, type CommitReport } from '@cowlab/core';
import type { Command } from 'commander';
import { underPath } from '../errors.ts';
import { driverOf, drivers } from '../formats.ts';
import { commitJson } from '../json.ts';
import { fileOf, placeOf } from '../places.ts';
import type { Output } from '../output.ts';
import { type JsonOptions, type Session, type SourceOptions, withJson, withSource } from '../session.ts';
import { underWay } from '../work.ts';

interface CommitVerbOptions extends SourceOptions, JsonOptions {
  readonly base?: string;
  readonly drop?: boolean;
  readonly progress?: boolean;
  readonly quiet?: boolean;
}

export function addCommit(program: Command, { output }: Session): void {
  const command = program
    .command('commit')
    .description('write what an image has of its own into its backing file, and empty the image')
    .argument('<file>', 'the image')
    .option(
      '-b, --base <file>',
      'the image of the chain to commit to; implies -d, and what is between turns wrong',
    )
    .option('-d, --drop', 'do not empty the image afterwards')
    .option('-p, --progress', 'show progress on stderr')
    .option('-q, --quiet', 'say nothing');
  withJson(withSource(command)).action((file: string, options: CommitVerbOptions) =>
    commit(output, file, options),
  );
}

async function commit(output: Output, file: string, options: CommitVerbOptions): Promise<void> {
  const { base, drop = false, format, allow = [] } = options;
  if (format !== undefined) driverOf(format, '-f');
  let report: CommitReport;
  try {
    report = await underWay(output, 'commit', options, (call) =>
      commitDisk(placeOf(file), {
        drivers,
        gate: { allow },
        keep: drop,
        ...(base !== undefined && { base: path.resolve(base) }),
        ...(format !== undefined && { format }),
        ...call,
      }),
    );
  } catch (error) {
    throw underPath(error, file, fileOf(file));
  }
  if (options.json) return output.json(commitJson(file, report));
  if (options.quiet) return;
  for (const invalid of report.invalid) output.warning(`${invalid}: reads wrongly from now on; remove it`);
  output.line('Image committed.');
}
