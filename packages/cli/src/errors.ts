import { CowlabError, isCowlabError } from '@cowlab/core';
import { CommanderError } from 'commander';

/* Every failure is one line that says what and where, and a status other than 0. */

/** Statuses of failures where 1 is an answer already; qemu-img's numbers. */
const FAILURE_STATUS: Readonly<Record<string, number>> = { compare: 2 };

/** What a shell reports of a command that ended by Ctrl-C. */
const INTERRUPTED_STATUS = 130;

const HINTS: Readonly<Partial<Record<CowlabError['code'], string>>> = {
  ERR_BACKING_DENIED: '; --allow DIR allows a folder',
};

function hintOf({ code, data }: CowlabError): string {
  if (data.field === 'listen.host') return '; --allow-remote allows it, with --tls-… or --allow-plaintext';
  if (code === 'ERR_LOCKED' && data.value === 'shared') return '; --force-share reads it all the same';
  return HINTS[code] ?? '';
}

/** A mistake in what was typed: `where` is the file or the option. */
export function invalidUse(where: string, problem: string): CowlabError {
  return new CowlabError('ERR_INVALID_OPTION', `${where}: ${problem}`, { field: where });
}

/** The exit status of a failed `verb`. */
export function failureStatus(verb: string | undefined, error: unknown): number {
  if (error instanceof CommanderError && error.exitCode === 0) return 0;
  if (isCowlabError(error, 'ERR_ABORTED')) return INTERRUPTED_STATUS;
  return (verb !== undefined && Object.hasOwn(FAILURE_STATUS, verb) ? FAILURE_STATUS[verb] : undefined) ?? 1;
}

/** One line for any failure; a failure that is a defect of ours names its class, so that it can be reported. */
export function describe(error: unknown): string {
  if (isCowlabError(error)) return oneLine(error.message + hintOf(error));
  if (error instanceof Error) return oneLine(`unexpected ${error.name}: ${error.message}`);
  return oneLine(`unexpected: ${String(error)}`);
}

/** Commander's words (`error: unknown option '-x'\n(Did you mean -y?)`) as ours. */
export function describeUse(text: string): string {
  return oneLine(text.replace(/^error: /, ''));
}

function oneLine(text: string): string {
  return text.trim().replace(/\s*\n\s*/g, ' ');
}

/**
 * Core names a file as its folder knows it; people know it by the path that they typed. Returns the error
 * with the path in front of its message, when it is about that very file.
 */
export function underPath(error: unknown, path: string, name: string): unknown {
  if (!isCowlabError(error) || path === name || !error.message.startsWith(`${name}:`)) return error;
  return new CowlabError(error.code, path + error.message.slice(name.length), error.data, error);
}
