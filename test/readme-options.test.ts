import type { OptionSpec, OptionTable, OptionValue } from '@cowlab/core';
import { fvd } from '@cowlab/fvd';
import { qcow2 } from '@cowlab/qcow2-like';
import { vmdk } from '@cowlab/vmdk-chain';
import { describe, expect, it } from 'vitest';
import { readText } from './repository.ts';

function sizeText(bytes: number): string {
  const units = ['', 'KiB', 'MiB', 'GiB', 'TiB'];
  let step = 0;
  let value = bytes;
  for (; value >= 1024 && value % 1024 === 0 && step < units.length - 1; step += 1) value /= 1024;
  return step === 0 ? String(bytes) : `${value} ${units[step]}`;
}

function defaultText({ type, default: value }: OptionSpec): string {
  const text = (plain: OptionValue): string =>
    type === 'size' ? sizeText(Number(plain)) : `\`${String(plain)}\``;
  return value === undefined ? '' : text(value);
}

/** The table that a README has to have under "## Options"; a failing test prints it, to be put there. */
function tableOf(options: OptionTable): string {
  const rows = Object.entries(options).map(
    ([name, option]) => `| \`${name}\` | ${defaultText(option)} | ${option.help} |`,
  );
  return ['| option | default | meaning |', '|---|---|---|', ...rows].join('\n');
}

describe.each([
  ['fvd', fvd],
  ['qcow2-like', qcow2],
  ['vmdk-chain', vmdk],
] as const)('the README of %s', (name, driver) => {
  it.each([
    ['create', driver.options],
    ['open', driver.openOptions],
  ] as const)('lists the options to %s as the driver has them', (_, options) => {
    const readme = readText(`packages/${name}/README.md`);
    if (Object.keys(options).length > 0) expect(readme).toContain(tableOf(options));
  });
});
