import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type CowlabError, isCowlabError } from '@cowlab/core';
import { Exercise } from './exercise.ts';
import { type Made, makeImage } from './make.ts';
import { type Recipe, recipeOf } from './recipe.ts';
import { type Refusal, refusalOf } from './refused.ts';
import {
  assertClean,
  assertQemuFindsClean,
  assertQemuReadsAs,
  assertReadsAs,
  Finding,
  open,
} from './verify.ts';

/*
 * The corpus: one image after the other is made by QEMU, read here and compared, written here at random, and given back
 * to QEMU. An image that went wrong is told with its recipe and the command that makes it again.
 *
 *     make (QEMU, model)  →  QEMU reads what the model has  →  ours reads it, checks it
 *                         →  ours writes at random  →  ours reads and checks it  →  QEMU reads and checks it
 */

export interface Failure {
  readonly recipe: Recipe;
  /** `making`: QEMU refused a step, or does not read what the recipe says: the generator is wrong. */
  readonly found: 'making' | Finding['found'] | 'error';
  readonly message: string;
  /** Where the image is, when it was kept. */
  readonly folder?: string;
}

export interface KindCounts {
  made: number;
  read: number;
  written: number;
  snapshotsRead: number;
  refused: number;
}

export interface CorpusReport {
  readonly kinds: Map<string, KindCounts>;
  /** How often what was refused, as the table of refusals says or as a driver may. */
  readonly refusals: Map<string, number>;
  readonly failures: Failure[];
  bytesCompared: number;
}

export interface CorpusOptions {
  /** One for each image. */
  readonly seeds: readonly number[];
  /** Images under way at once. */
  readonly jobs: number;
  /** Images that went wrong are left where they are. */
  readonly keep?: boolean;
  readonly onImage?: (done: number) => void;
}

function countsOf(report: CorpusReport, kind: string): KindCounts {
  const counts = report.kinds.get(kind) ?? { made: 0, read: 0, written: 0, snapshotsRead: 0, refused: 0 };
  report.kinds.set(kind, counts);
  return counts;
}

function note(report: CorpusReport, refusal: string): void {
  report.refusals.set(refusal, (report.refusals.get(refusal) ?? 0) + 1);
}

/** Checks that a refusal is the one that the table names; rethrows every other error. */
function assertExpected(error: unknown, expected: Refusal | undefined): asserts error is CowlabError {
  if (expected !== undefined && isCowlabError(error, expected.code)) return;
  throw error;
}

/** A refusal that does not come any more has to leave the table. */
function assertNone(expected: Refusal | undefined): void {
  if (expected !== undefined) {
    throw new Error(`opens, although ${expected.feature} is said to be refused: the table is out of date`);
  }
}

class ImageRun {
  readonly #recipe: Recipe;
  readonly #report: CorpusReport;
  readonly #counts: KindCounts;

  constructor(recipe: Recipe, report: CorpusReport) {
    this.#recipe = recipe;
    this.#report = report;
    this.#counts = countsOf(report, recipe.kind);
  }

  /** All that is done with an image that was made. */
  async run(made: Made): Promise<void> {
    this.#counts.made++;
    const leaks = await this.#read(made);
    if (leaks !== undefined) await this.#write(made, leaks);
  }

  /** How many leaks QEMU has left; undefined for an image that is refused. */
  async #read(made: Made): Promise<number | undefined> {
    const { seed } = this.#recipe;
    const expected = refusalOf(this.#recipe, 'read');
    let disk: Awaited<ReturnType<typeof open>>;
    try {
      disk = await open(made, true);
    } catch (error) {
      assertExpected(error, expected);
      this.#refuse(`${error.code}: ${expected?.feature ?? ''}`);
      return undefined;
    }
    let leaks: number;
    try {
      assertNone(expected);
      await assertReadsAs(disk, made.model, seed);
      leaks = await assertClean(disk, made.format === 'vmdk' ? Number.POSITIVE_INFINITY : 0);
    } finally {
      await disk.close();
    }
    this.#counts.read++;
    this.#counts.snapshotsRead += made.model.snapshots.size;
    this.#report.bytesCompared += made.model.size * (1 + made.model.snapshots.size);
    return leaks;
  }

  async #write(made: Made, leaks: number): Promise<void> {
    const { seed } = this.#recipe;
    const expected = refusalOf(this.#recipe, 'write');
    let exercise: Exercise;
    try {
      exercise = await Exercise.begin(made, this.#recipe);
    } catch (error) {
      assertExpected(error, expected);
      this.#refuse(`${error.code}: writes to ${expected?.feature ?? ''}`);
      return;
    }
    await exercise.run();
    assertNone(expected);
    for (const refusal of exercise.refused) note(this.#report, refusal);
    const disk = await open(made, true);
    const snapshots = await disk.snapshots.list();
    try {
      await assertReadsAs(disk, made.model, seed);
      await assertClean(disk, leaks);
    } finally {
      await disk.close();
    }
    await assertQemuFindsClean(made);
    await assertQemuReadsAs(made, snapshots);
    await this.#assertDataFile(made);
    this.#counts.written++;
  }

  /** A data file that is said to be raw is the disk, byte for byte. */
  async #assertDataFile({ folder, model }: Made): Promise<void> {
    if (this.#recipe.layers.at(-1)?.options.data_file_raw !== 'on') return;
    const bytes = await readFile(join(folder, 'top.data'));
    if (Buffer.compare(bytes.subarray(0, model.size), model.bytes) !== 0) {
      throw new Finding('difference', 'the raw data file is not the disk');
    }
  }

  #refuse(refusal: string): void {
    this.#counts.refused++;
    note(this.#report, refusal);
  }
}

async function make(folder: string, recipe: Recipe): Promise<Made | Error> {
  try {
    const made = await makeImage(folder, recipe);
    await assertQemuReadsAs(made, []);
    await assertQemuFindsClean(made);
    return made;
  } catch (error) {
    return error as Error;
  }
}

async function runOne(recipe: Recipe, report: CorpusReport, keep: boolean): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'cowlab-corpus-'));
  const fail = (found: Failure['found'], error: unknown): void => {
    const message = error instanceof Finding ? error.message : String((error as Error).stack ?? error);
    report.failures.push({ recipe, found, message, ...(keep && { folder }) });
  };
  const before = report.failures.length;
  const made = await make(folder, recipe);
  if (made instanceof Error) fail('making', made);
  else {
    try {
      await new ImageRun(recipe, report).run(made);
    } catch (error) {
      fail(error instanceof Finding ? error.found : 'error', error);
    }
  }
  if (!keep || report.failures.length === before) await rm(folder, { recursive: true });
}

/** Runs so many images, some at once. Rejects only when the machine fails it; what went wrong with images is in the report. */
export async function runCorpus(options: CorpusOptions): Promise<CorpusReport> {
  const { seeds, jobs, keep = false, onImage } = options;
  const report: CorpusReport = { kinds: new Map(), refusals: new Map(), failures: [], bytesCompared: 0 };
  let next = 0;
  let done = 0;
  const work = async (): Promise<void> => {
    while (next < seeds.length) {
      await runOne(recipeOf(seeds[next++]!), report, keep);
      onImage?.(++done);
    }
  };
  await Promise.all(Array.from({ length: jobs }, work));
  return report;
}
