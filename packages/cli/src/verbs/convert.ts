import path from 'node:path';
import { type BlockDriver, createDisk, type Disk, FileFolder, type OptionValues } from '@cowlab/core';
import type { Command } from 'commander';
import { invalidUse } from '../errors.ts';
import { collect, driverOf, formatNames, parseOptions } from '../formats.ts';
import { closing, inPlaceOf, openImage } from '../images.ts';
import { interruptible } from '../interrupt.ts';
import type { Output } from '../output.ts';
import { type Session, type SourceOptions, withSource } from '../session.ts';
import { copyDisk } from '../transfer.ts';

interface ConvertOptions extends SourceOptions {
  readonly outputFormat: string;
  readonly options?: readonly string[];
  readonly snapshot?: string;
  readonly progress?: boolean;
  readonly force?: boolean;
}

export function addConvert(program: Command, { output }: Session): void {
  const command = program
    .command('convert')
    .description("copy a disk's contents into a new image; what is zero takes no space there")
    .argument('<source>', 'the image to read')
    .argument('<target>', 'the image to make')
    .option('-O, --output-format <format>', `format of the new image: ${formatNames}`, 'raw')
    .option('-o, --options <list>', 'create options of the new image, name=value,…', collect)
    .option('-l, --snapshot <name>', 'copy this snapshot instead of the present state')
    .option('-p, --progress', 'show progress on stderr')
    .option('--force', 'replace a target that exists');
  withSource(command).action((source: string, target: string, options: ConvertOptions) =>
    convert(output, source, target, options),
  );
}

async function convert(
  output: Output,
  source: string,
  target: string,
  options: ConvertOptions,
): Promise<void> {
  const driver = driverOf(options.outputFormat, '-O');
  const values = parseOptions(driver, options.options);
  const { disk, files } = await openImage(source, options);
  await closing(disk, source, async () => {
    const folder = new FileFolder(path.dirname(target));
    if (files.has(await folder.identify(path.basename(target)))) {
      throw invalidUse(target, `is a file of the source ${source}`);
    }
    const state = options.snapshot === undefined ? disk : await disk.snapshots.open(options.snapshot);
    const progress = options.progress ? output.progress('convert') : undefined;
    try {
      await inPlaceOf(target, options.force ?? false, () =>
        interruptible((signal) =>
          copyInto(state, target, driver, values, {
            signal,
            ...(progress && { onProgress: (each) => progress.update(each) }),
          }),
        ),
      );
    } finally {
      progress?.end();
    }
  });
}

/** Makes the target and fills it; a target that could not be filled is removed again. */
async function copyInto(
  source: Disk,
  target: string,
  driver: BlockDriver,
  options: OptionValues,
  call: Parameters<typeof copyDisk>[2],
): Promise<void> {
  const multiple = driver.capabilities.sizeMultiple;
  // A raw file may have any length; what other formats round up to reads as zeros.
  const size = Math.ceil(source.size / multiple) * multiple;
  await createDisk(target, { driver, size, options });
  try {
    const { disk } = await openImage(target, { format: driver.name, writable: true });
    await closing(disk, target, () => copyDisk(source, disk, call));
  } catch (error) {
    await new FileFolder(path.dirname(target)).remove(path.basename(target));
    throw error;
  }
}
