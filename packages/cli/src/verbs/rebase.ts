import type { Command } from 'commander';
import { backingFolders, backingOf, backingOfAny } from '../backing.ts';
import { invalidUse } from '../errors.ts';
import { withImage } from '../images.ts';
import { rebaseJson } from '../json.ts';
import type { Output } from '../output.ts';
import { type JsonOptions, type Session, type SourceOptions, withJson, withSource } from '../session.ts';
import { formatSize } from '../sizes.ts';
import { underWay } from '../work.ts';

interface RebaseVerbOptions extends SourceOptions, JsonOptions {
  readonly backing: string;
  readonly backingFormat?: string;
  readonly backingSnapshot?: string;
  readonly unsafe?: boolean;
  readonly progress?: boolean;
  readonly quiet?: boolean;
}

export function addRebase(program: Command, { output }: Session): void {
  const command = program
    .command('rebase')
    .description('give an image another backing file; its contents stay, what would differ is copied first')
    .argument('<file>', 'the image')
    .requiredOption('-b, --backing <file>', 'the new backing file, relative to the image; "" for none')
    .option('-F, --backing-format <format>', 'format of the backing file; probed and recorded without')
    .option('--backing-snapshot <name>', 'a snapshot of the backing file, by tag or id')
    .option('-u, --unsafe', 'only change the name: for a backing file that has moved')
    .option('-p, --progress', 'show progress on stderr')
    .option('-q, --quiet', 'say nothing');
  withJson(withSource(command)).action((file: string, options: RebaseVerbOptions) =>
    rebase(output, file, options),
  );
}

async function rebase(output: Output, file: string, options: RebaseVerbOptions): Promise<void> {
  const { backing, backingFormat: format, backingSnapshot: snapshot, unsafe = false } = options;
  if (backing === '' && (format !== undefined || snapshot !== undefined)) {
    throw invalidUse('-b', '"" is no backing file, and has neither a format nor a snapshot');
  }
  const allow = [...(options.allow ?? []), ...backingFolders(file, backing)];
  const typed = { file: backing, format, snapshot };
  const named = unsafe ? backingOfAny : backingOf;
  const reference = backing === '' ? null : await named(file, typed, allow);
  const request = { ...options, allow, writable: true, withoutBacking: unsafe };
  await withImage(file, request, async (disk) => {
    const report = await underWay(output, 'rebase', options, (call) =>
      disk.rebase(reference, { unsafe, ...call }),
    );
    if (options.json) return output.json(rebaseJson(file, await disk.info(), report));
    if (options.quiet) return;
    const { comparedBytes, copiedBytes } = report;
    const work = `${formatSize(comparedBytes)} compared, ${formatSize(copiedBytes)} copied`;
    output.line(`Image rebased: ${unsafe ? 'nothing compared' : work}.`);
  });
}
