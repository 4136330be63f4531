import fs from 'node:fs';
import path from 'node:path';
import { performance } from 'node:perf_hooks';
import { pathToFileURL } from 'node:url';
import type { Lab } from '../lab.ts';
import { breathe, shuffled } from '../measure.ts';
import { commandMs } from '../qemu/tools.ts';
import { seededRandom } from '../workload.ts';
import { createImage, type Images, newFile } from './images.ts';
import { beside } from './judge.ts';
import type { NbdProfile } from './profiles.ts';
import type { ConversionRow } from './schema.ts';

/*
 * How long does `convert` take beside `qemu-img convert`, from every format to every other one, with data and without?
 * Three do each conversion, by turns: QEMU's command, ours in this process, and `cowlab` as a command, with the start
 * of Node. All three leave a target that is on the device: QEMU is told so (`-t writeback`), which it is not by itself.
 * QEMU knows no FVD: where we read or write that, it reads or writes QCOW2.
 */

/** `cowlab` as a function: the module beside the script of the command. */
type CommandMain = (argv: readonly string[], io: CommandIo) => Promise<number>;
interface CommandIo {
  readonly stdout: { write(text: string): unknown };
  readonly stderr: { write(text: string): unknown };
}

async function mainOf(command: string): Promise<CommandMain> {
  const module = pathToFileURL(path.join(path.dirname(path.resolve(command)), 'index.js'));
  const { main } = (await import(module.href)) as { main?: CommandMain };
  if (main === undefined) throw new TypeError(`${command}: there is no main beside it`);
  return main;
}

interface Conversion {
  readonly from: string;
  readonly to: string;
  readonly content: 'data' | 'empty';
  readonly diskBytes: number;
  readonly source: string;
  /** What QEMU converts instead. */
  readonly peer: { readonly from: string; readonly to: string; readonly source: string };
  readonly qemuMs: number[];
  readonly oursMs: number[];
  readonly commandMs: number[];
}

const atQemu = (format: string): string => (format === 'fvd' ? 'qcow2' : format);

function conversionsOf(
  formats: readonly string[],
  content: Conversion['content'],
  diskBytes: number,
  source: (format: string) => string,
): Conversion[] {
  return formats.flatMap((from) =>
    formats
      .filter((to) => to !== from)
      .map((to) => ({
        from,
        to,
        content,
        diskBytes,
        source: source(from),
        peer: { from: atQemu(from), to: atQemu(to), source: source(atQemu(from)) },
        qemuMs: [],
        oursMs: [],
        commandMs: [],
      })),
  );
}

async function makeEmpty(
  lab: Lab,
  formats: readonly string[],
  bytes: number,
): Promise<(format: string) => string> {
  const files = new Map<string, string>();
  for (const format of new Set([...formats, ...formats.map(atQemu)])) {
    const file = await newFile(lab, `empty-${format}`);
    await createImage(format, file, bytes);
    files.set(format, file);
  }
  return (format) => files.get(format)!;
}

export async function measureConversions(
  lab: Lab,
  images: Images,
  { imageBytes, emptyBytes, converted, conversions: rounds }: NbdProfile,
  command: string | undefined,
  tick: (done: number) => void,
): Promise<ConversionRow[]> {
  const all = [
    ...conversionsOf(converted, 'data', imageBytes, (format) => images.original(format)),
    ...conversionsOf(converted, 'empty', emptyBytes, await makeEmpty(lab, converted, emptyBytes)),
  ];
  const main = command === undefined ? undefined : await mainOf(command);
  const random = seededRandom(rounds);
  const target = await newFile(lab, 'converted');
  for (let round = 0; round < rounds; round++) {
    for (const [at, conversion] of shuffled(all, random).entries()) {
      for (const party of shuffled(partiesOf(conversion, target, command, main), random)) {
        await party();
        await lab.discard(path.dirname(target));
        await fs.promises.mkdir(path.dirname(target));
        await breathe();
      }
      tick((round + (at + 1) / all.length) / rounds);
    }
  }
  return all.map(rowOf);
}

function partiesOf(
  { from, to, source, peer, ...samples }: Conversion,
  target: string,
  command: string | undefined,
  main: CommandMain | undefined,
): (() => Promise<void>)[] {
  const theirs = ['convert', '-t', 'writeback', '-f', peer.from, '-O', peer.to, peer.source, target];
  const ours = ['convert', '-f', from, '-O', to, source, target];
  const qemu = async (): Promise<void> => void samples.qemuMs.push(await commandMs('qemu-img', theirs));
  if (command === undefined || main === undefined) return [qemu];
  return [
    qemu,
    async () => void samples.oursMs.push(await inProcessMs(main, ours)),
    async () => void samples.commandMs.push(await commandMs(process.execPath, [command, ...ours])),
  ];
}

async function inProcessMs(main: CommandMain, argv: readonly string[]): Promise<number> {
  let said = '';
  const stderr = { write: (text: string) => (said += text) };
  const started = performance.now();
  const status = await main(argv, { stdout: { write: () => true }, stderr });
  if (status !== 0) throw new Error(`cowlab ${argv.join(' ')}: status ${status}: ${said}`);
  return performance.now() - started;
}

const BAR = 1;

function rowOf(conversion: Conversion): ConversionRow {
  const { from, to, content, diskBytes, peer, qemuMs, oursMs, commandMs: whole } = conversion;
  const name = `${peer.from} → ${peer.to}`;
  return {
    from,
    to,
    content,
    diskBytes,
    peer: name,
    qemuMs,
    oursMs,
    commandMs: whole,
    beside: oursMs.length === 0 ? null : beside(name, qemuMs, oursMs, BAR),
    commandBeside: whole.length === 0 ? null : beside(name, qemuMs, whole, BAR),
  };
}
