import { crc32c, type Field, type FieldTable, type FoundStructure, readU64LE, viewOf } from '@cowlab/core';
import {
  catalogFields,
  deltaFields,
  deltaRunFields,
  entryFields,
  journalFields,
  pageFields,
  rootFields,
  runFields,
  superblockFields,
} from './layout-fields.ts';
import {
  decodePointer,
  decodeRoot,
  decodeSuperblock,
  isDelta,
  seal,
  SLOT_BYTES,
  type Superblock,
} from './layout.ts';
import { HEADER_BYTES, HEADER_OFFSETS, isVersion1 } from './v1/layout.ts';
import { geometryOf, type Region, SECTOR_BYTES, SUPERBLOCKS_BYTES } from './structure.ts';

/** The structures of a valid image of version 2, the header of one of version 1; none in other files. */
export function fvdStructures(file: string, bytes: Uint8Array): FoundStructure[] {
  if (isVersion1(bytes)) {
    const header = { kind: 'header', file, offset: 0, bytes: HEADER_BYTES, fields: version1Fields() };
    return [{ ...header, littleEndian: true }];
  }
  if (bytes.length < SUPERBLOCKS_BYTES) return [];
  const slots = [0, 1].map((slot) =>
    decodeSuperblock(bytes.subarray(slot * SLOT_BYTES, (slot + 1) * SLOT_BYTES), file),
  );
  const [first, second] = slots;
  const newest = (second?.generation ?? 0) > (first?.generation ?? 0) ? second : first;
  return newest === undefined ? [] : new Finder(file, bytes, newest).find();
}

function version1Fields(): FieldTable {
  const offsets = Object.entries(HEADER_OFFSETS);
  return Object.fromEntries(
    offsets.map(([name, at], index) => {
      const next = offsets[index + 1]?.[1] ?? at + 4;
      return [name, { at, bytes: Math.min(8, next - at), meaning: '' }];
    }),
  );
}

/** `count` things of `bytes` bytes from `at` on, the same fields in each. */
function repeated(prefix: string, fields: FieldTable, at: number, bytes: number, count: number): FieldTable {
  const all: Record<string, Field> = {};
  for (let index = 0; index < count; index += 1) {
    for (const [name, field] of Object.entries(fields))
      all[`${prefix}[${index}].${name}`] = { ...field, at: at + index * bytes + field.at };
  }
  return all;
}

const item: FieldTable = {
  first: { at: 0, bytes: 2, meaning: 'first slot or block' },
  count: { at: 2, bytes: 2, meaning: 'chunks, or bits 32–47 of the host block' },
  host: { at: 4, bytes: 4, meaning: 'host chunk or block' },
};
const pointer: FieldTable = {
  offset: { at: 0, bytes: 6, meaning: 'page offset ÷ 16' },
  bytes: { at: 6, bytes: 2, meaning: 'page bytes ÷ 16' },
};

class Finder {
  readonly #file: string;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #superblock: Superblock;
  readonly #found: FoundStructure[] = [];
  readonly #known = new Set<number>();

  constructor(file: string, bytes: Uint8Array, superblock: Superblock) {
    this.#file = file;
    this.#bytes = bytes;
    this.#view = viewOf(bytes);
    this.#superblock = superblock;
  }

  find(): FoundStructure[] {
    for (const slot of [0, 1])
      this.#add('superblock', { offset: slot * SLOT_BYTES, bytes: SLOT_BYTES }, superblockFields, 8);
    const { root, size, journal, catalog } = this.#superblock;
    this.#root(root, size);
    this.#journal(journal);
    if (catalog.bytes > 0) this.#catalog(catalog);
    return this.#found;
  }

  #journal({ offset, bytes }: Region): void {
    for (let at = offset; at < offset + bytes; at += SECTOR_BYTES) {
      if (readU64LE(this.#view, at + journalFields.epoch.at) !== this.#superblock.generation) return;
      const count = this.#view.getUint32(at + journalFields.count.at, true);
      const fields = { ...journalFields, ...repeated('run', runFields, 32, 16, count) };
      this.#add('journal', { offset: at, bytes: SECTOR_BYTES }, fields, journalFields.checksum.at);
    }
  }

  #root(region: Region, size: number): void {
    if (this.#known.has(region.offset)) return;
    this.#known.add(region.offset);
    const { chunkBytes, blockBytes, hostChunks } = this.#superblock;
    const geometry = geometryOf(chunkBytes, blockBytes);
    const root = this.#bytes.subarray(region.offset, region.offset + region.bytes);
    const pages = decodeRoot(root, size, geometry, hostChunks, this.#file);
    const fields = { ...rootFields, ...repeated('page', pointer, 32, 8, pages.bytes.length) };
    this.#add('root', region, fields, rootFields.checksum.at);
    for (const [page, bytes] of pages.bytes.entries())
      this.#page({ offset: pages.offsets[page] ?? 0, bytes });
  }

  /** A page, or a delta and the page under it. */
  #page(region: Region): void {
    const { offset, bytes } = region;
    if (bytes === 0 || this.#known.has(offset)) return;
    this.#known.add(offset);
    const used = this.#view.getUint32(offset + pageFields.usedBytes.at, true);
    if (!isDelta(this.#bytes.subarray(offset, offset + bytes))) {
      const items = repeated('item', item, 16, 8, Math.floor((used - 16) / 8));
      this.#add('page', region, { ...pageFields, ...items }, pageFields.checksum.at);
      return;
    }
    const runs = repeated('run', deltaRunFields, 32, 10, Math.floor((used - 32) / 10));
    this.#add('delta', region, { ...deltaFields, ...runs }, deltaFields.checksum.at);
    this.#page(decodePointer(this.#view, offset + deltaFields.fullOffset.at));
  }

  #catalog(region: Region): void {
    const { offset, bytes } = region;
    const number = (at: number): number => this.#view.getUint32(offset + at, true);
    const directoryBytes = number(catalogFields.directoryBytes.at);
    const fields: Record<string, Field> = { ...catalogFields };
    let at = 40;
    for (let index = 0; index < number(catalogFields.snapshots.at); index += 1) {
      for (const [name, field] of Object.entries(entryFields))
        fields[`snapshot[${index}].${name}`] = { ...field, at: at + field.at };
      const nameBytes = this.#view.getUint16(offset + at + entryFields.nameBytes.at, true);
      fields[`snapshot[${index}].name`] = { at: at + 48, bytes: nameBytes, text: true, meaning: 'name' };
      const root = (field: 'rootOffset' | 'rootBytes' | 'size'): number =>
        readU64LE(this.#view, offset + at + entryFields[field].at);
      this.#root({ offset: root('rootOffset'), bytes: root('rootBytes') }, root('size'));
      at += 48 + Math.ceil(nameBytes / 8) * 8;
    }
    this.#add('catalog', { offset, bytes: directoryBytes }, fields, catalogFields.checksum.at);
    const count = number(catalogFields.countChunks.at);
    const counts = repeated('count', { chunk: { at: 0, bytes: 2, meaning: '' } }, directoryBytes, 2, count);
    this.#found.push({
      kind: 'refcounts',
      file: this.#file,
      offset,
      bytes,
      fields: counts,
      littleEndian: true,
      seal(catalog) {
        const checksum = crc32c(catalog.subarray(directoryBytes));
        viewOf(catalog).setUint32(catalogFields.countsChecksum.at, checksum, true);
        seal(catalog.subarray(0, directoryBytes), catalogFields.checksum.at);
      },
    });
  }

  #add(kind: string, { offset, bytes }: Region, fields: FieldTable, checksumAt: number): void {
    this.#found.push({
      kind,
      file: this.#file,
      offset,
      bytes,
      fields,
      littleEndian: true,
      seal: (structure) => void seal(structure, checksumAt),
    });
  }
}
