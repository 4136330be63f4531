import { CowlabError } from '@cowlab/core';

/*
 * Sizes as people type them, to exact whole numbers of bytes and back. Units are powers of 1024. `1MB` is
 * refused rather than guessed at: half of the world means a million by it.
 */

const UNITS = 'kmgtpe';
const PATTERN = /^(\d+)(?:\.(\d+))?(?:b|([kmgtpe])(?:ib)?)?$/i;

/** A size as it stands (`10G`), or as a change to the present one (`+1G`, `-512M`). Bytes. */
export interface SizeChange {
  readonly sign: '+' | '-' | undefined;
  readonly bytes: number;
}

function invalid(text: string, problem: string, field: string): CowlabError {
  return new CowlabError('ERR_INVALID_OPTION', `${field}: ${JSON.stringify(text)} ${problem}`, {
    field,
    value: text,
  });
}

/** Bytes of `64k`, `10G`, `1.5T`, `1MiB`, `512`. Throws `ERR_INVALID_OPTION` for what is no whole number of bytes. */
export function parseSize(text: string, field = 'size'): number {
  const match = PATTERN.exec(text);
  if (match === null) throw invalid(text, 'is not a size such as 512, 64k, 10G or 1MiB', field);
  const [, whole = '', fraction = '', unit = ''] = match;
  const factor = unit === '' ? 1n : 1024n ** BigInt(UNITS.indexOf(unit.toLowerCase()) + 1);
  const scale = 10n ** BigInt(fraction.length);
  const scaled = BigInt(whole + fraction) * factor;
  if (scaled % scale !== 0n) throw invalid(text, 'is not a whole number of bytes', field);
  const bytes = scaled / scale;
  if (bytes > BigInt(Number.MAX_SAFE_INTEGER)) throw invalid(text, 'is above 2^53 - 1 bytes', field);
  return Number(bytes);
}

/** {@link parseSize} with an optional sign before it. */
export function parseSizeChange(text: string): SizeChange {
  const sign = text.startsWith('+') ? '+' : text.startsWith('-') ? '-' : undefined;
  return { sign, bytes: parseSize(sign === undefined ? text : text.slice(1)) };
}

/** `1 GiB`, `196 KiB`, `1.5 MiB`: three significant digits, for reading only. */
export function formatSize(bytes: number): string {
  let value = bytes;
  let unit = -1;
  // 999.5 would round to four digits.
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const digits = unit < 0 ? value : Number(value.toPrecision(3));
  return `${digits} ${unit < 0 ? 'B' : `${UNITS.charAt(unit).toUpperCase()}iB`}`;
}
