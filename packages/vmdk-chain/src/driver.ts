import path from 'node:path';
import {
  type BlockDriver,
  type Capabilities,
  countUnits,
  CowlabError,
  type CreateRequest,
  type DriverImage,
  isPowerOfTwo,
  type Measurement,
  type MeasureRequest,
  type OpenContext,
  type OptionTable,
  type StorageFolder,
} from '@cowlab/core';
import { openImage, sibling } from './chain.ts';
import { SparseExtent } from './extent.ts';
import type { VmdkImage } from './image.ts';
import { MAX_GRAIN_BYTES, MAX_SECTORS, MIN_GRAIN_BYTES, planExtent, SECTOR, signatureOf } from './layout.ts';
import { directoryFileOf, MAX_DIRECTORY_BYTES, VmdkSnapshots } from './snapshots.ts';
import { parseDirectory } from './vmsd.ts';

const GIB: number = 1024 ** 3;
const DEFAULT_GRAIN_BYTES: number = 64 * 1024;
/** Enough for 16 GiB of disk with the default grain. */
const DEFAULT_CACHE_BYTES: number = 1024 * 1024;

const capabilities: Capabilities = {
  write: true,
  snapshots: 'chain',
  // One less than core's gate lets a chain be long, with room for links that a crash has left unlisted.
  maxSnapshots: 4000,
  renameSnapshots: true,
  snapshotParents: true,
  diff: true,
  backing: true,
  backingSnapshot: false,
  releaseBacking: false,
  changeBacking: true,
  empty: true,
  backingContentId: true,
  resize: 'none',
  compress: 'none',
  compact: 'none',
  measure: true,
  amend: [],
  repair: [],
  concurrency: 'perRange',
  afterPowerLoss: 'leaks',
  // Sectors are numbered with 32 bits, and the tables of such a disk take their share.
  maxSize: MAX_SECTORS * SECTOR - GIB,
  sizeMultiple: SECTOR,
};

const options: OptionTable = {
  grain_size: {
    type: 'size',
    default: DEFAULT_GRAIN_BYTES,
    help: 'allocation unit: a power of two from 4K to 1M',
  },
  zeroed_grain: {
    type: 'boolean',
    default: true,
    help: 'say zeros with a table entry instead of writing them (header version 2)',
  },
  adapter_type: {
    type: 'choice',
    choices: ['ide', 'buslogic', 'lsilogic', 'legacyESX'],
    default: 'ide',
    help: 'adapter that the descriptor names: ide, buslogic, lsilogic or legacyESX',
  },
};

const openOptions: OptionTable = {
  grain_table_cache: {
    type: 'size',
    default: DEFAULT_CACHE_BYTES,
    help: 'most bytes of grain tables kept in memory, for each image of the chain; at least 32k',
  },
};

/** The content id that a new child records. Rejects with `ERR_BACKING_MISSING` and the errors of an open. */
async function parentOf(
  folder: StorageFolder,
  file: string,
  { backing }: CreateRequest,
): Promise<{ hint: string; cid: number } | undefined> {
  if (backing === undefined) return undefined;
  if (backing.format !== undefined && backing.format !== 'vmdk') {
    throw new CowlabError('ERR_UNSUPPORTED', `${file}: backing file: its format must be vmdk`, {
      file,
      field: 'backing file',
      value: backing.format,
    });
  }
  const parent = await SparseExtent.open(folder, sibling(file, backing.file), {
    readOnly: true,
    lock: 'none',
    cacheBytes: 0,
  });
  const { cid } = parent;
  await parent.storage.close();
  return { hint: backing.file, cid };
}

/** A list of snapshots that a disk of this name has left behind would become the new disk's. */
async function assertNoSnapshots(folder: StorageFolder, file: string): Promise<void> {
  const list = directoryFileOf(file);
  if (!(await folder.exists(list))) return;
  const storage = await folder.open(list, { readOnly: true });
  try {
    const bytes = new Uint8Array(Math.min(storage.size(), MAX_DIRECTORY_BYTES));
    await storage.read(0, bytes, 'snapshot');
    if (parseDirectory(list, bytes).entries.length === 0) return;
  } finally {
    await storage.close();
  }
  const problem = 'lists the snapshots of another disk of this name; remove them first';
  throw new CowlabError('ERR_EXISTS', `${list}: ${problem}`, { file: list });
}

function grainBytesOf(value: unknown): number {
  if (
    typeof value !== 'number' ||
    !isPowerOfTwo(value) ||
    value < MIN_GRAIN_BYTES ||
    value > MAX_GRAIN_BYTES
  ) {
    throw new CowlabError(
      'ERR_INVALID_OPTION',
      `option grain_size: ${String(value)} is not a power of two from ${MIN_GRAIN_BYTES} to ${MAX_GRAIN_BYTES}`,
      { field: 'grain_size', value: String(value) },
    );
  }
  return value;
}

/** VMDK hosted sparse extents with snapshots as chains of files; QEMU reads and writes what it makes. */
export const vmdk: BlockDriver = {
  name: 'vmdk',
  capabilities,
  options,
  openOptions,

  probe(head: Uint8Array): number {
    return signatureOf(head) === 'other' ? 0 : 100;
  },

  async create(folder: StorageFolder, file: string, request: CreateRequest): Promise<void> {
    const values = request.options;
    const grainBytes = grainBytesOf(values.grain_size ?? DEFAULT_GRAIN_BYTES);
    const parent = await parentOf(folder, file, request);
    await assertNoSnapshots(folder, file);
    const storage = await folder.open(file, { readOnly: false, lock: 'exclusive' });
    try {
      const fields = {
        size: request.size,
        grainBytes,
        zeroedGrains: values.zeroed_grain !== false,
        adapterType: String(values.adapter_type ?? 'ide'),
        extentName: path.basename(file),
        ...(parent && { parent }),
      };
      await SparseExtent.create(file, storage, fields, 0);
    } finally {
      await storage.close();
    }
  },

  async measure({ size, options: values, runs }: MeasureRequest): Promise<Measurement> {
    const grainBytes = grainBytesOf(values.grain_size ?? DEFAULT_GRAIN_BYTES);
    const { overheadBytes } = planExtent('disk', size, grainBytes, values.zeroed_grain !== false);
    return {
      requiredBytes: overheadBytes + (await countUnits(runs, grainBytes)) * grainBytes,
      fullyAllocatedBytes: overheadBytes + Math.ceil(size / grainBytes) * grainBytes,
    };
  },

  async open(folder: StorageFolder, file: string, context: OpenContext): Promise<DriverImage> {
    const wanted = context.options.grain_table_cache;
    const cacheBytes = typeof wanted === 'number' ? wanted : DEFAULT_CACHE_BYTES;
    const snapshotsOf = (image: VmdkImage): VmdkSnapshots => new VmdkSnapshots(image);
    return openImage({ driver: vmdk, folder, context, cacheBytes, snapshotsOf }, path.normalize(file));
  },
};
