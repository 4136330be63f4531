import fs from 'node:fs';
import path from 'node:path';
import { performance } from 'node:perf_hooks';
import { type Disk, openDisk } from '@cowlab/core';
import { chooseSubjects, drivers } from '../formats.ts';
import { IMAGE_FILE, type Lab } from '../lab.ts';
import { breathe, shuffled } from '../measure.ts';
import { createMapped } from '../scenarios/mapped.ts';
import { overwriteSome } from '../scenarios/snapshots.ts';
import { seededRandom } from '../workload.ts';
import { settle } from './grounds.ts';
import { bars, judged, ratioOf } from './judge.ts';
import type { MappedProfile, QemuProfile } from './profiles.ts';
import type { CommandRow } from './schema.ts';
import { commandMs } from './tools.ts';

/*
 * How long do snapshot operations and `check` take beside `qemu-img`? All three do them on one image, by turns: QEMU's
 * command, ours in this process (open, operate, close), and `cowlab` as a command, with the start of Node. A round is
 * create, some writes, apply, some writes, delete; it leaves as many snapshots as there were. The image has every
 * cluster mapped, and the data are holes: the metadata are real.
 *
 * VMDK has `check` alone: qemu-img has no command for its snapshots.
 */

type Operation = CommandRow['operation'];

/** Does one operation on the image; milliseconds, all of it. */
type Party = (operation: Operation) => Promise<number>;

const NAME = 'timed';
const options = { create: '-c', apply: '-a', delete: '-d' } as const;

function argumentsOf(operation: Operation, format: string, file: string): string[] {
  if (operation === 'check') return ['check', '-f', format, file];
  return ['snapshot', options[operation], NAME, file];
}

const ours: Readonly<Record<Operation, (disk: Disk) => Promise<void>>> = {
  create: async (disk) => void (await disk.snapshots.create(NAME)),
  apply: (disk) => disk.snapshots.apply(NAME),
  delete: (disk) => disk.snapshots.delete(NAME),
  check: async (disk) => {
    const { corruptions, leaks } = await disk.check();
    if (corruptions + leaks > 0) throw new Error(`${corruptions} corruptions, ${leaks} leaks`);
  },
};

async function inProcess(format: string, file: string, operation: Operation): Promise<number> {
  const started = performance.now();
  const disk = await openDisk(file, { drivers, format, readOnly: operation === 'check' });
  await ours[operation](disk);
  await disk.close();
  return performance.now() - started;
}

interface Parties {
  readonly qemu: Party;
  readonly ours: Party;
  /** Undefined where the command is not there. */
  readonly command: Party | undefined;
}

function partiesOf(format: string, file: string, command: string | undefined): Parties {
  return {
    qemu: (operation) => commandMs('qemu-img', argumentsOf(operation, format, file)),
    ours: (operation) => inProcess(format, file, operation),
    command:
      command === undefined
        ? undefined
        : (operation) => commandMs(process.execPath, [command, ...argumentsOf(operation, format, file)]),
  };
}

type Samples = Record<Operation, number[]>;

const noSamples = (): Samples => ({ create: [], apply: [], delete: [], check: [] });

interface MappedImage {
  readonly format: string;
  readonly folder: string;
  readonly file: string;
}

const DIRTY_WRITES = 64;
const SEED = 1;

async function withDisk(image: MappedImage, work: (disk: Disk) => Promise<void>): Promise<void> {
  const disk = await openDisk(image.file, { drivers, format: image.format });
  await work(disk);
  await disk.close();
}

async function makeMapped(
  lab: Lab,
  format: string,
  { imageBytes, snapshots }: MappedProfile,
): Promise<MappedImage> {
  const folder = lab.path(`${format}-mapped`);
  const image = { format, folder, file: path.join(folder, IMAGE_FILE) };
  const [subject] = chooseSubjects([format]);
  await createMapped(subject!, folder, imageBytes);
  await withDisk(image, async (disk) => {
    for (let at = 0; at < snapshots; at++) {
      await overwriteSome(disk, DIRTY_WRITES, 4096, SEED);
      await disk.snapshots.create(`s${at}`);
      if (at % 16 === 0) await breathe();
    }
  });
  return image;
}

async function round(image: MappedImage, party: Party, samples: Samples): Promise<void> {
  for (const operation of ['create', 'apply', 'delete', 'check'] as const) {
    if (image.format === 'vmdk' && operation !== 'check') continue;
    if (operation === 'apply' || operation === 'delete') {
      await withDisk(image, (disk) => overwriteSome(disk, DIRTY_WRITES, 4096, SEED));
    }
    await settle(image.folder);
    samples[operation].push(await party(operation));
  }
}

async function measureImage(
  lab: Lab,
  format: string,
  mapped: MappedProfile,
  command: string | undefined,
  tick: (done: number) => void,
): Promise<CommandRow[]> {
  const image = await makeMapped(lab, format, mapped);
  const parties = partiesOf(format, image.file, command);
  const samples = { qemu: noSamples(), ours: noSamples(), command: noSamples() };
  const random = seededRandom(mapped.repetitions);
  for (let repetition = 0; repetition < mapped.repetitions; repetition++) {
    for (const name of shuffled(['qemu', 'ours', 'command'] as const, random)) {
      const party = parties[name];
      if (party !== undefined) await round(image, party, samples[name]);
      await breathe();
    }
    tick((repetition + 1) / mapped.repetitions);
  }
  await fs.promises.rm(image.folder, { recursive: true });
  const { imageBytes, snapshots } = mapped;
  return (['create', 'apply', 'delete', 'check'] as const)
    .filter((operation) => samples.qemu[operation].length > 0)
    .map((operation) => {
      const qemuMs = samples.qemu[operation];
      const oursMs = samples.ours[operation];
      const commandMsOf = samples.command[operation];
      return {
        format,
        operation,
        imageBytes,
        snapshots,
        qemuMs,
        oursMs,
        commandMs: commandMsOf,
        commandRatio: commandMsOf.length === 0 ? null : ratioOf(qemuMs, commandMsOf),
        ...judged(ratioOf(qemuMs, oursMs), bars.command),
      };
    });
}

export async function measureCommands(
  lab: Lab,
  formats: readonly string[],
  profile: QemuProfile,
  command: string | undefined,
  tick: (done: number) => void,
): Promise<CommandRow[]> {
  const all = profile.mapped.flatMap((mapped) =>
    formats
      .filter((format) => format !== 'raw')
      .map((format) => ({ format, mapped: format === 'vmdk' ? { ...mapped, snapshots: 0 } : mapped })),
  );
  const rows: CommandRow[] = [];
  for (const [at, { format, mapped }] of all.entries()) {
    const step = (done: number): void => tick((at + done) / all.length);
    rows.push(...(await measureImage(lab, format, mapped, command, step)));
  }
  return rows;
}
