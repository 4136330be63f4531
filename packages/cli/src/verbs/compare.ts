import type { Disk } from '@cowlab/core';
import type { Command } from 'commander';
import { formatNames } from '../formats.ts';
import { withImage } from '../images.ts';
import { type Session, type SourceOptions, withAllow, withForceShare } from '../session.ts';
import { firstDifference } from '../comparison.ts';

interface CompareOptions extends SourceOptions {
  readonly secondFormat?: string;
  readonly strict?: boolean;
  readonly progress?: boolean;
  readonly quiet?: boolean;
}

const DIFFERENT_STATUS = 1;

export function addCompare(program: Command, session: Session): void {
  const command = program
    .command('compare')
    .description('say whether two disks have the same contents; status 0 the same, 1 different, 2 failed')
    .argument('<a>', 'one image')
    .argument('<b>', 'the other image')
    .option('-f, --format <format>', `format of the first image (${formatNames}); probed without`)
    .option('-F, --second-format <format>', 'format of the second image; probed without')
    .option('-s, --strict', 'disks of different sizes differ, even where one ends in zeros')
    .option('-p, --progress', 'show progress on stderr')
    .option('-q, --quiet', 'say nothing, only end with the status');
  withForceShare(withAllow(command)).action(
    async (first: string, second: string, options: CompareOptions) => {
      const { allow, format, secondFormat, forceShare } = options;
      await withImage(first, { allow, format, forceShare }, (a) =>
        withImage(second, { allow, forceShare, format: secondFormat }, (b) =>
          compare(session, a, b, options),
        ),
      );
    },
  );
}

async function compare(session: Session, a: Disk, b: Disk, options: CompareOptions): Promise<void> {
  const say = (text: string): void => {
    if (!options.quiet) session.output.line(text);
  };
  if (a.size !== b.size && options.strict) {
    session.status = DIFFERENT_STATUS;
    return say(`Strict mode: Image size mismatch! (${a.size} and ${b.size} bytes)`);
  }
  if (a.size !== b.size) say(`Warning: Image size mismatch! (${a.size} and ${b.size} bytes)`);
  const progress = options.progress ? session.output.progress('compare') : undefined;
  let offset: number | undefined;
  try {
    offset = await firstDifference(a, b, progress && { onProgress: (each) => progress.update(each) });
  } finally {
    progress?.end();
  }
  if (offset === undefined) return say('Images are identical.');
  session.status = DIFFERENT_STATUS;
  say(`Content mismatch at offset ${offset}!`);
}
