import { CowlabError, corrupt, isPowerOfTwo } from '@cowlab/core';
import { type ExtentLine, isExtentLine, parseExtentLine } from './extent-line.ts';
import { MAX_GRAIN_BYTES, MIN_GRAIN_BYTES, SECTOR } from './layout.ts';
import { decodeText, encodeText } from './text-encoding.ts';

/*
 * The descriptor ("Virtual Disk Format 5.0", section "Descriptor File"), inside an extent or in a file of its own:
 * lines of text. A line is empty, a comment, `key=value` (quotes around texts, keys without regard to case) or an
 * extent: `RW 204800 SPARSE "disk.vmdk"`.
 *
 * Lines are kept as they are read, byte for byte, unknown ones and their line breaks too; a change replaces one line.
 * What changes in the life of an image (CID, parentCID, parentFileNameHint, the name of an extent inside) comes first,
 * and is kept inside the first 512 bytes: where the text is longer, a comment fills that sector up from the first
 * change on that moves lines. So every change is one sector's write, and a power cut leaves the old descriptor or the
 * new one.
 *
 * In memory a line is a string with one character for each byte; values are decoded when they are asked for.
 */

/** The CID of "no parent". */
export const NO_PARENT = 0xffffffff;
/** A line of ours, where it is not the usual 64 KiB. Others keep it, and pass it over. */
const CHILD_GRAIN_KEY = 'ddb.cowlab.grainSize';
const FILLER = /^#{2,}\r?\n?$/;

export interface NewDescriptor {
  readonly cid: number;
  readonly parentCid: number;
  /** As it stands in the child: relative to the folder of the child. */
  readonly parentHint?: string;
  readonly createType: string;
  readonly extents: readonly ExtentLine[];
  /** Guest bytes. */
  readonly size: number;
  readonly adapterType: string;
  /** Grains of children over a disk that has none itself. */
  readonly childGrainBytes?: number;
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

function extentText({ access, sectors, type, fileName, offset }: ExtentLine): string {
  const name = fileName === undefined ? '' : ` "${quotable(fileName)}"`;
  return `${access} ${sectors} ${type}${name}${offset === undefined ? '' : ` ${offset}`}`;
}

/** A content id for a new state: random, and never the id of "no parent". */
export function newCid(): number {
  const [value = 0] = crypto.getRandomValues(new Uint32Array(1));
  return value === NO_PARENT ? 1 : value;
}

export class Descriptor {
  /** Each with its line break; the last may have none. */
  readonly #lines: string[];
  /** So many lines lie in the first sector, which is filled up, so that what is behind it stays; undefined where it is not. */
  #cut: number | undefined;

  private constructor(lines: string[], cut: number | undefined) {
    this.#lines = lines;
    this.#cut = cut;
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
      `createType="${fields.createType}"`,
      ...(hint === undefined ? [] : [`parentFileNameHint="${quotable(hint)}"`]),
      '',
      '# Extent description',
      ...fields.extents.map(extentText),
      '',
      '# The Disk Data Base',
      '#DDB',
      '',
      'ddb.virtualHWVersion = "4"',
      `ddb.geometry.cylinders = "${cylinders}"`,
      `ddb.geometry.heads = "${heads}"`,
      'ddb.geometry.sectors = "63"',
      `ddb.adapterType = "${fields.adapterType}"`,
      ...(fields.childGrainBytes === undefined
        ? []
        : [`${CHILD_GRAIN_KEY} = "${fields.childGrainBytes / SECTOR}"`]),
    ];
    const bytes = lines.map((line) => `${encodeText('utf-8', line)}\n`);
    const descriptor = new Descriptor(bytes, undefined);
    descriptor.#fill();
    return descriptor;
  }

  /** Reads a descriptor; the text ends at the first zero byte. */
  static parse(bytes: Uint8Array): Descriptor {
    const end = bytes.indexOf(0);
    const text = Buffer.from(end === -1 ? bytes : bytes.subarray(0, end)).toString('latin1');
    const lines = text.split(/(?<=\n)/);
    if (lines.at(-1) === '') lines.pop();
    let through = 0;
    const filler = lines.findIndex((line) => {
      through += line.length;
      return through >= SECTOR;
    });
    if (through !== SECTOR || !FILLER.test(lines[filler] ?? '')) return new Descriptor(lines, undefined);
    lines.splice(filler, 1);
    return new Descriptor(lines, filler);
  }

  clone(): Descriptor {
    return new Descriptor([...this.#lines], this.#cut);
  }

  /** The value of the first line with this key, without its quotes. */
  get(key: string): string | undefined {
    const line = this.#lines[this.#find(key)];
    return line === undefined ? undefined : decodeText(this.#encoding, entryOf(line)?.value ?? '');
  }

  /** Grains of children over a disk that has none itself; undefined where it does not say, or nothing that can be. */
  get childGrainBytes(): number | undefined {
    const bytes = Number(this.get(CHILD_GRAIN_KEY)) * SECTOR;
    return isPowerOfTwo(bytes) && bytes >= MIN_GRAIN_BYTES && bytes <= MAX_GRAIN_BYTES ? bytes : undefined;
  }

  /** A content id. Throws `ERR_CORRUPT` when it is missing or not hexadecimal. */
  cid(file: string, key: 'CID' | 'parentCID'): number {
    const at = this.#find(key);
    const line = this.#lines[at];
    if (line === undefined) throw corrupt(file, `descriptor.${key}`, 'is missing');
    const value = entryOf(line)?.value ?? '';
    if (!/^[0-9a-f]{1,8}$/i.test(value)) {
      const problem = `line ${at + 1}: not a 32-bit hexadecimal number: ${value.slice(0, 40)}`;
      throw corrupt(file, `descriptor.${key}`, problem, { value: value.slice(0, 40), line: at + 1 });
    }
    return Number.parseInt(value, 16);
  }

  /** The extents, in the order of the disk. Throws `ERR_CORRUPT`, which names the line, for one that is none. */
  extents(file: string): ExtentLine[] {
    const extents: ExtentLine[] = [];
    for (const [at, line] of this.#lines.entries()) {
      if (!isExtentLine(line)) continue;
      extents.push(parseExtentLine(file, decodeText(this.#encoding, line), extents.length, at + 1));
    }
    return extents;
  }

  setCid(cid: number): void {
    this.#replace('CID', `CID=${hex(cid)}`, 1);
  }

  /** Names another parent, or none. */
  setParent(cid: number, hint: string | undefined): void {
    this.#replace('parentCID', `parentCID=${hex(cid)}`, 1 + this.#find('CID'));
    const at = this.#find('parentFileNameHint');
    if (hint !== undefined) {
      this.#replace(
        'parentFileNameHint',
        `parentFileNameHint="${this.#encode(hint)}"`,
        1 + Math.max(this.#find('parentCID'), this.#find('createType')),
      );
    } else if (at !== -1) {
      this.#lines.splice(at, 1);
      if (this.#cut !== undefined && at < this.#cut) this.#cut--;
    }
    this.#fill();
  }

  /** Names the file that the one extent lies in. */
  setExtentName(name: string): void {
    const at = this.#lines.findIndex(isExtentLine);
    const line = this.#lines[at];
    if (line !== undefined) this.#lines[at] = line.replace(/"[^"]*"/, () => `"${this.#encode(name)}"`);
    this.#fill();
  }

  /** The text as bytes, without the padding behind it. */
  encode(): Uint8Array {
    const whole = this.#lines.join('');
    if (this.#cut === undefined) return Buffer.from(whole, 'latin1');
    const head = this.#lines.slice(0, this.#cut).join('');
    const lineBreak = this.#lineBreak;
    const filler = '#'.repeat(Math.max(0, SECTOR - head.length - lineBreak.length));
    // A comment needs its sign twice, so that it is known again.
    if (filler.length < 2) return Buffer.from(whole, 'latin1');
    return Buffer.from(head + filler + lineBreak + this.#lines.slice(this.#cut).join(''), 'latin1');
  }

  /** From now on the first sector has the lines that change: as far as the one extent, or as the last of them before many. */
  #fill(): void {
    if (this.#cut !== undefined || this.#lines.join('').length <= SECTOR) return;
    const extents = [...this.#lines.keys()].filter((at) => isExtentLine(this.#lines[at]!));
    const changing = ['CID', 'parentCID', 'createType', 'parentFileNameHint'].map((key) => this.#find(key));
    this.#cut = 1 + Math.max(...changing, ...(extents.length === 1 ? extents : []));
  }

  get #lineBreak(): string {
    return this.#lines[0]?.endsWith('\r\n') === true ? '\r\n' : '\n';
  }

  /** What the descriptor says of its own bytes. */
  get #encoding(): string {
    const line = this.#lines[this.#find('encoding')];
    return line === undefined ? 'utf-8' : (entryOf(line)?.value ?? '');
  }

  #encode(name: string): string {
    return encodeText(this.#encoding, quotable(name));
  }

  #find(key: string): number {
    const wanted = key.toLowerCase();
    return this.#lines.findIndex((line) => entryOf(line)?.key.toLowerCase() === wanted);
  }

  #replace(key: string, text: string, insertAt: number): void {
    const at = this.#find(key);
    if (at !== -1) {
      const old = this.#lines[at] ?? '';
      this.#lines[at] = text + old.slice(old.trimEnd().length);
      return;
    }
    const before = this.#lines[insertAt - 1];
    if (before !== undefined && !before.endsWith('\n')) this.#lines[insertAt - 1] = before + this.#lineBreak;
    this.#lines.splice(insertAt, 0, text + this.#lineBreak);
    if (this.#cut !== undefined && insertAt <= this.#cut) this.#cut++;
  }
}
