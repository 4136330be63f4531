import type { BlockDriver } from '@cowlab/core';
import type { Command, Option } from 'commander';
import { driverOf, drivers } from './formats.ts';

/*
 * What a shell offers when TAB is pressed. The scripts of the shells (`completion-script.ts`) ask `cowlab complete -- WORD…`,
 * the last word being the one that is typed, and read lines of a value, a tab and a description, and then `:` with a
 * number that says what else to do. All is taken from the commands as commander has them; what an option's value is says
 * the placeholder in its flags: `<format>`, `<file>`, `<path>`, `<dir>`.
 */

interface Item {
  readonly value: string;
  readonly text: string;
}

interface Offer {
  readonly items: readonly Item[];
  /** Names of files, too. */
  readonly files?: boolean;
  /** More is to be typed behind it. */
  readonly open?: boolean;
}

/** The scripts know these numbers. */
const NO_SPACE = 2;
const NO_FILES = 4;

const NOTHING: Offer = { items: [] };
const FILES: Offer = { items: [], files: true };
const FILE_PLACEHOLDERS = ['file', 'path', 'dir', 'module...'];
const FILE_ARGUMENTS = ['file', 'source', 'target', 'a', 'b'];

/** The answer to a shell. */
export function complete(program: Command, given: readonly string[]): string {
  // The script for bash may say twice that the last word is empty.
  const words = given.at(-1) === '' && given.at(-2) === '' ? given.slice(0, -1) : given;
  const typed = words.at(-1) ?? '';
  const { items, files = false, open = false } = offer(program, words.slice(0, -1), typed);
  const begun = /^--[^=]+=(.*)$/s.exec(typed)?.[1] ?? typed;
  const lines = items
    .filter(({ value }) => value.startsWith(begun))
    .map(({ value, text }) => `${value}\t${text}`);
  return [...lines, `:${(files ? 0 : NO_FILES) + (open ? NO_SPACE : 0)}`].join('\n');
}

function offer(program: Command, before: readonly string[], typed: string): Offer {
  const verb = program.commands.find((command) => command.name() === before[0]);
  if (verb === undefined) return before.length > 0 ? NOTHING : verbsOf(program, typed);
  const [, assigned] = /^(--[^=]+)=/.exec(typed) ?? [];
  const asking = optionOf(verb, assigned ?? before.at(-1));
  if (asking !== undefined && takesValue(asking)) return valuesOf(verb, asking, before, typed);
  if (typed.startsWith('-')) return { items: optionsOf(verb) };
  return argumentOf(verb, before);
}

function verbsOf(program: Command, typed: string): Offer {
  if (typed.startsWith('-')) return { items: optionsOf(program) };
  const visible = program.createHelp().visibleCommands(program);
  return { items: visible.map((command) => ({ value: command.name(), text: command.description() })) };
}

function optionsOf(command: Command): Item[] {
  return command
    .createHelp()
    .visibleOptions(command)
    .flatMap(({ long, short, description }) =>
      [long, short].flatMap((value) => (value ? [{ value, text: description }] : [])),
    );
}

function optionOf(command: Command, flag: string | undefined): Option | undefined {
  return command.options.find(({ long, short }) => flag !== undefined && (flag === long || flag === short));
}

function takesValue(option: Option): boolean {
  return option.required || option.optional;
}

function placeholderOf({ flags }: Option): string {
  return /<([^>]+)>/.exec(flags)?.[1] ?? '';
}

function valuesOf(verb: Command, option: Option, before: readonly string[], typed: string): Offer {
  if (option.argChoices) return { items: option.argChoices.map((value) => ({ value, text: '' })) };
  if (option.attributeName() === 'options') return createOptions(verb, before, typed);
  const placeholder = placeholderOf(option);
  if (placeholder === 'format')
    return { items: drivers.map(({ name }) => ({ value: name, text: 'format' })) };
  return FILE_PLACEHOLDERS.includes(placeholder) ? FILES : NOTHING;
}

/** The format that an image is made in, or has. */
function driverTyped(verb: Command, before: readonly string[]): BlockDriver | undefined {
  const flags = ['-O', '--output-format', ...(verb.name() === 'convert' ? [] : ['-f', '--format'])];
  const at = before.findLastIndex((word) => flags.includes(word));
  const format = at < 0 ? undefined : before[at + 1];
  return drivers.find(({ name }) => name === (format ?? 'raw'));
}

/** `name=`, or the values that it can have, behind those that are there already. */
function createOptions(verb: Command, before: readonly string[], typed: string): Offer {
  const driver = verb.name() === 'amend' ? driverOf('qcow2', '-f') : driverTyped(verb, before);
  const head = typed.slice(0, typed.lastIndexOf(',') + 1);
  const name = typed.slice(head.length).split('=')[0] ?? '';
  const table = Object.entries(driver?.options ?? {}).filter(
    ([each]) => verb.name() !== 'amend' || driver?.capabilities.amend.includes(each),
  );
  if (!typed.slice(head.length).includes('=')) {
    const items = table.map(([each, { help }]) => ({ value: `${head}${each}=`, text: help }));
    return { items, open: true };
  }
  const spec = driver?.options[name];
  const values = spec?.type === 'boolean' ? ['on', 'off'] : (spec?.choices ?? []);
  return { items: values.map((value) => ({ value: `${head}${name}=${value}`, text: '' })) };
}

function argumentOf(verb: Command, before: readonly string[]): Offer {
  const given = before.slice(1).filter((word, index, all) => {
    const asking = optionOf(verb, all[index - 1]);
    return !word.startsWith('-') && (asking === undefined || !takesValue(asking));
  });
  const all = verb.registeredArguments;
  const argument = all[given.length] ?? (all.at(-1)?.variadic ? all.at(-1) : undefined);
  if (argument === undefined) return NOTHING;
  if (argument.argChoices) return { items: argument.argChoices.map((value) => ({ value, text: '' })) };
  return FILE_ARGUMENTS.includes(argument.name()) ? FILES : NOTHING;
}
