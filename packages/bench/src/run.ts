import fs from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { performance } from 'node:perf_hooks';
import { CowlabError, fromSystemError } from '@cowlab/core';
import { describeEnvironment } from './environment.ts';
import { chooseSubjects, formatNames, loadSubject, type Subject } from './formats.ts';
import { Lab } from './lab.ts';
import type { BenchProgress } from './progress.ts';
import { type Profile, type ProfileName, profiles } from './profiles.ts';
import { chartsOf } from './publish/charts.ts';
import { htmlReport } from './publish/html.ts';
import { markdownReport } from './publish/markdown.ts';
import { csvOf } from './publish/tables.ts';
import { judge } from './rules.ts';
import { judgeBars } from './bars.ts';
import { RESULTS_VERSION, type Results } from './schema.ts';
import { measureAll } from './steps.ts';
import { measureQemu } from './targets/measure.ts';
import { besideQemu, qemuFormatNames, qemuRoom } from './targets/beside.ts';
import { assertTools } from './targets/qemu-io.ts';
import { Unfinished } from './unfinished.ts';

/* One run, from an empty temporary folder to what it leaves: results.json, and the reports. */

export interface BenchOptions {
  /** A name, or sizes of your own. */
  readonly profile: ProfileName | Profile;
  /** Formats beside raw; the three designs without a choice. */
  readonly formats?: readonly string[];
  /** Modules with drivers of somebody else's as their default exports. */
  readonly drivers?: readonly string[];
  /** The folder that gets `results.json` and the reports; made when it is not there. Without it nothing is written. */
  readonly out?: string;
  /** Decides every offset and every byte; 1 by default. */
  readonly seed?: number;
  /** QEMU's own formats as further targets; `ERR_NOT_FOUND` where one of its tools, or strace, is missing. */
  readonly withQemu?: boolean;
  readonly onProgress?: (progress: BenchProgress) => void;
}

/** Of a run that has QEMU in it, what our own formats take. */
const SHARE_BESIDE_QEMU = 0.55;

export const RESULTS_FILE = 'results.json';
export const REPORT_FILE = 'report.html';

/**
 * Measures the formats on G1–G6. Writes images into a temporary folder (14 GiB in the standard profile), which is
 * gone when it returns or throws. Rejects with `ERR_UNKNOWN_FORMAT`, `ERR_INVALID_OPTION`, `ERR_NO_SPACE`.
 */
export async function runBench(options: BenchOptions): Promise<Results> {
  const profile = typeof options.profile === 'string' ? namedProfile(options.profile) : options.profile;
  const subjects = [...chooseSubjects(options.formats ?? [...formatNames, ...profile.variants])];
  for (const module of options.drivers ?? []) subjects.push(await loadSubject(module));
  const seed = checkSeed(options.seed ?? 1);
  const { withQemu = false } = options;
  if (withQemu) assertTools();
  const date = new Date();
  const started = performance.now();
  if (options.out !== undefined) await assertWritableFolder(options.out);
  const lab = new Lab();
  try {
    assertRoom(lab, subjects, profile, withQemu ? qemuRoom(profile.qemu) : 0);
    const environment = describeEnvironment(lab.root, date);
    const ours = subjects.map(({ name }) => name);
    const formats = [...ours, ...(withQemu ? qemuFormatNames : [])];
    const unfinished = Unfinished.in(options.out, { profile, formats, seed, version: RESULTS_VERSION });
    const share = withQemu ? SHARE_BESIDE_QEMU : 1;
    const onProgress = ({ step, done }: BenchProgress): void =>
      options.onProgress?.({ step, done: done * share });
    const onOurs = await measureAll({ lab, subjects, profile, seed, unfinished, onProgress });
    const tick = (step: string, done: number): void =>
      options.onProgress?.({ step, done: share + (1 - share) * done });
    const measured = withQemu
      ? besideQemu(onOurs, await unfinished.step('qemu', () => measureQemu(lab, profile, seed, tick)))
      : onOurs;
    const results: Results = {
      schema: 'cowlab-bench-results',
      version: RESULTS_VERSION,
      environment,
      seed,
      profile: { ...profile },
      formats,
      durationSeconds: (performance.now() - started) / 1000,
      goals: judge(measured, formats),
      powerLosses: subjects.map(({ name, driver: { capabilities } }) => ({
        format: name,
        leaves: capabilities.afterPowerLoss,
        repairable: capabilities.repair.includes('leaks'),
      })),
      bars: judgeBars(onOurs),
      ...measured,
    };
    if (options.out !== undefined) await writeResults(options.out, results);
    unfinished.forget();
    return results;
  } finally {
    lab.close();
  }
}

/** Writes results for which nobody chose a folder into a new temporary one, and returns that. */
export async function keepResults(results: Results): Promise<string> {
  const folder = await fs.mkdtemp(path.join(os.tmpdir(), 'cowlab-results-'));
  await writeResults(folder, results);
  return folder;
}

/** Before minutes are spent on results that nobody can keep. */
async function assertWritableFolder(folder: string): Promise<void> {
  try {
    await makeFolder(path.resolve(folder));
    // The dot, because a file of that name would do otherwise.
    await fs.access(`${folder}/.`, fs.constants.W_OK);
  } catch (error) {
    throw fromSystemError(error, folder, 'mkdir');
  }
}

/** Not Node's own recursion: that goes on for ever where a file system takes no folders (`/proc`). */
async function makeFolder(folder: string): Promise<void> {
  try {
    await fs.mkdir(folder);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EEXIST') return;
    if (code !== 'ENOENT') throw error;
    await makeFolder(path.dirname(folder));
    await fs.mkdir(folder);
  }
}

/** What a run leaves: the numbers, and the same for people and for other programs. */
async function writeResults(folder: string, results: Results): Promise<void> {
  const files = {
    [RESULTS_FILE]: `${JSON.stringify(results, null, 2)}\n`,
    [REPORT_FILE]: htmlReport(results),
    'report.md': markdownReport(results),
    'charts.csv': csvOf(chartsOf(results)),
  };
  for (const [name, text] of Object.entries(files)) {
    const file = path.join(folder, name);
    try {
      await fs.writeFile(file, text);
    } catch (error) {
      throw fromSystemError(error, file, 'write');
    }
  }
}

function namedProfile(name: string): Profile {
  if (Object.hasOwn(profiles, name)) return profiles[name as ProfileName];
  throw new CowlabError(
    'ERR_INVALID_OPTION',
    `bench: profile ${name}: there are: ${Object.keys(profiles).join(', ')}`,
    { field: 'profile', value: name },
  );
}

function checkSeed(seed: number): number {
  if (Number.isSafeInteger(seed) && seed >= 0 && seed < 2 ** 32) return seed;
  throw new CowlabError('ERR_INVALID_OPTION', `bench: seed ${seed}: not a whole number from 0 to 2^32 - 1`, {
    field: 'seed',
    value: seed,
  });
}

/**
 * One copy of the image for every format and N, and half as much again for what the scenarios add. QEMU's are made when ours
 * are gone.
 */
function assertRoom(lab: Lab, subjects: readonly Subject[], profile: Profile, beside: number): void {
  const ours = profile.imageBytes * (1 + subjects.length * profile.snapshotCounts.length) * 1.5;
  const needed = Math.max(ours, beside);
  const free = lab.freeBytes();
  if (free >= needed) return;
  const gib = (bytes: number): string => (bytes / 2 ** 30).toFixed(1);
  throw new CowlabError(
    'ERR_NO_SPACE',
    `bench: ${lab.root}: ${gib(needed)} GiB are needed for images, ${gib(free)} GiB are free; TMPDIR chooses another place`,
    { file: lab.root, needed, free },
  );
}
