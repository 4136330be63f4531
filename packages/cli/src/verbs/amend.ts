import { amendDisk, type BlockDriver } from '@cowlab/core';
import type { Command } from 'commander';
import { invalidUse, underPath } from '../errors.ts';
import { collect, driverOf, drivers, optionRows, parseOptions } from '../formats.ts';
import { withImage } from '../images.ts';
import { amendJson } from '../json.ts';
import { fileOf, placeOf } from '../places.ts';
import type { Output } from '../output.ts';
import { type JsonOptions, type Session, type SourceOptions, withJson, withSource } from '../session.ts';
import { underWay } from '../work.ts';

interface AmendVerbOptions extends SourceOptions, JsonOptions {
  readonly options: readonly string[];
  readonly progress?: boolean;
  readonly quiet?: boolean;
}

export function addAmend(program: Command, { output }: Session): void {
  const command = program
    .command('amend')
    .description('change what an image was made with; its contents and snapshots stay')
    .argument('[file]', 'the image')
    .requiredOption(
      '-o, --options <list>',
      'create options with other values, name=value,…; "help" lists those that can change',
      collect,
    )
    .option('-p, --progress', 'show progress on stderr')
    .option('-q, --quiet', 'say nothing');
  withJson(withSource(command)).action((file: string | undefined, options: AmendVerbOptions) =>
    amend(output, file, options),
  );
}

async function amend(output: Output, file: string | undefined, options: AmendVerbOptions): Promise<void> {
  const { format, allow = [] } = options;
  const look = { ...options, withoutBacking: true };
  if (options.options.includes('help')) return listOptions(output, await driverFor(file, options));
  if (file === undefined) throw invalidUse('amend', 'which file?');
  const driver = await driverFor(file, options);
  const values = parseOptions(driver, options.options);
  try {
    await underWay(output, 'amend', options, (call) =>
      amendDisk(placeOf(file), {
        drivers,
        gate: { allow },
        values,
        ...(format !== undefined && { format }),
        ...call,
      }),
    );
  } catch (error) {
    throw underPath(error, file, fileOf(file));
  }
  if (options.json) {
    return withImage(file, look, async (disk) => output.json(amendJson(file, await disk.info())));
  }
  if (!options.quiet) output.line('Image amended.');
}

/** By `-f`, or by the image itself. */
function driverFor(file: string | undefined, options: AmendVerbOptions): BlockDriver | Promise<BlockDriver> {
  if (options.format !== undefined) return driverOf(options.format, '-f');
  if (file === undefined) throw invalidUse('amend', 'which file, or format (-f)?');
  const look = { ...options, withoutBacking: true };
  return withImage(file, look, async (disk) => driverOf(disk.format, '-f'));
}

function listOptions(output: Output, driver: BlockDriver): void {
  const { amend: names } = driver.capabilities;
  const rows = optionRows(driver).filter(([name]) => names.includes(name ?? ''));
  if (rows.length === 0) return output.line(`${driver.name} images keep what they were made with`);
  output.table([{ title: 'OPTION' }, { title: 'TYPE' }, { title: 'DEFAULT' }, { title: '' }], rows);
}
