import { describe, expect, it } from 'vitest';
import { checkOptions, type OptionTable, type OptionValue } from '../src/index.ts';

const table: OptionTable = {
  cluster_size: { type: 'size', default: 65536, help: 'bytes' },
  level: { type: 'number', help: 'a number' },
  lazy: { type: 'boolean', default: false, help: 'a switch' },
  note: { type: 'string', help: 'a text' },
  compat: { type: 'choice', choices: ['0.10', '1.1'], default: '1.1', help: 'one of some' },
};

describe('checkOptions', () => {
  it('fills in defaults and leaves out what has none', () => {
    expect(checkOptions(table, {})).toEqual({ cluster_size: 65536, lazy: false, compat: '1.1' });
  });

  it('takes every type', () => {
    const given = { cluster_size: 512, level: 0, lazy: true, note: '', compat: '0.10' };
    expect(checkOptions(table, given)).toEqual(given);
  });

  it.each<[string, OptionValue]>([
    ['cluster_size', '64k'],
    ['cluster_size', -1],
    ['level', 0.5],
    ['level', Number.NaN],
    ['lazy', 'true'],
    ['note', 1],
    ['compat', '2.0'],
    ['nothing', 1],
    ['toString', 'x'],
  ])('refuses %s: %s, and names the option', (name, value) => {
    const attempt = (): unknown => checkOptions(table, { [name]: value });
    expect(attempt).toThrow(expect.objectContaining({ code: 'ERR_INVALID_OPTION' }));
    expect(attempt).toThrow(name);
  });
});
