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

export function addInfo(program: Command, { output }: Session): void {
  const command = program.command('info').description('say what an image is').argument('<file>', 'the image');
  withJson(withForceShare(withSource(command))).action(
    async (file: string, options: SourceOptions & JsonOptions) => {
      await withImage(file, options, async (disk) => {
        const info = await disk.info();
        const snapshots = await disk.snapshots.list();
        if (options.json) output.json(infoJson(file, info, snapshots));
        else print(output, file, info, snapshots);
      });
    },
  );
}

function print(output: Output, file: string, info: ImageInfo, snapshots: readonly SnapshotInfo[]): void {
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
