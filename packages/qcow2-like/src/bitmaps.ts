import { corrupt, roundUp, viewOf } from '@cowlab/core';
import type { ImageFile } from './image-file.ts';
import { autoclearBitmaps, readField } from './layout.ts';

/*
 * Dirty bitmaps that QEMU keeps in an image. We keep none: opening for writing clears the autoclear bit, which
 * declares them stale. A check of an image that still has them must know which clusters are theirs.
 *
 *   directory entry   0 table offset u64 | 8 table entries u32 | 12 flags u32 | 16 type u8 | 17 granularity u8
 *                     18 name bytes u16 | 20 extra bytes u32 | extra | name, padded to 8
 *   table entry       bits 9-55 host offset of a cluster of bits
 *
 * Source: QEMU, docs/interop/qcow2, "Bitmaps extension".
 */

const fixedBytes = 24;
/** QEMU's limits. */
const maxDirectoryBytes = 64 * 1024 * 1024;
const maxTableEntries = 0x800_0000;

/** Visits each structure of the bitmaps; nothing where they are stale. Throws `ERR_CORRUPT` naming the field. */
export async function visitBitmaps(
  file: ImageFile,
  visit: (structure: string, offset: number, bytes: number) => boolean,
): Promise<void> {
  const { bitmaps, autoclear } = file.header;
  if (bitmaps === undefined || (autoclear & autoclearBitmaps) === 0n) return;
  const { count, directoryBytes, directoryOffset } = bitmaps;
  if (directoryBytes > maxDirectoryBytes) {
    throw corrupt(file.name, 'bitmaps.bitmap_directory_size', `${directoryBytes} bytes`, {
      value: directoryBytes,
    });
  }
  if (!visit('bitmap directory', directoryOffset, directoryBytes)) return;
  const directory = new Uint8Array(directoryBytes);
  await file.storage.read(directoryOffset, directory, 'mapping');
  const view = viewOf(directory);
  let at = 0;
  for (let index = 0; index < count; index += 1) {
    if (at + fixedBytes > directoryBytes) {
      throw corrupt(file.name, 'bitmaps.bitmap_directory_size', `too small for ${count} bitmaps`);
    }
    const offset = readField(view, at, file.name, 'bitmap_directory.bitmap_table_offset');
    await visitTable(file, offset, view.getUint32(at + 8), visit);
    at += roundUp(fixedBytes + view.getUint32(at + 20) + view.getUint16(at + 18), 8);
  }
}

async function visitTable(
  file: ImageFile,
  offset: number,
  entryCount: number,
  visit: (structure: string, offset: number, bytes: number) => boolean,
): Promise<void> {
  if (entryCount > maxTableEntries) {
    throw corrupt(file.name, 'bitmap_directory.bitmap_table_size', `${entryCount} entries`, {
      value: entryCount,
    });
  }
  if (!visit('bitmap table', offset, entryCount * 8)) return;
  const table = new Uint8Array(entryCount * 8);
  await file.storage.read(offset, table, 'mapping');
  const view = viewOf(table);
  for (let at = 0; at < table.length; at += 8) {
    const hostOffset =
      (view.getUint32(at) & 0x00ff_ffff) * 2 ** 32 + ((view.getUint32(at + 4) & 0xffff_fe00) >>> 0);
    if (hostOffset !== 0) visit('bitmap data', hostOffset, file.geometry.clusterBytes);
  }
}
