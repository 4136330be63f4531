import { corrupt } from '@cowlab/core';

/*
 * A line of the descriptor that says where a part of the disk lies:
 *
 *   RW      4192256  SPARSE  "disk-s001.vmdk"        an extent with grain tables
 *   RDONLY  2048     FLAT    "boot.img"  63          bytes as they are, from sector 63 of the file on
 *   RW      100      ZERO                            nothing is kept: zeros
 */

const ACCESSES = ['RW', 'RDONLY', 'NOACCESS'] as const;
const EXTENT_LINE = /^([A-Z]+)\s+(\d{1,16})\s+([A-Z0-9]{1,32})(?:\s+"([^"]*)")?(?:\s+(\d{1,16}))?\s*$/i;
const FIRST_WORD = /^\s{0,64}(RW|RDONLY|NOACCESS)\s/i;
const MOST_TEXT = 80;

export interface ExtentLine {
  readonly access: (typeof ACCESSES)[number];
  readonly sectors: number;
  /** In capital letters. */
  readonly type: string;
  readonly fileName?: string;
  /** First sector in the file, for `FLAT`. */
  readonly offset?: number;
}

/** Whether a line is meant to be an extent. */
export function isExtentLine(line: string): boolean {
  return FIRST_WORD.test(line);
}

/** Reads a line. Throws `ERR_CORRUPT` that names extent and line. */
export function parseExtentLine(file: string, line: string, index: number, lineNumber: number): ExtentLine {
  const problem = (text: string): Error =>
    corrupt(file, `descriptor.extent[${index}]`, `line ${lineNumber}: ${text}`, {
      value: line.trim().slice(0, MOST_TEXT),
      line: lineNumber,
    });
  const match = EXTENT_LINE.exec(line.trim());
  const access = ACCESSES.find((one) => one === match?.[1]?.toUpperCase());
  if (match === null || access === undefined) throw problem('not an extent: access, sectors, type, "file"');
  const [, , sectors, type = '', fileName, offset] = match;
  const extent: ExtentLine = {
    access,
    sectors: Number(sectors),
    type: type.toUpperCase(),
    ...(fileName !== undefined && { fileName }),
    ...(offset !== undefined && { offset: Number(offset) }),
  };
  if (extent.sectors === 0) throw problem('0 sectors');
  if (extent.type === 'FLAT' && offset === undefined) throw problem('a FLAT extent without an offset');
  if (extent.type === 'SPARSE' && offset !== undefined) throw problem('a SPARSE extent with an offset');
  if (extent.type !== 'ZERO' && fileName === undefined) throw problem('the name of its file is missing');
  return extent;
}
