import {
  type Backing,
  type BlockDriver,
  type Capabilities,
  CowlabError,
  type CreateRequest,
  type DriverImage,
  isPowerOfTwo,
  type Measurement,
  type MeasureRequest,
  type NewImage,
  type OpenContext,
  type OptionTable,
  type OptionValues,
  type Preallocation,
  preallocate,
  type Storage,
  type StorageFolder,
  viewOf,
} from '@cowlab/core';
import { keptAutoclear, readBitmapTable, readDirectory } from './bitmap-directory.ts';
import { Bitmaps } from './bitmaps.ts';
import { recover } from './check.ts';
import type { DataFile } from './data-file.ts';
import { setEntry } from './entries.ts';
import { Guard, overlapLevels } from './guard.ts';
import { Qcow2Image } from './image.ts';
import { condemnedImage, ImageFile } from './image-file.ts';
import {
  geometryOf,
  type Header,
  magic,
  maxClusterBits,
  maxL1Bytes,
  minClusterBits,
  minExtendedClusterBits,
} from './layout.ts';
import { Mapping } from './mapping.ts';
import { measureImage } from './measure.ts';
import { loadSnapshots, Metadata } from './metadata.ts';
import { encodeHeader } from './new-header.ts';
import { refcountWidth } from './refcount-width.ts';
import { Refcounts } from './refcounts.ts';
import type { SnapshotTable } from './snapshot-table.ts';

const defaultClusterBytes = 65_536;
/** QEMU's own default: enough for 256 GiB of disk with 64 KiB clusters; only what is used is taken. */
const defaultL2CacheBytes: number = 32 * 1024 * 1024;
const defaultRefcountCacheBytes: number = 1024 * 1024;

const capabilities: Capabilities = {
  write: true,
  snapshots: 'internal',
  // Refcounts of 16 bits, one of them for the active state.
  maxSnapshots: 65_534,
  renameSnapshots: true,
  snapshotParents: false,
  diff: true,
  backing: true,
  backingSnapshot: false,
  releaseBacking: true,
  changeBacking: true,
  empty: true,
  backingContentId: false,
  resize: 'both',
  compress: 'units',
  compact: 'none',
  measure: true,
  amend: ['compat', 'lazy_refcounts', 'refcount_bits'],
  repair: ['leaks', 'all'],
  concurrency: 'perRange',
  afterPowerLoss: 'leaks',
  maxSize:
    (maxL1Bytes / 8) * geometryOf({ clusterBits: 16, refcountBits: 16, extendedL2: false }).l2SpanBytes,
  sizeMultiple: 512,
};

const options: OptionTable = {
  cluster_size: {
    type: 'size',
    default: defaultClusterBytes,
    help: 'allocation unit: a power of two from 512 to 2M',
  },
  compat: {
    type: 'choice',
    choices: ['1.1', '0.10'],
    default: '1.1',
    help: 'version of the format: 1.1 is version 3, 0.10 is version 2',
  },
  refcount_bits: {
    type: 'number',
    default: 16,
    help: 'width of a reference count: a power of two from 1 to 64; 16 for compat=0.10',
  },
  preallocation: {
    type: 'choice',
    choices: ['off', 'metadata', 'falloc', 'full'],
    default: 'off',
    help: 'metadata gives every cluster its place, a hole; falloc reserves its space, too; full writes zeros there',
  },
  data_file: {
    type: 'string',
    help: 'name of a new or empty file that holds the data, the image only metadata; in the folder of the image',
  },
  data_file_raw: {
    type: 'boolean',
    default: false,
    help: 'the data file is a raw image of the disk at every moment; implies preallocation=metadata',
  },
  compression_type: {
    type: 'choice',
    choices: ['zlib', 'zstd'],
    default: 'zlib',
    help: 'how clusters are compressed, where they are; zstd needs compat=1.1',
  },
  lazy_refcounts: {
    type: 'boolean',
    default: false,
    help: 'write reference counts when the image is closed; after a crash they are counted anew',
  },
  extended_l2: {
    type: 'boolean',
    default: false,
    help: 'map by subcluster, a 32nd of a cluster: for cluster_size from 16K on, and compat=1.1',
  },
};

const openOptions: OptionTable = {
  l2_cache_size: {
    type: 'size',
    default: defaultL2CacheBytes,
    help: 'most bytes of L2 tables kept in memory',
  },
  refcount_cache_size: {
    type: 'size',
    default: defaultRefcountCacheBytes,
    help: 'most bytes of refcount blocks kept in memory',
  },
  overlap_check: {
    type: 'choice',
    choices: overlapLevels,
    default: 'cached',
    help: 'which metadata no write may hit: the most important, all that are in memory, or those of snapshots too',
  },
};

function invalidOption(field: string, value: unknown, expected: string): CowlabError {
  return new CowlabError('ERR_INVALID_OPTION', `option ${field}: ${String(value)} is not ${expected}`, {
    field,
    value: String(value),
  });
}

function dataFileOf(given: OptionValues, version: 2 | 3, hasBacking: boolean): { dataFile?: DataFile } {
  const raw = given.data_file_raw === true;
  if (given.data_file === undefined) {
    if (raw) throw invalidOption('data_file_raw', true, 'possible without data_file');
    return {};
  }
  const name = String(given.data_file);
  if (name === '') throw invalidOption('data_file', '""', 'a name');
  if (version === 2) throw invalidOption('data_file', name, 'possible with compat=0.10');
  if (raw && hasBacking) {
    throw invalidOption(
      'data_file_raw',
      true,
      'possible with a backing file, of which it would know nothing',
    );
  }
  return { dataFile: { name, raw } };
}

/** The header of a new image of no size yet: one cluster each for the header, the refcount table and its first block. */
function newHeader({ options: given, backing }: NewImage): Header {
  const clusterBytes = Number(given.cluster_size ?? defaultClusterBytes);
  if (
    !isPowerOfTwo(clusterBytes) ||
    clusterBytes < 2 ** minClusterBits ||
    clusterBytes > 2 ** maxClusterBits
  ) {
    throw invalidOption('cluster_size', clusterBytes, 'a power of two from 512 to 2M');
  }
  const version = given.compat === '0.10' ? 2 : 3;
  const refcountBits = Number(given.refcount_bits ?? 16);
  if (!isPowerOfTwo(refcountBits) || refcountBits > 64) {
    throw invalidOption('refcount_bits', refcountBits, 'a power of two from 1 to 64');
  }
  const lazyRefcounts = given.lazy_refcounts === true;
  if (version === 2 && refcountBits !== 16)
    throw invalidOption('refcount_bits', refcountBits, '16, as compat=0.10 has it');
  if (version === 2 && lazyRefcounts)
    throw invalidOption('lazy_refcounts', true, 'possible with compat=0.10');
  const compressionType = given.compression_type === 'zstd' ? 'zstd' : 'zlib';
  if (version === 2 && compressionType === 'zstd')
    throw invalidOption('compression_type', 'zstd', 'possible with compat=0.10');
  const extendedL2 = given.extended_l2 === true;
  if (version === 2 && extendedL2) throw invalidOption('extended_l2', true, 'possible with compat=0.10');
  if (extendedL2 && clusterBytes < 2 ** minExtendedClusterBits)
    throw invalidOption('extended_l2', true, 'possible with clusters of less than 16 KiB');
  const dataFile = dataFileOf(given, version, backing !== undefined);
  return {
    version,
    clusterBits: Math.log2(clusterBytes),
    size: 0,
    l1EntryCount: 0,
    l1Offset: 0,
    refcountTableOffset: clusterBytes,
    refcountTableClusters: 1,
    snapshotCount: 0,
    snapshotTableOffset: 0,
    dirty: false,
    damaged: false,
    lazyRefcounts,
    extendedL2,
    autoclear: 0n,
    ...dataFile,
    refcountBits,
    compressionType,
    nextSnapshotId: 1,
    ...(backing && { backing }),
  };
}

/** Writes an image of no size; `resize` then gives it its own. */
async function writeEmpty(storage: Storage, header: Header): Promise<void> {
  const { clusterBytes } = geometryOf(header);
  const head = encodeHeader(header);
  if (head === undefined) {
    const [field, value] =
      header.backing === undefined
        ? ['data_file', header.dataFile?.name ?? '']
        : ['backing file', header.backing.file];
    const problem = `${storage.name}: ${field}: its name does not fit the header cluster`;
    throw new CowlabError('ERR_INVALID_OPTION', problem, { file: storage.name, field, value });
  }
  const bytes = new Uint8Array(3 * clusterBytes);
  bytes.set(head);
  setEntry(viewOf(bytes.subarray(clusterBytes)), 0, 2 * clusterBytes, 0, 0);
  const block = viewOf(bytes.subarray(2 * clusterBytes));
  for (let cluster = 0; cluster < 3; cluster += 1) refcountWidth(header.refcountBits).set(block, cluster, 1);
  await storage.write(0, bytes, 'header');
}

/**
 * Gives every cluster a place, and takes its space when `how` says so. Until it is written it reads as zeros, or as the
 * backing that the header names.
 */
async function mapEverything(image: Qcow2Image, file: ImageFile, how?: Preallocation): Promise<void> {
  const { storage, dataStorage } = file;
  let end = storage.size();
  for (let offset = 0; offset < image.size; ) {
    const placement = await image.reserve(offset, image.size - offset);
    const length = placement.length + placement.tail;
    if (how !== undefined) await preallocate(dataStorage, how, placement.hostOffset, length);
    end = Math.max(end, placement.hostOffset + length);
    await (file.header.backing === undefined ? image.commit(placement) : image.setAside(placement));
    offset += placement.length;
  }
  if (!file.hasDataFile) await storage.truncate(end);
}

interface Opened {
  readonly file: ImageFile;
  readonly mapping: Mapping;
  readonly snapshots: SnapshotTable;
}

async function openWritable({ file, mapping, snapshots }: Opened, given: OptionValues): Promise<Metadata> {
  const refcounts = await Refcounts.load(
    file,
    Number(given.refcount_cache_size ?? defaultRefcountCacheBytes),
  );
  const metadata = new Metadata(file, mapping, refcounts, snapshots);
  const level = overlapLevels.find((each) => each === given['overlap_check']) ?? 'cached';
  if (level === 'none') return metadata;
  file.guard = new Guard(file, level, () => ({
    l1: mapping.l1,
    refcountTable: refcounts.table,
    snapshots: metadata.snapshots,
  }));
  await metadata.guardSnapshots();
  return metadata;
}

/** Bitmaps that cannot be kept up to date refuse the open; where only a repair is wanted, they are what check finds. */
async function openBitmaps(metadata: Metadata): Promise<Bitmaps | undefined> {
  const { file } = metadata;
  try {
    const directory = await readDirectory(file);
    for (const bitmap of directory.bitmaps) if (!bitmap.isInUse) await readBitmapTable(file, bitmap);
    return directory.bitmaps.length === 0 ? undefined : new Bitmaps(metadata, directory);
  } catch (error) {
    if (file.header.damaged) return undefined;
    throw error;
  }
}

/** What an open for writing has to set right in the file before the first write. */
async function prepareForWriting(metadata: Metadata): Promise<void> {
  const { file } = metadata;
  // Whoever repairs sees the image as it is.
  if (file.header.damaged) return;
  if (file.header.dirty) await recover(metadata);
  // Whoever wrote what an autoclear bit vouches for has to see that we do not keep it up to date; bitmaps we do.
  const autoclear = keptAutoclear(file);
  if (file.header.autoclear !== autoclear) await file.update({ autoclear });
}

async function openImage(file: ImageFile, context: OpenContext): Promise<DriverImage> {
  const l2CacheBytes = Number(context.options.l2_cache_size ?? defaultL2CacheBytes);
  const { l1Offset: offset, l1EntryCount: entryCount, backing: reference } = file.header;
  if (file.header.damaged && !context.readOnly && !context.forRepair)
    throw condemnedImage(file.name, undefined);
  const mapping = await Mapping.load(file, { offset, entryCount }, l2CacheBytes);
  const snapshots = await loadSnapshots(file);
  const metadata = context.readOnly
    ? undefined
    : await openWritable({ file, mapping, snapshots }, context.options);
  let backing: Backing | undefined;
  try {
    if (reference !== undefined) backing = await context.openBacking(reference, 'header.backing_file_name');
    if (metadata !== undefined) {
      file.bitmaps = await openBitmaps(metadata);
      await prepareForWriting(metadata);
    }
  } catch (error) {
    await backing?.close();
    throw error;
  }
  return new Qcow2Image({
    file,
    mapping,
    snapshots,
    l2CacheBytes,
    ...(metadata && { metadata }),
    backing: { current: backing },
  });
}

async function openNew(file: ImageFile): Promise<Qcow2Image> {
  const mapping = await Mapping.load(file, { offset: 0, entryCount: 0 }, defaultL2CacheBytes);
  const snapshots = await loadSnapshots(file);
  const metadata = await openWritable({ file, mapping, snapshots }, {});
  const backing = { current: undefined };
  return new Qcow2Image({ file, mapping, snapshots, metadata, backing, l2CacheBytes: defaultL2CacheBytes });
}

/** QCOW2 versions 2 and 3 with internal snapshots; QEMU reads and writes what it makes. */
export const qcow2: BlockDriver = {
  name: 'qcow2',
  capabilities,
  options,
  openOptions,

  probe(head: Uint8Array): number {
    return head.length >= 8 && viewOf(head).getUint32(0) === magic ? 100 : 0;
  },

  async create(folder: StorageFolder, file: string, request: CreateRequest): Promise<void> {
    const how = request.options.preallocation;
    const header = newHeader(request);
    if (how !== 'off' && how !== undefined && request.backing !== undefined && !header.extendedL2) {
      throw invalidOption('preallocation', how, 'possible with a backing file, which it would hide');
    }
    const storage = await folder.open(file, { readOnly: false, lock: 'exclusive' });
    let opened: ImageFile | undefined;
    let image: Qcow2Image | undefined;
    try {
      await writeEmpty(storage, header);
      opened = await ImageFile.open(storage, ({ name }) => request.createPart(name, 'data_file'));
      image = await openNew(opened);
      await image.resize(request.size, {});
      if (how === 'metadata') await mapEverything(image, opened);
      if (how === 'falloc' || how === 'full') await mapEverything(image, opened, how);
    } finally {
      await (image ?? opened ?? storage).close();
    }
  },

  async measure(request: MeasureRequest): Promise<Measurement> {
    return measureImage(geometryOf(newHeader(request)), request);
  },

  async open(folder: StorageFolder, file: string, context: OpenContext): Promise<DriverImage> {
    const storage = await folder.open(file, { readOnly: context.readOnly, lock: context.lock });
    let opened: ImageFile | undefined;
    try {
      opened = await ImageFile.open(storage, ({ name }) =>
        context.openPart(name, 'header extension.data_file'),
      );
      return await openImage(opened, context);
    } catch (error) {
      await (opened ?? storage).close();
      throw error;
    }
  },
};
