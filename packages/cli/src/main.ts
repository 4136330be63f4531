import { readFileSync } from 'node:fs';
import { Command, CommanderError } from 'commander';
import { describe, describeUse, failureStatus } from './errors.ts';
import { showExamples } from './examples.ts';
import { type CliIo, Output } from './output.ts';
import type { AddVerb, Session } from './session.ts';
import { protectNegativeSize } from './verbs/resize.ts';

/** In the order of the help. A verb is loaded when it is asked for: half of the start of this program is reading its modules. */
const verbs: Readonly<Record<string, () => Promise<AddVerb>>> = {
  create: async () => (await import('./verbs/create.ts')).addCreate,
  info: async () => (await import('./verbs/info.ts')).addInfo,
  check: async () => (await import('./verbs/check.ts')).addCheck,
  snapshot: async () => (await import('./verbs/snapshot.ts')).addSnapshot,
  convert: async () => (await import('./verbs/convert.ts')).addConvert,
  compare: async () => (await import('./verbs/compare.ts')).addCompare,
  map: async () => (await import('./verbs/map.ts')).addMap,
  diff: async () => (await import('./verbs/diff.ts')).addDiff,
  resize: async () => (await import('./verbs/resize.ts')).addResize,
  rebase: async () => (await import('./verbs/rebase.ts')).addRebase,
  commit: async () => (await import('./verbs/commit.ts')).addCommit,
  measure: async () => (await import('./verbs/measure.ts')).addMeasure,
  amend: async () => (await import('./verbs/amend.ts')).addAmend,
  compact: async () => (await import('./verbs/compact.ts')).addCompact,
  serve: async () => (await import('./verbs/serve.ts')).addServe,
  bench: async () => (await import('./verbs/bench.ts')).addBench,
  completion: async () => (await import('./verbs/completion.ts')).addCompletion,
};

/** The verb that is asked for; all of them where none is, or help, or what there is to complete. */
async function verbsFor(argv: readonly string[]): Promise<AddVerb[]> {
  const [asked = ''] = argv;
  const names = Object.hasOwn(verbs, asked) ? [asked] : Object.keys(verbs);
  return Promise.all(names.map(async (name) => verbs[name]!()));
}

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
  for (const add of await verbsFor(argv)) add(program, session);
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
