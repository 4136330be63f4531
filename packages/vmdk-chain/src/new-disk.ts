import path from 'node:path';
import {
  countUnits,
  CowlabError,
  type MeasuredRun,
  type Measurement,
  type Storage,
  type StorageFolder,
} from '@cowlab/core';
import { sibling } from './chain-file.ts';
import { Descriptor, NO_PARENT, newCid } from './descriptor.ts';
import { padded } from './descriptor-room.ts';
import type { ExtentLine } from './extent-line.ts';
import {
  DEFAULT_GRAIN_BYTES,
  encodeDirectory,
  encodeHeader,
  planExtent,
  SECTOR,
  type SparseHeader,
} from './layout.ts';
import { MAX_EXTENTS } from './parts.ts';
import { planStream } from './stream-layout.ts';
import { writeEmptyStream } from './stream-writer.ts';

/*
 * New, empty disks. The extents come first, each flushed; then the descriptor that names them. File names are QEMU's:
 * beside `disk.vmdk` lie `disk-flat.vmdk`, or `disk-f001.vmdk` …, or `disk-s001.vmdk` …
 */

/** With extension and number, as long as a name can be. */
const LONGEST_STEM = 240;

export const SUBFORMATS: readonly string[] = [
  'monolithicSparse',
  'monolithicFlat',
  'twoGbMaxExtentSparse',
  'twoGbMaxExtentFlat',
  'streamOptimized',
];

export interface NewMonolithic {
  readonly size: number;
  readonly grainBytes: number;
  readonly zeroedGrains: boolean;
  readonly adapterType: string;
  /** The file's name once it is in its place. */
  readonly extentName: string;
  readonly parent?: { readonly hint: string; readonly cid: number };
}

export interface NewDisk extends NewMonolithic {
  readonly subformat: string;
  /** Guest bytes of each extent of a split disk; the last may be smaller. */
  readonly extentBytes: number;
}

/** Writes an empty disk of one sparse extent into an empty storage, durably. */
export async function createMonolithic(file: string, storage: Storage, fields: NewMonolithic): Promise<void> {
  const header = planExtent(file, fields.size, fields.grainBytes, fields.zeroedGrains);
  const line: ExtentLine = {
    access: 'RW',
    sectors: fields.size / SECTOR,
    type: 'SPARSE',
    fileName: fields.extentName,
  };
  const descriptor = describe(fields, 'monolithicSparse', [line]);
  const text = padded(file, descriptor, { storage, length: header.descriptorBytes });
  await writeSparse(storage, header, text);
}

/** Writes a stream without grains: one that can be written, once. */
async function createStream(file: string, storage: Storage, fields: NewMonolithic): Promise<void> {
  if (fields.parent !== undefined) {
    const problem = 'a streamOptimized disk is written as a whole';
    throw new CowlabError('ERR_UNSUPPORTED', `${file}: backing file: ${problem}`, {
      file,
      field: 'backing file',
    });
  }
  const header = planStream(file, fields.size, fields.grainBytes);
  const line: ExtentLine = {
    access: 'RW',
    sectors: fields.size / SECTOR,
    type: 'SPARSE',
    fileName: fields.extentName,
  };
  const descriptor = describe(fields, 'streamOptimized', [line]);
  const text = padded(file, descriptor, { storage, length: header.descriptorBytes });
  await writeEmptyStream(storage, header, text);
}

/** Writes an empty disk of any kind; `storage` is its file. Takes back what it has made when it fails. */
export async function createNewDisk(
  folder: StorageFolder,
  file: string,
  storage: Storage,
  fields: NewDisk,
): Promise<void> {
  if (fields.subformat === 'monolithicSparse') return createMonolithic(file, storage, fields);
  if (fields.subformat === 'streamOptimized') return createStream(file, storage, fields);
  const isFlat = fields.subformat.endsWith('Flat');
  if (isFlat && fields.parent !== undefined) {
    const problem = `a ${fields.subformat} disk has no grains that could be missing`;
    throw new CowlabError('ERR_UNSUPPORTED', `${file}: backing file: ${problem}`, {
      file,
      field: 'backing file',
    });
  }
  const made: string[] = [];
  try {
    const files = planFiles(file, fields);
    for (const { name, size } of files) {
      const place = sibling(file, name);
      const extent = await folder.create(place);
      made.push(place);
      try {
        if (isFlat) await writeFlat(extent, size);
        else await writeSparse(extent, planExtent(place, size, fields.grainBytes, fields.zeroedGrains));
      } finally {
        await extent.close();
      }
    }
    const descriptor = describeFiles(fields, files);
    await storage.write(0, padded(file, descriptor, { storage, length: undefined }), 'header');
    await storage.flush();
  } catch (error) {
    // Why it failed matters more than whether the names could be taken back.
    for (const name of made) await folder.remove(name).catch(() => undefined);
    throw error;
  }
}

function describe(
  fields: NewMonolithic & { readonly childGrainBytes?: number },
  createType: string,
  extents: readonly ExtentLine[],
): Descriptor {
  return Descriptor.create({
    cid: newCid(),
    parentCid: fields.parent?.cid ?? NO_PARENT,
    ...(fields.parent && { parentHint: fields.parent.hint }),
    createType,
    extents,
    size: fields.size,
    adapterType: fields.adapterType,
    ...(fields.childGrainBytes && { childGrainBytes: fields.childGrainBytes }),
  });
}

/** The descriptor of a disk whose extents are files of their own. */
function describeFiles(fields: NewDisk, files: readonly PlannedFile[]): Descriptor {
  const isFlat = fields.subformat.endsWith('Flat');
  const lines = files.map(({ name, size }): ExtentLine => {
    const line = { access: 'RW', sectors: size / SECTOR, fileName: name } as const;
    return isFlat ? { ...line, type: 'FLAT', offset: 0 } : { ...line, type: 'SPARSE' };
  });
  const tellsGrains = isFlat && fields.grainBytes !== DEFAULT_GRAIN_BYTES;
  const grains = tellsGrains ? { childGrainBytes: fields.grainBytes } : {};
  return describe({ ...fields, ...grains }, fields.subformat, lines);
}

interface PlannedFile {
  readonly name: string;
  readonly size: number;
}

/** Length of the files of a disk that is written once from its start to its end, at most. */
export async function measureNewDisk(
  fields: NewDisk,
  runs: AsyncIterable<MeasuredRun>,
): Promise<Measurement> {
  const { size, grainBytes, zeroedGrains, subformat } = fields;
  const overheadOf = (bytes: number): number =>
    planExtent('disk', bytes, grainBytes, zeroedGrains).overheadBytes;
  let overhead = 0;
  if (subformat === 'monolithicSparse') overhead = overheadOf(size);
  else {
    const files = planFiles(`${'x'.repeat(LONGEST_STEM)}.vmdk`, fields);
    overhead = describeFiles(fields, files).encode().length;
    if (subformat.endsWith('Flat'))
      return { requiredBytes: overhead + size, fullyAllocatedBytes: overhead + size };
    for (const file of files) overhead += overheadOf(file.size);
  }
  return {
    requiredBytes: overhead + (await countUnits(runs, grainBytes)) * grainBytes,
    fullyAllocatedBytes: overhead + Math.ceil(size / grainBytes) * grainBytes,
  };
}

/** The extents of a disk, by name. Throws `ERR_TOO_LARGE`. */
function planFiles(file: string, fields: NewDisk): PlannedFile[] {
  const { ext, name: stem } = path.parse(file);
  const { size, subformat } = fields;
  if (subformat === 'monolithicFlat') return [{ name: `${stem}-flat${ext}`, size }];
  const letter = subformat.endsWith('Flat') ? 'f' : 's';
  const count = Math.ceil(size / fields.extentBytes);
  if (count > MAX_EXTENTS) {
    const problem = `${size} bytes need ${count} extents, more than ${MAX_EXTENTS}`;
    throw new CowlabError('ERR_TOO_LARGE', `${file}: size: ${problem}`, { file, field: 'size', value: size });
  }
  return Array.from({ length: count }, (_, index) => ({
    name: `${stem}-${letter}${String(index + 1).padStart(3, '0')}${ext}`,
    size: Math.min(fields.extentBytes, size - index * fields.extentBytes),
  }));
}

async function writeFlat(storage: Storage, size: number): Promise<void> {
  await storage.truncate(size);
  await storage.flush();
}

/** An empty sparse extent, with a descriptor inside or room for one, as QEMU leaves it. */
async function writeSparse(storage: Storage, header: SparseHeader, descriptor?: Uint8Array): Promise<void> {
  const head = new Uint8Array(header.descriptorOffset + header.descriptorBytes);
  head.set(encodeHeader(header));
  if (descriptor !== undefined) head.set(descriptor, header.descriptorOffset);
  await storage.write(0, head, 'header');
  for (const offset of [header.redundantDirectoryOffset, header.directoryOffset]) {
    if (offset !== undefined) await storage.write(offset, encodeDirectory(header, offset), 'mapping');
  }
  await storage.truncate(header.overheadBytes);
  await storage.flush();
}
