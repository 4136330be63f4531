import { type BlockDriver, createDisk } from '@cowlab/core';
import type { Command } from 'commander';
import { backingFolders, backingOf } from '../backing.ts';
import { invalidUse } from '../errors.ts';
import { collect, driverOf, drivers, formatNames, optionRows, parseOptions } from '../formats.ts';
import { inPlaceOf, withImage } from '../images.ts';
import { placeOf } from '../places.ts';
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
    const { backing: named, backingFormat: format, backingSnapshot: snapshot } = options;
    const backing =
      named === undefined ? undefined : await backingOf(file, { file: named, format, snapshot }, allow);
    await createDisk(placeOf(file), {
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
