import type { Disk, DiskExtent } from '@cowlab/core';
import type { Command } from 'commander';
import { invalidUse } from '../errors.ts';
import { withImage } from '../images.ts';
import type { MapEntryJson } from '../json.ts';
import { hex, printExtents } from '../listing.ts';
import {
  type JsonOptions,
  type Session,
  type SourceOptions,
  withForceShare,
  withJson,
  withSource,
} from '../session.ts';
import { parseSize } from '../sizes.ts';

const TITLES = ['Offset', 'Length', 'Mapped to', 'Depth', 'Kind', 'File'];

export function addMap(program: Command, { output }: Session): void {
  const command = program
    .command('map')
    .description('say where every part of a disk is kept, through its chain of backing files')
    .argument('<file>', 'the image')
    .option('-s, --start-offset <size>', 'where to begin', (text) => parseSize(text, '--start-offset'))
    .option('-l, --max-length <size>', 'how far to go', (text) => parseSize(text, '--max-length'));
  withJson(withForceShare(withSource(command))).action(async (file: string, options: MapOptions) => {
    await withImage(file, options, async (disk) => {
      const { startOffset: start = 0, maxLength = disk.size } = options;
      if (start > disk.size) throw invalidUse(file, `--start-offset: ${start} is past the end, ${disk.size}`);
      const entries = mapEntries(disk, start, Math.min(maxLength, disk.size - start));
      await printExtents(output, entries, options, { titles: TITLES, cellsOf });
    });
  });
}

interface MapOptions extends SourceOptions, JsonOptions {
  readonly startOffset?: number;
  readonly maxLength?: number;
}

/** Every extent of a range; data is split where it is not in one piece on the host. */
async function* mapEntries(disk: Disk, start: number, length: number): AsyncGenerator<MapEntryJson> {
  for await (const extent of disk.extents(start, length)) {
    if (extent.kind === 'data') yield* placed(disk, extent);
    else yield entryOf(extent);
  }
}

async function* placed(disk: Disk, extent: DiskExtent): AsyncGenerator<MapEntryJson> {
  const end = extent.offset + extent.length;
  let current: MapEntryJson | undefined;
  for (let at = extent.offset; at < end; ) {
    const { length, storage, hostOffset } = await disk.resolve(at, end - at);
    const goesOn =
      current?.offset !== undefined &&
      current.offset + current.length === hostOffset &&
      current.filename === storage?.name;
    if (current !== undefined && goesOn) {
      current = { ...current, length: current.length + length };
    } else {
      if (current !== undefined) yield current;
      current = {
        ...entryOf({ ...extent, offset: at, length }),
        ...(hostOffset !== undefined && { offset: hostOffset }),
        ...(storage !== undefined && { filename: storage.name }),
      };
    }
    at += length;
  }
  if (current !== undefined) yield current;
}

function entryOf({ offset, length, kind, depth, allocated }: DiskExtent): MapEntryJson {
  return {
    start: offset,
    length,
    depth,
    present: allocated,
    zero: kind === 'zero',
    data: kind !== 'zero',
    compressed: kind === 'encoded',
  };
}

function cellsOf(entry: MapEntryJson): string[] {
  const place = entry.offset === undefined ? '-' : hex(entry.offset);
  const { start, length, depth, filename } = entry;
  return [hex(start), hex(length), place, String(depth), kindOf(entry), filename ?? ''];
}

function kindOf(entry: MapEntryJson): string {
  if (entry.compressed) return 'compressed';
  if (entry.data) return 'data';
  return entry.present ? 'zero' : 'unallocated';
}
