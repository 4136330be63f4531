import path from 'node:path';
import type { ImageInfo, SnapshotInfo } from '@cowlab/core';
import type { Command } from 'commander';
import { withImage } from '../images.ts';
import { infoJson } from '../json.ts';
import type { Output } from '../output.ts';
import {
  type JsonOptions,
  type Session,
  type SourceOptions,
  withForceShare,
  withJson,
  withSource,
} from '../session.ts';
import { formatSize } from '../sizes.ts';
import { printSnapshots } from '../snapshot-table.ts';

interface InfoOptions extends SourceOptions, JsonOptions {
  readonly backingChain?: boolean;
}

interface Told {
  readonly file: string;
  readonly info: ImageInfo;
  readonly snapshots: readonly SnapshotInfo[];
}

export function addInfo(program: Command, { output }: Session): void {
  const command = program
    .command('info')
    .description('say what an image is')
    .argument('<file>', 'the image')
    .option('--backing-chain', 'and every image under it');
  withJson(withForceShare(withSource(command))).action(async (file: string, options: InfoOptions) => {
    const chain = await tell(file, options);
    const json = chain.map((each) => infoJson(each.file, each.info, each.snapshots));
    if (options.json) return output.json(options.backingChain ? json : json[0]);
    for (const [index, each] of chain.entries()) {
      if (index > 0) output.line();
      print(output, each);
    }
  });
}

/** The image, which could not be opened if its chain had no end, and with `--backing-chain` what is under it. */
async function tell(file: string, options: InfoOptions): Promise<Told[]> {
  const told: Told[] = [];
  const { allow, forceShare, backingChain } = options;
  let next: { file: string; format: string | undefined } | undefined = { file, format: options.format };
  while (next !== undefined) {
    const { file: name, format }: { file: string; format: string | undefined } = next;
    const each: Told = await withImage(name, { allow, forceShare, format }, async (disk) => ({
      file: name,
      info: await disk.info(),
      snapshots: await disk.snapshots.list(),
    }));
    told.push(each);
    const { backing } = each.info;
    next =
      backingChain && backing !== undefined
        ? { file: beside(name, backing.file), format: backing.format }
        : undefined;
  }
  return told;
}

function beside(file: string, backing: string): string {
  return path.isAbsolute(backing) ? backing : path.join(path.dirname(file), backing);
}

function print(output: Output, { file, info, snapshots }: Told): void {
  const { backing, files } = info;
  output.line(`image: ${file}`);
  output.line(`file format: ${info.format}`);
  output.line(`virtual size: ${formatSize(info.size)} (${info.size} bytes)`);
  output.line(`disk size: ${formatSize(info.storageBytes)}`);
  output.line(`cluster_size: ${info.unitBytes}`);
  if (backing !== undefined) output.line(`backing file: ${backing.file}`);
  if (backing?.format !== undefined) output.line(`backing file format: ${backing.format}`);
  if (backing?.snapshot !== undefined) output.line(`backing snapshot: ${backing.snapshot}`);
  if (files.length > 1) output.line(`files: ${files.join(', ')}`);
  const details = Object.entries(info.details);
  if (details.length > 0) output.line('Format specific information:');
  for (const [name, value] of details) output.line(`    ${name}: ${value}`);
  if (snapshots.length > 0) {
    output.line('Snapshot list:');
    printSnapshots(output, snapshots);
  }
}
