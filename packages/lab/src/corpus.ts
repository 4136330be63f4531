import { availableParallelism } from 'node:os';
import { parseArgs } from 'node:util';
import { qemuAvailable } from '@cowlab/conformance';
import { corpusTable, describeFailure } from './corpus/print.ts';
import { kindCount, seedsFrom } from './corpus/recipe.ts';
import { runCorpus } from './corpus/run.ts';
import { ProgressLine } from './progress.ts';

/* A program: makes images with QEMU, reads and writes them here (corpus/run.ts), and says what came of it. */

const usage = `npm run corpus -- [options]
  --count N    images (default 300)
  --seed N     of the first image; each next one has the next (default: a new one, printed)
  --kind WORD  only kinds with the word in their name: zlib, vmdk, …
  --sample     one image of each kind, and no more
  --jobs N     images at once (default: one for each core)
  --keep       leave images that went wrong where they are
  --help`;

const { values } = parseArgs({
  options: {
    count: { type: 'string', default: '300' },
    seed: { type: 'string' },
    kind: { type: 'string' },
    sample: { type: 'boolean', default: false },
    jobs: { type: 'string', default: String(availableParallelism()) },
    keep: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});

function whole(name: string, text: string, least: number): number {
  const value = Number(text);
  if (Number.isSafeInteger(value) && value >= least) return value;
  throw new TypeError(`corpus: --${name}: ${text} is not a whole number from ${least}`);
}

async function run(): Promise<number> {
  if (!qemuAvailable()) {
    process.stderr.write('corpus: qemu-img is missing (Debian: apt-get install qemu-utils)\n');
    return 1;
  }
  const seed =
    values.seed === undefined ? Math.floor(Math.random() * 0x7fff_ffff) : whole('seed', values.seed, 0);
  const count = values.sample ? kindCount : whole('count', values.count, 1);
  const seeds = seedsFrom(seed, count, values.kind);
  if (seeds.length === 0) throw new TypeError(`corpus: --kind: there is no ${values.kind ?? ''}`);
  const started = performance.now();
  const progress = new ProgressLine(process.stderr, 'corpus');
  const report = await runCorpus({
    seeds,
    jobs: whole('jobs', values.jobs, 1),
    keep: values.keep,
    onImage: (done) => progress.update(() => `${done} of ${count} images`),
  });
  progress.end();
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  process.stdout.write(`${corpusTable(report)}\nseed ${seed}, ${count} images, ${seconds} s\n`);
  for (const failure of report.failures) process.stdout.write(`\n${describeFailure(failure)}\n`);
  return report.failures.length === 0 ? 0 : 1;
}

if (values.help) process.stdout.write(`${usage}\n`);
else process.exitCode = await run();
