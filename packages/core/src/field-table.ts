/*
 * On-disk structures as data. A driver's layout files state each structure once, as a table of its fields: decode and
 * encode take their offsets from it, FORMAT.md's table is printed from it (test/format-tables.test.ts), and whoever
 * damages or shows images finds the fields by it.
 */

/** One field of a structure. */
export interface Field {
  /** Bytes from the start of the structure. */
  readonly at: number;
  /** Bytes that it takes. Up to 8 it is a number in the format's byte order, unless `text` says otherwise. */
  readonly bytes: number;
  readonly text?: boolean;
  readonly meaning: string;
  /** What a reader accepts. */
  readonly valid?: string;
}

/** The fields of a structure by the names that the format gives them. */
export type FieldTable = Readonly<Record<string, Field>>;

/** A structure that was found in an image. */
export interface FoundStructure {
  /** In the format's words, as in findings of `check`: `L2 table`. */
  readonly kind: string;
  readonly file: string;
  readonly offset: number;
  readonly bytes: number;
  /** Its fields; for tables of entries, the entries, with names like `[3]`. */
  readonly fields: FieldTable;
  readonly littleEndian: boolean;
  /** Lines of text, which has no fields. */
  readonly isText?: boolean;
  /** Makes the checksum in `structure` (its bytes) right; undefined where it has none. */
  readonly seal?: (structure: Uint8Array) => void;
}

/** The table that a FORMAT.md has to have for these fields. */
export function fieldTableText(fields: FieldTable): string {
  const rows = Object.entries(fields).map(
    ([name, { at, bytes, meaning, valid = '' }]) => `| ${at} | ${bytes} | ${name} | ${meaning} | ${valid} |`,
  );
  return ['| offset | bytes | field | meaning | valid |', '|---|---|---|---|---|', ...rows].join('\n');
}

/** A table of `count` entries of `entryBytes` from `at` on, as fields. */
export function entryFields(count: number, entryBytes: number, at = 0): FieldTable {
  const fields: Record<string, Field> = {};
  for (let index = 0; index < count; index += 1) {
    fields[`[${index}]`] = { at: at + index * entryBytes, bytes: entryBytes, meaning: 'entry' };
  }
  return fields;
}
