import { type Disk, type Measurement, measureDisk, raw } from '@cowlab/core';
import type { Command } from 'commander';
import { invalidUse } from '../errors.ts';
import { collect, driverOf, formatNames, parseOptions } from '../formats.ts';
import { withImage } from '../images.ts';
import { measureJson } from '../json.ts';
import {
  type JsonOptions,
  type Session,
  type SourceOptions,
  withForceShare,
  withJson,
  withSource,
} from '../session.ts';
import { parseSize } from '../sizes.ts';

interface MeasureVerbOptions extends SourceOptions, JsonOptions {
  readonly outputFormat: string;
  readonly options?: readonly string[];
  readonly snapshot?: string;
  readonly size?: string;
}

export function addMeasure(program: Command, { output }: Session): void {
  const command = program
    .command('measure')
    .description('say how large a new image would be: for a copy of a disk, or for a disk of some size')
    .argument('[file]', 'the image that would be copied')
    .option('-O, --output-format <format>', `format of the new image: ${formatNames}`, raw.name)
    .option('-o, --options <list>', 'create options of the new image, name=value,…', collect)
    .option('-l, --snapshot <name>', 'copy this snapshot instead of the present state')
    .option('--size <size>', 'size of an empty disk, in the place of a file');
  withJson(withForceShare(withSource(command))).action(
    async (file: string | undefined, options: MeasureVerbOptions) => {
      const { requiredBytes, fullyAllocatedBytes } = await measure(file, options);
      if (options.json) return output.json(measureJson({ requiredBytes, fullyAllocatedBytes }));
      output.line(`required size: ${requiredBytes}`);
      output.line(`fully allocated size: ${fullyAllocatedBytes}`);
    },
  );
}

async function measure(file: string | undefined, options: MeasureVerbOptions): Promise<Measurement> {
  const { size, snapshot } = options;
  const driver = driverOf(options.outputFormat, '-O');
  const values = parseOptions(driver, options.options);
  if (size === undefined) {
    if (file === undefined) throw invalidUse('measure', 'which file, or --size?');
    return withImage(file, options, async (disk) => {
      const source: Disk = snapshot === undefined ? disk : await disk.snapshots.open(snapshot);
      return measureDisk(driver, { source, options: values });
    });
  }
  if (file !== undefined) throw invalidUse('--size', 'in the place of a file, not beside one');
  if (snapshot !== undefined) throw invalidUse('-l', 'a snapshot without a file');
  return measureDisk(driver, { size: parseSize(size), options: values });
}
