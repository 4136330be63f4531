import type { ProfileName } from '@cowlab/bench';
import { type Command, Option } from 'commander';
import { parseWhole } from '../formats.ts';
import type { Session } from '../session.ts';

interface BenchVerbOptions {
  readonly profile: ProfileName;
  readonly formats?: string;
  readonly driver?: string[];
  readonly out?: string;
  readonly seed?: number;
  readonly baseline?: string;
  readonly withQemu?: boolean;
}

/* The benchmark is loaded when it runs: other verbs need not wait for it. */

const PROFILES = { quick: true, standard: true, full: true } satisfies Record<ProfileName, true>;

export function addBench(program: Command, session: Session): void {
  const { output } = session;
  program
    .command('bench')
    .description(
      'measure the snapshot strategies of the formats side by side; status 2 against a baseline: worse',
    )
    .addOption(
      new Option('--profile <name>', 'how much to measure')
        .choices(Object.keys(PROFILES))
        .default('standard'),
    )
    .option(
      '--formats <list>',
      'formats beside raw, with commas between; fvd,qcow2,vmdk without; for one that is none, all are named',
    )
    .option('--driver <module...>', 'drivers of your own: modules that export one as their default')
    .option('--out <dir>', 'folder for results.json; a new temporary one without')
    .option('--seed <number>', 'decides every offset and every byte', (text) => parseWhole(text, '--seed'))
    .option('--with-qemu', 'QEMU’s own QCOW2 and VMDK beside: needs qemu-img, qemu-io and strace')
    .option('--baseline <file>', 'an earlier results.json to compare with')
    .action(async ({ formats, driver, ...options }: BenchVerbOptions) => {
      const { benchMain } = await import('@cowlab/bench');
      session.status = await benchMain({
        ...options,
        ...(formats !== undefined && { formats: formats.split(',').map((name) => name.trim()) }),
        ...(driver !== undefined && { drivers: driver }),
        stdout: output.io.stdout,
        stderr: output.io.stderr,
        bold: (text) => output.styled('bold', text),
      });
    });
}
