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
  type OpenContext,
  type OptionTable,
  type OptionValues,
  type Storage,
  type StorageFolder,
  viewOf,
} from '@cowlab/core';
import { keptAutoclear, readBitmapTable, readDirectory } from './bitmap-directory.ts';
import { Bitmaps } from './bitmaps.ts';
import { recover } from './check.ts';
import { setEntry } from './entries.ts';
import { Guard, overlapLevels } from './guard.ts';
import { Qcow2Image } from './image.ts';
import { condemnedImage, ImageFile } from './image-file.ts';
import {
  encodeHeader,
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
    choices: ['off', 'metadata'],
    default: 'off',
    help: 'metadata: every cluster gets its place now, its bytes are a hole until they are written',
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

/** The header of a new image of no size yet: one cluster each for the header, the refcount table and its first block. */
function newHeader({ options: given, backing }: CreateRequest): Header {
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
    const file = header.backing?.file ?? '';
    throw new CowlabError(
      'ERR_INVALID_OPTION',
      `${storage.name}: backing file: its name does not fit the header cluster`,
      {
        file: storage.name,
        field: 'backing file',
        value: file,
      },
    );
  }
  const bytes = new Uint8Array(3 * clusterBytes);
  bytes.set(head);
  setEntry(viewOf(bytes.subarray(clusterBytes)), 0, 2 * clusterBytes, 0, 0);
  const block = viewOf(bytes.subarray(2 * clusterBytes));
  for (let cluster = 0; cluster < 3; cluster += 1) refcountWidth(header.refcountBits).set(block, cluster, 1);
  await storage.write(0, bytes, 'header');
}

/** Gives every cluster a place in the file. What lies there is a hole, and reads as zeros. */
async function mapEverything(image: DriverImage, storage: Storage): Promise<void> {
  let end = storage.size();
  for (let offset = 0; offset < image.size; ) {
    const placement = await image.reserve(offset, image.size - offset);
    end = Math.max(end, placement.hostOffset + placement.length + placement.tail);
    await image.commit(placement);
    offset += placement.length;
  }
  await storage.truncate(end);
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

async function openStorage(storage: Storage, context: OpenContext): Promise<DriverImage> {
  const file = await ImageFile.open(storage);
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
    const preallocates = request.options.preallocation === 'metadata';
    if (preallocates && request.backing !== undefined) {
      throw invalidOption('preallocation', 'metadata', 'possible with a backing file, which it would hide');
    }
    const storage = await folder.open(file, { readOnly: false, lock: 'exclusive' });
    let image: DriverImage | undefined;
    try {
      await writeEmpty(storage, newHeader(request));
      const opened = await ImageFile.open(storage);
      const mapping = await Mapping.load(opened, { offset: 0, entryCount: 0 }, defaultL2CacheBytes);
      const snapshots = await loadSnapshots(opened);
      const metadata = await openWritable({ file: opened, mapping, snapshots }, {});
      image = new Qcow2Image({
        file: opened,
        mapping,
        snapshots,
        metadata,
        backing: { current: undefined },
        l2CacheBytes: defaultL2CacheBytes,
      });
      await image.resize?.(request.size, {});
      if (preallocates) await mapEverything(image, storage);
    } finally {
      await (image ?? storage).close();
    }
  },

  async measure(request: MeasureRequest): Promise<Measurement> {
    return measureImage(geometryOf(newHeader(request)), request);
  },

  async open(folder: StorageFolder, file: string, context: OpenContext): Promise<DriverImage> {
    const storage = await folder.open(file, { readOnly: context.readOnly, lock: context.lock });
    try {
      return await openStorage(storage, context);
    } catch (error) {
      await storage.close();
      throw error;
    }
  },
};
