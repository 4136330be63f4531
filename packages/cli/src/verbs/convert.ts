import { type BlockDriver, CowlabError, type Disk, type LongCallOptions, raw } from '@cowlab/core';
import type { Command } from 'commander';
import { backingFolders, backingOf } from '../backing.ts';
import { copyCompressed } from '../compressed-copy.ts';
import { copyOptionsOf, type TypedCopyOptions, withCopyOptions } from '../copy-options.ts';
import { invalidUse } from '../errors.ts';
import { collect, driverOf, formatNames, parseOptions } from '../formats.ts';
import { closing, inPlaceOf, openImage } from '../images.ts';
import { sizeIn, writeIncrement } from '../increment.ts';
import { makeFilled } from '../new-image.ts';
import { placeOf } from '../places.ts';
import type { Output } from '../output.ts';
import { type Session, type SourceOptions, withForceShare, withSource } from '../session.ts';
import { assertTakesSnapshots, copyStates, firstSize } from '../snapshot-copy.ts';
import { copyDifferences, copyDisk, copyOver, type CopyOptions } from '../transfer.ts';
import { underWay } from '../work.ts';

interface ConvertOptions extends SourceOptions, TypedCopyOptions {
  readonly outputFormat?: string;
  readonly options?: readonly string[];
  readonly snapshot?: string;
  readonly withSnapshots?: boolean;
  readonly backing?: string;
  readonly backingFormat?: string;
  readonly progress?: boolean;
  readonly compress?: boolean;
  readonly force?: boolean;
  readonly from?: string;
  /** False with `-n`. */
  readonly create: boolean;
  readonly targetIsZero?: boolean;
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
    .option('--with-snapshots', 'copy every snapshot, too, with its name, its time and what it grew from')
    .option(
      '-B, --backing <file>',
      'make the target over this backing file, and write only what differs from it',
    )
    .option(
      '-F, --backing-format <format>',
      'with -B: format of the backing file; probed and recorded without',
    )
    .option('-p, --progress', 'show progress on stderr')
    .option('-q, --quiet', 'say nothing; without -p nothing is said in any case')
    .option('-c, --compress', 'store the data of the target compressed, where its format can')
    .option('--force', 'replace a target that exists')
    .option('-n, --no-create', 'write into a target that exists, and is at least as large')
    .option('--target-is-zero', 'with -n: the target reads as zeros, so none are written')
    .option(
      '--from <name>',
      'with -n: write only what has changed since this snapshot, which the target holds',
    )
    .option('--unchecked', 'with --from: do not compare first what has not changed with the target');
  withForceShare(withSource(withCopyOptions(command))).action(
    (source: string, target: string, options: ConvertOptions) => {
      assertFits(options);
      const run = options.create ? convert : options.from === undefined ? overwrite : increment;
      return run({ output, source, target, options });
    },
  );
}

interface Job {
  readonly output: Output;
  readonly source: string;
  readonly target: string;
  readonly options: ConvertOptions;
}

/** Options that cannot go together, and those that cannot go alone. */
function assertFits(options: ConvertOptions): void {
  const { create, from, unchecked, targetIsZero, force, compress, withSnapshots, backing } = options;
  if (create) {
    const alone =
      from !== undefined ? '--from' : unchecked ? '--unchecked' : targetIsZero && '--target-is-zero';
    if (alone) throw invalidUse(alone, 'goes with -n, into a target that exists');
  } else {
    // A raw disk may hold what looks like another format: its guest decides.
    if (options.outputFormat === undefined) throw invalidUse('-n', 'goes with -O, the format of the target');
    if (compress) throw invalidUse('-c', 'goes with a new target, not with -n');
    if (withSnapshots) throw invalidUse('--with-snapshots', 'goes with a new target, not with -n');
    if (backing !== undefined) throw invalidUse('-B', 'goes with a new target, not with -n');
    if (options.options !== undefined || force) {
      throw invalidUse('-n', 'makes no image: -o and --force have no meaning');
    }
    if (from === undefined && unchecked) throw invalidUse('--unchecked', 'goes with --from');
    if (from !== undefined && targetIsZero)
      throw invalidUse('--target-is-zero', 'has no meaning with --from');
  }
  if (withSnapshots && options.snapshot !== undefined) throw invalidUse('--with-snapshots', 'not beside -l');
  if (withSnapshots && compress) throw invalidUse('--with-snapshots', 'not beside -c');
  if (withSnapshots && backing !== undefined) throw invalidUse('--with-snapshots', 'not beside -B');
  if (compress && backing !== undefined) throw invalidUse('-B', 'not beside -c');
  if (backing === undefined && options.backingFormat !== undefined) {
    throw invalidUse('-F', 'a backing format without a backing file (-B)');
  }
}

async function increment({ output, source, target, options }: Job): Promise<void> {
  const { from = '', snapshot: to, unchecked = false } = options;
  await intoPresent({ output, source, target, options }, (disk, into, call) =>
    writeIncrement({ source: disk, from, to, unchecked, names: { source, target } }, into, call),
  );
}

/** The whole disk, into a target that exists. */
async function overwrite(job: Job): Promise<void> {
  const { target, options } = job;
  const copy = options.targetIsZero ? copyDisk : copyOver;
  await intoPresent(job, async (disk, into, call) => {
    const state = await stateOf(disk, options.snapshot);
    if (into.size < state.size) {
      throw invalidUse(target, `has ${into.size} bytes, less than the ${state.size} of the source`);
    }
    await copy(state, into, call);
    await into.flush();
  });
}

async function intoPresent(
  { output, source, target, options }: Job,
  work: (disk: Disk, into: Disk, call: CopyOptions) => Promise<void>,
): Promise<void> {
  const { outputFormat: format, allow } = options;
  if (format !== undefined) driverOf(format, '-O');
  const { disk, files } = await openImage(source, options);
  await closing(disk, source, async () => {
    await assertNotOf(files, source, target);
    const { disk: into } = await openImage(target, { format, allow, writable: true });
    const run = (call: LongCallOptions): Promise<void> =>
      work(disk, into, { ...copyOptionsOf(options), ...call });
    await closing(into, target, () => underWay(output, 'convert', options, run));
  });
}

async function assertNotOf(files: ReadonlySet<string>, source: string, target: string): Promise<void> {
  const { folder, file } = placeOf(target);
  if (files.has(await folder.identify(file))) {
    throw invalidUse(target, `is a file of the source ${source}`);
  }
}

function stateOf(disk: Disk, snapshot: string | undefined): Disk | Promise<Disk> {
  return snapshot === undefined ? disk : disk.snapshots.open(snapshot);
}

async function convert({ output, source, target, options }: Job): Promise<void> {
  const driver = driverOf(options.outputFormat ?? raw.name, '-O');
  const values = parseOptions(driver, options.options);
  if (options.compress && driver.capabilities.compress === 'none') throw storesPlainly(driver.name);
  const { disk, files } = await openImage(source, options);
  await closing(disk, source, async () => {
    await assertNotOf(files, source, target);
    const state = await stateOf(disk, options.snapshot);
    await inPlaceOf(target, options.force ?? false, async () => {
      const allow = [...(options.allow ?? []), ...backingFolders(target, options.backing)];
      const { backing: file, backingFormat: format } = options;
      const backing = file === undefined ? undefined : await backingOf(target, { file, format }, allow);
      const size = sizeIn(driver, options.withSnapshots ? await firstSize(disk) : state.size);
      const image = { driver, size, options: values, allow, ...(backing && { backing }) };
      await underWay(output, 'convert', options, (call) =>
        makeFilled(target, image, (into) => fill({ state, into, driver }, { target, options }, call)),
      );
    });
  });
}

async function fill(
  { state, into, driver }: { state: Disk; into: Disk; driver: BlockDriver },
  { target, options }: Pick<Job, 'target' | 'options'>,
  call: LongCallOptions,
): Promise<void> {
  const { compress, withSnapshots, backing } = options;
  if (compress && into.compression === 'none') throw storesPlainly(`this kind of ${driver.name} image`);
  const how: CopyOptions = { ...copyOptionsOf(options), ...call };
  if (withSnapshots) {
    await assertTakesSnapshots(state, into, target);
    return copyStates(state, into, how);
  }
  if (compress || into.compression === 'only') {
    assertCompresses(options);
    return copyCompressed(state, into, call);
  }
  return backing === undefined ? copyDisk(state, into, how) : copyDifferences(state, into, undefined, how);
}

/** Compressed data come in whole units, in their order, as fast as they are compressed. */
function assertCompresses({ sparseSize, rateLimit, outOfOrder }: ConvertOptions): void {
  const option =
    (sparseSize !== undefined && '-S') || (rateLimit !== undefined && '-r') || (outOfOrder && '-W');
  if (option) throw invalidUse(option, 'not for compressed data');
}

function storesPlainly(format: string): CowlabError {
  const problem = `${format} stores nothing compressed`;
  return new CowlabError('ERR_UNSUPPORTED', `-c: ${problem}`, { field: '-c', value: format });
}
