import { writeFile } from 'node:fs/promises';
import { type LabRequest, readArguments, usage, UsageError } from './arguments.ts';
import { jsonOf, problemsOf, tableOf } from './print.ts';
import { ProgressLine } from './progress.ts';
import { cutShares, runShares } from './shares.ts';
import { Tally } from './tally.ts';

const statusOfUsage = 2;

async function run(request: LabRequest): Promise<number> {
  const started = performance.now();
  const elapsed = (): number => (performance.now() - started) / 1000;
  const tally = new Tally();
  const progress = new ProgressLine(process.stderr, 'lab');
  const shares = cutShares(request);
  process.stderr.write(`lab: seed ${request.seed}, ${shares.length} shares, ${request.jobs} at a time\n`);
  await runShares(shares, request.jobs, (share, message) => {
    tally.add(share, message);
    const { driver, part } = share;
    progress.update(() => {
      const rate = Math.round(tally.verified / elapsed());
      const counts = `${tally.verified} verified, ${rate}/s, ${tally.failures} failures`;
      return `${Math.round(elapsed())} s of ${request.seconds} s, ${counts}; ${driver}, ${part}`;
    });
  });
  progress.end();
  const seconds = elapsed();
  const rate = Math.round(tally.verified / seconds);
  process.stdout.write(`${tableOf(tally.rows)}\n`);
  process.stdout.write(`seed ${request.seed}, ${seconds.toFixed(1)} s, ${rate} verified a second\n`);
  if (tally.failures > 0) process.stdout.write(`\n${problemsOf(tally)}\n`);
  if (request.json !== undefined) await writeFile(request.json, jsonOf(request, tally, seconds));
  return tally.failures === 0 && shares.length > 0 ? 0 : 1;
}

async function main(): Promise<number> {
  try {
    const request = readArguments(process.argv.slice(2));
    if (request !== undefined) return await run(request);
    process.stdout.write(`${usage}\n`);
    return 0;
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    process.stderr.write(`lab: ${error.message}\n`);
    return statusOfUsage;
  }
}

process.exitCode = await main();
