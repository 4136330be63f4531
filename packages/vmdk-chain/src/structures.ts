import { entryFields, type FieldTable, type FoundStructure, readU64LE, viewOf } from '@cowlab/core';
import { headerFields } from './layout-fields.ts';
import { GRAIN_TABLE_BYTES, GRAIN_TABLE_ENTRIES, SECTOR, signatureOf } from './layout.ts';

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
  const view = viewOf(bytes);
  const sectors = (name: keyof typeof headerFields): number => readU64LE(view, headerFields[name].at);
  add('header', 0, SECTOR, headerFields);
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
      if (table !== 0) add(`${which}grain table`, table, GRAIN_TABLE_BYTES, entries);
    }
  }
  return found;
}
