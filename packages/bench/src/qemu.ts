import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { isCowlabError } from '@cowlab/core';
import { type QemuProfileName, qemuProfiles } from './qemu/profiles.ts';
import { qemuFigures, qemuReport } from './qemu/report.ts';
import { runQemuBench, writeQemuResults } from './qemu/run.ts';
import { parseQemuResults, type QemuResults } from './qemu/schema.ts';
import { putFigures } from './readme-block.ts';

/*
 * A program: our drivers beside QEMU's. `--figures` puts the tables into the READMEs of QCOW2 and VMDK; with
 * `--from FILE` those of an earlier run. `--command` is the script of `cowlab`.
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

/** Told to stop, it takes the images away first. */
function exitOn(signal: NodeJS.Signals, status: number): void {
  process.once(signal, () => process.exit(status));
}

async function measure(): Promise<QemuResults> {
  if (!Object.hasOwn(qemuProfiles, values.profile)) {
    throw new Error(`profile ${values.profile}: there are: ${Object.keys(qemuProfiles).join(', ')}`);
  }
  const profile = qemuProfiles[values.profile as QemuProfileName];
  const { command } = values;
  const results = await runQemuBench({
    profile,
    stderr: process.stderr,
    ...(command !== undefined && { command }),
  });
  const folder = values.out ?? (await fs.promises.mkdtemp(path.join(os.tmpdir(), 'cowlab-results-')));
  process.stdout.write(`results: ${await writeQemuResults(folder, results)}\n\n`);
  return results;
}

function writeFigures(results: QemuResults): void {
  const packages = { qcow2: 'qcow2-like', vmdk: 'vmdk-chain' };
  for (const [format, name] of Object.entries(packages)) {
    const readme = fileURLToPath(new URL(`../../${name}/README.md`, import.meta.url));
    putFigures({ readme, command: 'npm run bench:qemu -- --figures' }, qemuFigures(results, format));
    process.stdout.write(`${readme}: figures of ${results.environment.date}\n`);
  }
}

exitOn('SIGINT', 130);
exitOn('SIGTERM', 143);
try {
  const results =
    values.from === undefined
      ? await measure()
      : parseQemuResults(JSON.parse(fs.readFileSync(values.from, 'utf8')));
  process.stdout.write(qemuReport(results));
  if (values.figures) writeFigures(results);
} catch (error) {
  if (!isCowlabError(error, 'ERR_NOT_FOUND')) throw error;
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 1;
}
