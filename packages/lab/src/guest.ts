import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { runGuest } from './guest/run.ts';
import { driverNames, subjectsOf } from './subjects.ts';

/* A program: a virtual machine lives on an image of ours, which we serve; see guest/run.ts. */

const usage = `npm run guest -- [options]
  --driver NAME      ${driverNames.join(', ')} (default fvd)
  --packages FOLDER  where Debian's packages are, or are put for the next run (default: nowhere)
  --console          all that the guest says
  --help`;

const { values } = parseArgs({
  options: {
    driver: { type: 'string', default: 'fvd' },
    packages: { type: 'string' },
    console: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});

async function run(): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'cowlab-guest-'));
  try {
    const packages = values.packages === undefined ? join(folder, 'packages') : resolve(values.packages);
    await mkdir(packages, { recursive: true });
    await runGuest({
      driver: subjectsOf(values.driver)[0]!.driver,
      folder,
      packages,
      say: (line) => process.stdout.write(`${line}\n`),
      onConsole: (text) => values.console && process.stdout.write(text),
    });
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

if (values.help) process.stdout.write(`${usage}\n`);
else await run();
