import { availableParallelism } from 'node:os';
import { parseArgs } from 'node:util';
import { parts } from './parts.ts';
import { driverNames, subjectsOf } from './subjects.ts';

export const usage: string = `npm run lab -- [options]
  --time DURATION     how long in all: 90s, 10m, 1h (default 60s)
  --seed N            what every choice comes from (default: a new one, printed)
  --driver NAME,…     ${driverNames.join(', ')} (default all)
  --part NAME,…       ${parts.map(({ name }) => name).join(', ')} (default all)
  --workload NAME     one workload of the parts
  --state STATE       one case of a workload: what a violation's replay command says
  --jobs N            processes beside each other (default: one for each core)
  --json FILE         the result, for programs
  --help`;

export interface LabRequest {
  readonly seconds: number;
  readonly seed: number;
  readonly drivers: readonly string[];
  readonly parts: readonly string[];
  readonly workload?: string;
  readonly state?: string;
  readonly jobs: number;
  readonly json?: string;
}

/** What is wrong with the arguments, in one line. */
export class UsageError extends Error {}

const secondsOf: Record<string, number> = { s: 1, m: 60, h: 3600 };

function parseDuration(text: string): number {
  const match = /^(\d+(?:\.\d+)?)([smh])$/.exec(text);
  if (match === null) throw new UsageError(`--time: ${text} is not a duration like 90s, 10m or 1h`);
  return Number(match[1]) * (secondsOf[match[2]!] ?? 1);
}

function parseWhole(name: string, text: string, least: number): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < least)
    throw new UsageError(`--${name}: ${text} is not a whole number from ${least}`);
  return value;
}

function parseNames(option: string, text: string | undefined, known: readonly string[]): readonly string[] {
  if (text === undefined) return known;
  const names = text.split(',');
  const stranger = names.find((name) => !known.includes(name));
  if (stranger !== undefined)
    throw new UsageError(`--${option}: there is no ${stranger}; there are: ${known.join(', ')}`);
  return names;
}

/** What the parts do with the drivers, once each. */
function workloadsOf(drivers: readonly string[], partNames: readonly string[]): string[] {
  const chosen = parts.filter(({ name }) => partNames.includes(name));
  const capabilities = drivers.flatMap((name) => subjectsOf(name)[0]?.driver.capabilities ?? []);
  return [...new Set(chosen.flatMap((part) => capabilities.flatMap((each) => part.workloads(each))))];
}

function parse(args: readonly string[]): Record<string, string | boolean | undefined> {
  const text = { type: 'string' } as const;
  const options = { time: text, seed: text, driver: text, part: text, workload: text, state: text };
  try {
    const help = { type: 'boolean' } as const;
    return parseArgs({ args: [...args], options: { ...options, jobs: text, json: text, help } }).values;
  } catch (error) {
    throw new UsageError((error as Error).message.split('.')[0] ?? '', { cause: error });
  }
}

/** Undefined when help is asked for. Throws UsageError. */
export function readArguments(args: readonly string[]): LabRequest | undefined {
  const values = parse(args);
  if (values.help === true) return undefined;
  const {
    time = '60s',
    seed,
    driver,
    part,
    workload,
    state,
    jobs,
    json,
  } = values as Record<string, string | undefined>;
  const drivers = parseNames('driver', driver, driverNames);
  const partNames = parseNames(
    'part',
    part,
    parts.map(({ name }) => name),
  );
  if (workload !== undefined) parseNames('workload', workload, workloadsOf(drivers, partNames));
  const isOne =
    drivers.length === 1 && partNames.length === 1 && workload !== undefined && seed !== undefined;
  if (state !== undefined && !isOne)
    throw new UsageError('--state needs one --driver, one --part, a --workload and a --seed');
  return {
    seconds: parseDuration(time),
    seed: seed === undefined ? Math.floor(Math.random() * 0x7fff_ffff) : parseWhole('seed', seed, 0),
    drivers,
    parts: partNames,
    jobs: state === undefined ? parseWhole('jobs', jobs ?? String(availableParallelism()), 1) : 1,
    ...(workload !== undefined && { workload }),
    ...(state !== undefined && { state }),
    ...(json !== undefined && { json }),
  };
}
