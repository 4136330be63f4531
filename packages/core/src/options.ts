import type { OptionSpec, OptionTable, OptionValue, OptionValues } from './driver.ts';
import { CowlabError } from './errors.ts';

function invalid(name: string, value: unknown, expected: string): CowlabError {
  return new CowlabError('ERR_INVALID_OPTION', `option ${name}: ${String(value)} is not ${expected}`, {
    field: name,
    value: String(value),
  });
}

function checkOne(name: string, spec: OptionSpec, value: OptionValue): OptionValue {
  switch (spec.type) {
    case 'size':
    case 'number':
      if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0) {
        throw invalid(name, value, 'a whole number');
      }
      return value;
    case 'boolean':
      if (typeof value !== 'boolean') throw invalid(name, value, 'true or false');
      return value;
    case 'string':
      if (typeof value !== 'string') throw invalid(name, value, 'a text');
      return value;
    case 'choice': {
      const choices = spec.choices ?? [];
      if (typeof value !== 'string' || !choices.includes(value)) {
        throw invalid(name, value, `one of ${choices.join(', ')}`);
      }
      return value;
    }
  }
}

/** Values checked against a table, with its defaults filled in. Throws `ERR_INVALID_OPTION` naming the option. */
export function checkOptions(table: OptionTable, given: OptionValues): OptionValues {
  for (const name of Object.keys(given)) {
    if (!Object.hasOwn(table, name)) {
      const known = Object.keys(table).join(', ') || 'none';
      throw new CowlabError('ERR_INVALID_OPTION', `option ${name}: unknown; there are: ${known}`, {
        field: name,
      });
    }
  }
  const checked: Record<string, OptionValue> = {};
  for (const [name, spec] of Object.entries(table)) {
    const value = given[name] ?? spec.default;
    if (value !== undefined) checked[name] = checkOne(name, spec, value);
  }
  return checked;
}
