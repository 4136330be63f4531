import path from 'node:path';
import {
  type BlockDriver,
  type Capabilities,
  CowlabError,
  type CreateRequest,
  type DriverImage,
  isPowerOfTwo,
  type Measurement,
  type MeasureRequest,
  type OpenContext,
  type OptionTable,
  type OptionValues,
  type StorageFolder,
} from '@cowlab/core';
import { openImage } from './chain.ts';
import { cidIn, readCid, sibling } from './chain-file.ts';
import type { VmdkImage } from './image.ts';
import { DEFAULT_GRAIN_BYTES, MAX_GRAIN_BYTES, MIN_GRAIN_BYTES, SECTOR, signatureOf } from './layout.ts';
import { createNewDisk, measureNewDisk, type NewDisk, SUBFORMATS } from './new-disk.ts';
import { PooledFolder } from './pooled-folder.ts';
import { directoryFileOf, MAX_DIRECTORY_BYTES, VmdkSnapshots } from './snapshots.ts';
import { parseDirectory } from './vmsd.ts';

const GIB: number = 1024 ** 3;
const MAX_EXTENT_BYTES: number = 2 * GIB;
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
  releaseBacking: true,
  changeBacking: true,
  empty: true,
  backingContentId: true,
  resize: 'none',
  compress: 'streams',
  compact: 'none',
  measure: true,
  amend: [],
  // The two copies of the grain tables, by each other. Leaks stay: there is no free map.
  repair: ['all'],
  concurrency: 'perRange',
  afterPowerLoss: 'leaks',
  // As VMware has it. A sparse extent has places for 2 TiB of it, less its tables; split disks have more extents.
  maxSize: 62 * 1024 * GIB,
  sizeMultiple: SECTOR,
};

const options: OptionTable = {
  subformat: {
    type: 'choice',
    choices: SUBFORMATS,
    default: 'monolithicSparse',
    help: 'kind of disk: one file or several, sparse or flat; streamOptimized is written once, compressed, by convert',
  },
  grain_size: {
    type: 'size',
    default: DEFAULT_GRAIN_BYTES,
    help: 'allocation unit, of a flat disk that of its snapshots: a power of two from 4K to 1M',
  },
  zeroed_grain: {
    type: 'boolean',
    default: true,
    help: 'say zeros with a table entry instead of writing them (header version 2)',
  },
  extent_size: {
    type: 'size',
    default: MAX_EXTENT_BYTES,
    help: 'guest bytes of each extent of a twoGbMaxExtent… disk: a multiple of the grain, up to 2G',
  },
  adapter_type: {
    type: 'choice',
    choices: ['ide', 'buslogic', 'lsilogic', 'legacyESX'],
    default: 'ide',
    help: 'adapter that the descriptor names: ide, buslogic, lsilogic or legacyESX',
  },
};

const openOptions: OptionTable = {
  chain: {
    type: 'choice',
    choices: ['naive', 'optimised'],
    default: 'naive',
    help: 'how a chain is read: link by link, or by one map of which link has what (naive or optimised)',
  },
  open_links: {
    type: 'number',
    default: 64,
    help: 'of an optimised chain, most files that are open for reading at a time',
  },
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
  return { hint: backing.file, cid: await readCid(folder, sibling(file, backing.file)) };
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

function extentBytesOf(value: unknown, grainBytes: number): number {
  if (
    typeof value !== 'number' ||
    value < grainBytes ||
    value > MAX_EXTENT_BYTES ||
    value % grainBytes !== 0
  ) {
    throw new CowlabError(
      'ERR_INVALID_OPTION',
      `option extent_size: ${String(value)} is not a multiple of ${grainBytes} up to ${MAX_EXTENT_BYTES}`,
      { field: 'extent_size', value: String(value) },
    );
  }
  return value;
}

/** What create options ask for. Throws `ERR_INVALID_OPTION`. */
function newDiskOf(file: string, size: number, values: OptionValues): NewDisk {
  const grainBytes = grainBytesOf(values.grain_size ?? DEFAULT_GRAIN_BYTES);
  return {
    size,
    grainBytes,
    zeroedGrains: values.zeroed_grain !== false,
    adapterType: String(values.adapter_type ?? 'ide'),
    extentName: path.basename(file),
    subformat: String(values.subformat ?? 'monolithicSparse'),
    extentBytes: extentBytesOf(values.extent_size ?? MAX_EXTENT_BYTES, grainBytes),
  };
}

/** VMDK disks, sparse and flat, with snapshots as chains of files; QEMU reads and writes what it makes. */
export const vmdk: BlockDriver = {
  name: 'vmdk',
  capabilities,
  options,
  openOptions,

  probe(head: Uint8Array): number {
    return signatureOf(head) === 'other' ? 0 : 100;
  },

  async create(folder: StorageFolder, file: string, request: CreateRequest): Promise<void> {
    const fields = newDiskOf(file, request.size, request.options);
    const parent = await parentOf(folder, file, request);
    await assertNoSnapshots(folder, file);
    const storage = await folder.open(file, { readOnly: false, lock: 'exclusive' });
    try {
      await createNewDisk(folder, file, storage, { ...fields, ...(parent && { parent }) });
    } finally {
      await storage.close();
    }
  },

  async measure({ size, options: values, runs }: MeasureRequest): Promise<Measurement> {
    return measureNewDisk(newDiskOf('disk', size, values), runs);
  },

  async open(folder: StorageFolder, file: string, context: OpenContext): Promise<DriverImage> {
    const wanted = context.options.grain_table_cache;
    const cacheBytes = typeof wanted === 'number' ? wanted : DEFAULT_CACHE_BYTES;
    const snapshotsOf = (image: VmdkImage): VmdkSnapshots => new VmdkSnapshots(image);
    const surroundings = { driver: vmdk, folder, context, cacheBytes, snapshotsOf };
    if (context.options.chain !== 'optimised') return openImage(surroundings, path.normalize(file));
    const pool = PooledFolder.of(folder, Number(context.options.open_links), cidIn);
    return openImage({ ...surroundings, folder: pool, pool }, path.normalize(file));
  },
};
