import { type BlockDriver, CowlabError, type OptionSpec, type OptionValue, raw } from '@cowlab/core';
import { fvd } from '@cowlab/fvd';
import { qcow2 } from '@cowlab/qcow2-like';
import { vmdk } from '@cowlab/vmdk-chain';
import { parseSize } from './sizes.ts';

/* The formats that the command knows, and their create options as they are typed: `-o name=value,…`. */

export const drivers: readonly BlockDriver[] = [fvd, qcow2, vmdk, raw];

export const formatNames: string = drivers.map(({ name }) => name).join(', ');

/** The driver of a format; `option` is how it was asked for. Throws `ERR_UNKNOWN_FORMAT`. */
export function driverOf(format: string, option: string): BlockDriver {
  const driver = drivers.find(({ name }) => name === format);
  if (driver === undefined) {
    const message = `${option}: unknown format ${JSON.stringify(format)}; there are: ${formatNames}`;
    throw new CowlabError('ERR_UNKNOWN_FORMAT', message, { field: option, value: format });
  }
  return driver;
}

/** Collects a repeatable option. */
export function collect(value: string, before: readonly string[] | undefined): readonly string[] {
  return [...(before ?? []), value];
}

/** `a=1,b=x` (given once or more) as typed values by the driver's table. A comma in a value is written twice. */
export function parseOptions(
  driver: BlockDriver,
  given: readonly string[] = [],
): Record<string, OptionValue> {
  const values: Record<string, OptionValue> = {};
  for (const pair of given.flatMap(splitPairs)) {
    const [name = '', ...rest] = pair.split('=');
    const spec = Object.hasOwn(driver.options, name) ? driver.options[name] : undefined;
    if (spec === undefined) {
      const known = Object.keys(driver.options).join(', ') || 'none';
      throw invalidOption(name, `${driver.name} has no such option; there are: ${known}`);
    }
    if (Object.hasOwn(values, name)) throw invalidOption(name, 'is given twice');
    values[name] = parseValue(name, spec, rest.length === 0 ? undefined : rest.join('='));
  }
  return values;
}

/** `-o help`: the rows of the driver's option table. */
export function optionRows(driver: BlockDriver): string[][] {
  return Object.entries(driver.options).map(([name, spec]) => [
    name,
    spec.choices?.join('|') ?? spec.type,
    spec.default === undefined ? '' : String(spec.default),
    spec.help,
  ]);
}

function splitPairs(list: string): string[] {
  return list
    .split(/(?<!,),(?!,)/)
    .map((pair) => pair.replaceAll(',,', ','))
    .filter((pair) => pair !== '');
}

function parseValue(name: string, spec: OptionSpec, text: string | undefined): OptionValue {
  if (spec.type === 'boolean') return parseSwitch(name, text ?? 'on');
  if (text === undefined) throw invalidOption(name, `needs a value: ${name}=…`);
  switch (spec.type) {
    case 'size':
      return parseSize(text, `option ${name}`);
    case 'number':
      return parseWhole(text, `option ${name}`);
    case 'choice':
    case 'string':
      return text;
  }
}

function parseSwitch(name: string, text: string): boolean {
  if (['on', 'true', 'yes'].includes(text)) return true;
  if (['off', 'false', 'no'].includes(text)) return false;
  throw invalidOption(name, `${JSON.stringify(text)} is neither on nor off`);
}

/** A whole number from 0 to 2^53 - 1. */
export function parseWhole(text: string, field: string): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(value)) {
    const message = `${field}: ${JSON.stringify(text)} is not a whole number`;
    throw new CowlabError('ERR_INVALID_OPTION', message, { field, value: text });
  }
  return value;
}

function invalidOption(name: string, problem: string): CowlabError {
  return new CowlabError('ERR_INVALID_OPTION', `option ${name}: ${problem}`, { field: name });
}
