import { entryFields, type FieldTable, type FoundStructure, readU64BE, roundUp, viewOf } from '@cowlab/core';
import { hostOffsetOf } from './entries.ts';
import { bitmapFields, headerFields, snapshotFields } from './layout-fields.ts';
import { extensionBitmaps, magic } from './layout.ts';

/** The structures of a valid image, in the order in which the header leads to them; none in other files. */
export function qcow2Structures(file: string, bytes: Uint8Array): FoundStructure[] {
  const view = viewOf(bytes);
  if (bytes.length < 72 || view.getUint32(0) !== magic) return [];
  return new Finder(file, view).find();
}

const v2Fields: FieldTable = Object.fromEntries(Object.entries(headerFields).filter(([, { at }]) => at < 72));

const anyExtension: FieldTable = {
  type: { at: 0, bytes: 4, meaning: '' },
  length: { at: 4, bytes: 4, meaning: '' },
};

const bitmapsExtension: FieldTable = {
  ...anyExtension,
  nb_bitmaps: { at: 8, bytes: 4, meaning: '' },
  bitmap_directory_size: { at: 16, bytes: 8, meaning: '' },
  bitmap_directory_offset: { at: 24, bytes: 8, meaning: '' },
};

class Finder {
  readonly #file: string;
  readonly #view: DataView;
  readonly #clusterBytes: number;
  readonly #found: FoundStructure[] = [];
  readonly #known = new Set<number>();

  constructor(file: string, view: DataView) {
    this.#file = file;
    this.#view = view;
    this.#clusterBytes = 2 ** view.getUint32(headerFields.cluster_bits.at);
  }

  find(): FoundStructure[] {
    const view = this.#view;
    const isOld = view.getUint32(headerFields.version.at) === 2;
    const headerBytes = isOld ? 72 : view.getUint32(headerFields.header_length.at);
    this.#add('header', 0, headerBytes, isOld ? v2Fields : headerFields);
    const tableAt = readU64BE(view, headerFields.refcount_table_offset.at);
    const clusters = view.getUint32(headerFields.refcount_table_clusters.at);
    this.#pointers('refcount table', tableAt, (clusters * this.#clusterBytes) / 8, 'refcount block');
    const l1At = readU64BE(view, headerFields.l1_table_offset.at);
    this.#pointers('L1 table', l1At, view.getUint32(headerFields.l1_size.at), 'L2 table');
    this.#snapshots();
    if (!isOld) this.#extensions(headerBytes);
    return this.#found;
  }

  #snapshots(): void {
    const view = this.#view;
    let at = readU64BE(view, headerFields.snapshots_offset.at);
    for (let left = view.getUint32(headerFields.nb_snapshots.at); left > 0; left -= 1) {
      const field = (name: 'extra_data_size' | 'id_str_size' | 'name_size' | 'l1_size'): number => {
        const { at: within, bytes } = snapshotFields[name];
        return bytes === 2 ? view.getUint16(at + within) : view.getUint32(at + within);
      };
      const entryBytes = 40 + field('extra_data_size') + field('id_str_size') + field('name_size');
      const extra = {
        vm_state_size_large: { at: 40, bytes: 8, meaning: '' },
        disk_size: { at: 48, bytes: 8, meaning: '' },
      };
      this.#add('snapshot table entry', at, entryBytes, { ...snapshotFields, ...extra });
      this.#pointers('L1 table', readU64BE(view, at), field('l1_size'), 'L2 table');
      at += roundUp(entryBytes, 8);
    }
  }

  /** Each is a type, a length, and so many bytes, padded to 8; the type 0 ends them. */
  #extensions(start: number): void {
    const view = this.#view;
    for (let at = start; at + 8 <= this.#clusterBytes && view.getUint32(at) !== 0; ) {
      const length = view.getUint32(at + 4);
      const isOfBitmaps = view.getUint32(at) === extensionBitmaps;
      this.#add('header extension', at, 8 + length, isOfBitmaps ? bitmapsExtension : anyExtension);
      if (isOfBitmaps) this.#bitmaps(readU64BE(view, at + 24), readU64BE(view, at + 16));
      at += 8 + roundUp(length, 8);
    }
  }

  #bitmaps(start: number, bytes: number): void {
    const view = this.#view;
    const { bitmap_table_offset: place, bitmap_table_size: size, name_size: name } = bitmapFields;
    for (let at = start; at < start + bytes; ) {
      const entryBytes = 24 + view.getUint16(at + name.at);
      this.#add('bitmap directory entry', at, entryBytes, bitmapFields);
      const count = view.getUint32(at + size.at);
      this.#add('bitmap table', readU64BE(view, at + place.at), count * 8, entryFields(count, 8));
      at += roundUp(entryBytes, 8);
    }
  }

  /** A table of 8-byte host offsets, and what it points to: tables of one cluster. */
  #pointers(kind: string, offset: number, count: number, below: string): void {
    this.#add(kind, offset, count * 8, entryFields(count, 8));
    for (let index = 0; index < count; index += 1) {
      const at = offset + index * 8;
      const host = hostOffsetOf(this.#view.getUint32(at), this.#view.getUint32(at + 4));
      if (host === 0 || this.#known.has(host)) continue;
      this.#known.add(host);
      const width = below === 'L2 table' ? 8 : 2;
      this.#add(below, host, this.#clusterBytes, entryFields(this.#clusterBytes / width, width));
    }
  }

  #add(kind: string, offset: number, bytes: number, fields: FieldTable): void {
    this.#found.push({ kind, file: this.#file, offset, bytes, fields, littleEndian: false });
  }
}
