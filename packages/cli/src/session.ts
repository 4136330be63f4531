import { type Command, Option } from 'commander';
import { collect, formatNames } from './formats.ts';
import type { Output } from './output.ts';

/** One run of the command: where its words go, and the status that it will end with. */
export interface Session {
  readonly output: Output;
  /** As typed. */
  readonly argv: readonly string[];
  /** 0 until a verb has another answer. */
  status: number;
}

/** Registers one verb. */
export type AddVerb = (program: Command, session: Session) => void;

export interface AllowOptions {
  readonly allow?: readonly string[];
}

export interface SourceOptions extends AllowOptions {
  readonly format?: string;
  /** Only for verbs that have it; see {@link withForceShare}. */
  readonly forceShare?: boolean;
}

export interface JsonOptions {
  readonly json?: boolean;
}

/** `-f` and `--allow`, for a verb that opens one image. */
export function withSource(command: Command): Command {
  return withAllow(
    command.option('-f, --format <format>', `the image's format (${formatNames}); probed without`),
  );
}

/** `--allow`, for every verb that opens images. */
export function withAllow(command: Command): Command {
  return command.option(
    '--allow <dir>',
    'let images name backing files in this folder too; repeatable',
    collect,
  );
}

/** `-U`, for every verb that reads images. */
export function withForceShare(command: Command): Command {
  return command.option(
    '-U, --force-share',
    'read images that others write; what is read may be half changed',
  );
}

/** `--json`, and the same as qemu-img says it. */
export function withJson(command: Command): Command {
  return command
    .option('--json', 'print JSON')
    .addOption(new Option('--output <kind>', 'json: the same as --json').choices(['human', 'json']))
    .hook('preAction', (self) => {
      if (self.opts<{ output?: string }>().output === 'json') self.setOptionValue('json', true);
    });
}
