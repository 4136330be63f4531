import path from 'node:path';
import { type BackingReference, type BlockDriver, createDisk } from '@cowlab/core';
import type { Command } from 'commander';
import { invalidUse } from '../errors.ts';
import { collect, driverOf, drivers, formatNames, optionRows, parseOptions } from '../formats.ts';
import { inPlaceOf, withImage } from '../images.ts';
import type { Output } from '../output.ts';
import { type AllowOptions, type Session, withAllow } from '../session.ts';
import { parseSize } from '../sizes.ts';

interface CreateOptions extends AllowOptions {
  readonly format: string;
  readonly options?: readonly string[];
  readonly backing?: string;
  readonly backingFormat?: string;
  readonly backingSnapshot?: string;
  readonly force?: boolean;
  readonly quiet?: boolean;
}

export function addCreate(program: Command, { output }: Session): void {
  const command = program
    .command('create')
    .description('make a new, empty image')
    .argument('[file]', 'the image to make')
    .argument('[size]', 'size of the disk: 512, 64k, 10G, 1MiB; that of the backing file without')
    .option('-f, --format <format>', `the new image's format: ${formatNames}`, 'raw')
    .option('-o, --options <list>', 'create options, name=value,…; "help" lists them', collect)
    .option('-b, --backing <file>', 'backing file, relative to the new image')
    .option('-F, --backing-format <format>', 'format of the backing file; probed and recorded without')
    .option(
      '--backing-snapshot <name>',
      'a snapshot of the backing file, by tag or id: the new image is its clone',
    )
    .option('--force', 'replace a file that exists')
    .option('-q, --quiet', 'say nothing');
  withAllow(command).action((file: string | undefined, size: string | undefined, options: CreateOptions) =>
    create(output, file, size, options),
  );
}

async function create(
  output: Output,
  file: string | undefined,
  sizeText: string | undefined,
  options: CreateOptions,
): Promise<void> {
  const driver = driverOf(options.format, '-f');
  if (options.options?.includes('help')) return listOptions(output, driver);
  if (file === undefined) throw invalidUse('create', 'which file?');
  if (options.backing === undefined && options.backingFormat !== undefined) {
    throw invalidUse('-F', 'a backing format without a backing file (-b)');
  }
  if (options.backing === undefined && options.backingSnapshot !== undefined) {
    throw invalidUse('--backing-snapshot', 'a snapshot without a backing file (-b)');
  }
  const size = sizeText === undefined ? undefined : parseSize(sizeText);
  const values = parseOptions(driver, options.options);
  const allow = [...(options.allow ?? []), ...backingFolders(file, options.backing)];
  await inPlaceOf(file, options.force ?? false, async () => {
    const backing = await backingOf(file, options, allow);
    await createDisk(file, {
      driver,
      drivers,
      options: values,
      gate: { allow },
      ...(size !== undefined && { size }),
      ...(backing && { backing }),
    });
  });
  if (options.quiet) return;
  const made = Object.entries(values).map(([name, value]) => ` ${name}=${value}`);
  await withImage(file, { format: driver.name, allow }, async (disk) => {
    output.line(`Created ${file}: format=${driver.name} size=${disk.size}${made.join('')}`);
  });
}

function listOptions(output: Output, driver: BlockDriver): void {
  const rows = optionRows(driver);
  if (rows.length === 0) return output.line(`${driver.name} has no create options`);
  output.table([{ title: 'OPTION' }, { title: 'TYPE' }, { title: 'DEFAULT' }, { title: '' }], rows);
}

/** Whoever types a backing file's name has allowed its folder by that, for this command. */
function backingFolders(file: string, backing: string | undefined): string[] {
  return backing === undefined ? [] : [path.dirname(path.resolve(path.dirname(file), backing))];
}

/** Always with its format: probing a raw backing file at every opening would let its contents choose a format. */
async function backingOf(
  file: string,
  { backing, backingFormat, backingSnapshot }: CreateOptions,
  allow: readonly string[],
): Promise<BackingReference | undefined> {
  if (backing === undefined) return undefined;
  const where = path.resolve(path.dirname(file), backing);
  const format =
    backingFormat === undefined
      ? await withImage(where, { allow }, async (disk) => disk.format)
      : driverOf(backingFormat, '-F').name;
  return { file: backing, format, ...(backingSnapshot !== undefined && { snapshot: backingSnapshot }) };
}
