import path from 'node:path';
import {
  type BlockDriver,
  CowlabError,
  createDisk,
  type Disk,
  FileFolder,
  type LongCallOptions,
  type OptionValues,
  raw,
} from '@cowlab/core';
import type { Command } from 'commander';
import { invalidUse } from '../errors.ts';
import { collect, driverOf, formatNames, parseOptions } from '../formats.ts';
import { closing, inPlaceOf, openImage } from '../images.ts';
import { writeIncrement } from '../increment.ts';
import type { Output } from '../output.ts';
import { type Session, type SourceOptions, withForceShare, withSource } from '../session.ts';
import { copyCompressed } from '../compressed-copy.ts';
import { copyDisk } from '../transfer.ts';
import { underWay } from '../work.ts';

interface ConvertOptions extends SourceOptions {
  readonly outputFormat?: string;
  readonly options?: readonly string[];
  readonly snapshot?: string;
  readonly progress?: boolean;
  readonly compress?: boolean;
  readonly force?: boolean;
  readonly from?: string;
  /** False with `-n`. */
  readonly create: boolean;
  readonly unchecked?: boolean;
}

export function addConvert(program: Command, { output }: Session): void {
  const command = program
    .command('convert')
    .description("copy a disk's contents into a new image; what is zero takes no space there")
    .argument('<source>', 'the image to read')
    .argument('<target>', 'the image to make; with -n one that exists')
    .option(
      '-O, --output-format <format>',
      `format of the target: ${formatNames}; raw for a new one without it`,
    )
    .option('-o, --options <list>', 'create options of the new image, name=value,…', collect)
    .option('-l, --snapshot <name>', 'copy this snapshot instead of the present state')
    .option('-p, --progress', 'show progress on stderr')
    .option('-c, --compress', 'store the data of the target compressed, where its format can')
    .option('--force', 'replace a target that exists')
    .option(
      '--from <name>',
      'with -n: write only what has changed since this snapshot, which the target holds',
    )
    .option('-n, --no-create', 'write into a target that exists')
    .option('--unchecked', 'with -n: do not compare first what has not changed with the target');
  withForceShare(withSource(command)).action((source: string, target: string, options: ConvertOptions) =>
    options.create && options.from === undefined && !options.unchecked
      ? convert(output, source, target, options)
      : increment(output, source, target, options),
  );
}

/** What `-n` cannot go without, and what cannot go with it. */
function assertIncremental(
  options: ConvertOptions,
): asserts options is ConvertOptions & Required<Pick<ConvertOptions, 'from' | 'outputFormat'>> {
  const { create, from, outputFormat, options: values, force, compress } = options;
  if (create) {
    throw invalidUse(
      from === undefined ? '--unchecked' : '--from',
      'goes with -n, into a target that exists',
    );
  }
  if (from === undefined) throw invalidUse('-n', 'goes with --from, the snapshot that the target holds');
  // A raw disk may hold what looks like another format: its guest decides.
  if (outputFormat === undefined) throw invalidUse('-n', 'goes with -O, the format of the target');
  if (compress) throw invalidUse('-c', 'goes with a new target, not with -n');
  if (values !== undefined || force) throw invalidUse('-n', 'makes no image: -o and --force have no meaning');
}

async function increment(
  output: Output,
  source: string,
  target: string,
  options: ConvertOptions,
): Promise<void> {
  assertIncremental(options);
  const { from, snapshot: to, unchecked = false, outputFormat: format, allow } = options;
  driverOf(format, '-O');
  const { disk, files } = await openImage(source, options);
  await closing(disk, source, async () => {
    await assertNotOf(files, source, target);
    const { disk: into } = await openImage(target, { format, allow, writable: true });
    const about = { source: disk, from, to, unchecked, names: { source, target } };
    const work = (call: LongCallOptions): Promise<void> => writeIncrement(about, into, call);
    await closing(into, target, () => underWay(output, 'convert', options, work));
  });
}

async function assertNotOf(files: ReadonlySet<string>, source: string, target: string): Promise<void> {
  const folder = new FileFolder(path.dirname(target));
  if (files.has(await folder.identify(path.basename(target)))) {
    throw invalidUse(target, `is a file of the source ${source}`);
  }
}

async function convert(
  output: Output,
  source: string,
  target: string,
  options: ConvertOptions,
): Promise<void> {
  const driver = driverOf(options.outputFormat ?? raw.name, '-O');
  const values = parseOptions(driver, options.options);
  if (options.compress && driver.capabilities.compress === 'none') throw storesPlainly(driver.name);
  const { disk, files } = await openImage(source, options);
  await closing(disk, source, async () => {
    await assertNotOf(files, source, target);
    const state = options.snapshot === undefined ? disk : await disk.snapshots.open(options.snapshot);
    await inPlaceOf(target, options.force ?? false, () =>
      underWay(output, 'convert', options, (call) =>
        copyInto(state, target, { ...options, driver, options: values }, call),
      ),
    );
  });
}

function storesPlainly(format: string): CowlabError {
  const problem = `${format} stores nothing compressed`;
  return new CowlabError('ERR_UNSUPPORTED', `-c: ${problem}`, { field: '-c', value: format });
}

/** What is to be made. */
interface NewImage {
  readonly driver: BlockDriver;
  readonly options: OptionValues;
  readonly compress?: boolean;
}

/** Makes the target and fills it; a target that could not be filled is removed again, with all its files. */
async function copyInto(
  source: Disk,
  target: string,
  { driver, options, compress = false }: NewImage,
  call: LongCallOptions,
): Promise<void> {
  const multiple = driver.capabilities.sizeMultiple;
  // A raw file may have any length; what other formats round up to reads as zeros.
  const size = Math.ceil(source.size / multiple) * multiple;
  await createDisk(target, { driver, size, options });
  let made: Iterable<string> = [path.basename(target)];
  try {
    const { disk, files } = await openImage(target, { format: driver.name, writable: true });
    made = files;
    await closing(disk, target, () => {
      if (compress && disk.compression === 'none') throw storesPlainly(`this kind of ${driver.name} image`);
      return compress || disk.compression === 'only'
        ? copyCompressed(source, disk, call)
        : copyDisk(source, disk, call);
    });
  } catch (error) {
    const folder = new FileFolder(path.dirname(target));
    for (const file of made) await folder.remove(file);
    throw error;
  }
}
