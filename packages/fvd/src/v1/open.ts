import {
  type Backing,
  Bitset,
  corrupt,
  type OpenContext,
  raw,
  type Storage,
  unsupported,
  viewOf,
} from '@cowlab/core';
import { replay } from './journal.ts';
import { type BaseFields, decodeHeader, HEADER_BYTES, type Header } from './layout.ts';
import { Version1Image } from './image.ts';
import { dataRange } from './parts.ts';
import { DamagedChunks, readTable } from './table.ts';

/** Opens an image of version 1 to be read; the storage stays the caller's when this rejects. */
export async function openVersion1(storage: Storage, context: OpenContext): Promise<Version1Image> {
  if (!context.readOnly) {
    const problem = 'version 1 images can only be read; convert it';
    throw unsupported(storage.name, 'header.version', problem, { value: 1 });
  }
  const bytes = new Uint8Array(HEADER_BYTES);
  await storage.read(0, bytes, 'header');
  const header = decodeHeader(bytes, storage.size(), storage.name);
  const table = header.table && (await readTable(storage, header.table));
  const bitmap = header.base && (await readBitmap(storage, header.base));
  const dirtyJournal = header.cleanShutdown ? undefined : header.journal;
  const replayed = dirtyJournal && (await replay(storage, dirtyJournal, { header, table, bitmap }));
  const { base, data } = await openOthers(header, storage.name, context);
  try {
    const range = dataRange({ storage, header, data });
    const bytesThere = Math.max(0, range.end - range.start);
    if (table === undefined) assertWhole(header, bytesThere, storage.name);
    const damaged = table && new DamagedChunks(table, Math.floor(bytesThere / table.chunkBytes));
    return new Version1Image({ storage, header, table, damaged, bitmap, base, data, replayed });
  } catch (error) {
    await closeAll([base, data]);
    throw error;
  }
}

/** Bit 0 of byte 0 first, as in a {@link Bitset}. */
async function readBitmap(storage: Storage, { blocks, bitmap }: BaseFields): Promise<Bitset> {
  const bits = new Bitset(blocks);
  const bytes = new Uint8Array(4 * bits.words.length);
  await storage.read(bitmap.offset, bytes.subarray(0, Math.min(bytes.length, bitmap.bytes)), 'mapping');
  const view = viewOf(bytes);
  for (let word = 0; word < bits.words.length; word++) bits.words[word] = view.getUint32(4 * word, true);
  return bits;
}

/** An image that is not compact has its full length from its first write on, and no byte of data before. */
function assertWhole({ size }: Header, bytesThere: number, file: string): void {
  if (bytesThere === 0 || bytesThere >= size) return;
  const problem = `the disk has ${size} bytes, its file only ${bytesThere} of them`;
  throw corrupt(file, 'header.virtual_disk_size', problem, { value: size });
}

interface Others {
  readonly base: Backing | undefined;
  readonly data: Backing | undefined;
}

/** The files that the header names: whether they may be opened is the gate's to say. */
async function openOthers(header: Header, file: string, context: OpenContext): Promise<Others> {
  const base = header.base && (await openBase(header.base, file, context));
  try {
    return { base, data: header.dataFile === '' ? undefined : await openData(header, file, context) };
  } catch (error) {
    await base?.close();
    throw error;
  }
}

function reference(file: string, format: string): Parameters<OpenContext['openBacking']>[0] {
  return { file, ...(format !== '' && { format }) };
}

async function openBase(fields: BaseFields, file: string, context: OpenContext): Promise<Backing> {
  const base = await context.openBacking(reference(fields.file, fields.format), 'header.base_img');
  // The recorded size is rounded up to sectors, the file's is not.
  if (base.size + 511 >= fields.bytes) return base;
  await base.close();
  const problem = `${fields.bytes} is more than the base has: ${base.size}`;
  throw corrupt(file, 'header.base_img_size', problem, { value: fields.bytes });
}

/**
 * Where the header does not tell the format, only raw will do: the guest writes this file from its first byte on, and
 * could make it look like an image that names any file it likes.
 */
async function openData(header: Header, file: string, context: OpenContext): Promise<Backing> {
  const { dataFile, dataFormat } = header;
  const data = await context.openBacking(reference(dataFile, dataFormat), 'header.data_file');
  if (dataFormat !== '' || data.format === raw.name) return data;
  await data.close();
  const problem = `is empty, and ${dataFile} looks like ${data.format}, which a guest may have written there`;
  throw unsupported(file, 'header.data_file_fmt', problem);
}

async function closeAll(all: readonly (Backing | undefined)[]): Promise<void> {
  for (const each of all) await each?.close();
}
