import type { Disk, DiskExtent } from '@cowlab/core';
import type { Command } from 'commander';
import { withImage } from '../images.ts';
import type { MapEntryJson } from '../json.ts';
import type { Output } from '../output.ts';
import { type JsonOptions, type Session, type SourceOptions, withJson, withSource } from '../session.ts';

/** Fits every offset up to 2^53, in hexadecimal, and a blank. */
const COLUMN_WIDTH = 17;

export function addMap(program: Command, { output }: Session): void {
  const command = program
    .command('map')
    .description('say where every part of a disk is kept, through its chain of backing files')
    .argument('<file>', 'the image');
  withJson(withSource(command)).action(async (file: string, options: SourceOptions & JsonOptions) => {
    await withImage(file, options, async (disk) => {
      await (options.json ? printJson : printTable)(output, mapEntries(disk));
    });
  });
}

/** Every extent of the disk; data is split where it is not in one piece on the host. */
async function* mapEntries(disk: Disk): AsyncGenerator<MapEntryJson> {
  for await (const extent of disk.extents()) {
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

type Entries = AsyncIterable<MapEntryJson>;

/* A large image has millions of entries: they are printed as they come, one to a line, as qemu-img does. */

async function printJson(output: Output, entries: Entries): Promise<void> {
  let before: string | undefined;
  for await (const entry of entries) {
    if (before !== undefined) output.line(`${before},`);
    before = `${before === undefined ? '[' : ' '}${JSON.stringify(entry)}`;
  }
  output.line(before === undefined ? '[]' : `${before}]`);
}

async function printTable(output: Output, entries: Entries): Promise<void> {
  const row = (cells: readonly string[], file: string): string =>
    `${cells.map((cell) => cell.padEnd(COLUMN_WIDTH)).join('')}${file}`.trimEnd();
  output.line(output.styled('bold', row(['Offset', 'Length', 'Mapped to', 'Depth', 'Kind'], 'File')));
  for await (const entry of entries) {
    const place = entry.offset === undefined ? '-' : hex(entry.offset);
    const cells = [hex(entry.start), hex(entry.length), place, String(entry.depth), kindOf(entry)];
    output.line(row(cells, entry.filename ?? ''));
  }
}

function hex(value: number): string {
  return value === 0 ? '0' : `0x${value.toString(16)}`;
}

function kindOf(entry: MapEntryJson): string {
  if (entry.compressed) return 'compressed';
  if (entry.data) return 'data';
  return entry.present ? 'zero' : 'unallocated';
}
