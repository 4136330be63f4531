import { type DataPathSizes, measureDataPath, type Ratios } from './data-path.ts';
import { chooseSubjects, yardstick } from './formats.ts';
import { Lab } from './lab.ts';

/*
 * A program: prints what the data path of each format costs against a bare loop (data-path.ts). The bars are the
 * project's own promise. Arguments: names of formats, all without any.
 */

const SIZES: DataPathSizes = { imageBytes: 256 * 1024 * 1024, requestBytes: 4096, batch: 250, rounds: 400 };
const BARS = { promises: 1.15, every: 1.35 } as const;

function line(format: string, operation: string, { promises, every, bareMicros }: Ratios): string {
  const mark = (ratio: number, bar: number): string =>
    `${ratio.toFixed(3)}${ratio <= bar ? ' ' : '!'}`.padStart(14);
  const columns = [format.padEnd(8), operation.padEnd(12), bareMicros.toFixed(2).padStart(8)];
  return `${columns.join('')}${mark(promises, BARS.promises)}${mark(every, BARS.every)}\n`;
}

const names = process.argv.slice(2);
const lab = new Lab();
try {
  process.stdout.write(
    '4 KiB, random, page cache warm: how many times as long as a bare loop; "!" is past the bar\n' +
      'format  operation    bare µs await promises  await all\n' +
      `${'bar'.padEnd(28)}${BARS.promises.toFixed(2).padStart(13)} ${BARS.every.toFixed(2).padStart(13)}\n`,
  );
  for (const subject of [yardstick, ...chooseSubjects(names.length > 0 ? names : undefined)]) {
    const { format, reads, overwrites } = await measureDataPath(lab, subject, SIZES);
    process.stdout.write(line(format, 'read', reads) + line(format, 'overwrite', overwrites));
  }
} finally {
  lab.close();
}
