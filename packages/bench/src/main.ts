import fs from 'node:fs/promises';
import path from 'node:path';
import { CowlabError, fromSystemError } from '@cowlab/core';
import { compareResults, sameCounts } from './baseline.ts';
import type { Profile, ProfileName } from './profiles.ts';
import { ProgressLine, type ProgressStream } from './progress.ts';
import { report } from './report.ts';
import { keepResults, REPORT_FILE, RESULTS_FILE, runBench } from './run.ts';
import { parseResults, type Results } from './schema.ts';

export interface BenchMainOptions {
  readonly profile: ProfileName | Profile;
  readonly formats?: readonly string[];
  readonly drivers?: readonly string[];
  /** Folder for `results.json`; a new temporary one without it. */
  readonly out?: string;
  readonly seed?: number;
  readonly withQemu?: boolean;
  /** An earlier `results.json` to compare with. */
  readonly baseline?: string;
  /** Gets the report and the place of `results.json`. */
  readonly stdout: ProgressStream;
  /** Gets the progress. */
  readonly stderr: ProgressStream;
  /** How a heading is made to stand out. */
  readonly bold?: (text: string) => string;
}

/**
 * The benchmark as a command. Resolves with the exit status: 0, or 2 when something is worse than in the
 * baseline. Rejects as {@link runBench} does. A signal that ends the process takes the images away first.
 */
export async function benchMain(options: BenchMainOptions): Promise<number> {
  const { stdout, stderr, profile, formats, drivers, seed, bold, withQemu } = options;
  const progress = new ProgressLine(stderr);
  const stop = (signal: NodeJS.Signals): void => process.exit(signal === 'SIGINT' ? 130 : 143);
  process.once('SIGINT', stop).once('SIGTERM', stop);
  try {
    const baseline = options.baseline === undefined ? undefined : await readResults(options.baseline);
    const results = await runBench({
      profile,
      ...(options.out !== undefined && { out: options.out }),
      onProgress: (state) => progress.update(state),
      ...(formats && { formats }),
      ...(drivers && { drivers }),
      ...(seed !== undefined && { seed }),
      ...(withQemu !== undefined && { withQemu }),
    });
    progress.end();
    stdout.write(report(results, bold));
    const out = options.out ?? (await keepResults(results));
    stdout.write(`\nreport: ${path.resolve(out, REPORT_FILE)}\n`);
    stdout.write(`results: ${path.resolve(out, RESULTS_FILE)}\n`);
    return baseline === undefined ? 0 : compare(baseline, results, stdout);
  } finally {
    progress.end();
    process.off('SIGINT', stop).off('SIGTERM', stop);
  }
}

function compare(baseline: Results, results: Results, stdout: ProgressStream): number {
  const differences = compareResults(baseline, results);
  stdout.write(`\nagainst the baseline of ${baseline.environment.date}:\n`);
  const { same, of, cut } = sameCounts(baseline, results);
  const rest = cut === 0 ? '' : `; ${cut} more are of rows that their time cut short in one of the runs`;
  stdout.write(`  ${same} of ${of} counts are the same to the last digit${rest}\n`);
  if (differences.length === 0) stdout.write('  no verdict changed, and no count nor ratio moved\n');
  for (const { what, before, after } of differences) stdout.write(`  ${what}: ${before} → ${after}\n`);
  return differences.some(({ regression }) => regression) ? 2 : 0;
}

async function readResults(file: string): Promise<Results> {
  let text: string;
  try {
    text = await fs.readFile(file, 'utf8');
  } catch (error) {
    throw fromSystemError(error, file, 'read');
  }
  try {
    return parseResults(JSON.parse(text));
  } catch (error) {
    const problem = error instanceof Error ? error.message : String(error);
    throw new CowlabError('ERR_CORRUPT', `${file}: ${problem}`, { file }, error);
  }
}
