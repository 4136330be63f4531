import type { CheckReport } from '@cowlab/core';
import { type Command, Option } from 'commander';
import { withImage } from '../images.ts';
import { checkJson } from '../json.ts';
import type { Output } from '../output.ts';
import {
  type JsonOptions,
  type Session,
  type SourceOptions,
  withForceShare,
  withJson,
  withSource,
} from '../session.ts';
import { formatSize } from '../sizes.ts';

interface CheckVerbOptions extends SourceOptions, JsonOptions {
  readonly repair?: 'leaks' | 'all';
  readonly progress?: boolean;
  readonly quiet?: boolean;
}

const CORRUPT_STATUS = 2;
const LEAKS_STATUS = 3;

export function addCheck(program: Command, session: Session): void {
  const command = program
    .command('check')
    .description("recompute an image's bookkeeping; status 0 clean, 1 failed, 2 corrupt, 3 leaks only")
    .argument('<file>', 'the image')
    .addOption(new Option('-r, --repair <what>', 'repair what can be repaired').choices(['leaks', 'all']))
    .option('-p, --progress', 'show progress on stderr')
    .option('-q, --quiet', 'say nothing, only end with the status');
  withJson(withForceShare(withSource(command))).action((file: string, options: CheckVerbOptions) =>
    check(session, file, options),
  );
}

async function check(session: Session, file: string, options: CheckVerbOptions): Promise<void> {
  const { output } = session;
  const { repair } = options;
  const isRepair = repair !== undefined;
  await withImage(file, { ...options, writable: isRepair, forRepair: isRepair }, async (disk) => {
    const progress = options.progress ? output.progress('check') : undefined;
    let report: CheckReport;
    try {
      report = await disk.check({
        ...(repair !== undefined && { repair }),
        ...(progress && { onProgress: (each) => progress.update(each) }),
      });
    } finally {
      progress?.end();
    }
    session.status = report.corruptions > 0 ? CORRUPT_STATUS : report.leaks > 0 ? LEAKS_STATUS : 0;
    if (options.json) output.json(checkJson(file, disk.format, report));
    else if (!options.quiet) print(output, disk.size, report);
  });
}

function print(output: Output, size: number, report: CheckReport): void {
  const { corruptions, leaks, repaired, findings } = report;
  for (const finding of findings) {
    const where = finding.hostOffset === undefined ? '' : ` at ${finding.hostOffset}`;
    const what = finding.repaired ? 'repaired' : finding.severity === 'corruption' ? 'ERROR' : 'leak';
    const colour = finding.repaired ? 'green' : finding.severity === 'corruption' ? 'red' : 'yellow';
    const text = `${finding.file}: ${finding.structure}${where}: ${finding.message}`;
    output.line(`${output.styled(colour, what)} ${text}`);
  }
  const total = corruptions + leaks + repaired;
  if (total > findings.length) output.line(`… and ${total - findings.length} more`);
  if (repaired > 0) output.line(`${repaired} findings were repaired.`);
  if (corruptions > 0) {
    output.line(output.styled('red', `${corruptions} errors were found on the image.`));
    output.line('Data may be corrupted, or further writes to the image may corrupt it.');
  }
  if (leaks > 0) {
    output.line(output.styled('yellow', `${leaks} leaks were found on the image.`));
    output.line('This means waste of disk space, but no harm to data.');
  }
  if (corruptions + leaks === 0) output.line(output.styled('green', 'No errors were found on the image.'));
  const percent = size === 0 ? 0 : (100 * report.allocatedBytes) / size;
  const allocated = `${formatSize(report.allocatedBytes)} of ${formatSize(size)}`;
  output.line(`Allocated: ${allocated} (${percent.toFixed(2)} %)`);
  output.line(`Image end offset: ${report.imageEndBytes}`);
}
