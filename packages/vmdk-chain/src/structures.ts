import { entryFields, type FieldTable, type FoundStructure, readU64LE, viewOf } from '@cowlab/core';
import { headerFields, markerFields } from './layout-fields.ts';
import { GRAIN_TABLE_BYTES, GRAIN_TABLE_ENTRIES, SECTOR, signatureOf } from './layout.ts';
import { FOOTER_BYTES, GRAIN_HEADER_BYTES, isDirectoryAtEnd } from './stream-layout.ts';

/** The structures of a valid sparse extent or snapshot directory; none in other files. */
export function vmdkStructures(file: string, bytes: Uint8Array): FoundStructure[] {
  const found: FoundStructure[] = [];
  const add = (kind: string, offset: number, length: number, fields: FieldTable): void => {
    found.push({ kind, file, offset, bytes: length, fields, littleEndian: true });
  };
  const addText = (kind: string, offset: number, length: number): void => {
    found.push({ kind, file, offset, bytes: length, fields: {}, littleEndian: true, isText: true });
  };
  if (file.endsWith('.vmsd')) addText('snapshot directory', 0, bytes.length);
  if (signatureOf(bytes) === 'descriptor') addText('descriptor', 0, bytes.length);
  if (signatureOf(bytes) !== 'sparse') return found;
  add('header', 0, SECTOR, headerFields);
  const isStream = isDirectoryAtEnd(bytes);
  if (isStream) addEnd(add, bytes.length);
  const view = viewOf(bytes);
  const decisive = isStream ? bytes.length - FOOTER_BYTES + SECTOR : 0;
  const sectors = (name: keyof typeof headerFields): number =>
    readU64LE(view, decisive + headerFields[name].at);
  const textAt = sectors('descriptorOffset') * SECTOR;
  const room = bytes.subarray(textAt, textAt + sectors('descriptorSize') * SECTOR);
  const end = room.indexOf(0);
  // Extents that a descriptor of its own file names have an empty room.
  if (end !== 0) addText('descriptor', textAt, end === -1 ? room.length : end);
  const count = Math.ceil(sectors('capacity') / (sectors('grainSize') * GRAIN_TABLE_ENTRIES));
  const directories = [
    ['', 'gdOffset'],
    ['redundant ', 'rgdOffset'],
  ] as const;
  for (const [which, field] of directories) {
    const at = sectors(field) * SECTOR;
    if (at === 0) continue;
    add(`${which}grain directory`, at, count * 4, entryFields(count, 4));
    for (let index = 0; index < count; index += 1) {
      const table = view.getUint32(at + index * 4, true) * SECTOR;
      const entries = entryFields(GRAIN_TABLE_ENTRIES, 4);
      if (table === 0) continue;
      add(`${which}grain table`, table, GRAIN_TABLE_BYTES, entries);
      if (isStream) addGrains(add, view, table);
    }
  }
  return found;
}

type Add = (kind: string, offset: number, length: number, fields: FieldTable) => void;

/** Of a stream: the footer between its two markers. */
function addEnd(add: Add, fileBytes: number): void {
  add('footer marker', fileBytes - FOOTER_BYTES, SECTOR, markerFields);
  add('footer', fileBytes - FOOTER_BYTES + SECTOR, SECTOR, headerFields);
  add('end marker', fileBytes - SECTOR, SECTOR, markerFields);
}

/** Of a stream: what stands before a table, and before the grains that it names. */
function addGrains(add: Add, view: DataView, table: number): void {
  add('table marker', table - SECTOR, SECTOR, markerFields);
  const { value, size } = markerFields;
  const fields: FieldTable = { value, size, data: { at: GRAIN_HEADER_BYTES, bytes: 4, meaning: '' } };
  for (let index = 0; index < GRAIN_TABLE_ENTRIES; index += 1) {
    const grain = view.getUint32(table + index * 4, true) * SECTOR;
    if (grain !== 0) add('grain header', grain, GRAIN_HEADER_BYTES + 4, fields);
  }
}
