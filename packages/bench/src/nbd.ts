import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { isCowlabError } from '@cowlab/core';
import { type NbdProfileName, nbdProfiles } from './nbd/profiles.ts';
import { nbdFigures, nbdReport } from './nbd/report.ts';
import { runNbdBench, writeNbdResults } from './nbd/run.ts';
import { type NbdResults, parseNbdResults } from './nbd/schema.ts';
import { putFigures } from './readme-block.ts';

/*
 * A program: our NBD server beside qemu-nbd and nbdkit, and `convert` beside `qemu-img convert`. `--figures` puts the
 * tables into the README of the server; with `--from FILE` those of an earlier run. `--command` is the script of `cowlab`.
 */

const { values } = parseArgs({
  options: {
    profile: { type: 'string', default: 'standard' },
    out: { type: 'string' },
    command: { type: 'string' },
    figures: { type: 'boolean', default: false },
    from: { type: 'string' },
  },
});

/** Told to stop, it ends the servers and takes the images away first. */
function exitOn(signal: NodeJS.Signals, status: number): void {
  process.once(signal, () => process.exit(status));
}

async function measure(): Promise<NbdResults> {
  if (!Object.hasOwn(nbdProfiles, values.profile)) {
    throw new Error(`profile ${values.profile}: there are: ${Object.keys(nbdProfiles).join(', ')}`);
  }
  const profile = nbdProfiles[values.profile as NbdProfileName];
  const { command } = values;
  const results = await runNbdBench({
    profile,
    stderr: process.stderr,
    ...(command !== undefined && { command }),
  });
  const folder = values.out ?? (await fs.promises.mkdtemp(path.join(os.tmpdir(), 'cowlab-results-')));
  process.stdout.write(`results: ${await writeNbdResults(folder, results)}\n\n`);
  return results;
}

exitOn('SIGINT', 130);
exitOn('SIGTERM', 143);
try {
  const results =
    values.from === undefined
      ? await measure()
      : parseNbdResults(JSON.parse(fs.readFileSync(values.from, 'utf8')));
  process.stdout.write(nbdReport(results));
  if (values.figures) {
    const readme = fileURLToPath(new URL('../../nbd/README.md', import.meta.url));
    putFigures({ readme, command: 'npm run bench:nbd -- --figures' }, nbdFigures(results));
    process.stdout.write(`${readme}: figures of ${results.environment.date}\n`);
  }
} catch (error) {
  if (!isCowlabError(error, 'ERR_NOT_FOUND')) throw error;
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 1;
}
