import fs from 'node:fs';
import path from 'node:path';
import { performance } from 'node:perf_hooks';
import { describeEnvironment } from '../environment.ts';
import { formatNames } from '../formats.ts';
import { Lab } from '../lab.ts';
import type { ProgressStream } from '../progress.ts';
import { ProgressLine } from '../progress.ts';
import { countCalls } from './calls.ts';
import { measureCommands } from './commands.ts';
import { filledGround } from './grounds.ts';
import type { QemuProfile } from './profiles.ts';
import { QEMU_RESULTS_VERSION, type QemuOmission, type QemuResults, type Setting } from './schema.ts';
import { measureSpeeds } from './speeds.ts';
import { bestSetting, hasStrace, qemuVersion } from './tools.ts';

export interface QemuBenchOptions {
  readonly profile: QemuProfile;
  /** The script of `cowlab`, to be measured as a command; left out without it. */
  readonly command?: string;
  /** Gets the progress. */
  readonly stderr: ProgressStream;
}

/** QEMU knows nothing of the others. */
const formats: readonly string[] = ['raw', ...formatNames.filter((name) => name !== 'fvd')];

/** Measures everything in one run. Throws `ERR_NOT_FOUND` where QEMU is missing. */
export async function runQemuBench({ profile, command, stderr }: QemuBenchOptions): Promise<QemuResults> {
  const qemu = qemuVersion();
  const date = new Date();
  const started = performance.now();
  const progress = new ProgressLine(stderr);
  const lab = new Lab();
  try {
    const step = (name: string, from: number, share: number): ((done: number) => void) => {
      const tick = (done: number): void => progress.update({ step: name, done: from + done * share });
      tick(0);
      return tick;
    };
    step('the best setting of QEMU', 0, 0);
    const settings = await chooseSettings(lab, profile);
    const speeds = await measureSpeeds(lab, formats, profile, settings, step('requests', 0.05, 0.5));
    const omissions = omissionsOf(command);
    const calls = hasStrace()
      ? await countCalls(lab, formats, profile, step('storage calls', 0.55, 0.1))
      : [];
    const commands = await measureCommands(lab, formats, profile, command, step('commands', 0.65, 0.35));
    return {
      schema: 'cowlab-bench-qemu-results',
      version: QEMU_RESULTS_VERSION,
      environment: describeEnvironment(lab.root, date),
      qemu,
      profile: { ...profile },
      durationSeconds: (performance.now() - started) / 1000,
      settings,
      speeds,
      commands,
      calls,
      omissions,
    };
  } finally {
    progress.end();
    lab.close();
  }
}

function omissionsOf(command: string | undefined): QemuOmission[] {
  const omissions: QemuOmission[] = [
    { what: 'VMDK snapshot operations', reason: 'qemu-img has no command for them' },
  ];
  if (command === undefined)
    omissions.push({ what: 'cowlab as a command', reason: 'no --command was given' });
  if (!hasStrace()) {
    omissions.push({ what: 'storage calls', reason: 'strace is missing (Debian: apt-get install strace)' });
  }
  return omissions;
}

async function chooseSettings(lab: Lab, profile: QemuProfile): Promise<Setting[]> {
  const ground = await filledGround(lab, 'qcow2', 'settings', profile.imageBytes);
  await ground.prepare();
  const settings: Setting[] = [];
  const [{ requestBytes, reads: requests } = { requestBytes: 4096, reads: 1024 }] = profile.requests;
  for (const depth of profile.depths) {
    const batch = { write: false, requestBytes, stepBytes: requestBytes, requests, depth, flushEvery: 0 };
    settings.push(await bestSetting(ground, batch));
  }
  await lab.discard(path.dirname(ground.file));
  return settings;
}

/** Writes `results.json`, and returns where. */
export async function writeQemuResults(folder: string, results: QemuResults): Promise<string> {
  const file = path.join(folder, 'results.json');
  await fs.promises.mkdir(folder, { recursive: true });
  await fs.promises.writeFile(file, `${JSON.stringify(results, null, 2)}\n`);
  return file;
}
