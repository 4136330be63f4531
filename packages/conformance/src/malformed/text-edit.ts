import type { FoundStructure } from '@cowlab/core';

/* Damage to lines of text: what a hand, another program or malice may do to a descriptor. */

export type TextEdit =
  | 'drop'
  | 'double'
  | 'huge number'
  | 'large number'
  | 'negative'
  | 'zero'
  | 'no value'
  | 'path above'
  | 'absolute path'
  | 'name of the image'
  | 'open quote'
  | 'long line'
  | 'other key'
  | 'not text';

const edits: Readonly<Record<TextEdit, (line: string) => readonly string[]>> = {
  drop: () => [],
  double: (line) => [line, line],
  'huge number': (line) => [line.replace(/\d+/, '99999999999999999999999999')],
  'large number': (line) => [line.replace(/\d+/, '4294967295')],
  negative: (line) => [line.replace(/\d+/, '-1')],
  zero: (line) => [line.replace(/\d+/, '0')],
  'no value': (line) => [line.replace(/=.*/, '=')],
  'path above': (line) => [line.replace(/"[^"]*"/, '"../../etc/passwd"')],
  'absolute path': (line) => [line.replace(/"[^"]*"/, '"/etc/passwd"')],
  'name of the image': (line) => [line.replace(/"[^"]*"/, '"disk.img"')],
  'open quote': (line) => [line.replace(/"$/, '')],
  'long line': (line) => [line + 'x'.repeat(3000)],
  'other key': (line) => [line.replace(/^\w/, 'Z')],
  'not text': (line) => [`${line.slice(0, -1)}\u00ff\u0000`],
};

export const textEdits: readonly TextEdit[] = Object.keys(edits) as TextEdit[];

/**
 * The file with one line of a structure edited. In a text of its own file what follows moves; in a room inside a file the
 * rest stays where it is, and the text is cut off at the end of the sectors that it had.
 */
export function editText(
  file: Uint8Array,
  { offset, bytes }: FoundStructure,
  line: number,
  edit: TextEdit,
): Uint8Array {
  const old = Buffer.from(file.subarray(offset, offset + bytes)).toString('latin1');
  const lines = old.split('\n');
  const at = line % lines.length;
  lines.splice(at, 1, ...edits[edit](lines[at] ?? ''));
  const text = new Uint8Array(Buffer.from(lines.join('\n'), 'latin1'));
  if (bytes === file.length) return text;
  const room = file.indexOf(0, offset) === offset + bytes ? Math.ceil(bytes / 512) * 512 : bytes;
  const changed = file.slice();
  changed.fill(0, offset, offset + room);
  changed.set(text.subarray(0, room), offset);
  return changed;
}
