import { corrupt, CowlabError } from '@cowlab/core';
import { entryOf } from './descriptor.ts';

/*
 * The snapshot directory beside a disk, `disk.vmsd`, in VMware's dictionary text: a line `key = "value"` for
 * each field, `snapshot0.displayName` and so on. VMware has published no description; keys and the split of the
 * time into two signed halves are as its products write them. Keys that are not known here are kept.
 *
 * In a value, `"`, `|`, `#` and control characters stand as `|` and two hexadecimal digits.
 */

export interface SnapshotEntry {
  /** Above 0; never used again. */
  readonly uid: number;
  /** The snapshot this one grew from; undefined for a first one. */
  parent: number | undefined;
  readonly displayName: string;
  /** Milliseconds of precision; the file has microseconds. */
  readonly createdAt: Date;
  /** The file that holds the snapshot's content, beside the disk. */
  readonly fileName: string;
  /** Every other field of the snapshot, by its key behind `snapshotN.`. */
  readonly others: ReadonlyMap<string, string>;
}

export interface SnapshotDirectory {
  lastUid: number;
  /** The snapshot that the disk stands on. */
  current: number | undefined;
  readonly entries: SnapshotEntry[];
  /** Lines that are about no snapshot. */
  readonly others: Map<string, string>;
}

const FIELD = /^snapshot(\d+)\.(.+)$/;
const TWO_32 = 2 ** 32;
const MAX_UID = 2 ** 31 - 1;
const OWN_KEYS = new Set([
  'uid',
  'parent',
  'displayName',
  'createTimeHigh',
  'createTimeLow',
  'disk0.fileName',
]);

/** Whether a file beside a disk has a name that a snapshot's gets: `disk-000001.vmdk`. */
export function isSnapshotName(disk: string, file: string): boolean {
  const stem = disk.replace(/\.vmdk$/i, '');
  return file.startsWith(`${stem}-`) && /^\d{6}\.vmdk$/.test(file.slice(stem.length + 1));
}

export function emptyDirectory(): SnapshotDirectory {
  return { lastUid: 0, current: undefined, entries: [], others: new Map([['.encoding', 'UTF-8']]) };
}

function escape(value: string): string {
  return value.replace(
    /[\p{Control}"|#]/gu,
    (char) => `|${char.charCodeAt(0).toString(16).padStart(2, '0')}`,
  );
}

function unescape(value: string): string {
  if (!value.includes('|')) return value;
  return value.replace(/\|([0-9a-f]{2})/gi, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 16)),
  );
}

/** Reads the dictionary. Throws `ERR_CORRUPT` naming the key. */
export function parseDirectory(file: string, bytes: Uint8Array): SnapshotDirectory {
  const text = new TextDecoder('utf-8').decode(bytes);
  const fields = new Map<string, string>();
  for (const line of text.split(/\r?\n/)) {
    const entry = entryOf(line);
    if (entry !== undefined) fields.set(entry.key, unescape(entry.value));
  }
  const number = (key: string, from: number, to: number): number | undefined => {
    const value = fields.get(key);
    if (value === undefined) return undefined;
    const parsed = /^-?\d{1,10}$/.test(value) ? Number(value) : Number.NaN;
    if (!(parsed >= from && parsed <= to)) {
      throw corrupt(file, key, `not a whole number from ${from} to ${to}: ${value.slice(0, 40)}`, {
        value: value.slice(0, 40),
      });
    }
    return parsed;
  };
  const { others, perSnapshot } = sortFields(fields);
  const count = number('snapshot.numSnapshots', 0, perSnapshot.size) ?? 0;
  const entries: SnapshotEntry[] = [];
  for (let i = 0; i < count; i++) {
    entries.push(parseEntry(file, i, perSnapshot.get(i) ?? new Map<string, string>(), number));
  }
  const uids = new Set(entries.map((entry) => entry.uid));
  if (uids.size < entries.length) throw corrupt(file, 'snapshot.uid', 'two snapshots have one uid');
  // A uid is never used again, whatever the file says.
  let lastUid = number('snapshot.lastUID', 0, MAX_UID) ?? 0;
  for (const uid of uids) lastUid = Math.max(lastUid, uid);
  return {
    lastUid,
    current: number('snapshot.current', 0, MAX_UID),
    entries,
    others,
  };
}

function sortFields(fields: ReadonlyMap<string, string>): {
  others: Map<string, string>;
  perSnapshot: Map<number, Map<string, string>>;
} {
  const others = new Map<string, string>();
  const perSnapshot = new Map<number, Map<string, string>>();
  for (const [key, value] of fields) {
    const match = FIELD.exec(key);
    if (match === null) {
      if (!['snapshot.lastUID', 'snapshot.numSnapshots', 'snapshot.current'].includes(key))
        others.set(key, value);
      continue;
    }
    const index = Number(match[1]);
    const one = perSnapshot.get(index) ?? new Map<string, string>();
    perSnapshot.set(index, one.set(match[2] ?? '', value));
  }
  return { others, perSnapshot };
}

function parseEntry(
  file: string,
  index: number,
  fields: ReadonlyMap<string, string>,
  number: (key: string, from: number, to: number) => number | undefined,
): SnapshotEntry {
  const prefix = `snapshot${index}`;
  const uid = number(`${prefix}.uid`, 1, MAX_UID);
  if (uid === undefined) throw corrupt(file, `${prefix}.uid`, 'is missing');
  const fileName = fields.get('disk0.fileName');
  if (fileName === undefined || !/^[^/\\\0]+$/.test(fileName) || fileName === '.' || fileName === '..') {
    throw corrupt(
      file,
      `${prefix}.disk0.fileName`,
      `not the name of a file beside the disk: ${fileName ?? ''}`,
      {
        value: fileName ?? '',
      },
    );
  }
  const high = number(`${prefix}.createTimeHigh`, -(2 ** 31), 2 ** 31 - 1) ?? 0;
  const low = number(`${prefix}.createTimeLow`, -(2 ** 31), 2 ** 31 - 1) ?? 0;
  return {
    uid,
    parent: number(`${prefix}.parent`, 0, MAX_UID),
    displayName: fields.get('displayName') ?? '',
    createdAt: new Date((high * TWO_32 + (low >>> 0)) / 1000),
    fileName,
    others: new Map([...fields].filter(([key]) => !OWN_KEYS.has(key))),
  };
}

/** The snapshot with this id. Throws `ERR_SNAPSHOT_NOT_FOUND`. */
export function entryFor({ entries }: SnapshotDirectory, id: string): SnapshotEntry {
  const entry = entries.find((one) => String(one.uid) === id);
  if (entry !== undefined) return entry;
  throw new CowlabError('ERR_SNAPSHOT_NOT_FOUND', `no snapshot has the id ${id}`, { value: id });
}

/** A directory that can be changed without changing the first. */
export function copyDirectory(directory: SnapshotDirectory): SnapshotDirectory {
  return {
    ...directory,
    entries: directory.entries.map((entry) => ({ ...entry })),
    others: new Map(directory.others),
  };
}

/** The dictionary's text, as bytes. */
export function encodeDirectory(directory: SnapshotDirectory): Uint8Array {
  const lines: string[] = [];
  const put = (key: string, value: string | number): void => {
    lines.push(`${key} = "${escape(String(value))}"\n`);
  };
  for (const [key, value] of directory.others) put(key, value);
  put('snapshot.lastUID', directory.lastUid);
  put('snapshot.numSnapshots', directory.entries.length);
  if (directory.current !== undefined) put('snapshot.current', directory.current);
  directory.entries.forEach((entry, index) => {
    const prefix = `snapshot${index}.`;
    const microseconds = entry.createdAt.getTime() * 1000;
    put(`${prefix}uid`, entry.uid);
    if (entry.parent !== undefined) put(`${prefix}parent`, entry.parent);
    put(`${prefix}displayName`, entry.displayName);
    put(`${prefix}createTimeHigh`, Math.floor(microseconds / TWO_32));
    put(`${prefix}createTimeLow`, (microseconds % TWO_32) | 0);
    put(`${prefix}disk0.fileName`, entry.fileName);
    for (const [key, value] of entry.others) put(prefix + key, value);
  });
  return new TextEncoder().encode(lines.join(''));
}
