import fs from 'node:fs/promises';
import path from 'node:path';
import { isCowlabError } from '@cowlab/core';
import { compareResults } from './baseline.ts';
import type { ProfileName } from './profiles.ts';
import { ProgressLine, type ProgressStream } from './progress.ts';
import { report } from './report.ts';
import { RESULTS_FILE, runBench, temporaryOut } from './run.ts';
import { parseResults, type Results } from './schema.ts';

export interface BenchMainOptions {
  readonly profile: ProfileName;
  readonly formats?: readonly string[];
  /** Folder for `results.json`; a new temporary one without it. */
  readonly out?: string;
  readonly seed?: number;
  /** An earlier `results.json` to compare with. */
  readonly baseline?: string;
  readonly stdout?: ProgressStream;
  readonly stderr?: ProgressStream;
}

/**
 * The benchmark as a command: progress on stderr, the report and the place of `results.json` on stdout.
 * Returns the exit status: 0; 1 when it failed, and then one line on stderr says why; 2 when a verdict is worse
 * than in the baseline.
 */
export async function benchMain(options: BenchMainOptions): Promise<number> {
  const { stdout = process.stdout, stderr = process.stderr, profile, formats, seed } = options;
  const progress = new ProgressLine(stderr);
  const stop = (signal: NodeJS.Signals): void => process.exit(signal === 'SIGINT' ? 130 : 143);
  process.once('SIGINT', stop).once('SIGTERM', stop);
  try {
    const baseline = options.baseline === undefined ? undefined : await readResults(options.baseline);
    const out = options.out ?? (await temporaryOut());
    const results = await runBench({
      profile,
      out,
      onProgress: (state) => progress.update(state),
      ...(formats && { formats }),
      ...(seed !== undefined && { seed }),
    });
    progress.end();
    stdout.write(report(results, stdout));
    stdout.write(`\nresults: ${path.resolve(out, RESULTS_FILE)}\n`);
    return baseline === undefined ? 0 : compare(baseline, results, stdout);
  } catch (error) {
    progress.end();
    if (!isCowlabError(error) && !(error instanceof TypeError) && !isSystemError(error)) throw error;
    stderr.write(`cowlab bench: ${error.message}\n`);
    return 1;
  } finally {
    process.off('SIGINT', stop).off('SIGTERM', stop);
  }
}

function compare(baseline: Results, results: Results, stdout: ProgressStream): number {
  const differences = compareResults(baseline, results);
  stdout.write(`\nagainst the baseline of ${baseline.environment.date}:\n`);
  if (differences.length === 0) stdout.write('  no verdict changed, no count moved by more than 10 %\n');
  for (const { what, before, after } of differences) stdout.write(`  ${what}: ${before} → ${after}\n`);
  return differences.some(({ regression }) => regression) ? 2 : 0;
}

async function readResults(file: string): Promise<Results> {
  const text = await fs.readFile(file, 'utf8');
  try {
    return parseResults(JSON.parse(text));
  } catch (error) {
    throw new TypeError(`${file}: ${error instanceof Error ? error.message : String(error)}`, {
      cause: error,
    });
  }
}

function isSystemError(error: unknown): error is NodeJS.ErrnoException {
  return error instanceof Error && 'syscall' in error;
}
