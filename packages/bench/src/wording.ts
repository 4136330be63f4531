/* How numbers are written for people, in the report and in verdicts. */

/** Three digits that count: `0.12`, `3.45`, `67.8`, `901`. */
export function number(value: number): string {
  if (value === 0) return '0';
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

export function size(bytes: number): string {
  const units: [string, number][] = [
    ['TiB', 2 ** 40],
    ['GiB', 2 ** 30],
    ['MiB', 2 ** 20],
    ['KiB', 2 ** 10],
  ];
  const [unit, scale] = units.find(([, each]) => Math.abs(bytes) >= each) ?? ['bytes', 1];
  return `${number(bytes / scale).replace(/\.0+$/, '')} ${unit}`;
}

export function duration(milliseconds: number): string {
  return milliseconds < 1000 ? `${number(milliseconds)} ms` : `${number(milliseconds / 1000)} s`;
}

export function percent(share: number): string {
  return `${number(share * 100)} %`;
}

export function times(ratio: number): string {
  return `${number(ratio)}×`;
}
