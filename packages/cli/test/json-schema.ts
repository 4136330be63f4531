import { readFileSync } from 'node:fs';

/*
 * As much of JSON Schema as schema.json uses. A keyword that is not known here is an error: a rule of the schema
 * that nobody checks would be a rule in name only.
 */

type Schema = Readonly<Record<string, unknown>>;
type Members = Readonly<Record<string, Schema>>;

const schema = JSON.parse(readFileSync(new URL('../schema.json', import.meta.url), 'utf8')) as {
  readonly $defs: Members;
};

function typeOf(value: unknown): string {
  if (value === null) return 'null';
  if (Array.isArray(value)) return 'array';
  return Number.isInteger(value) ? 'integer' : typeof value;
}

function isOfType(value: unknown, types: unknown): boolean {
  const found = typeOf(value);
  const wanted: unknown[] = Array.isArray(types) ? types : [types];
  return wanted.includes(found) || (found === 'integer' && wanted.includes('number'));
}

/** Everything in which `value` is not as the schema says, with where it is. */
function* problemsOfRule(
  value: unknown,
  key: string,
  rule: unknown,
  whole: Schema,
  at: string,
): Iterable<string> {
  switch (key) {
    case 'description':
      return;
    case '$ref':
      return yield* problems(value, String(rule).replace('#/$defs/', ''), at);
    case 'type':
      return; // problemsOf has looked at it: the other rules need it.
    case 'enum':
      if (!(rule as unknown[]).includes(value)) yield `${at} is ${String(value)}`;
      return;
    case 'minimum':
      if (Number(value) < Number(rule)) yield `${at} is below ${String(rule)}`;
      return;
    case 'maximum':
      if (Number(value) > Number(rule)) yield `${at} is above ${String(rule)}`;
      return;
    case 'maxItems':
      if ((value as unknown[]).length > Number(rule)) yield `${at} has more than ${String(rule)} items`;
      return;
    case 'items':
      for (const [index, item] of (value as unknown[]).entries()) {
        yield* problemsOf(item, rule as Schema, `${at}[${index}]`);
      }
      return;
    case 'required':
      for (const name of rule as string[]) {
        if (!Object.hasOwn(value as object, name)) yield `${at} has no ${name}`;
      }
      return;
    case 'properties':
      for (const [name, member] of Object.entries(rule as Members)) {
        if (Object.hasOwn(value as object, name)) {
          yield* problemsOf((value as Record<string, unknown>)[name], member, `${at}.${name}`);
        }
      }
      return;
    case 'additionalProperties':
      for (const [name, member] of Object.entries(value as object)) {
        if (Object.hasOwn(whole['properties'] ?? {}, name)) continue;
        if (rule === false) yield `${at} has ${name}, which is not in the schema`;
        else yield* problemsOf(member, rule as Schema, `${at}.${name}`);
      }
      return;
    default:
      throw new Error(`schema.json uses ${key}, which this test does not check`);
  }
}

function* problemsOf(value: unknown, rules: Schema, at: string): Iterable<string> {
  if (rules['type'] !== undefined && !isOfType(value, rules['type'])) {
    yield `${at} is of type ${typeOf(value)}`;
    return;
  }
  for (const [key, rule] of Object.entries(rules)) yield* problemsOfRule(value, key, rule, rules, at);
}

function* problems(value: unknown, definition: string, at: string): Iterable<string> {
  const rules = schema.$defs[definition];
  if (rules === undefined) throw new Error(`schema.json has no definition ${definition}`);
  yield* problemsOf(value, rules, at);
}

/** In what `value` contradicts a definition of schema.json. */
export function contradictions(value: unknown, definition: string): string[] {
  return [...problems(value, definition, definition)];
}
