import fs from 'node:fs';
import path from 'node:path';
import { performance } from 'node:perf_hooks';
import { describeEnvironment } from '../environment.ts';
import { Lab } from '../lab.ts';
import { ProgressLine, type ProgressStream } from '../progress.ts';
import { measureConversions } from './conversions.ts';
import { makeImages } from './images.ts';
import type { NbdProfile } from './profiles.ts';
import { measureRequests } from './requests.ts';
import { NBD_RESULTS_VERSION, type NbdResults } from './schema.ts';
import { toolVersions } from './servers.ts';

export interface NbdBenchOptions {
  readonly profile: NbdProfile;
  /** The script of `cowlab`, which converts; only QEMU does without it. */
  readonly command?: string;
  /** Gets the progress. */
  readonly stderr: ProgressStream;
}

/** Measures everything in one run. Throws `ERR_NOT_FOUND` where a program is missing. */
export async function runNbdBench({ profile, command, stderr }: NbdBenchOptions): Promise<NbdResults> {
  const tools = toolVersions();
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
    step('images', 0, 0);
    const images = await makeImages(lab, 'filled', profile.imageBytes);
    const requests = await measureRequests(lab, images, profile, step('requests', 0.1, 0.5));
    const conversions = await measureConversions(
      lab,
      images,
      profile,
      command,
      step('conversions', 0.6, 0.4),
    );
    return {
      schema: 'cowlab-bench-nbd-results',
      version: NBD_RESULTS_VERSION,
      environment: describeEnvironment(lab.root, date),
      tools,
      profile: { ...profile },
      durationSeconds: (performance.now() - started) / 1000,
      requests,
      conversions,
    };
  } finally {
    progress.end();
    lab.close();
  }
}

/** Writes `results.json`, and returns where. */
export async function writeNbdResults(folder: string, results: NbdResults): Promise<string> {
  const file = path.join(folder, 'results.json');
  await fs.promises.mkdir(folder, { recursive: true });
  await fs.promises.writeFile(file, `${JSON.stringify(results, null, 2)}\n`);
  return file;
}
