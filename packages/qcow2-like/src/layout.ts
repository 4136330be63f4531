import { corrupt, readU64BE, roundUp, unsupported, viewOf, writeU64BE } from '@cowlab/core';
import { type DataFile, decodeDataFile, extensionDataFile, incompatibleDataFile } from './data-file.ts';
import { headerFields as fields } from './layout-fields.ts';

/*
 * The header and the sizes that follow from it; pure, no I/O. Everything is big-endian.
 *
 *   cluster 0    header (72 bytes in version 2, 104 or more in version 3) | extensions | backing file name
 *   anywhere     refcount table → refcount blocks; L1 table → L2 tables → data; snapshot table → L1 tables
 *
 * The fields that ever change lie in the first 512 bytes, so one sector write switches the image from one
 * state to the next. Source: QEMU, docs/interop/qcow2.
 */

export const sectorBytes = 512;
export const magic = 0x514649fb;

export const minClusterBits = 9;
export const maxClusterBits = 21;
/** A subcluster has at least a sector. */
export const minExtendedClusterBits = 14;
/** With extended L2 entries, a cluster is so many subclusters. */
export const subclusterCount = 32;
/** QEMU's own limits: larger tables are refused there and here. */
export const maxL1Bytes: number = 32 * 1024 * 1024;
export const maxRefcountTableBytes: number = 8 * 1024 * 1024;
const maxSnapshotCount = 65536;
export const maxBackingNameBytes = 1023;

export const v2HeaderBytes = 72;
const v3HeaderBytes = 104;
/** What we write: up to and with `compression_type` and its padding. */
export const writtenHeaderBytes = 112;

const incompatibleDirty = 1n;
const incompatibleCorrupt = 2n;
export const incompatibleCompression = 8n;
export const incompatibleExtendedL2 = 16n;
const incompatibleNames: readonly string[] = [
  'dirty',
  'corrupt',
  'external data file',
  'compression type',
  'extended L2 entries',
];
export const compatibleLazyRefcounts = 1n;
export const autoclearBitmaps = 1n;

export const extensionEnd = 0;
export const extensionBackingFormat = 0xe2792aca;
export const extensionBitmaps = 0x23852875;
const extensionEncryption = 0x0537be77;
/** Names of feature bits, for messages. */
export const extensionFeatureNames = 0x6803f857;
/** Ours, "COWL": the next snapshot id, so that an id is never given twice. Others ignore and keep it. */
export const extensionNextSnapshotId = 0x434f574c;

/** By their numbers in the header. */
export const compressionTypes = ['zlib', 'zstd'] as const;
export type CompressionType = (typeof compressionTypes)[number];

interface BitmapsPointer {
  readonly count: number;
  readonly directoryBytes: number;
  readonly directoryOffset: number;
}

export interface Header {
  readonly version: 2 | 3;
  readonly clusterBits: number;
  /** Guest bytes. */
  readonly size: number;
  readonly l1EntryCount: number;
  readonly l1Offset: number;
  readonly refcountTableOffset: number;
  readonly refcountTableClusters: number;
  readonly snapshotCount: number;
  readonly snapshotTableOffset: number;
  /** Refcounts may be wrong: they are rebuilt before the first write. */
  readonly dirty: boolean;
  /** Some program found the image damaged: it must not be written to. */
  readonly damaged: boolean;
  readonly lazyRefcounts: boolean;
  /** L2 entries of 128 bits, which tell of the subclusters of their cluster. */
  readonly extendedL2: boolean;
  readonly autoclear: bigint;
  readonly refcountBits: number;
  readonly compressionType: CompressionType;
  readonly backing?: { readonly file: string; readonly format?: string };
  readonly dataFile?: DataFile;
  readonly bitmaps?: BitmapsPointer;
  /** From our own extension; absent in images that others made. */
  readonly nextSnapshotId?: number;
  readonly nextSnapshotIdAt?: number;
}

/** What can change after creation. */
export type HeaderPatch = Partial<
  Pick<
    Header,
    | 'size'
    | 'l1EntryCount'
    | 'l1Offset'
    | 'refcountTableOffset'
    | 'refcountTableClusters'
    | 'snapshotCount'
    | 'snapshotTableOffset'
    | 'dirty'
    | 'damaged'
    | 'autoclear'
    | 'nextSnapshotId'
    | 'lazyRefcounts'
    | 'refcountBits'
  >
>;

/** Sizes that follow from the header. */
export interface Geometry {
  readonly clusterBytes: number;
  /** What an L2 entry tells of on its own: a subcluster with extended L2 entries, a cluster without. */
  readonly unitBytes: number;
  readonly l2EntryBytes: 8 | 16;
  readonly l2EntryCount: number;
  /** Guest bytes that one L2 table maps. */
  readonly l2SpanBytes: number;
  readonly refcountBits: number;
  readonly refcountsPerBlock: number;
  readonly maxRefcount: number;
}

export function geometryOf({
  clusterBits,
  refcountBits,
  extendedL2,
}: Pick<Header, 'clusterBits' | 'refcountBits' | 'extendedL2'>): Geometry {
  const clusterBytes = 2 ** clusterBits;
  const l2EntryBytes = extendedL2 ? 16 : 8;
  return {
    clusterBytes,
    unitBytes: extendedL2 ? clusterBytes / subclusterCount : clusterBytes,
    l2EntryBytes,
    l2EntryCount: clusterBytes / l2EntryBytes,
    l2SpanBytes: (clusterBytes / l2EntryBytes) * clusterBytes,
    refcountBits,
    refcountsPerBlock: (clusterBytes * 8) / refcountBits,
    maxRefcount: refcountBits > 52 ? Number.MAX_SAFE_INTEGER : 2 ** refcountBits - 1,
  };
}

/** A 64-bit field as a number; beyond 2^53 - 1 nothing real lies. Throws `ERR_UNSUPPORTED` naming the field. */
export function readField(view: DataView, at: number, file: string, field: string): number {
  if (view.getUint32(at) > 0x1f_ffff) {
    throw unsupported(file, field, 'larger than 2^53 - 1', { value: view.getBigUint64(at) });
  }
  return readU64BE(view, at);
}

/** How many bytes of the file {@link decodeHeader} needs: its first cluster. Throws as it does. */
export function headerAreaBytes(first: Uint8Array, file: string): number {
  if (first.length < v2HeaderBytes) {
    throw corrupt(file, 'header', `the file has ${first.length} bytes, a header has ${v2HeaderBytes}`);
  }
  const view = viewOf(first);
  if (view.getUint32(fields.magic.at) !== magic) throw corrupt(file, 'header.magic', 'not a QCOW2 image');
  const version = view.getUint32(fields.version.at);
  if (version !== 2 && version !== 3)
    throw unsupported(file, 'header.version', `version ${version}`, { value: version });
  const clusterBits = view.getUint32(fields.cluster_bits.at);
  if (clusterBits < minClusterBits || clusterBits > maxClusterBits) {
    throw unsupported(file, 'header.cluster_bits', `${clusterBits} is not between 9 and 21`, {
      value: clusterBits,
    });
  }
  return 2 ** clusterBits;
}

/**
 * Decodes and validates a header. `area` is the file's first cluster, or the whole file where it is shorter.
 * Throws `ERR_CORRUPT` or `ERR_UNSUPPORTED` naming the field.
 */
export function decodeHeader(area: Uint8Array, fileBytes: number, file: string): Header {
  const clusterBytes = headerAreaBytes(area, file);
  const view = viewOf(area);
  const version = view.getUint32(fields.version.at) as 2 | 3;
  // First: what else an encrypted image has is of no use here.
  refuseEncryption(view, file);
  const features = version === 3 ? decodeFeatures(view, file) : v2Features;
  const extensions = decodeExtensions(area, features.headerBytes, file);
  const backing = decodeBacking(area, clusterBytes, extensions.backingFormat, file);
  const header: Header = {
    version,
    clusterBits: view.getUint32(fields.cluster_bits.at),
    size: readField(view, fields.size.at, file, 'header.size'),
    l1EntryCount: view.getUint32(fields.l1_size.at),
    l1Offset: readField(view, fields.l1_table_offset.at, file, 'header.l1_table_offset'),
    refcountTableOffset: readField(
      view,
      fields.refcount_table_offset.at,
      file,
      'header.refcount_table_offset',
    ),
    refcountTableClusters: view.getUint32(fields.refcount_table_clusters.at),
    snapshotCount: view.getUint32(fields.nb_snapshots.at),
    snapshotTableOffset: readField(view, fields.snapshots_offset.at, file, 'header.snapshots_offset'),
    dirty: (features.incompatible & incompatibleDirty) !== 0n,
    damaged: (features.incompatible & incompatibleCorrupt) !== 0n,
    lazyRefcounts: (features.compatible & compatibleLazyRefcounts) !== 0n,
    extendedL2: (features.incompatible & incompatibleExtendedL2) !== 0n,
    autoclear: features.autoclear,
    refcountBits: features.refcountBits,
    compressionType: features.compressionType,
    ...(backing === undefined ? {} : { backing }),
    ...decodeDataFile(features, { name: extensions.dataFileName, hasBacking: backing !== undefined }, file),
    ...extensions.kept,
  };
  validateTables(header, fileBytes, file);
  return header;
}

const encryptionNames: readonly string[] = ['none', 'AES', 'LUKS'];

function refuseEncryption(view: DataView, file: string): void {
  const value = view.getUint32(fields.crypt_method.at);
  if (value === 0) return;
  const name = encryptionNames[value];
  const problem = name === undefined ? 'an unknown encryption' : `${name} encryption`;
  throw unsupported(file, 'header.crypt_method', `${problem} (method ${value})`, { value });
}

interface Features {
  readonly incompatible: bigint;
  readonly compatible: bigint;
  readonly autoclear: bigint;
  readonly refcountBits: number;
  readonly compressionType: CompressionType;
  readonly headerBytes: number;
}

const v2Features: Features = {
  incompatible: 0n,
  compatible: 0n,
  autoclear: 0n,
  refcountBits: 16,
  compressionType: 'zlib',
  headerBytes: v2HeaderBytes,
};

function decodeFeatures(view: DataView, file: string): Features {
  if (view.byteLength < v3HeaderBytes) throw corrupt(file, 'header', 'the file ends inside the header');
  const headerBytes = view.getUint32(fields.header_length.at);
  if (headerBytes < v3HeaderBytes || headerBytes % 8 !== 0 || headerBytes > view.byteLength) {
    throw corrupt(file, 'header.header_length', `${headerBytes} bytes`, { value: headerBytes });
  }
  const incompatible = view.getBigUint64(fields.incompatible_features.at);
  const known =
    incompatibleDirty |
    incompatibleCorrupt |
    incompatibleDataFile |
    incompatibleCompression |
    incompatibleExtendedL2;
  const unknown = incompatible & ~known;
  if (unknown !== 0n) {
    const bit = unknown.toString(2).length - 1;
    const name = incompatibleNames[bit] ?? 'unknown';
    throw unsupported(file, 'header.incompatible_features', `bit ${bit} (${name}) is set`, {
      value: incompatible,
    });
  }
  const clusterBits = view.getUint32(fields.cluster_bits.at);
  if ((incompatible & incompatibleExtendedL2) !== 0n && clusterBits < minExtendedClusterBits) {
    const problem = `${clusterBits} is too small for extended L2 entries`;
    throw unsupported(file, 'header.cluster_bits', problem, { value: clusterBits });
  }
  const order = view.getUint32(fields.refcount_order.at);
  if (order > 6) throw corrupt(file, 'header.refcount_order', `${order} is more than 6`, { value: order });
  return {
    incompatible,
    compatible: view.getBigUint64(fields.compatible_features.at),
    autoclear: view.getBigUint64(fields.autoclear_features.at),
    refcountBits: 2 ** order,
    compressionType: decodeCompressionType(view, headerBytes, incompatible, file),
    headerBytes,
  };
}

/** The feature bit keeps out those who know deflate only: it is set exactly where another type is. */
function decodeCompressionType(
  view: DataView,
  headerBytes: number,
  incompatible: bigint,
  file: string,
): CompressionType {
  const value = headerBytes > v3HeaderBytes ? view.getUint8(fields.compression_type.at) : 0;
  const type = compressionTypes[value];
  if (type === undefined)
    throw unsupported(file, 'header.compression_type', `compression type ${value}`, { value });
  const hasBit = (incompatible & incompatibleCompression) !== 0n;
  if (hasBit === (type !== 'zlib')) return type;
  const problem = `${type}, but the incompatible feature bit is ${hasBit ? 'set' : 'not set'}`;
  throw corrupt(file, 'header.compression_type', problem, { value });
}

interface Extensions {
  readonly backingFormat?: string;
  readonly dataFileName?: string;
  readonly kept: Partial<Pick<Header, 'bitmaps' | 'nextSnapshotId' | 'nextSnapshotIdAt'>>;
}

/** Reads the extensions that matter here; all of them stay in the file as they are. */
function decodeExtensions(area: Uint8Array, start: number, file: string): Extensions {
  const view = viewOf(area);
  let backingFormat: string | undefined;
  let dataFileName: string | undefined;
  let kept: Extensions['kept'] = {};
  for (let at = start; at + 8 <= area.length; ) {
    const type = view.getUint32(at);
    const bytes = view.getUint32(at + 4);
    if (type === extensionEnd) break;
    const data = at + 8;
    if (bytes > area.length - data) {
      throw corrupt(file, 'header extension.length', `${bytes} bytes reach out of the header cluster`, {
        offset: at,
      });
    }
    if (type === extensionEncryption)
      throw unsupported(file, 'header extension.encryption', 'a LUKS header (extension 0x0537be77)');
    if (type === extensionDataFile)
      dataFileName = new TextDecoder().decode(area.subarray(data, data + bytes));
    if (type === extensionBackingFormat)
      backingFormat = new TextDecoder().decode(area.subarray(data, data + bytes));
    if (type === extensionBitmaps) kept = { ...kept, bitmaps: decodeBitmaps(view, data, bytes, file) };
    if (type === extensionNextSnapshotId && bytes === 8) {
      const nextSnapshotId = readField(view, data, file, 'header extension.next_snapshot_id');
      kept = { ...kept, nextSnapshotId, nextSnapshotIdAt: data };
    }
    at = data + roundUp(bytes, 8);
  }
  return {
    kept,
    ...(backingFormat !== undefined && { backingFormat }),
    ...(dataFileName !== undefined && { dataFileName }),
  };
}

function decodeBitmaps(view: DataView, at: number, bytes: number, file: string): BitmapsPointer {
  if (bytes !== 24) throw corrupt(file, 'header extension.bitmaps', `${bytes} bytes instead of 24`);
  return {
    count: view.getUint32(at),
    directoryBytes: readField(view, at + 8, file, 'bitmaps.bitmap_directory_size'),
    directoryOffset: readField(view, at + 16, file, 'bitmaps.bitmap_directory_offset'),
  };
}

function decodeBacking(
  area: Uint8Array,
  clusterBytes: number,
  format: string | undefined,
  file: string,
): Header['backing'] {
  const view = viewOf(area);
  const offset = readField(view, fields.backing_file_offset.at, file, 'header.backing_file_offset');
  if (offset === 0) return undefined;
  const bytes = view.getUint32(fields.backing_file_size.at);
  if (bytes > maxBackingNameBytes || bytes === 0) {
    throw corrupt(file, 'header.backing_file_size', `${bytes} bytes`, { value: bytes });
  }
  if (offset + bytes > Math.min(clusterBytes, area.length)) {
    throw corrupt(file, 'header.backing_file_offset', 'the name reaches out of the header cluster', {
      value: offset,
    });
  }
  const name = new TextDecoder().decode(area.subarray(offset, offset + bytes));
  return format === undefined || format === '' ? { file: name } : { file: name, format };
}

function validateTables(header: Header, fileBytes: number, file: string): void {
  const { clusterBytes, l2SpanBytes } = geometryOf(header);
  const l1Bytes = header.l1EntryCount * 8;
  if (l1Bytes > maxL1Bytes) {
    throw unsupported(file, 'header.l1_size', `${header.l1EntryCount} entries`, {
      value: header.l1EntryCount,
    });
  }
  if (header.l1EntryCount < Math.ceil(header.size / l2SpanBytes)) {
    throw corrupt(file, 'header.l1_size', 'too small for the size of the disk', {
      value: header.l1EntryCount,
    });
  }
  if (l1Bytes > 0)
    requireRegion(header.l1Offset, l1Bytes, clusterBytes, fileBytes, file, 'header.l1_table_offset');
  const refcountBytes = header.refcountTableClusters * clusterBytes;
  if (refcountBytes === 0 || refcountBytes > Math.max(maxRefcountTableBytes, clusterBytes)) {
    const problem = `${header.refcountTableClusters} clusters`;
    throw corrupt(file, 'header.refcount_table_clusters', problem, { value: header.refcountTableClusters });
  }
  const refcountField = 'header.refcount_table_offset';
  requireRegion(header.refcountTableOffset, refcountBytes, clusterBytes, fileBytes, file, refcountField);
  if (header.snapshotCount > maxSnapshotCount) {
    const problem = `${header.snapshotCount} snapshots`;
    throw unsupported(file, 'header.nb_snapshots', problem, { value: header.snapshotCount });
  }
  if (header.snapshotCount > 0 && header.dataFile !== undefined) {
    throw unsupported(file, 'header.nb_snapshots', 'internal snapshots with an external data file');
  }
  if (header.snapshotCount > 0) {
    requireRegion(header.snapshotTableOffset, 1, clusterBytes, fileBytes, file, 'header.snapshots_offset');
  }
}

/** Throws `ERR_CORRUPT` unless a structure of `bytes` at `offset` is cluster-aligned and inside the file. */
export function requireRegion(
  offset: number,
  bytes: number,
  clusterBytes: number,
  fileBytes: number,
  file: string,
  field: string,
): void {
  if (offset % clusterBytes !== 0)
    throw corrupt(file, field, `${offset} is not a multiple of ${clusterBytes}`, { value: offset });
  if (offset === 0) throw corrupt(file, field, 'points at the header', { value: offset });
  if (offset + bytes > fileBytes) {
    throw corrupt(file, field, `${bytes} bytes at ${offset} reach past the end of the file`, {
      value: offset,
    });
  }
}

/** Writes the changed fields into `page`, the file's first sector. */
export function patchHeader(page: Uint8Array, patch: HeaderPatch): void {
  const view = viewOf(page);
  if (patch.size !== undefined) writeU64BE(view, fields.size.at, patch.size);
  if (patch.l1EntryCount !== undefined) view.setUint32(fields.l1_size.at, patch.l1EntryCount);
  if (patch.l1Offset !== undefined) writeU64BE(view, fields.l1_table_offset.at, patch.l1Offset);
  if (patch.refcountTableOffset !== undefined)
    writeU64BE(view, fields.refcount_table_offset.at, patch.refcountTableOffset);
  if (patch.refcountTableClusters !== undefined)
    view.setUint32(fields.refcount_table_clusters.at, patch.refcountTableClusters);
  if (patch.snapshotCount !== undefined) view.setUint32(fields.nb_snapshots.at, patch.snapshotCount);
  if (patch.snapshotTableOffset !== undefined)
    writeU64BE(view, fields.snapshots_offset.at, patch.snapshotTableOffset);
  // Version 2 has other things where these fields are.
  if (view.getUint32(fields.version.at) === 2) return;
  const incompatibleAt = fields.incompatible_features.at;
  setFeature(view, incompatibleAt, incompatibleDirty, patch.dirty);
  setFeature(view, incompatibleAt, incompatibleCorrupt, patch.damaged);
  setFeature(view, fields.compatible_features.at, compatibleLazyRefcounts, patch.lazyRefcounts);
  if (patch.refcountBits !== undefined)
    view.setUint32(fields.refcount_order.at, Math.log2(patch.refcountBits));
  if (patch.autoclear !== undefined) view.setBigUint64(fields.autoclear_features.at, patch.autoclear);
}

function setFeature(view: DataView, at: number, bit: bigint, on: boolean | undefined): void {
  if (on === undefined) return;
  const others = view.getBigUint64(at) & ~bit;
  view.setBigUint64(at, on ? others | bit : others);
}
