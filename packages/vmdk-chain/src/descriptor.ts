import { CowlabError, corrupt } from '@cowlab/core';
import { SECTOR } from './layout.ts';

/*
 * The embedded descriptor ("Virtual Disk Format 5.0", section "Descriptor File"): lines of text, padded with
 * zeros to the room that the header gives it. A line is empty, a comment, `key=value` (quotes around texts,
 * keys without regard to case) or an extent: `RW 204800 SPARSE "disk.vmdk"`.
 *
 * Lines are kept as they are read, unknown ones and their line breaks too; a change replaces one line. What changes
 * in the life of an image (CID, parentCID, parentFileNameHint, the extent's name) comes first, and is kept inside
 * the first 512 bytes: where the text is longer, a comment fills that sector up from the first change on that moves
 * lines. So every change is one sector's write, and a power cut leaves the old descriptor or the new one.
 */

/** The CID of "no parent". */
export const NO_PARENT = 0xffffffff;
const EXTENT_LINE = /^(RW|RDONLY|NOACCESS)\s+(\d+)\s+([A-Z0-9]+)(?:\s+"([^"]*)")?(?:\s+(\d+))?\s*$/i;
const FILLER = /^#{2,}$/;

export interface ExtentLine {
  readonly sectors: number;
  readonly type: string;
  readonly fileName: string | undefined;
}

interface TextForm {
  readonly encoding: 'utf8' | 'latin1';
  readonly lineBreak: '\n' | '\r\n';
}

export interface NewDescriptor {
  readonly cid: number;
  readonly parentCid: number;
  /** As it stands in the child: relative to the folder of the child. */
  readonly parentHint?: string;
  readonly extentName: string;
  /** Guest bytes. */
  readonly size: number;
  readonly adapterType: string;
}

/** A line `key = value` or `key = "value"`; undefined for any other. In time that grows with the line's length only. */
export function entryOf(line: string): { readonly key: string; readonly value: string } | undefined {
  const at = line.indexOf('=');
  const key = line.slice(0, Math.max(0, at)).trim();
  if (key === '' || key.startsWith('#')) return undefined;
  const value = line.slice(at + 1).trim();
  const quoted = value.length >= 2 && value.startsWith('"') && value.endsWith('"');
  return { key, value: quoted ? value.slice(1, -1) : value };
}

function hex(cid: number): string {
  return cid.toString(16).padStart(8, '0');
}

/** A name that can stand between quotes, or `ERR_INVALID_OPTION`. */
function quotable(name: string): string {
  for (const char of name) {
    if (char === '"' || char < ' ') {
      throw new CowlabError('ERR_INVALID_OPTION', `file name cannot stand in a descriptor: ${name}`, {
        field: 'file name',
        value: name,
      });
    }
  }
  return name;
}

/** A content id for a new state: random, and never the id of "no parent". */
export function newCid(): number {
  const [value = 0] = crypto.getRandomValues(new Uint32Array(1));
  return value === NO_PARENT ? 1 : value;
}

export class Descriptor {
  readonly #lines: string[];
  readonly #form: TextForm;
  /** The first sector is filled up, so that what lies behind it stays where it is. */
  #filled: boolean;

  private constructor(lines: string[], form: TextForm, filled: boolean) {
    this.#lines = lines;
    this.#form = form;
    this.#filled = filled;
  }

  static create(fields: NewDescriptor): Descriptor {
    const heads = fields.adapterType === 'ide' ? 16 : 255;
    const cylinders = Math.floor(fields.size / (63 * heads * SECTOR));
    const hint = fields.parentHint;
    const lines = [
      '# Disk DescriptorFile',
      'version=1',
      `CID=${hex(fields.cid)}`,
      `parentCID=${hex(fields.parentCid)}`,
      'createType="monolithicSparse"',
      ...(hint === undefined ? [] : [`parentFileNameHint="${quotable(hint)}"`]),
      '',
      '# Extent description',
      `RW ${fields.size / SECTOR} SPARSE "${quotable(fields.extentName)}"`,
      '',
      '# The Disk Data Base',
      '#DDB',
      '',
      'ddb.virtualHWVersion = "4"',
      `ddb.geometry.cylinders = "${cylinders}"`,
      `ddb.geometry.heads = "${heads}"`,
      'ddb.geometry.sectors = "63"',
      `ddb.adapterType = "${fields.adapterType}"`,
    ];
    return new Descriptor(lines, { encoding: 'utf8', lineBreak: '\n' }, true);
  }

  /** Reads a descriptor; the text ends at the first zero byte. Texts that are not UTF-8 are kept byte for byte. */
  static parse(bytes: Uint8Array): Descriptor {
    const end = bytes.indexOf(0);
    const text = end === -1 ? bytes : bytes.subarray(0, end);
    let decoded: string;
    let encoding: 'utf8' | 'latin1' = 'utf8';
    try {
      decoded = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(text);
    } catch {
      decoded = Buffer.from(text).toString('latin1');
      encoding = 'latin1';
    }
    const lines = decoded.split(/\r?\n/);
    if (lines.at(-1) === '') lines.pop();
    const lineBreak = decoded.includes('\r\n') ? '\r\n' : '\n';
    const filled = lines.some((line) => FILLER.test(line));
    return new Descriptor(lines, { encoding, lineBreak }, filled);
  }

  clone(): Descriptor {
    return new Descriptor([...this.#lines], this.#form, this.#filled);
  }

  /** The value of the first line with this key, without its quotes. */
  get(key: string): string | undefined {
    const line = this.#lines[this.#find(key)];
    return line === undefined ? undefined : entryOf(line)?.value;
  }

  /** A content id. Throws `ERR_CORRUPT` when it is missing or not hexadecimal. */
  cid(file: string, key: 'CID' | 'parentCID'): number {
    const value = this.get(key);
    if (value === undefined) throw corrupt(file, `descriptor.${key}`, 'is missing');
    if (!/^[0-9a-f]{1,8}$/i.test(value)) {
      throw corrupt(file, `descriptor.${key}`, `not a 32-bit hexadecimal number: ${value.slice(0, 40)}`, {
        value: value.slice(0, 40),
      });
    }
    return Number.parseInt(value, 16);
  }

  get extents(): ExtentLine[] {
    return this.#lines.flatMap((line) => {
      const match = EXTENT_LINE.exec(line);
      return match === null
        ? []
        : [{ sectors: Number(match[2]), type: (match[3] ?? '').toUpperCase(), fileName: match[4] }];
    });
  }

  setCid(cid: number): void {
    this.#replace('CID', `CID=${hex(cid)}`, 1);
  }

  /** Names another parent, or none. */
  setParent(cid: number, hint: string | undefined): void {
    this.#filled = true;
    this.#replace('parentCID', `parentCID=${hex(cid)}`, 1 + this.#find('CID'));
    const at = this.#find('parentFileNameHint');
    if (hint !== undefined) {
      this.#replace(
        'parentFileNameHint',
        `parentFileNameHint="${quotable(hint)}"`,
        1 + Math.max(this.#find('parentCID'), this.#find('createType')),
      );
    } else if (at !== -1) {
      this.#lines.splice(at, 1);
    }
  }

  /** Names the file that the one extent lies in. */
  setExtentName(name: string): void {
    this.#filled = true;
    const at = this.#lines.findIndex((line) => EXTENT_LINE.test(line));
    const line = this.#lines[at];
    if (line !== undefined) this.#lines[at] = line.replace(/"[^"]*"/, () => `"${quotable(name)}"`);
  }

  /** The text as bytes, without the padding behind it. */
  encode(): Uint8Array {
    const lines = this.#lines.filter((line) => !FILLER.test(line));
    const whole = this.#encodeLines(lines);
    if (whole.length <= SECTOR || !this.#filled) return whole;
    const cut = 1 + lines.findLastIndex((line) => EXTENT_LINE.test(line));
    const head = this.#encodeLines(lines.slice(0, cut));
    const spare = SECTOR - head.length - this.#form.lineBreak.length;
    // A comment needs its sign twice, so that it is known again.
    if (cut === 0 || spare < 2) return whole;
    const filler = '#'.repeat(spare);
    return this.#encodeLines([...lines.slice(0, cut), filler, ...lines.slice(cut)]);
  }

  #encodeLines(lines: readonly string[]): Uint8Array {
    const { encoding, lineBreak } = this.#form;
    return new Uint8Array(Buffer.from(lines.map((line) => line + lineBreak).join(''), encoding));
  }

  #find(key: string): number {
    const wanted = key.toLowerCase();
    return this.#lines.findIndex((line) => entryOf(line)?.key.toLowerCase() === wanted);
  }

  #replace(key: string, line: string, insertAt: number): void {
    const at = this.#find(key);
    if (at === -1) this.#lines.splice(insertAt, 0, line);
    else this.#lines[at] = line;
  }
}
