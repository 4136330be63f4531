import { readFileSync } from 'node:fs';
import { Command, CommanderError } from 'commander';
import { describe, describeUse, failureStatus } from './errors.ts';
import { showExamples } from './examples.ts';
import { type CliIo, Output } from './output.ts';
import type { AddVerb, Session } from './session.ts';
import { addAmend } from './verbs/amend.ts';
import { addBench } from './verbs/bench.ts';
import { addCheck } from './verbs/check.ts';
import { addCommit } from './verbs/commit.ts';
import { addCompact } from './verbs/compact.ts';
import { addCompare } from './verbs/compare.ts';
import { addCompletion } from './verbs/completion.ts';
import { addConvert } from './verbs/convert.ts';
import { addCreate } from './verbs/create.ts';
import { addDiff } from './verbs/diff.ts';
import { addInfo } from './verbs/info.ts';
import { addMap } from './verbs/map.ts';
import { addMeasure } from './verbs/measure.ts';
import { addRebase } from './verbs/rebase.ts';
import { addResize, protectNegativeSize } from './verbs/resize.ts';
import { addServe } from './verbs/serve.ts';
import { addSnapshot } from './verbs/snapshot.ts';

const verbs: readonly AddVerb[] = [
  addCreate,
  addInfo,
  addCheck,
  addSnapshot,
  addConvert,
  addCompare,
  addMap,
  addDiff,
  addResize,
  addRebase,
  addCommit,
  addMeasure,
  addAmend,
  addCompact,
  addServe,
  addBench,
  addCompletion,
];

function version(): string {
  // One step up from src/ and from dist/ alike.
  const manifest = readFileSync(new URL('../package.json', import.meta.url), 'utf8');
  return (JSON.parse(manifest) as { version: string }).version;
}

/**
 * Runs `cowlab` with the arguments after its name. Resolves with the exit status; never rejects and never ends
 * the process. Paths are relative to the process's working directory.
 */
export async function main(argv: readonly string[], io: CliIo = process): Promise<number> {
  const output = new Output(io);
  const session: Session = { output, argv, status: 0 };
  const program = new Command('cowlab')
    .description('Create, inspect, convert, snapshot, check, serve and benchmark virtual-disk images.')
    .version(version(), '-V, --version', 'print the version')
    .exitOverride()
    .configureOutput({
      writeOut: (text) => io.stdout.write(text),
      writeErr: (text) => io.stderr.write(text),
      outputError: (text) => output.failure(describeUse(text)),
      getOutHasColors: () => false,
      getErrHasColors: () => false,
    });
  for (const add of verbs) add(program, session);
  showExamples(program);
  try {
    await program.parseAsync(protectNegativeSize(argv), { from: 'user' });
    return session.status;
  } catch (error) {
    // Commander has said its line already, through outputError.
    if (!(error instanceof CommanderError)) output.failure(describe(error));
    return failureStatus(argv[0], error);
  }
}
